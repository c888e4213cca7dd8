"""Tally for a LiteLLM proxy: who may pass, and what each request is charged.

The client's bearer is its Tally API key. Two ways, one of them in config.yaml:

    forward   LiteLLM's `api_base` is a Tally gateway, which does everything; the
              hook only passes the client's key on. All that the gateway promises
              holds.
    meter     LiteLLM speaks to the engine itself, and the hook asks the gateway's
              MeteringService: `Authorize` before the call, `Settle` or `Void` after.

In both, `auth` lets nobody pass whose key is not live, and nothing but the
routes that are metered. What `meter` cannot do is in README.md beside this file.

Environment:

    TALLY_GATEWAY   http://127.0.0.1:8080: where `listen.http` is
    TALLY_METERING  127.0.0.1:8081: where `listen.grpc` is (only `meter`)
    TALLY_PROTO     folder that has tally/v1/metering.proto (only `meter`)
    TALLY_REQUEST_ID  any text: give engines the hold's id as `request_id`
"""

import asyncio
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import grpc
import httpx
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import ProxyException, UserAPIKeyAuth
from pydantic import PrivateAttr
from starlette.requests import Request

GATEWAY = os.environ.get("TALLY_GATEWAY", "http://127.0.0.1:8080")
METERED = {"/chat/completions", "/completions", "/embeddings"}
FREE = {"/models"}
EMBEDS = {"embeddings", "embedding", "aembedding"}
CALLS = EMBEDS | {"completion", "acompletion", "text_completion", "atext_completion"}
# With these a client would have its request go elsewhere, go on another model,
# or bring more than the hold knows of.
NOT_FOR_CLIENTS = {
    "api_base", "api_key", "api_version", "base_url", "custom_llm_provider", "user_config", "organization",
    "fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "num_retries", "max_retries",
    "extra_body", "extra_headers", "mock_response", "prompt_id", "n_predict", "num_predict", "max_new_tokens",
    "chat_template", "prompt_embeds", "web_search_options",
}
# As the gateway bounds a prompt: at most a token per byte, and so much for a
# message's frame and for a picture or sound.
PER_MESSAGE, PER_MEDIUM = 32, 16_384
# What LiteLLM adds to a body.
LITELLMS = {"metadata", "litellm_metadata", "proxy_server_request", "user_api_key_dict"}
# Under this name a request's metadata have the key of its hold: a random one,
# since clients may send metadata too, and choose LiteLLM's own id of a call.
KEY = "tally_hold"
TOLD = ("x-tally-", "x-should-retry", "retry-after")
# A hold's end is asked for again when this was the answer, until the hold's time
# is over; a client waits for it so many seconds.
AGAIN = {
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED,
}
PATIENCE = 20
log = logging.getLogger("tally")


def refusal(status: int, message: str, kind: str, retry: bool = False) -> ProxyException:
    """An error in OpenAI's form. LiteLLM puts the status where the code belongs."""
    headers = {"x-should-retry": "true" if retry else "false"}
    return ProxyException(message=message, type=kind, param=None, code=status, headers=headers)


class Caller(UserAPIKeyAuth):
    """Who calls. The bearer is private, so that it is in no log and no database."""

    _bearer: str = PrivateAttr(default="")


_http = httpx.AsyncClient(base_url=GATEWAY, timeout=10)


async def auth(request: Request, api_key: str) -> UserAPIKeyAuth:
    """`general_settings.custom_auth`: asks the gateway whether the key is live."""
    path = request.url.path.removeprefix("/v1")
    if path not in METERED | FREE:
        raise refusal(404, f"Invalid URL ({request.method} {path})", "invalid_request_error")
    try:
        answer = await _http.get("/v1/tally/admit", headers={"authorization": f"Bearer {api_key}"})
    except httpx.HTTPError as error:
        raise refusal(503, "the gateway cannot be reached", "server_error", retry=True) from error
    if answer.status_code != 204:
        error = answer.json()["error"]
        empty = error["code"] == "insufficient_quota"
        raise refusal(429 if empty else answer.status_code, error["message"], error["type"])
    name = blake2b(api_key.encode(), digest_size=16).hexdigest()
    caller = Caller(api_key=name, user_id=name)
    caller._bearer = api_key
    return caller


