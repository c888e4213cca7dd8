"""The committed receipts, read through the command line of `tally`.

Each receipt of an account is fetched from a validator as a file, and each file
is verified with nothing but the genesis before a number of it is used.
"""

import json
import os
import subprocess
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Receipt:
    """What the comparison needs of one committed receipt."""

    hold: str  # as in the answer's x-tally-receipt header
    input: int  # LLM tokens, cached ones included
    cached: int
    output: int
    limit: int  # micro-CT held for the request
    cost: int
    charged: int
    loss: int
    flags: frozenset


class Ledger:
    """A validator, asked through the binary; genesis and node are in the
    environment (TALLY_GENESIS, TALLY_NODE)."""

    def __init__(self, tally, folder):
        self._tally = tally
        self._folder = folder

    def _run(self, *arguments):
        command = [self._tally, *arguments, "--format", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def indices(self, account):
        """Log indices of an account's receipts."""
        rows = self._run("entry", "list", "--account", str(account), "--limit", "10000")
        return [row["index"] for row in rows if row["what"] == "Receipt"]

    def receipts(self, account):
        """Every receipt of an account, verified."""
        files = [self._file(index) for index in self.indices(account)]
        return [parse(self._run("receipt", "explain", file)) for file in files]

    def _file(self, index):
        path = os.path.join(self._folder, f"{index}.receipt")
        if not os.path.exists(path):
            self._run("receipt", "get", "--index", str(index), "--out", path)
        return path


def micro(amount):
    """Micro-CT of a decimal amount of CT."""
    return int(Decimal(amount) * 1_000_000)


def parse(explained):
    """A receipt as `tally receipt explain` prints it. A count is either `7` or,
    for a meter with subsets, `7 - 2 = 5`: the whole comes first."""
    counts = dict.fromkeys(("cached_input", "output"), 0)
    counts |= {term["term"]: int(term["count"].split()[0]) for term in explained["terms"]}
    return Receipt(
        hold=explained["hold"].replace("/", "-"),
        input=counts["input"],
        cached=counts["cached_input"],
        output=counts["output"],
        limit=micro(explained["limit (hold)"]),
        cost=micro(explained["cost"]),
        charged=micro(explained["charged"]),
        loss=micro(explained["loss of the gateway"]),
        flags=frozenset(explained["flags"]),
    )
