"""Reads the committed receipts through the command line of `tally`."""

import json
import subprocess
from dataclasses import dataclass


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