def bearer_of(caller: UserAPIKeyAuth) -> str:
    """The bearer that `auth` has seen. LiteLLM loads this module once for each name
    in config.yaml, so its classes are not the same ones."""
    bearer = getattr(caller, "_bearer", "")
    if not bearer:
        raise refusal(500, "general_settings.custom_auth is not tally_hook.auth", "server_error")
    return bearer


def body_of(data: dict[str, Any]) -> dict[str, Any]:
    """The request as the client sent it."""
    return (data.get("proxy_server_request") or {}).get("body") or {}


def check_fields(data: dict[str, Any]) -> None:
    """Refuses what a client must have no say in."""
    for field in sorted(NOT_FOR_CLIENTS & (body_of(data).keys() | data.keys())):
        raise refusal(400, f"`{field}` is not served here", "invalid_request_error")


def told(headers: Any) -> dict[str, str]:
    """Of a gateway's headers those that a client gets."""
    names = ((str(name).removeprefix("llm_provider-"), value) for name, value in dict(headers or {}).items())
    return {name: str(value) for name, value in names if name.startswith(TOLD)}


async def tell(self, data, user_api_key_dict, response, request_headers=None, litellm_call_info=None):
    """The headers hook of both ways. LiteLLM sees it only in a class's own body."""
    hidden = getattr(response, "_hidden_params", None) or {}
    return told(hidden.get("additional_headers")) | (data.get("metadata") or {}).get("tally", {})


class Forward(CustomLogger):
    """Passes the client's own key to the gateway that is `api_base`."""

    async_post_call_response_headers_hook = tell

    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        data["metadata"] = {**(data.get("metadata") or {}), "tally": {}}
        check_fields(data)
        data["api_key"] = bearer_of(user_api_key_dict)
        return data

    async def async_post_call_failure_hook(
        self, request_data, original_exception, user_api_key_dict, traceback_str=None
    ):
        headers = getattr(original_exception, "litellm_response_headers", None)
        answer = getattr(original_exception, "response", None)
        headers = told(getattr(answer, "headers", None)) | told(headers)
        request_data["metadata"] = {**(request_data.get("metadata") or {}), "tally": headers}


def key_of(data: dict[str, Any]) -> str | None:
    """The key of a request's hold."""
    metadata = data.get("metadata")
    key = metadata.get(KEY) if isinstance(metadata, dict) else None
    return key if isinstance(key, str) else None


@dataclass
class Held:
    """A request that was authorized and has not ended."""

    hold: Any  # tally.v1.HoldId
    input: int  # likely: a third of the prompt's bytes
    wants_usage: bool
    until: float  # seconds since 1970; then it is charged, whatever comes
    pieces: int = 0  # of output that came
    usage: Any = None  # the last that came


@dataclass
class Wish:
    """What a request may cost, as the gateway bounds it."""

    input: int  # at most
    likely: int
    output: int  # of all answers together; 0: not said
    answers: int


