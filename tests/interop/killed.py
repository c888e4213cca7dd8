#!/usr/bin/env python3
"""A process on an answer's way is killed while it streams.

    killed.py BASE_URL KEY RESULT PID

Starts a long answer, kills that process (SIGKILL) when it has streamed for two
seconds, and checks what the client sees: what was delivered, no end, and no
second answer. Writes the hold's id and the number of texts to RESULT.

    killed.py gone BASE_URL KEY RESULT

A client that goes away while its answer, which is not streamed, is made.

    killed.py charged LOG RESULT ACCOUNT TALLY FOLDER KNOWN

Afterwards the request is charged once, what KNOWN says, and the engine was asked
once and stopped: `estimated` its last mark, `counted` what was delivered,
`worst` all of its hold; or it was not stopped, and `reported` is all of it.
"""

import json
import os
import signal
import socket
import sys
import time
import urllib.request
from http.client import HTTPException

import doors
import drive
from cases import LONG_ANSWER, Failed, expect
from receipts import Ledger

# More than a second: by then a mark of what was generated is durable.
STREAMED = 2.0


def cut(base_url, key, pid):
    """The hold and the texts that came before the stream broke off."""
    body = {**doors.chat(), "max_tokens": LONG_ANSWER, "stream": True, "temperature": 0}
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{base_url}/chat/completions", data, headers)
    seen = b""
    with urllib.request.urlopen(request, timeout=60) as answer:
        hold, begun = answer.headers["x-tally-receipt"], time.monotonic()
        try:
            # Not by lines: so an end that is missing would not show.
            while piece := answer.read(64):
                seen += piece
                if pid and time.monotonic() - begun > STREAMED:
                    os.kill(pid, signal.SIGKILL)
                    pid = None
            raise Failed(f"the answer ended as if it were whole: {seen[-200:]}")
        except (HTTPException, OSError):
            pass
    expect(pid is None, f"the answer broke off before anything was killed: {seen[-200:]}")
    expect(b"[DONE]" not in seen, "the answer was whole")
    expect(seen.count(b'"role"') == 1, f"the client saw another answer: {seen[:2000]}")
    return {"hold": hold, "texts": seen.count(b'"delta":{"content":')}


def gone(base_url, key):
    """Sends a request, and does not wait for its answer."""
    host, port = base_url.removeprefix("http://").removesuffix("/v1").split(":")
    body = json.dumps({**doors.chat(), "max_tokens": LONG_ANSWER, "temperature": 0}).encode()
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(STREAMED)
    return {"hold": None, "texts": 0}


def charged(log, result, account, tally, folder, known):
    """Once, as it is known, and the engine stopped."""
    hold, texts = result["hold"], result["texts"]
    line = drive.engine_log(log, 1)
    hold = hold or next(iter(line))
    expect(set(line) == {hold}, f"the engine was asked for {sorted(line)}")
    line = line[hold]
    expect(line["aborted"] == (known != "reported"), f"whether the engine was stopped: {line}")
    receipts = drive.committed(Ledger(tally, folder), account, 1)
    expect([receipt.hold for receipt in receipts] == [hold], f"receipts: {receipts}")
    receipt = receipts[0]
    if known == "reported":
        expect(receipt.output == line["completion_tokens"] and not receipt.flags, f"{receipt}")
    elif known == "worst":
        expect("estimated" in receipt.flags and receipt.charged == receipt.limit, f"{receipt}")
    else:
        expect(known in receipt.flags, f"not flagged {known}: {receipt}")
        expect(0 < receipt.output <= line["completion_tokens"], f"{receipt}, engine {line}")
        expect(0 < receipt.charged < receipt.limit and receipt.loss == 0, f"{receipt}")
    print(f"killed mid-stream: client {texts} texts, engine {line['completion_tokens']}, "
          f"charged {receipt.output} {' '.join(sorted(receipt.flags))}")


def main():
    try:
        if sys.argv[1] == "charged":
            log, result, account, tally, folder, known = sys.argv[2:]
            with open(result, encoding="utf-8") as file:
                charged(log, json.load(file), int(account), tally, folder, known)
            return
        if sys.argv[1] == "gone":
            base_url, key, result = sys.argv[2:]
            seen = gone(base_url, key)
        else:
            base_url, key, result, pid = sys.argv[1:]
            seen = cut(base_url, key, int(pid))
        with open(result, "w", encoding="utf-8") as file:
            json.dump(seen, file)
    except Failed as failure:
        print(f"interop: {failure}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
