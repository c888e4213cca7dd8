"""Verifies Tally's checkpoints and tlog-proofs, from the genesis alone.

A second implementation, written from ledger/README.md. It needs what
`tally_verify` needs.

    python checkpoint_verify.py --genesis genesis.json [--witness VKEY ...] [--witnesses K] FILE...

A receipt's leaf is not in a tlog-proof: `--leaf HEX` gives it.
"""

import argparse
import base64
import hashlib
import json
import re
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tally_verify import Invalid, Verifier, leaf_hash, need, root_of_one

LINE = re.compile("\u2014 ([^\\s+]+) ([A-Za-z0-9+/=]+)")


def unbase64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as why:
        raise Invalid(f"base64: {why}") from None
    need(base64.b64encode(data).decode() == text, "another form of base64")
    return data


def decimal(text: str) -> int:
    need(re.fullmatch("0|[1-9][0-9]{0,19}", text) is not None, "another form of a number")
    return int(text)


def key_id(name: str, kind: int, key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + key).digest()[:4]


def witness(vkey: str) -> tuple[str, bytes, bytes]:
    name, shown, rest = vkey.split("+", 2)
    data = unbase64(rest)
    need(len(data) == 33 and data[0] == 4, "no key of a witness")
    need(key_id(name, 4, data[1:]).hex() == shown, "a key with another key's id")
    return name, bytes.fromhex(shown), data[1:]


def holds(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        return True
    except (InvalidSignature, ValueError):
        return False


def checkpoint(note: bytes, chain: bytes, log_keys: list[bytes], witnesses: list, least: int) -> dict:
    """What a note proves: size, root, who signed, who cosigned."""
    need(len(note) <= 128 << 10, "too long")
    try:
        decoded = note.decode()
    except UnicodeDecodeError:
        raise Invalid("no text") from None
    need(all(c >= " " or c == "\n" for c in decoded), "control characters")
    text, found, lines = decoded.rpartition("\n\n")
    need(found != "" and lines.endswith("\n"), "no signatures")
    text += "\n"
    origin = f"tally/{chain.hex()}"
    rows = text[:-1].split("\n")
    need(len(rows) == 3 and rows[0] == origin, "no checkpoint of this chain's log")
    size, root = decimal(rows[1]), unbase64(rows[2])
    need(size > 0 and len(root) == 32, "no head of a log")
    signers, cosigners = set(), set()
    for line in lines[:-1].split("\n"):
        match = LINE.fullmatch(line)
        need(match is not None, "a line that is no signature")
        name, data = match[1], unbase64(match[2])
        need(len(data) > 4, "a line without a signature")
        shown, data = data[:4], data[4:]
        known = right = False
        for i, key in enumerate(log_keys):
            if name == origin and shown == key_id(origin, 1, key):
                known = True
                if holds(key, data, text.encode()):
                    right = True
                    signers.add(i)
        for other, other_id, key in witnesses:
            if (name, shown) == (other, other_id):
                known = True
                time = int.from_bytes(data[:8], "big")
                message = f"cosignature/v1\ntime {time}\n{text}".encode()
                if 0 < time < 1 << 63 and holds(key, data[8:], message):
                    right = True
                    cosigners.add(key)
        need(right or not known, f"a false signature of {name}")
    need(len(signers) >= 2 * len(log_keys) // 3 + 1, f"signed by {len(signers)} validators only")
    need(len(cosigners) >= least, f"witnessed by {len(cosigners)} only")
    return {
        "entries": size,
        "root": root.hex(),
        "validators": sorted(signers),
        "finality": f"witnessed by {len(cosigners)}" if cosigners else "final",
    }


def tlog_proof(data: bytes, leaf: bytes | None, *trust) -> dict:
    """What a tlog-proof proves of a leaf."""
    head, found, note = data.partition(b"\n\n")
    need(found != b"", "no empty line")
    lines = head.decode(errors="replace").split("\n")
    need(lines.pop(0) == "c2sp.org/tlog-proof@v1", "no tlog-proof")
    if lines and lines[0].startswith("extra "):
        unbase64(lines.pop(0).removeprefix("extra "))
    need(bool(lines) and lines[0].startswith("index "), "no index")
    index = decimal(lines.pop(0).removeprefix("index "))
    path = [unbase64(line) for line in lines]
    need(len(path) <= 63 and all(len(node) == 32 for node in path), "no path")
    proven = checkpoint(note, *trust)
    need(leaf is not None, "of which leaf? give --leaf")
    need(index < proven["entries"], "not in the log")
    root = root_of_one(leaf_hash(leaf), index, proven["entries"], path)
    need(root.hex() == proven["root"], "the leaf is not there")
    return proven | {"index": index}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--genesis", type=Path, required=True, help="genesis.json")
    parser.add_argument("--witness", action="append", default=[], help="verifier key")
    parser.add_argument("--witnesses", type=int, default=0, help="how many must have cosigned")
    parser.add_argument("--leaf", type=bytes.fromhex, help="a receipt's leaf, for tlog-proofs")
    parser.add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args()
    genesis = json.loads(arguments.genesis.read_text())
    keys = [bytes.fromhex(v["checkpoint_key"]) for v in genesis["validators"]]
    witnesses = [witness(vkey) for vkey in arguments.witness]
    trust = (Verifier.of(genesis).chain, keys, witnesses, arguments.witnesses)
    bad = 0
    for path in arguments.files:
        data = path.read_bytes()
        try:
            if data.startswith(b"c2sp.org/tlog-proof"):
                proven = tlog_proof(data, arguments.leaf, *trust)
            else:
                proven = checkpoint(data, *trust)
            print(f"{path}: proven: {json.dumps(proven)}")
        except Invalid as why:
            bad += 1
            print(f"{path}: PROVES NOTHING: {why}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