def wish(data: dict[str, Any], embeds: bool) -> Wish:
    """Reads a request; what is not as OpenAI has it is refused."""
    try:
        messages = data.get("messages") or []
        prompt = [messages, data.get("prompt"), data.get("input")]
        likely = max(1, len(json.dumps(prompt, ensure_ascii=False).encode()) // 3)
        # All of the body but LiteLLM's own: engines put more fields into a prompt.
        body = {name: value for name, value in body_of(data).items() if name not in LITELLMS}
        size = len(json.dumps(body or prompt, ensure_ascii=False, default=lambda _: "").encode())
        tools = [data.get(name) for name in ("tools", "functions", "response_format")]
        size += 3 * len(json.dumps(tools, ensure_ascii=False).encode())
        contents = [message["content"] for message in messages if isinstance(message.get("content"), list)]
        media = sum(part.get("type") != "text" for parts in contents for part in parts)
        size += PER_MESSAGE * (len(messages) + 1) + PER_MEDIUM * media
        limits = [data.get("max_tokens"), data.get("max_completion_tokens")]
        output = max((int(limit) for limit in limits if limit is not None), default=0)
        if output < 0 or (output == 0 and limits != [None, None]):
            raise ValueError("max_tokens")
        prompts = data.get("prompt")
        several = isinstance(prompts, list) and prompts and not isinstance(prompts[0], int)
        count = max(int(data.get("n") or 1), int(data.get("best_of") or 1)) * (len(prompts) if several else 1)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise refusal(400, f"the request cannot be read: {error}", "invalid_request_error") from error
    return Wish(size, likely, 0 if embeds else output * count, 0 if embeds else count)


class Meter(CustomLogger):
    """Holds before a call and settles after it."""

    async_post_call_response_headers_hook = tell

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[str, Held] = {}
        self._tasks: set[asyncio.Task] = set()

    @cached_property
    def _protos(self) -> tuple[Any, Any]:
        sys.path.append(os.environ["TALLY_PROTO"])
        return grpc.protos_and_services("tally/v1/metering.proto")

    @cached_property
    def _stub(self) -> Any:
        # A gateway that is back is found again soon.
        waits = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 2000)]
        channel = grpc.aio.insecure_channel(os.environ.get("TALLY_METERING", "127.0.0.1:8081"), waits)
        return self._protos[1].MeteringServiceStub(channel)

    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        data["metadata"] = {**(data.get("metadata") or {}), "tally": {}, KEY: None}
        check_fields(data)
        if call_type not in CALLS:
            raise refusal(404, f"`{call_type}` is not metered", "invalid_request_error")
        asked = wish(data, call_type in EMBEDS)
        ask = self._protos[0].AuthorizeRequest(
            bearer=bearer_of(user_api_key_dict), model=data["model"], input=asked.input, max_output=asked.output
        )
        if not asked.answers:
            # Exactly the input; 0 would be all the output that the model allows.
            ask.max_output = 1
            ask.bounds.add(meter="input", count=asked.input)
        try:
            answer = await self._stub.Authorize(ask, timeout=60)
        except grpc.aio.AioRpcError as error:
            raise refused(error) from error
        stream = data.get("stream_options") or {}
        key = secrets.token_hex(16)
        self._forget()
        self._held[key] = Held(
            answer.hold, asked.likely, bool(stream.get("include_usage")), answer.until / 1000
        )
        data["metadata"] |= {"tally": {"x-tally-receipt": answer.hold_text}, KEY: key}
        if asked.answers:
            await self._limit(data, answer.max_output // asked.answers)
        if data.get("stream"):
            data["stream_options"] = {**stream, "include_usage": True}
        if os.environ.get("TALLY_REQUEST_ID"):
            data["extra_body"] = {"request_id": answer.hold_text}
        return data

    def _forget(self) -> None:
        """Drops holds whose time is over: LiteLLM does not tell the end of every
        request. All live equally long, so the oldest come first."""
        while self._held:
            key, held = next(iter(self._held.items()))
            if held.until > time.time():
                return
            del self._held[key]

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task:
        """Runs in a task of its own: the one that runs a request may be cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a hold could not be ended: %s", task.exception())

    async def _limit(self, data: dict[str, Any], output: int) -> None:
        """No answer becomes longer than the hold covers."""
        if output == 0:
            await self._end(data, failed=True)
            raise refusal(429, "the balance does not cover this request", "insufficient_quota")
        names = ["max_completion_tokens", "max_tokens"]
        given = [name for name in names if data.pop(name, None)]
        data[given[0] if given else "max_tokens"] = output

    async def async_post_call_success_hook(self, data, user_api_key_dict, response):
        """A whole answer: it leaves when its debit is durable."""
        held = self._held.get(key_of(data))
        if held and not data.get("stream"):
            held.usage = getattr(response, "usage", None)
            texts = [text_of(choice) for choice in getattr(response, "choices", None) or []]
            held.pieces = sum(len(text.encode()) for text in texts) // 4
            await self._end(data, whole=True)
        return response

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict, response, request_data
    ) -> AsyncGenerator[Any, None]:
        """A stream: its last piece leaves when its debit is durable. A client that
        hangs up closes this generator."""
        held = self._held.get(key_of(request_data))
        late, failed = None, False
        try:
            async for chunk in response:
                if late is not None:
                    yield late
                    late = None
                says = any(text_of(choice) for choice in chunk.choices)
                ends = any(choice.finish_reason for choice in chunk.choices)
                usage = getattr(chunk, "usage", None)
                if held:
                    held.pieces += says
                    held.usage = usage or held.usage
                    if usage and not held.wants_usage:
                        if not says and not ends:
                            continue
                        chunk.usage = None
                # What may be the last piece waits for the next one.
                if ends or usage:
                    late = chunk
                else:
                    yield chunk
            await self._end(request_data, whole=True)
            if late is not None:
                yield late
        except Exception:
            # The engine's failure. One who hangs up is no Exception.
            failed = True
            raise
        finally:
            self._start(self._end(request_data, failed=failed))

    async def async_post_call_failure_hook(
        self, request_data, original_exception, user_api_key_dict, traceback_str=None
    ):
        """Once per request, after LiteLLM's own retries: void, if nothing came."""
        await self._end(request_data, failed=True)

    async def _end(self, data: dict[str, Any], whole: bool = False, failed: bool = False) -> None:
        """Ends a request's hold, once: with the usage that came last, which is
        all of it if the answer is `whole`, or with what was counted."""
        held = self._held.pop(key_of(data), None)
        if held is None:
            return
        protos = self._protos[0]
        if failed and not held.pieces:
            await self._ended(held, self._stub.Void, [protos.VoidRequest(hold=held.hold)])
            return
        # LiteLLM makes zeros of a usage that an engine does not tell.
        if held.usage is not None and held.usage.prompt_tokens:
            known = protos.KNOWN_REPORTED if whole else protos.KNOWN_COUNTED
            counts = reported(held.usage)
        else:
            known = protos.KNOWN_COUNTED if held.pieces else protos.KNOWN_ESTIMATED
            counts = {"input": held.input, "output": held.pieces}
        # A model's price need not know all meters, and what it does not is free.
        asks = []
        for names in (counts.keys(), ("input", "output"), ("input",)):
            usage = [{"meter": name, "count": counts[name]} for name in names if counts.get(name)]
            ask = protos.SettleRequest(hold=held.hold, usage=usage, known=known)
            if ask not in asks:
                asks.append(ask)
        await self._ended(held, self._stub.Settle, asks)

    async def _ended(self, held: Held, call: Any, asks: list[Any]) -> None:
        """Returns when the hold has ended. Whoever waits no longer gets an error;
        the hold is ended all the same."""
        task = self._start(self._repeat(held, call, asks))
        await asyncio.wait({task}, timeout=PATIENCE)
        if not task.done():
            raise refusal(503, "the gateway cannot be reached", "server_error", retry=True)
        task.result()

    async def _repeat(self, held: Held, call: Any, asks: list[Any]) -> None:
        """The first of `asks` that is not refused. A hold is taken once, so each
        may be repeated; NOT_FOUND says that it has ended, and was charged."""
        pause = 0.1
        while True:
            try:
                await call(asks[0], timeout=60)
                return
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    hold = held.hold
                    log.warning("%s-%s-%s had ended already", hold.gateway, hold.journal, hold.number)
                    return
                if error.code() == grpc.StatusCode.INVALID_ARGUMENT and len(asks) > 1:
                    asks = asks[1:]
                    continue
                if error.code() not in AGAIN or time.time() + pause >= held.until:
                    raise refused(error) from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, 5)


