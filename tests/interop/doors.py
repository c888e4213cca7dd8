#!/usr/bin/env python3
"""What a door must keep shut, and what it must do to a request it lets through.

    doors.py listener ADMIN            prints where Envoy of this admin address listens
    doors.py port                      prints a port that is free
    doors.py closed BASE_URL KEY LOG   without its gateway, Envoy serves nobody
    doors.py admission URL KEYS LOG    who passes a door that only admits: RICH, EMPTY
                                       and REVOKED key, with commas between
    doors.py shut URL KEY STATUS LOG   without its gateway, such a door lets nobody pass
    doors.py once BASE_URL KEY LOG...  of services that hang up, one is asked, once
    doors.py revoke BASE_URL KEY       the key revokes itself
"""

import json
import socket
import sys
import time
import urllib.error
import urllib.request

from cases import EMBEDS, FORGED, PROMPT, Failed, expect

DEADLINE = 30


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
        theirs = [name for name in names if name.startswith("x-envoy-")]
        expect(not theirs, f"{line['request_id']}: the client's {theirs} reached the engine")


def check_path(log):
    """The engine got its own path, without what the client wrote behind it."""
    for line in log.values():
        path = "/v1/embeddings" if line["model"] == EMBEDS else "/v1/chat/completions"
        expect(line["path"] == path, f"{line['request_id']}: {line['path']}")


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


def check_litellm(base_url, key):
    """Behind LiteLLM's many other doors there is nothing for a Tally key, and no
    field of LiteLLM's own brings a request past its hold."""
    url = f"{base_url}/chat/completions"
    root = base_url.removesuffix("/v1")
    for field, value in [
        ("fallbacks", ["tally-large"]),
        ("api_base", "http://127.0.0.1:8000"),
        ("api_key", "theirs"),
        ("extra_body", {"max_tokens": 1000}),
        ("max_new_tokens", 1000),
        ("max_tokens", 0),
        ("max_tokens", "many"),
    ]:
        status, text = ask(url, key, None, {**chat(), field: value})
        # Some LiteLLM itself refuses first, in ways of its own.
        expect(status >= 400, f"{field}: {status} {text}")
    # That this is charged to nobody is compared at the end, with the receipts.
    for how in ("error", "role", "break"):
        body = {**chat(), "messages": [{"role": "user", "content": f"fail: {how}"}], "stream": True}
        status, text = ask(url, key, None, body)
        expect(status >= 400 or '"error"' in text, f"an engine that fails: {status} {text}")
    for path in [
        "/v1/responses", "/v1/messages", "/v1/files", "/v1/batches", "/v1/images/generations",
        "/v1/moderations", "/openai/v1/chat/completions", "/engines/tally-base/chat/completions",
        "/openai/deployments/tally-base/chat/completions", "/anthropic/v1/messages",
        "/key/generate", "/model/new", "/user/new",
    ]:
        status, text = ask(f"{root}{path}", key, None, chat())
        expect(400 <= status < 500, f"{path}: {status} {text}")
    for name, wanted, answer in [
        ("no key", 401, ask(url, None, None, chat())),
        ("a foreign key", 401, ask(url, "tally-" + "00" * 32, None, chat())),
        ("what the engine refuses", 400, ask(url, key, None, {**chat(), "n": 2})),
    ]:
        expect(answer[0] == wanted, f"{name}: {answer}")


def lines(log):
    """What reached a service."""
    with open(log, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def admission(url, keys, log):
    """Who passes, who does not, and that nobody else reaches the service."""
    rich, empty, revoked = keys.split(",")
    for name, wanted, code, key in [
        ("no key", 401, "invalid_api_key", None),
        ("a foreign key", 401, "invalid_api_key", "tally-" + "00" * 32),
        ("a revoked key", 401, "invalid_api_key", revoked),
        ("an empty account", 429, "insufficient_quota", empty),
        ("a key that may spend", 200, None, rich),
    ]:
        before = len(lines(log))
        status, text = ask(url, key, FORGED)
        expect(status == wanted, f"{name}: {status} {text}")
        told = json.loads(text).get("error", {}).get("code")
        expect(told == code, f"{name}: {text}")
        reached = len(lines(log)) - before
        expect(reached == (1 if wanted == 200 else 0), f"{name}: reached the service {reached} times")
    names = lines(log)[-1]["headers"]
    expect("authorization" not in names, "the key reached a service that does not need it")


def shut(url, key, wanted, log):
    """Without its gateway a door that only admits lets nobody pass."""
    before = lines(log)
    status, text = ask(url, key)
    expect(status == int(wanted), f"without a gateway: {status} {text}")
    expect(lines(log) == before, "without a gateway a request reached the service")


def once(base_url, key, *logs):
    """A request that broke off is not sent to another server."""
    status, text = ask(f"{base_url}/chat/completions", key, None, chat())
    expect(status == 502, f"of servers that hang up: {status} {text}")
    asked = sum(len(lines(log)) for log in logs)
    expect(asked == 1, f"one request was sent {asked} times")


def revoke(base_url, key):
    """Revokes a key by itself, and waits until the gateway has seen it."""
    status, text = ask(f"{base_url}/tally/key", key, method="DELETE")
    expect(status in (200, 202, 204), f"revoke: {status} {text}")
    end = time.monotonic() + DEADLINE
    while ask(f"{base_url}/models", key)[0] != 401:
        expect(time.monotonic() < end, "a revoked key lives on")
        time.sleep(0.1)


def port():
    """A port that nobody listens on, for a program that takes no 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def listener(admin):
    """Address of the listener `clients`."""
    _, text = ask(f"http://{admin}/listeners?format=json")
    for status in json.loads(text)["listener_statuses"]:
        if status["name"] == "clients":
            address = status["local_address"]["socket_address"]
            return f"{address['address']}:{address['port_value']}"
    raise Failed("Envoy listens nowhere yet")


COMMANDS = {
    "listener": listener,
    "port": port,
    "closed": closed,
    "admission": admission,
    "shut": shut,
    "once": once,
    "revoke": revoke,
}


def main():
    command, *rest = sys.argv[1:]
    try:
        told = COMMANDS[command](*rest)
    except (Failed, urllib.error.URLError) as failure:
        print(f"interop: {failure}", file=sys.stderr)
        sys.exit(1)
    if told is not None:
        print(told)


if __name__ == "__main__":
    main()
