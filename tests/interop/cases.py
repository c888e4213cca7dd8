"""What an ordinary client does, with the OpenAI SDK, and what it must see.

Each case returns one `Call`: what the client asked for and what it was told.
Nothing here knows about receipts or about the engine's log.
"""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import openai

PROMPT = "how much of the grant was used in the same block?"
LONG_ANSWER = 2000
# A model whose price knows no output.
EMBEDS = "tally-embed"


class Failed(Exception):
    """An expectation that did not hold."""


def expect(condition, message):
    """Fails the run with a message when the condition does not hold."""
    if not condition:
        raise Failed(message)


@dataclass(frozen=True)
class Call:
    """One request, as the client saw it."""

    name: str
    hold: str  # the gateway's id of the request, also the engine's
    outcome: str  # "completed" or "hung up"
    texts: int  # pieces of text received; 0 when the answer was not streamed
    largest: int  # the largest answer that was asked for
    usage: tuple | None  # (prompt, cached, completion) tokens, if the client was told
    told_so_far: bool = False  # hung up, but the engine put the usage on each piece


# What a client has no say in, whatever it writes: where its request goes, what
# it was already charged, and how a proxy on the way treats it.
FORGED = {
    "x-tally-upstream": "http://127.0.0.1:8000",
    "x-tally-receipt": "0-1-1",
    "x-litellm-call-id": "the-same-for-all",
    "x-envoy-retry-on": "5xx,reset,connect-failure",
    "x-envoy-max-retries": "3",
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-envoy-upstream-rq-per-try-timeout-ms": "1",
    "x-envoy-hedge-on-per-try-timeout": "true",
    "x-envoy-upstream-alt-stat-name": "forged",
    "x-envoy-decorator-operation": "forged",
    "x-envoy-original-path": "/forged",
}


class Client:
    """The SDK with its defaults, and a count of the requests it really sent.
    All carry what a client must have no say in."""

    def __init__(self, base_url, api_key, model, direct, retold=False):
        self.model = model
        self.direct = direct
        # LiteLLM writes answers anew: an empty choice beside the usage, the
        # status in place of an error's code.
        self.retold = retold
        self._sent = 0
        self._lock = threading.Lock()
        hooks = {"request": [self._count]}
        self._sdk = openai.OpenAI(
            base_url=base_url,
            api_key=api_key,
            timeout=60,
            default_headers=FORGED,
            default_query={"forged": "1"},
            http_client=openai.DefaultHttpxClient(event_hooks=hooks),
        )

    def _count(self, _request):
        with self._lock:
            self._sent += 1

    @property
    def sent(self):
        """HTTP requests sent so far, retries included."""
        return self._sent

    def models(self):
        """The ids of all models."""
        return [model.id for model in self._sdk.models.list()]

    def chat(self, text, **options):
        """Starts one chat completion; returns the raw response and the hold id."""
        own_id = f"direct-{uuid.uuid4()}"
        if self.direct:
            options["extra_body"] = {"request_id": own_id}
        response = self._sdk.chat.completions.with_raw_response.create(
            model=self.model, messages=[{"role": "user", "content": text}], **options
        )
        hold = own_id if self.direct else response.headers.get("x-tally-receipt")
        expect(hold, "the answer has no x-tally-receipt header")
        return response, hold

    def embed(self, text):
        """The raw answer to one embedding."""
        return self._sdk.embeddings.with_raw_response.create(
            model=EMBEDS, input=text, encoding_format="float")

    def raw(self, text, **options):
        """Streams one chat completion: the hold id, and the body as it arrives."""
        own_id = f"direct-{uuid.uuid4()}"
        extra = {"request_id": own_id} if self.direct else None
        with self._sdk.chat.completions.with_streaming_response.create(
            model=self.model,
            messages=[{"role": "user", "content": text}],
            stream=True,
            extra_body=extra,
            **options,
        ) as response:
            yield own_id if self.direct else response.headers["x-tally-receipt"]
            yield from response.iter_bytes()


def usage_of(usage):
    """(prompt, cached, completion) of a usage object."""
    details = usage.prompt_tokens_details
    cached = details.cached_tokens if details and details.cached_tokens else 0
    expect(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, "usage: total")
    return (usage.prompt_tokens, cached, usage.completion_tokens)


def whole(client, name, text=PROMPT, largest=40, **options):
    """A request that is not streamed."""
    options = {"max_tokens": largest, "temperature": 0, **options}
    response, hold = client.chat(text, **options)
    answer = response.parse()
    choice = answer.choices[0]
    usage = usage_of(answer.usage)
    expect(choice.finish_reason in ("stop", "length"), f"{name}: finish {choice.finish_reason}")
    expect(choice.message.content, f"{name}: an empty answer")
    expect(0 < usage[2] <= largest, f"{name}: {usage[2]} tokens of at most {largest}")
    if choice.finish_reason == "length":
        expect(usage[2] == largest, f"{name}: cut at {usage[2]} of {largest} tokens")
    return Call(name, hold, "completed", 0, largest, usage)