def text_of(choice: Any) -> str:
    """What a choice says, of whatever kind."""
    part = getattr(choice, "delta", None) or getattr(choice, "message", None)
    text = getattr(choice, "text", None) or getattr(part, "content", None)
    calls = getattr(part, "tool_calls", None)
    return (text or getattr(part, "reasoning_content", None) or "") + (str(calls) if calls else "")


def reported(usage: Any) -> dict[str, int]:
    """Counts by meter."""
    counts = {"input": usage.prompt_tokens or 0, "output": getattr(usage, "completion_tokens", 0) or 0}
    for meter, details, field in (
        ("cached_input", "prompt_tokens_details", "cached_tokens"),
        ("reasoning", "completion_tokens_details", "reasoning_tokens"),
    ):
        counts[meter] = getattr(getattr(usage, details, None), field, None) or 0
    return counts


def refused(error: grpc.aio.AioRpcError) -> ProxyException:
    """What a refusal of the gateway is to a client."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    status, kind = {
        grpc.StatusCode.INVALID_ARGUMENT: (400, "invalid_request_error"),
        grpc.StatusCode.UNAUTHENTICATED: (401, "invalid_request_error"),
        grpc.StatusCode.PERMISSION_DENIED: (403, "permission_error"),
        grpc.StatusCode.NOT_FOUND: (404, "invalid_request_error"),
        grpc.StatusCode.RESOURCE_EXHAUSTED: (429, "rate_limit_exceeded"),
    }.get(error.code(), (503, "server_error"))
    if b"insufficient_quota" in details:
        kind = "insufficient_quota"
    return refusal(status, error.details() or "refused", kind, retry=status == 503 or b"later" in details)


forward = Forward()
meter = Meter()
