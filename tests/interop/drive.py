#!/usr/bin/env python3
"""Drives a gateway with the OpenAI SDK and compares what was committed.

    drive.py --direct --base-url http://127.0.0.1:PORT/v1 --usage-log FILE

talks to the engine itself, without a gateway: the client's half only. Without
`--direct` the base URL is a gateway's, and the committed receipts are compared
too. Exit 0, or 1 with the first expectation that did not hold.
"""

import argparse
import sys
import time

import cases
import compare
import doors
import receipts

DEADLINE = 60


def wait_for(what, ready):
    """Polls until `ready` returns something, or fails after the deadline."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        result = ready()
        if result:
            return result
        time.sleep(0.05)
    raise cases.Failed(f"no {what} within {DEADLINE} s")


def engine_log(path, count):
    """The engine's log, once it has as many lines as requests were served."""

    def ready():
        lines = compare.read_engine_log(path)
        return lines if len(lines) >= count else None

    return wait_for(f"{count} lines in the engine's log", ready)


def committed(ledger, account, count):
    """The account's receipts, once there is one for each call."""

    def ready():
        return len(ledger.indices(account)) >= count

    wait_for(f"{count} receipts", ready)
    return ledger.receipts(account)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--usage-log", required=True)
    parser.add_argument("--model", default="tally-base")
    parser.add_argument("--continuous-model", default="tally-large",
                        help="the gateway asks its engine for usage on each piece")
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--account", type=int, help="of the API key")
    parser.add_argument("--poor-api-key", help="of an account that cannot pay one token")
    parser.add_argument("--envoy", action="store_true", help="the base URL is Envoy's")
    parser.add_argument("--litellm", choices=["forward", "meter"], help="the base URL is LiteLLM's")
    parser.add_argument("--tally", help="the binary")
    parser.add_argument("--receipts", help="folder for receipt files")
    return parser.parse_args()


def client_half(arguments):
    """All served cases against the engine's log."""

    def client(model):
        retold = arguments.litellm is not None
        return cases.Client(arguments.base_url, arguments.api_key, model, arguments.direct, retold)

    first, second = client(arguments.model), client(arguments.continuous_model)
    calls = cases.all_calls(first)
    if not arguments.litellm:
        calls += cases.continuous_calls(second)
    else:
        calls.append(cases.embedded(first, "embedding"))
    log = engine_log(arguments.usage_log, len(calls))
    compare.check_engine(calls, log)
    # The list of models is one request more; nothing was sent twice.
    sent = first.sent + second.sent
    cases.expect(sent == len(calls) + 1, f"sent {sent} requests for {len(calls)} calls")
    if not arguments.direct:
        doors.check_path(log)
    if arguments.envoy:
        doors.check_framing(log)
        doors.check_ways_around(arguments.base_url, arguments.api_key)
    if arguments.litellm:
        doors.check_litellm(arguments.base_url, arguments.api_key)
    return calls, log


def ledger_half(arguments, calls, log):
    """The refusal, then the receipts against the engine's log."""
    retold = arguments.litellm is not None
    poor = cases.Client(arguments.base_url, arguments.poor_api_key, arguments.model, False, retold)
    cases.refused(poor)
    ledger = receipts.Ledger(arguments.tally, arguments.receipts)
    found = committed(ledger, arguments.account, len(calls))
    compare.check_receipts(calls, log, found)
    cases.expect(compare.read_engine_log(arguments.usage_log) == log,
                 "a refused request reached the engine")
    return {receipt.hold: receipt for receipt in found}


def print_row(call, line, receipt):
    """One request, as all three saw it."""
    text = (f"{call.name:28} {call.outcome:9} {call.texts:3} texts | engine "
            f"{line['prompt_tokens']:3} in {line['cached_tokens']:3} cached "
            f"{line['completion_tokens']:3} out {line['finish_reason'] or 'aborted':8}")
    if receipt is not None:
        text += (f"| receipt {receipt.input:3} {receipt.cached:3} {receipt.output:3}, charged "
                 f"{receipt.charged} of {receipt.limit} {' '.join(sorted(receipt.flags))}")
    print(text)


def run(arguments):
    """All cases, then all comparisons."""
    calls, log = client_half(arguments)
    found = {} if arguments.direct else ledger_half(arguments, calls, log)
    for call in calls:
        print_row(call, log[call.hold], found.get(call.hold))
    print(f"{len(calls)} requests, {len(found)} receipts, no difference")


def main():
    try:
        run(parse_arguments())
    except cases.Failed as failure:
        print(f"interop: {failure}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
