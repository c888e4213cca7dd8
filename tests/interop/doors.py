#!/usr/bin/env python3
"""What Envoy must keep shut, and what it must do to a request it lets through.

    doors.py listener ADMIN           prints where Envoy of this admin address listens
    doors.py closed BASE_URL KEY LOG  without its gateway, Envoy serves nobody
"""

import json
import sys
import urllib.error
import urllib.request

from cases import PROMPT, Failed, expect

# Whatever a client says about the engine, the gateway says it.
FORGED = {"x-tally-upstream": "http://127.0.0.1:8000", "x-tally-receipt": "0-1-1"}


def ask(url, key=None, headers=None, body=None, method=None):
    """Status and text of one plain HTTP request."""
    headers = {"content-type": "application/json", **(headers or {})}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def chat(model="tally-base"):
    """A small request."""
    return {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 5}


def check_framing(log):
    """A rewritten request reached the engine with its length, and without the key."""
    for line in log.values():
        names = set(line["headers"])
        expect("content-length" in names, f"{line['request_id']}: no content-length: {names}")
        expect("transfer-encoding" not in names, f"{line['request_id']}: chunked")
        expect("authorization" not in names, f"{line['request_id']}: the key reached the engine")
        expect("x-tally-upstream" in names, f"{line['request_id']}: not the gateway's route")


def check_ways_around(base_url, key):
    """Nothing reaches the engine but what the gateway has admitted. That the
    engine saw nothing of this is compared at the end, with its log."""
    url = f"{base_url}/chat/completions"
    root = base_url.removesuffix("/v1")
    for name, wanted, answer in [
        ("no key", 401, ask(url, None, FORGED, chat())),
        ("a foreign key", 401, ask(url, "tally-" + "00" * 32, FORGED, chat())),
        ("no such model", 404, ask(url, key, FORGED, chat("tally-none"))),
        ("no JSON object", 400, ask(url, key, FORGED, [])),
        ("another route", 404, ask(f"{base_url}/files", key, FORGED, chat())),
        ("the engine's own page", 404, ask(f"{root}/health", key, FORGED)),
        ("the gateway's metrics", 404, ask(f"{root}/metrics", key, FORGED)),
    ]:
        expect(answer[0] == wanted, f"{name}: {answer}")


def closed(base_url, key, log):
    """Without a gateway there is no answer, and the engine is not asked."""
    with open(log, encoding="utf-8") as file:
        before = file.read()
    status, text = ask(f"{base_url}/chat/completions", key, FORGED, chat())
    expect(status in (500, 503), f"without a gateway: {status} {text}")
    with open(log, encoding="utf-8") as file:
        expect(file.read() == before, "without a gateway a request reached the engine")


def listener(admin):
    """Address of the listener `clients`."""
    _, text = ask(f"http://{admin}/listeners?format=json")
    for status in json.loads(text)["listener_statuses"]:
        if status["name"] == "clients":
            address = status["local_address"]["socket_address"]
            return f"{address['address']}:{address['port_value']}"
    raise Failed("Envoy listens nowhere yet")


def main():
    command, *rest = sys.argv[1:]
    try:
        if command == "listener":
            print(listener(*rest))
        else:
            closed(*rest)
    except (Failed, urllib.error.URLError) as failure:
        print(f"interop: {failure}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