def streamed(client, name, with_usage, text=PROMPT, largest=40, **options):
    """A streamed request. Only a client that asked for usage may see it."""
    if with_usage:
        options["stream_options"] = {"include_usage": True}
    options = {"max_tokens": largest, "temperature": 0, **options}
    response, hold = client.chat(text, stream=True, **options)
    texts, finish, usages, after_usage = 0, None, [], 0
    for chunk in response.parse():
        after_usage += len(usages)
        if chunk.usage is not None:
            usages.append(usage_of(chunk.usage))
            expect(client.retold or not chunk.choices, f"{name}: the usage chunk has choices")
            continue
        expect(len(chunk.choices) == 1, f"{name}: a chunk without choices and without usage")
        texts += bool(chunk.choices[0].delta.content)
        finish = finish or chunk.choices[0].finish_reason
    expect(finish in ("stop", "length"), f"{name}: finish {finish}")
    expect(texts > 0, f"{name}: no text")
    expect(len(usages) == int(with_usage), f"{name}: {len(usages)} usage chunks seen")
    expect(after_usage == 0, f"{name}: chunks after the usage")
    return Call(name, hold, "completed", texts, largest, usages[0] if usages else None)


def embedded(client, name):
    """An embedding: no output, whatever the price knows of it."""
    response = client.embed(PROMPT)
    hold = response.headers.get("x-tally-receipt")
    expect(hold, f"{name}: no x-tally-receipt header")
    answer = response.parse()
    expect(len(answer.data) == 1, f"{name}: {len(answer.data)} embeddings")
    return Call(name, hold, "completed", 0, 0, (answer.usage.prompt_tokens, 0, 0))


def piece_by_piece(client, name, text=PROMPT, largest=40):
    """A streamed request whose pieces arrive as they are made, not in heaps."""
    hold, *pieces = client.raw(text, max_tokens=largest, temperature=0)
    texts = b"".join(pieces).count(b'"delta":{"content":')
    expect(pieces[-1].endswith(b"data: [DONE]\n\n"), f"{name}: no end")
    expect(len(pieces) > texts / 3, f"{name}: {texts} texts came in {len(pieces)} pieces")
    return Call(name, hold, "completed", texts, largest, None)


def usage_each(client, name, largest=40):
    """A client that asks for usage on each piece is charged by the last one."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    hold, *pieces = client.raw(PROMPT, max_tokens=largest, temperature=0, stream_options=options)
    texts = b"".join(pieces).count(b'"delta":{"content":')
    told = b"".join(pieces).count(b'"completion_tokens":')
    expect(client.retold or told > texts / 2, f"{name}: usage is on {told} pieces of {texts}")
    return Call(name, hold, "completed", texts, largest, None)


def hung_up(client, name, after, text=PROMPT, told_so_far=False):
    """A streamed request whose client closes the connection after some texts."""
    response, hold = client.chat(text, stream=True, max_tokens=LONG_ANSWER, temperature=0)
    stream, texts = response.parse(), 0
    for chunk in stream:
        texts += bool(chunk.choices and chunk.choices[0].delta.content)
        if texts == after:
            break
    stream.close()
    expect(texts == after, f"{name}: the stream ended after {texts} texts")
    return Call(name, hold, "hung up", texts, LONG_ANSWER, None, told_so_far)


def concurrent(client, count):
    """Many requests at once, of every form, with answers of different lengths."""

    def one(number):
        text, largest = f"{PROMPT} number {number}", 10 + 7 * number
        options = {"temperature": 1, "seed": number}
        if number % 3 == 0:
            return whole(client, f"concurrent {number}", text, largest, **options)
        name = f"concurrent {number}"
        return streamed(client, name, number % 3 == 1, text, largest, **options)

    with ThreadPoolExecutor(max_workers=count) as pool:
        return list(pool.map(one, range(count)))


def refused(client):
    """A request beyond the balance: OpenAI's refusal, and the SDK does not try again."""
    before = client.sent
    try:
        client.chat(PROMPT, max_tokens=LONG_ANSWER, temperature=0)
    except openai.RateLimitError as error:
        expect(error.status_code == 429, f"refused: status {error.status_code}")
        code, kind = "insufficient_quota", "insufficient_quota"
        if client.retold:
            code, kind = "429", error.type
        expect(error.code == code, f"refused: code {error.code}")
        expect(error.type == kind, f"refused: type {error.type}")
        expect(client.sent - before == 1, f"refused: sent {client.sent - before} times")
        return
    raise Failed("refused: a request beyond the balance was served")


def all_calls(client):
    """Every served case with an engine that reports usage at the end."""
    expect(client.model in client.models(), f"no model {client.model} in the list")
    calls = [
        whole(client, "whole"),
        whole(client, "whole, repeated prompt"),
        whole(client, "cut by max_tokens", largest=3),
        whole(client, "cut by max_completion_tokens", largest=5, max_completion_tokens=5,
              max_tokens=openai.omit),
        whole(client, "ends by itself", largest=LONG_ANSWER, temperature=1, seed=2),
        whole(client, "no limit", largest=LONG_ANSWER, temperature=1, seed=2,
              max_tokens=openai.omit),
        streamed(client, "streamed with usage", with_usage=True),
        streamed(client, "streamed without usage", with_usage=False),
        piece_by_piece(client, "piece by piece"),
        usage_each(client, "asks for usage on each piece"),
    ]
    calls += concurrent(client, 12)
    calls += [hung_up(client, "hung up early", after=1), hung_up(client, "hung up later", after=60)]
    return calls


def continuous_calls(client):
    """Cases with an engine that a gateway asks for usage on each piece."""
    return [
        streamed(client, "each piece, with usage", with_usage=True),
        streamed(client, "each piece, without usage", with_usage=False),
        hung_up(client, "each piece, hung up", after=40, told_so_far=True),
    ]
