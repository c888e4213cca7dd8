"""Three accounts of the same requests must agree: the client's, the engine's
usage log and the committed receipts.

For a completed request all counts are equal, and nothing was estimated. For a
client that hung up, what is charged lies between what the client received and
what the engine generated, and is less than the whole hold; the receipt says
that it was counted or estimated. Its input is the gateway's guess, unless the
engine told the usage so far on each piece: then it is exact.
"""

import json

from cases import Failed, expect


def read_engine_log(path):
    """The engine's lines by request id; an id twice is an error."""
    lines = {}
    with open(path, encoding="utf-8") as log:
        for line in log:
            entry = json.loads(line)
            expect(entry["request_id"] not in lines, f"engine: {entry['request_id']} twice")
            lines[entry["request_id"]] = entry
    return lines


def check_engine(calls, log):
    """Every call reached the engine exactly once, and nothing else did."""
    holds = [call.hold for call in calls]
    expect(len(set(holds)) == len(holds), "two answers carry one receipt id")
    expect(set(log) == set(holds), f"only in one: {sorted(set(log) ^ set(holds))}")
    for call in calls:
        line = log[call.hold]
        told = (line["prompt_tokens"], line["cached_tokens"], line["completion_tokens"])
        if call.outcome == "completed":
            expect(not line["aborted"], f"{call.name}: the engine says aborted")
            expect(call.usage in (None, told), f"{call.name}: client {call.usage}, engine {told}")
        else:
            expect(line["aborted"], f"{call.name}: the engine went on to the end")
            expect(call.texts <= told[2] < call.largest,
                   f"{call.name}: received {call.texts}, engine generated {told[2]}")


def check_receipts(calls, log, receipts):
    """One receipt per call, with the engine's counts."""
    by_hold = {receipt.hold: receipt for receipt in receipts}
    expect(len(by_hold) == len(receipts), "two receipts for one hold")
    expect(set(by_hold) == {call.hold for call in calls},
           f"only in one: {sorted(set(by_hold) ^ {call.hold for call in calls})}")
    for call in calls:
        receipt, line = by_hold[call.hold], log[call.hold]
        expect(receipt.cost == receipt.charged + receipt.loss, f"{call.name}: cost")
        expect(receipt.loss == 0, f"{call.name}: a loss of {receipt.loss}")
        check = check_completed if call.outcome == "completed" else check_hung_up
        check(call, receipt, line)


def check_completed(call, receipt, line):
    """The receipt carries exactly the engine's counts."""
    engine = (line["prompt_tokens"], line["cached_tokens"], line["completion_tokens"])
    committed = (receipt.input, receipt.cached, receipt.output)
    expect(committed == engine, f"{call.name}: receipt {committed}, engine {engine}")
    expect(not receipt.flags & {"counted", "estimated", "capped", "late"},
           f"{call.name}: flags {sorted(receipt.flags)}")
    expect(receipt.charged > 0, f"{call.name}: served for nothing")


def check_hung_up(call, receipt, line):
    """Charged for what was generated: not nothing, not the whole hold."""
    expect(call.texts <= receipt.output <= line["completion_tokens"],
           f"{call.name}: client received {call.texts}, charged {receipt.output}, "
           f"engine generated {line['completion_tokens']}")
    if call.told_so_far:
        expect((receipt.input, receipt.cached) == (line["prompt_tokens"], line["cached_tokens"]),
               f"{call.name}: receipt {receipt}, engine {line}")
    expect(receipt.input > 0, f"{call.name}: no input")
    expect(receipt.flags & {"counted", "estimated"}, f"{call.name}: not flagged")
    expect(0 < receipt.charged < receipt.limit,
           f"{call.name}: charged {receipt.charged} of a hold of {receipt.limit}")


__all__ = ["Failed", "check_engine", "check_receipts", "read_engine_log"]
