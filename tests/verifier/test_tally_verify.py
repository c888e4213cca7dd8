"""The verifier against golden vectors, real files, and altered ones.

    python -m unittest test_tally_verify            golden vectors and every bit
    python test_tally_verify.py GENESIS DIR         real files, each altered too
"""

import argparse
import json
import random
import sys
import unittest
from pathlib import Path

from tally_verify import Invalid, Reader, Verifier, encode_genesis, verify

SUFFIXES = (".receipt", ".receipts", ".state", ".history", ".consistency", ".evidence")
VECTORS = Path(__file__).parents[2] / "ledger" / "vectors"


def read_keys(canonical: bytes) -> dict:
    """Validators and prices of canonical genesis bytes, as the JSON has them."""
    from tally_verify import read_prices

    r = Reader(canonical)
    r.u8(), r.bytes(32), r.u64()
    r.list(lambda: r.take(34), 1024)
    validators = r.list(lambda: {"consensus_key": r.hash().hex(), "rest": r.take(68)}, 1024)
    classes = r.list(lambda: (r.bytes(32), r.list(r.u32, 64), r.take(8 + 4 + 8 + 4)), 256)
    assert classes
    start = r.at
    r.u32()
    r.list(lambda: (r.u32(), r.bytes(64), r.list(lambda: (r.bytes(64), r.u64(), r.option(r.u8)), 6), r.take(12)), 256)
    return {"validators": validators, "prices": read_prices(canonical[start : r.at])}


def verifier_of(canonical: bytes) -> Verifier:
    return Verifier(canonical, read_keys(canonical))


def altered(data: bytes, bit: int) -> bytes:
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def asks_something_else(proven: dict, other: dict) -> bool:
    """Another question, answered rightly: about other heights of a row, or
    about another number that a table does not have."""
    if "state" in proven:
        absent = proven["leaf"] is None and other.get("leaf", "") is None
        return absent and proven["state"][0] == other["state"][0]
    if "history" not in proven or other.get("history") != proven["history"]:
        return False
    return (other["from"], other["to"]) != (proven["from"], proven["to"])


class Vectors(unittest.TestCase):
    def files(self, name: str) -> tuple[Verifier, dict[str, bytes]]:
        vectors = json.loads((VECTORS / name).read_text())
        files = {key: bytes.fromhex(value) for key, value in vectors.items() if isinstance(value, str)}
        return verifier_of(files["genesis"]), {k: v for k, v in files.items() if v.startswith(b"TALLY")}

    def test_the_chain_id_is_the_stored_one(self) -> None:
        vectors = json.loads((VECTORS / "genesis.json").read_text())
        verifier = verifier_of(bytes.fromhex(vectors["encoding"]))
        self.assertEqual(verifier.chain.hex(), vectors["chain"])

    def test_all_files_prove_what_they_show(self) -> None:
        for name, least in (("files.json", 4), ("receipts.json", 3), ("history.json", 5), ("consistency.json", 2), ("erased.json", 3)):
            verifier, files = self.files(name)
            self.assertGreaterEqual(len(files), least)
            for key, data in files.items():
                with self.subTest(key):
                    verify(verifier, data)

    def test_files_of_the_second_debit_version_prove_what_they_show(self) -> None:
        verifier, _ = self.files("files.json")
        files: dict[str, bytes] = {}
        for name in ("files_2.json", "receipts_2.json"):
            vectors = json.loads((VECTORS / name).read_text())
            files |= {name: bytes.fromhex(value) for name, value in vectors.items()}
        self.assertEqual(files["receipt_file"][8], 2)
        self.assertIn("receipts_file", files)
        for data in files.values():
            verify(verifier, data)

    def test_evidence_proves_who_signed_twice_and_no_bit_can_be_flipped(self) -> None:
        vectors = json.loads((VECTORS / "evidence.json").read_text())
        verifier = verifier_of(bytes.fromhex(vectors["genesis"]))
        self.assertEqual(set(vectors["evidence"]), {"votes", "proposals", "certificates"})
        for key, one in vectors["evidence"].items():
            data = b"TALLYEVI\1" + verifier.chain + bytes.fromhex(one["encoding"])
            proven = [list(offence) for offence in verify(verifier, data)["evidence"]]
            self.assertEqual(proven, one["proves"], key)
            for bit in range(len(data) * 8):
                with self.subTest(key, bit=bit), self.assertRaises(Invalid):
                    verify(verifier, altered(data, bit))

    def test_an_incomplete_history_proves_nothing(self) -> None:
        verifier, _ = self.files("history.json")
        refused = json.loads((VECTORS / "history.json").read_text())["refused"]
        self.assertGreaterEqual(len(refused), 10)
        for what, data in refused.items():
            with self.subTest(what), self.assertRaises(Invalid):
                verify(verifier, bytes.fromhex(data))

    def test_no_bit_can_be_flipped(self) -> None:
        for name in ("files.json", "receipts.json", "history.json", "consistency.json", "erased.json"):
            verifier, files = self.files(name)
            for key, data in files.items():
                proven = verify(verifier, data)
                for bit in range(len(data) * 8):
                    try:
                        other = verify(verifier, altered(data, bit))
                    except Invalid:
                        continue
                    same = other == proven or asks_something_else(proven, other)
                    self.assertTrue(same, f"{key}: bit {bit} proves {other}")


def check(genesis: Path, folder: Path, mutations: int) -> int:
    """All files of a folder are proven; altered ones prove nothing else."""
    text = json.loads(genesis.read_text())
    verifier = Verifier.of(text)
    assert encode_genesis(text)
    dice = random.Random(7)
    files = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES)
    rejected = 0
    for path in files:
        data = path.read_bytes()
        proven = verify(verifier, data)
        for _ in range(mutations):
            bit = dice.randrange(len(data) * 8)
            try:
                other = verify(verifier, altered(data, bit))
            except Invalid:
                rejected += 1
                continue
            if other != proven and not asks_something_else(proven, other):
                print(f"{path}: bit {bit} flipped proves {other}")
                return 1
    kinds = {suffix: sum(p.suffix == suffix for p in files) for suffix in SUFFIXES}
    print(f"{len(files)} files proven {kinds}; of {len(files) * mutations} altered ones {rejected} rejected")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("genesis", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mutations", type=int, default=2, help="flipped bits per file")
    parser.add_argument("--least", type=int, default=1, help="files that must be there")
    arguments = parser.parse_args()
    assert len(list(arguments.folder.iterdir())) >= arguments.least, "too few files"
    sys.exit(check(arguments.genesis, arguments.folder, arguments.mutations))
