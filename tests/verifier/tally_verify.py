"""Verifies Tally's receipt, receipts, state, history, consistency and evidence files, from the genesis alone.

A second implementation, written from ledger/README.md, to show that the page
is enough: it shares no code with the ledger. It needs `blake3` and
`cryptography` (for ed25519) and nothing else.

    python tally_verify.py --genesis genesis.json FILE...

prints a line per file and ends with 1 if one of them proves nothing.
"""

import argparse
import hashlib
import json
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ZERO = bytes(32)
NO_ACCOUNT = 0xFFFFFFFF
TABLES = 11
CHAIN, ACCOUNTS, GATEWAYS, PRICES = 1, 3, 4, 9
DEBITS, JOURNAL_OPENED, LAST_LEASE_KIND, RECEIPT = 13, 18, 4, 1


class Invalid(Exception):
    """The file proves nothing; why is the message."""


def need(holds: bool, why: str) -> None:
    if not holds:
        raise Invalid(why)


# Encoding ------------------------------------------------------------------


class Reader:
    """Reads the little-endian encoding; every read is bounded."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        need(count <= len(self.data) - self.at, "the file ends early")
        self.at += count
        return self.data[self.at - count : self.at]

    def uint(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def u8(self) -> int:
        return self.uint(1)

    def u16(self) -> int:
        return self.uint(2)

    def u32(self) -> int:
        return self.uint(4)

    def u64(self) -> int:
        return self.uint(8)

    def hash(self) -> bytes:
        return self.take(32)

    def flag(self) -> bool:
        value = self.u8()
        need(value <= 1, "a flag that is neither 0 nor 1")
        return value == 1

    def list(self, item: Callable[[], Any], most: int) -> list:
        count = self.u64()
        need(count <= most, f"a list of {count}, at most {most}")
        return [item() for _ in range(count)]

    def bytes(self, most: int) -> bytes:
        count = self.u64()
        need(count <= most, f"{count} bytes, at most {most}")
        return self.take(count)

    def option(self, item: Callable[[], Any]) -> Any:
        return item() if self.flag() else None

    def end(self) -> None:
        need(self.at == len(self.data), "bytes after the end")


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def listed(items: list[bytes]) -> bytes:
    return number(len(items), 8) + b"".join(items)


def micro(amount: str) -> int:
    """`"1.500000"` CT in micro-CT."""
    whole, _, part = amount.partition(".")
    return int(whole) * 1_000_000 + int((part + "000000")[:6])


# Hashes --------------------------------------------------------------------


def derived(context: str, data: bytes) -> bytes:
    return blake3(data, derive_key_context=f"tally v1 {context}").digest()


KEYS = {name: derived(name, b"") for name in ("state leaf", "state node")}


def keyed(context: str, data: bytes) -> bytes:
    return blake3(data, key=KEYS[context]).digest()


def leaf_hash(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\0" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def split(size: int) -> int:
    """The largest power of two below a size."""
    return 1 << ((size - 1).bit_length() - 1)


def root_of_many(leaves: list[tuple[int, bytes]], size: int, path: list[bytes]) -> bytes:
    """The root that leaves, by index and hash, lead to; uses up the path."""
    rest = deque(path)

    def fold(leaves: list[tuple[int, bytes]], start: int, end: int) -> bytes:
        if not leaves:
            need(bool(rest), "a path that is too short")
            return rest.popleft()
        if end - start == 1:
            return leaves[0][1]
        middle = start + split(end - start)
        left = fold([leaf for leaf in leaves if leaf[0] < middle], start, middle)
        return node_hash(left, fold([leaf for leaf in leaves if leaf[0] >= middle], middle, end))

    indexes = [index for index, _ in leaves]
    need(all(a < b for a, b in zip(indexes, indexes[1:])), "log indexes do not ascend")
    need(not leaves or indexes[-1] < size, "an entry beyond the log")
    root = fold(leaves, 0, size) if leaves else b""
    need(not rest, "a path that is too long")
    return root


def root_of_one(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """RFC 9162, 2.1.3.2: the root that an inclusion path leads to."""
    need(index < size, "an index beyond the tree")
    node, last, root = index, size - 1, leaf
    for sibling in path:
        need(last > 0, "a path that is too long")
        if node & 1 or node == last:
            root = node_hash(sibling, root)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        node, last = node >> 1, last >> 1
    need(last == 0, "a path that is too short")
    return root


def grew(old: int, new: int, old_root: bytes, new_root: bytes, path: list[bytes]) -> None:
    """RFC 9162, 2.1.4.2: the older log is the beginning of the newer one."""
    need(0 < old <= new, "a log that shrank")
    if old == new:
        need(not path and old_root == new_root, "two logs of one size")
        return
    rest = list(path) if old & (old - 1) else [old_root, *path]
    need(bool(rest), "a path that is too short")
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    from_old = from_new = rest[0]
    for sibling in rest[1:]:
        need(last > 0, "a path that is too long")
        if node & 1 or node == last:
            from_old, from_new = node_hash(sibling, from_old), node_hash(sibling, from_new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            from_new = node_hash(from_new, sibling)
        node, last = node >> 1, last >> 1
    need(last == 0 and from_old == old_root and from_new == new_root, "not the log's beginning")


# Genesis, headers, certificates ---------------------------------------------


def encode_genesis(genesis: dict) -> bytes:
    """The canonical bytes of `genesis.json`."""
    out = number(genesis["version"], 1) + text(genesis["name"]) + number(genesis["time"], 8)
    out += listed([bytes.fromhex(p["key"]) + number(p["roles"], 2) for p in genesis["persons"]])
    keys = ("consensus_key", "checkpoint_key", "network_key")
    out += listed(
        [b"".join(bytes.fromhex(v[k]) for k in keys) + number(v["owner"], 4) for v in genesis["validators"]]
    )
    out += listed([encode_class(rules) for rules in genesis["classes"]])
    out += encode_prices(genesis["prices"]) + encode_parameters(genesis["parameters"])
    caps = ("open", "open_account", "hour", "hour_account")
    return out + listed(
        [
            bytes.fromhex(g["key"]) + b"".join(number(micro(g["caps"][cap]), 8) for cap in caps)
            for g in genesis["gateways"]
        ]
    )


def text(value: str) -> bytes:
    raw = value.encode()
    return number(len(raw), 8) + raw


def encode_class(rules: dict) -> bytes:
    burn = ["issuer_only", "holder_only", "both", "neither"].index(rules["burn"])
    out = text(rules["name"]) + listed([number(model, 4) for model in rules["models"]])
    out += number(micro(rules["max_fee"]), 8) + number(burn, 4)
    return out + number(micro(rules["supply_cap"]), 8) + number(rules["period_days"], 4)


def encode_prices(table: dict) -> bytes:
    def meter(meter: dict) -> bytes:
        whole = meter["subset_of"]
        subset = b"\0" if whole is None else b"\1" + number(whole, 1)
        return text(meter["name"]) + number(meter["coefficient"], 8) + subset

    def model(model: dict) -> bytes:
        meters = listed([meter(m) for m in model["meters"]])
        weight = number(model["weight"], 4) + number(model["weight_coefficient"], 8)
        return number(model["number"], 4) + text(model["name"]) + meters + weight

    return number(table["version"], 4) + listed([model(m) for m in table["models"]])


def encode_parameters(parameters: dict) -> bytes:
    small = ("threshold", "max_block_bytes", "max_block_debits", "max_lease_ms", "lease_grace_ms")
    small += ("lease_grace_blocks", "heartbeat_ms", "clock_error_ms")
    amounts = ("issuer_day_limit", "issuer_day_account_limit")
    out = b"".join(number(parameters[name], 4) for name in small)
    return out + b"".join(number(micro(parameters[name]), 8) for name in amounts)


def read_prices(leaf: bytes) -> dict:
    """A price table's leaf, in the form that `genesis.json` has."""
    r = Reader(leaf)

    def meter() -> dict:
        return {"name": r.bytes(64).decode(), "coefficient": r.u64(), "subset_of": r.option(r.u8)}

    def model() -> dict:
        return {
            "number": r.u32(),
            "name": r.bytes(64).decode(),
            "meters": r.list(meter, 6),
            "weight": r.u32(),
            "weight_coefficient": r.u64(),
        }

    table = {"version": r.u32(), "models": r.list(model, 256)}
    r.end()
    return table


