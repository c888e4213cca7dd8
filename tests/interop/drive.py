#!/usr/bin/env python3
"""Drives a gateway with the OpenAI SDK and compares what was committed.

    drive.py --direct --base-url http://127.0.0.1:PORT/v1 --model tiny --usage-log FILE

talks to the engine itself, without a gateway: the client's half only. Without
`--direct` the base URL is a gateway's, and the committed receipts are compared
too. Exit 0, or 1 with the first expectation that did not hold.
"""

import argparse
import sys
import time

import cases
import compare

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


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--model", required=True)
    parser.add_argument("--usage-log", required=True)
    parser.add_argument("--direct", action="store_true")
    return parser.parse_args()


def run(arguments):
    """All cases, then all comparisons."""
    client = cases.Client(arguments.base_url, arguments.api_key, arguments.model, arguments.direct)
    calls = cases.all_calls(client)
    log = engine_log(arguments.usage_log, len(calls))
    compare.check_engine(calls, log)
    expect_sent = len(calls) + 1
    cases.expect(client.sent == expect_sent, f"sent {client.sent} requests for {expect_sent}")
    for call in calls:
        line = log[call.hold]
        print(f"{call.name:30} {call.outcome:9} texts {call.texts:3}  engine "
              f"{line['prompt_tokens']} in ({line['cached_tokens']} cached), "
              f"{line['completion_tokens']} out, {line['finish_reason']}")
    return calls, log


def main():
    try:
        run(parse_arguments())
    except cases.Failed as failure:
        print(f"interop: {failure}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
