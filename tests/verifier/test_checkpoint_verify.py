"""The golden checkpoint and tlog-proof, as they are and with every bit flipped."""

import json
import unittest
from pathlib import Path

from checkpoint_verify import checkpoint, tlog_proof, witness
from tally_verify import Invalid

VECTORS = json.loads(
    (Path(__file__).parents[2] / "ledger/vectors/checkpoints.json").read_text()
)


def log_key(vkey: str) -> bytes:
    import base64

    return base64.b64decode(vkey.split("+", 2)[2])[1:]


CHAIN = bytes.fromhex(VECTORS["chain"])
KEYS = [log_key(vkey) for vkey in VECTORS["log_keys"]]
WITNESS = [witness(VECTORS["witness_key"])]
#: Entry 700 of the tests' log.
LEAF = bytes([700 % 256]) * 86


class Checkpoints(unittest.TestCase):
    def proven(self, note: bytes, least: int) -> dict:
        return checkpoint(note, CHAIN, KEYS, WITNESS, least)

    def test_the_golden_ones_are_proven(self):
        plain = self.proven(VECTORS["signed"].encode(), 0)
        self.assertEqual((plain["entries"], plain["finality"]), (1205, "final"))
        self.assertEqual(plain["validators"], [0, 1, 3])
        seen = self.proven(VECTORS["cosigned"].encode(), 1)
        self.assertEqual(seen["finality"], "witnessed by 1")
        with self.assertRaises(Invalid):
            self.proven(VECTORS["signed"].encode(), 1)
        proof = tlog_proof(VECTORS["tlog_proof"].encode(), LEAF, CHAIN, KEYS, WITNESS, 1)
        self.assertEqual(proof["index"], 700)
        with self.assertRaises(Invalid):
            tlog_proof(VECTORS["tlog_proof"].encode(), LEAF + b"x", CHAIN, KEYS, WITNESS, 1)

    def test_an_altered_one_proves_nothing(self):
        note = VECTORS["cosigned"].encode()
        proof = VECTORS["tlog_proof"].encode()
        # The line that nothing signs may say anything.
        extra = range(proof.index(b"extra "), proof.index(b"index "))
        for data, free, verify in [
            (note, (), lambda data: self.proven(data, 1)),
            (proof, extra, lambda data: tlog_proof(data, LEAF, CHAIN, KEYS, WITNESS, 1)),
        ]:
            for at in range(len(data)):
                for bit in range(8):
                    altered = bytearray(data)
                    altered[at] ^= 1 << bit
                    if at in free:
                        continue
                    with self.assertRaises(Invalid, msg=f"byte {at}, bit {bit}"):
                        verify(bytes(altered))


if __name__ == "__main__":
    unittest.main()