@dataclass
class Header:
    chain: bytes
    height: int
    transactions_root: bytes
    log_size: int
    log_root: bytes
    state_root: bytes


class Verifier:
    """Believes a genesis, and what its validators signed."""

    def __init__(self, canonical: bytes, genesis: dict):
        self.chain = derived("genesis", canonical)
        self.keys = [bytes.fromhex(v["consensus_key"]) for v in genesis["validators"]]
        self.prices = genesis["prices"]
        self.checked: set[bytes] = set()
        self.ids: dict[int, bytes] = {}

    @classmethod
    def of(cls, genesis: dict) -> "Verifier":
        return cls(encode_genesis(genesis), genesis)

    def header(self, r: Reader) -> Header:
        """Reads a certified header, the only one of its height."""
        header, block, _, _ = self.certified(r)
        need(self.ids.setdefault(header.height, block) == block, "two certified headers of one height")
        return header

    def certified(self, r: Reader) -> tuple[Header, bytes, int, list[int]]:
        """Reads a certified header and checks its certificate; with block id, round and signers."""
        start = r.at
        raw = r.take(219)
        round_ = r.u32()
        signatures = r.list(lambda: (r.u16(), r.take(64)), 1024)
        need(r.u64() == 0, "a change of the validator set")
        h = Reader(raw)
        need(h.u8() == 1, "header of another version")
        chain, height = h.hash(), h.u64()
        h.take(8 + 32 + 2)
        header = Header(chain, height, h.hash(), h.u64(), h.hash(), h.hash())
        need(chain == self.chain, "the header is of another chain")
        whole, block = r.data[start : r.at], derived("block", raw)
        if whole not in self.checked:
            self.certificate(height, round_, block, signatures)
            self.checked.add(whole)
        return header, block, round_, [index for index, _ in signatures]

    def certificate(self, height: int, round_: int, block: bytes, signatures: list) -> None:
        vote = number(height, 8) + number(round_, 4) + b"\1" + block
        indexes = [index for index, _ in signatures]
        need(all(a < b for a, b in zip(indexes, indexes[1:])), "certificate: indexes do not ascend")
        for index, signature in signatures:
            self.signed(index, "precommit", vote, signature)
        need(len(signatures) >= 2 * len(self.keys) // 3 + 1, "certificate: no quorum")

    def signed(self, validator: int, what: str, data: bytes, signature: bytes) -> None:
        need(validator < len(self.keys), f"{what}: unknown validator")
        domain = b"tally/v1/" + what.encode()
        message = number(len(domain), 1) + domain + self.chain + data
        try:
            Ed25519PublicKey.from_public_bytes(self.keys[validator]).verify(signature, message)
        except InvalidSignature:
            raise Invalid(f"{what}: bad signature") from None

    # State -----------------------------------------------------------------

    def state(self, r: Reader, state_root: bytes) -> tuple[int, int, bytes | None]:
        """Reads a state proof and checks it; the table, the number, the leaf."""
        table, place = r.u8(), r.u32()
        leaf = r.option(lambda: r.bytes(2 << 20))
        path = r.list(r.hash, 32)
        tables = [(r.u32(), r.hash()) for _ in range(TABLES)]
        named = b"".join(number(i + 1, 1) + number(s, 8) + root for i, (s, root) in enumerate(tables))
        need(derived("state", named) == state_root, "the tables are not those of the state root")
        need(1 <= table <= TABLES, "an unknown table")
        size, root = tables[table - 1]
        if leaf is None:
            need(place >= size and not path, "no leaf where there is one")
            return table, place, None
        need(place < size, "a leaf beyond the table")
        need(len(path) == (size - 1).bit_length(), "a path of another length")
        node, at = keyed("state leaf", number(table, 1) + number(place, 4) + leaf), place
        for sibling in path:
            node = keyed("state node", sibling + node if at & 1 else node + sibling)
            at >>= 1
        need(node == root, "the leaf is not in the table")
        return table, place, leaf

    def state_file(self, r: Reader, _version: int) -> dict:
        header = self.header(r)
        table, place, leaf = self.state(r, header.state_root)
        return {"state": (table, place), "height": header.height, "leaf": leaf and leaf.hex()}

    # Receipts --------------------------------------------------------------

    def receipt_file(self, r: Reader, version: int) -> dict:
        header = self.header(r)
        index = r.u64()
        leaf = r.take(86)
        receipt = read_receipt(leaf)
        need(1 <= receipt["height"] <= header.height, "the receipt's height")
        need(receipt["charged"] <= receipt["cost"], "charged more than the cost")
        path = r.list(r.hash, 64)
        root = root_of_one(leaf_hash(leaf), index, header.log_size, path)
        need(root == header.log_root, "the receipt is not in the log")
        detail = read_detail(r)
        need(version == (2 if detail and detail["version"] == 2 else 1), "a file of another version")
        if detail:
            need(detail["hash"] == receipt["detail"], "the detail is not the receipt's")
        fee = r.option(lambda: self.debit(r, header, receipt))
        table = r.option(lambda: self.price_table(r, detail)) or self.prices
        if detail and table["version"] == detail["table"]:
            cost = price(table, detail, fee or 0)
            exact = cost == receipt["cost"]
            need(exact if fee is not None else cost <= receipt["cost"], "the cost is not the price")
        shown = {name: value for name, value in receipt.items() if name != "detail"}
        return {"receipt": index, **shown, "fee": fee, "usage": detail and detail["usage"]}

    def price_table(self, r: Reader, detail: dict | None) -> dict:
        header = self.header(r)
        table, place, leaf = self.state(r, header.state_root)
        need(detail is not None and (table, place) == (PRICES, detail["table"] - 1), "another leaf")
        need(leaf is not None, "there is no such price table")
        prices = read_prices(leaf)
        need(prices["version"] == detail["table"], "another price table")
        return prices

    def debit(self, r: Reader, header: Header, receipt: dict) -> int:
        """Checks a debit proof; the fee."""
        fixed = r.take(38)
        batch_path = r.list(r.hash, 64)
        body = r.bytes(256)
        signatures, payload = r.hash(), r.hash()
        index, count = r.u32(), r.u32()
        path = r.list(r.hash, 64)
        need(header.height == receipt["height"], "debit: the header is of another height")
        leaf = leaf_hash(derived("tx", body) + signatures + payload)
        root = root_of_one(leaf, index, count, path)
        need(root == header.transactions_root, "debit: the batch is not in the block")
        f = Reader(fixed)
        f.take(2)
        flags, account, class_ = f.u16(), f.u32(), f.u16()
        f.take(4 + 8)
        limit, fee = f.u64(), f.u64()
        batch = read_batch(body)
        gateway, journal, place = receipt["gateway"], receipt["journal"], receipt["number"]
        need(batch["author"] == (2, gateway) and batch["journal"] == journal, "debit: another journal")
        need(batch["first"] <= place, "debit: the batch begins later")
        position = number(gateway, 4) + number(journal, 4) + number(place, 8)
        leaf = leaf_hash(fixed[:4] + position + fixed[4:] + receipt["detail"])
        root = root_of_one(leaf, place - batch["first"], batch["count"], batch_path)
        need(root == batch["root"], "debit: not in the batch")
        same = (account, class_) == (receipt["account"], receipt["class"])
        need(same and flags & ~receipt["flags"] == 0, "debit: of another receipt")
        need(receipt["charged"] <= limit, "debit: charged more than the limit")
        return fee

    # Many receipts ---------------------------------------------------------

    def receipts_file(self, r: Reader, _version: int) -> dict:
        header = self.header(r)
        receipts = r.list(lambda: (r.u64(), r.take(86), read_detail(r)), 100_000)
        path = r.list(r.hash, 64 * 100_000)
        need(bool(receipts), "a file without receipts")
        leaves = [(index, leaf_hash(leaf)) for index, leaf, _ in receipts]
        root = root_of_many(leaves, header.log_size, path)
        need(root == header.log_root, "receipts that are not in the log")
        proven = r.list(lambda: self.later_prices(r, header), 64)
        versions = [table["version"] for table in proven]
        need(all(a < b for a, b in zip(versions, versions[1:])), "price tables in disorder")
        tables = {table["version"]: table for table in [self.prices, *proven]}
        shown = []
        for index, leaf, detail in receipts:
            receipt = read_receipt(leaf)
            need(1 <= receipt["height"] <= header.height, "the receipt's height")
            need(receipt["charged"] <= receipt["cost"], "charged more than the cost")
            if detail:
                need(detail["hash"] == receipt["detail"], "the detail is not the receipt's")
            if detail and detail["table"] in tables:
                cost = price(tables[detail["table"]], detail, 0)
                need(cost <= receipt["cost"], "the cost is not the price")
            usage = detail and detail["usage"]
            shown.append((index, receipt["account"], receipt["cost"], receipt["charged"], usage))
        return {"receipts": shown}

    def later_prices(self, r: Reader, header: Header) -> dict:
        """A price table under the same header."""
        table, place, leaf = self.state(r, header.state_root)
        need(table == PRICES and leaf is not None, "a leaf that is no price table")
        prices = read_prices(leaf)
        need(prices["version"] == place + 1, "another price table")
        return prices

    # Consistency -----------------------------------------------------------

    def consistency_file(self, r: Reader, _version: int) -> dict:
        old, new = self.header(r), self.header(r)
        path = r.list(r.hash, 65)
        need(old.height <= new.height, "the headers are not in order")
        grew(old.log_size, new.log_size, old.log_root, new.log_root, path)
        return {"consistency": (old.height, new.height), "roots": (old.log_root.hex(), new.log_root.hex())}

    # Evidence --------------------------------------------------------------

    def evidence_file(self, r: Reader, _version: int) -> dict:
        """Who signed what twice, as (validator, height, round, what)."""
        need(r.hash() == self.chain, "evidence of another chain")
        tag = r.u32()
        need(tag <= 2, "evidence of an unknown kind")
        if tag == 2:
            (one, first, round_, signers), (other, second, later, others) = self.certified(r), self.certified(r)
            need(one.height == other.height > 0, "headers of two heights")
            need(first < second, "one header twice, or out of order")
            both = [who for who in signers if who in others and round_ == later]
            return {"evidence": [(who, one.height, round_, "certificates") for who in both], "fork": one.height}
        who, height, round_ = r.u16(), r.u64(), r.u32()
        need(height > 0, "nobody votes for the genesis")
        step = r.u32() if tag == 0 else 2
        need(step <= 2 and (tag == 1 or step < 2), "an unknown step")
        what = ("prevote", "precommit", "proposal")[step]
        messages = []
        for _ in range(2):
            block = r.option(r.hash) if tag == 0 else r.hash()
            data = number(height, 8) + number(round_, 4) + (b"\0" + ZERO if block is None else b"\1" + block)
            data += r.take(4) if tag == 1 else b""
            self.signed(who, what, data, r.take(64))
            messages.append(data)
        need(messages[0] < messages[1], "one message twice, or out of order")
        return {"evidence": [(who, height, round_, what + "s")]}

    # Histories -------------------------------------------------------------

    def history_file(self, r: Reader, _version: int) -> dict:
        header = self.header(r)
        subject = read_subject(r)
        first, last = r.u64(), r.u64()
        need(first <= last <= header.height, "heights that the header does not cover")
        entries = r.list(lambda: (r.u64(), read_entry(r)), 150_000)
        path = r.list(r.hash, 64 * 150_000)
        leaves = [(index, leaf_hash(entry["leaf"])) for index, entry in entries]
        root = root_of_many(leaves, header.log_size, path)
        need(not entries or root == header.log_root, "entries that are not in the log")
        reached = follow(subject, entries, first, last)
        proof = r.option(lambda: self.state(r, header.state_root))
        if not entries or entries[-1][1]["height"] <= last:
            need(proof is not None, "nothing shows that the last entry is the last one")
            need(reached == stated(subject, *proof), "the state counts other entries")
        within = [(i, e["leaf"].hex()) for i, e in entries if first <= e["height"] <= last]
        return {"history": subject, "from": first, "to": last, "entries": within}


def read_receipt(leaf: bytes) -> dict:
    r = Reader(leaf)
    need((r.u8(), r.u8()) == (1, RECEIPT), "not a receipt's leaf")
    sizes = {"flags": 2, "height": 8, "account": 4, "entry": 4, "gateway": 4, "journal": 4}
    sizes |= {"number": 8, "class": 2, "cost": 8, "charged": 8}
    receipt: dict = {name: r.uint(size) for name, size in sizes.items()}
    return receipt | {"detail": r.hash()}


def read_detail(r: Reader) -> dict | None:
    version = r.u8()
    need(version <= 2, "an unknown detail")
    if version == 0:
        return None
    raw = r.take(112 if version == 1 else 128)
    d = Reader(raw)
    d.take(16)
    return {
        "version": version,
        "hash": derived("detail", raw),
        "model": d.u32(),
        "table": d.u32(),
        "usage": [d.u32() for _ in range(6)],
    }


def read_batch(body: bytes) -> dict:
    r = Reader(body)
    need(r.u8() == 1, "a body of another version")
    author = (r.u8(), r.u32())
    r.list(lambda: (r.u8(), r.u32()), 16)
    r.take(16 + 4)
    need(r.u32() == DEBITS, "a body of something else")
    batch = {"author": author, "journal": r.u32(), "first": r.u64(), "count": r.u32(), "root": r.hash()}
    r.end()
    return batch


def price(table: dict, detail: dict, fee: int) -> int:
    """cost = ceil(sum / 1000) + fee, in micro-CT."""
    models = [model for model in table["models"] if model["number"] == detail["model"]]
    need(bool(models), "the table lacks the model")
    meters, usage = models[0]["meters"], detail["usage"]
    need(not any(usage[len(meters) :]), "a count without a meter")
    total = models[0]["weight"] * models[0]["weight_coefficient"]
    for i, meter in enumerate(meters):
        own = usage[i] - sum(usage[j] for j, m in enumerate(meters) if m["subset_of"] == i)
        need(own >= 0, "a part that is more than its whole")
        total += own * meter["coefficient"]
    return -(-total // 1000) + fee


def read_subject(r: Reader) -> tuple[str, int]:
    tag = r.u32()
    need(tag <= 2, "an unknown subject")
    return ("account", "gateway", "control")[tag], 0 if tag == 2 else r.u32()


def read_entry(r: Reader) -> dict:
    tag = r.u32()
    need(tag <= 1, "an unknown entry")
    if tag == 0:
        leaf = r.take(86)
        return read_receipt(leaf) | {"leaf": leaf, "kind": RECEIPT, "control": 0}
    leaf = r.take(58)
    e = Reader(leaf)
    need(e.u8() == 1, "a leaf of another version")
    entry = {"leaf": leaf, "kind": e.u8(), "height": e.u64(), "account": e.u32()}
    entry |= {"entry": e.u32(), "control": e.u64()}
    need(entry["kind"] != RECEIPT, "an event's leaf that is a receipt's")
    start = r.at
    entry |= read_event(r)
    need(entry["kind"] == entry["tag"] + 2, "an event of another kind")
    need(derived("entry body", r.data[start : r.at]) == e.hash(), "an event that is not its leaf's")
    return entry


def read_event(r: Reader) -> dict:
    """Reads an event: the tag, and what a gateway's row needs of it."""
    grant = [4, 2, 8, 8, 8, 8, 8, 4, 1, 1, 1]
    fields: dict[int, list[int]] = {
        0: [32, 4, 8, 2, 4, 8, 4, 8, 4],
        1: [4, 8, 4],
        3: [32],
        4: [32, 4, 32],
        5: [32, *grant],
        6: [4, 8],
        7: [4, 8],
        8: [32, 4, 8],
        9: [32, 4, 8],
        10: [32, 8, *grant],
        13: [32, 4, 32],
        14: [32, 4],
        15: [32, 32],
        17: [32, 4],
        18: [32, 2],
        19: [32, 4],
        21: [32, 4],
        22: [32, 4],
        23: [32, 4],
        26: [32, 4],
    }
    tag = r.u32()
    if tag == 2:
        r.take(4 + 8)
        r.option(r.hash)
        r.take(8 + 8)
    elif tag == JOURNAL_OPENED - 2:
        r.hash()
        opened = {"gateway": r.u32(), "journal": r.u32(), "intact": r.flag()}
        return {"tag": tag, "closed": r.u64(), "closed hash": r.hash(), **opened}
    else:
        need(tag <= 24 or tag == 26, "an unknown event")
        r.take(sum(fields.get(tag, [32])))
    return {"tag": tag}


def reached_by(subject: tuple[str, int], entry: dict) -> tuple[int, int]:
    """How far a row comes with an entry of it."""
    if subject[0] == "account":
        return 0, entry["entry"]
    if subject[0] == "control":
        return 0, entry["control"]
    return entry["journal"], entry["number"] if entry["kind"] == RECEIPT else 0


def belongs(subject: tuple[str, int], entry: dict) -> bool:
    if subject[0] == "account":
        return entry["account"] == subject[1] != NO_ACCOUNT
    if subject[0] == "control":
        return entry["kind"] != RECEIPT and entry["kind"] > LAST_LEASE_KIND
    return entry["kind"] in (RECEIPT, JOURNAL_OPENED) and entry["gateway"] == subject[1]


def leads(subject: tuple[str, int], reached: tuple[int, int], entry: dict) -> bool:
    """Whether an entry is the next one of a row."""
    journal, last = reached
    after = reached_by(subject, entry)
    if subject[0] == "gateway" and entry["kind"] == JOURNAL_OPENED:
        return after[0] == journal + 1 and entry["closed"] == last
    return after == (journal, last + 1)


def follow(subject: tuple[str, int], entries: list, first: int, last: int) -> tuple[int, int]:
    """Checks that a row has no gap; how far it comes."""
    reached = (0, 0)
    for at, (_, entry) in enumerate(entries):
        need(belongs(subject, entry), "an entry of somebody else")
        before, behind = entry["height"] < first, entry["height"] > last
        need(not (before and at > 0), "an entry from before the heights")
        need(not (behind and at < len(entries) - 1), "an entry from after the heights")
        need(before or leads(subject, reached, entry), "an entry is missing")
        reached = reached_by(subject, entry)
    return reached


def stated(subject: tuple[str, int], table: int, place: int, leaf: bytes | None) -> tuple[int, int]:
    """Where the state says that a row ends."""
    kind, who = subject
    wanted = {"account": (ACCOUNTS, who), "gateway": (GATEWAYS, who), "control": (CHAIN, 0)}[kind]
    need((table, place) == wanted, "the end is proven by another leaf")
    if leaf is None:
        return 0, 0
    r = Reader(leaf)
    if kind == "account":
        r.take(4 + 32 + 1)
        r.list(r.u16, 256)
        return 0, r.u32()
    if kind == "gateway":
        r.take(32 + 4 * 8 + 1)
        return r.u32(), r.u64()
    r.take(8)
    return 0, r.u64()


# Files ---------------------------------------------------------------------


@dataclass
class Kind:
    magic: bytes
    versions: tuple[int, ...]
    verify: Callable[[Verifier, Reader, int], dict] = field(repr=False)


KINDS = [
    Kind(b"TALLYRCT", (1, 2), Verifier.receipt_file),
    Kind(b"TALLYRCS", (1,), Verifier.receipts_file),
    Kind(b"TALLYSTA", (1,), Verifier.state_file),
    Kind(b"TALLYHIS", (1,), Verifier.history_file),
    Kind(b"TALLYCON", (1,), Verifier.consistency_file),
    Kind(b"TALLYEVI", (1,), Verifier.evidence_file),
]


def verify(verifier: Verifier, data: bytes) -> dict:
    """What a file proves; raises `Invalid` if that is nothing."""
    need(len(data) <= 32 << 20, "a file of more than 32 MiB")
    for kind in KINDS:
        if data.startswith(kind.magic):
            r = Reader(data)
            r.take(len(kind.magic))
            version = r.u8()
            need(version in kind.versions, "a file of another version")
            proven = kind.verify(verifier, r, version)
            r.end()
            return proven
    raise Invalid("not a file of this kind")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--genesis", type=Path, required=True, help="genesis.json")
    parser.add_argument("--quiet", action="store_true", help="only count")
    parser.add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args()
    verifier = Verifier.of(json.loads(arguments.genesis.read_text()))
    bad = 0
    for path in arguments.files:
        try:
            proven = verify(verifier, path.read_bytes())
            if not arguments.quiet:
                print(f"{path}: proven: {json.dumps(proven)[:200]}")
        except Invalid as why:
            bad += 1
            print(f"{path}: PROVES NOTHING: {why}")
    print(f"{len(arguments.files) - bad} files proven, {bad} not")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
