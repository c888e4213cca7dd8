"""The hook of contrib/litellm against a metering service that refuses and fails:
python -m unittest test_litellm, with LiteLLM's Python and TALLY_PROTO set."""

import asyncio
import os
import sys
import time
import unittest
from pathlib import Path
from types import SimpleNamespace as Some

import grpc

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "gateway-adapter/contrib/litellm"))
os.environ.setdefault("TALLY_PROTO", str(ROOT / "proto/proto"))

import tally_hook  # noqa: E402

HOLD_SECONDS = 30


class Service:
    """Holds, and what became of them. Each of `refusals` is one answer to a Settle
    or a Void; a price that has not all meters refuses the others."""

    def __init__(self, protos, meters):
        self.protos, self.meters = protos, meters
        self.asked, self.ends, self.refusals = [], [], []
        self.seconds = HOLD_SECONDS

    async def Authorize(self, ask, _context):  # pylint: disable=invalid-name
        """A new hold."""
        self.asked.append(ask)
        number = len(self.asked)
        return self.protos.AuthorizeResponse(
            hold={"gateway": 1, "journal": 1, "number": number}, hold_text=f"1-1-{number}",
            max_output=ask.max_output or 100, until=int((time.time() + self.seconds) * 1000),
        )

    async def _end(self, what, ask, context):
        if self.refusals:
            await context.abort(self.refusals.pop(0), "as the test wants it")
        if any(number == ask.hold.number for _, number in self.ends):
            await context.abort(grpc.StatusCode.NOT_FOUND, "resolved already")
        self.ends.append((what, ask.hold.number))

    async def Settle(self, ask, context):  # pylint: disable=invalid-name
        """Takes a hold, once."""
        counts = {usage.meter: usage.count for usage in ask.usage}
        if counts.keys() - self.meters:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such meter")
        known = self.protos.Known.Name(ask.known).removeprefix("KNOWN_").lower()
        await self._end((known, counts), ask, context)
        return self.protos.SettleResponse()

    async def Void(self, ask, context):  # pylint: disable=invalid-name
        """The same."""
        await self._end("void", ask, context)
        return self.protos.VoidResponse()

    async def SubmitDebits(self, _ask, context):  # pylint: disable=invalid-name
        """Not asked for."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "")

    Meter = SubmitDebits


def piece(text=None, finish=None, usage=None):
    """One piece of a stream."""
    return Some(choices=[Some(delta=Some(content=text), finish_reason=finish)], usage=usage)


def usage(prompt, completion, cached=None):
    """A usage object."""
    details = Some(cached_tokens=cached)
    return Some(prompt_tokens=prompt, completion_tokens=completion, prompt_tokens_details=details)


class Hook(unittest.IsolatedAsyncioTestCase):
    """A hook with its service."""

    meters = {"input", "cached_input", "output", "reasoning"}

    async def asyncSetUp(self):
        self.hook = tally_hook.Meter()
        protos, services = self.hook._protos
        self.service = Service(protos, self.meters)
        self.server = grpc.aio.server()
        services.add_MeteringServiceServicer_to_server(self.service, self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        os.environ["TALLY_METERING"] = f"127.0.0.1:{port}"
        self.caller = tally_hook.Caller(api_key="name")
        self.caller._bearer = "key"

    async def asyncTearDown(self):
        await self.server.stop(None)

    async def begin(self, call_type="acompletion", **data):
        """A request that was authorized."""
        data = {"model": "m", **data}
        return await self.hook.async_pre_call_hook(self.caller, None, data, call_type)

    async def chat(self, **data):
        """The same, of a chat."""
        return await self.begin(messages=[{"role": "user", "content": "how much?"}], **data)

    async def stream(self, data, *pieces, error=None):
        """What a client gets of a stream, and how that ends; then LiteLLM tells
        the hook of its failure."""

        async def engine():
            for one in pieces:
                yield one
            if error is not None:
                raise error

        got = []
        try:
            async for one in self.hook.async_post_call_streaming_iterator_hook(self.caller, engine(), data):
                got.append(one)
        except Exception as failure:  # pylint: disable=broad-exception-caught
            # The hook's own task comes first, as behind LiteLLM.
            await asyncio.sleep(0)
            await self.hook.async_post_call_failure_hook(data, failure, self.caller)
        await self.idle()
        return got

    async def idle(self):
        """Waits for what the hook does by itself."""
        while self.hook._tasks:
            await asyncio.wait(set(self.hook._tasks))

    def ends(self):
        """What became of the holds, in their order."""
        return [what for what, _ in sorted(self.service.ends, key=lambda end: end[1])]


class Meter(Hook):
    """A price that knows all meters."""

    async def test_a_whole_stream_is_settled_as_reported(self):
        data = await self.chat(stream=True)
        got = await self.stream(data, piece("a"), piece(finish="stop", usage=usage(7, 2, 3)))
        self.assertEqual(len(got), 2)
        self.assertEqual(self.ends(), [("reported", {"input": 7, "cached_input": 3, "output": 2})])

    async def test_a_stream_that_fails_before_any_output_is_void(self):
        for pieces in ((), (piece(""),), (piece("", usage=usage(7, 0)),)):
            data = await self.chat(stream=True)
            await self.stream(data, *pieces, error=RuntimeError("the engine"))
        self.assertEqual(self.ends(), ["void"] * 3)

    async def test_a_stream_that_fails_later_is_charged_what_came(self):
        data = await self.chat(stream=True)
        await self.stream(data, piece("a"), piece("b"), error=RuntimeError("the engine"))
        [(known, counts)] = self.ends()
        self.assertEqual((known, counts["output"]), ("counted", 2))

    async def test_a_hang_up_is_charged(self):
        for error in (GeneratorExit(), asyncio.CancelledError()):
            data = await self.chat(stream=True)
            with self.assertRaises(type(error)):
                await self.stream(data, error=error)
            await self.idle()
        self.assertEqual([known for known, _ in self.ends()], ["estimated"] * 2)

    async def test_a_request_that_nobody_ends_is_forgotten(self):
        self.service.seconds = 0.05
        for _ in range(20):
            await self.chat()
        await asyncio.sleep(0.1)
        self.service.seconds = HOLD_SECONDS
        await self.chat()
        await self.chat()
        self.assertEqual(len(self.hook._held), 2)

    async def test_an_end_that_fails_is_asked_for_again(self):
        answer = Some(usage=usage(7, 2), choices=[])
        for refusals in ([grpc.StatusCode.UNAVAILABLE] * 3, [grpc.StatusCode.DEADLINE_EXCEEDED]):
            data = await self.chat()
            self.service.refusals = refusals
            self.assertIs(await self.hook.async_post_call_success_hook(data, self.caller, answer), answer)
        data = await self.chat()
        self.service.refusals = [grpc.StatusCode.UNAVAILABLE]
        await self.hook.async_post_call_failure_hook(data, RuntimeError("the engine"), self.caller)
        self.assertEqual(self.ends(), [("reported", {"input": 7, "output": 2})] * 2 + ["void"])

    async def test_whoever_waits_too_long_gets_an_error_and_the_hold_still_ends(self):
        data = await self.chat()
        self.service.refusals = [grpc.StatusCode.UNAVAILABLE] * 4
        patience, tally_hook.PATIENCE = tally_hook.PATIENCE, 0.3
        try:
            with self.assertRaises(tally_hook.ProxyException) as error:
                await self.hook.async_post_call_success_hook(data, self.caller, Some(usage=usage(7, 2)))
        finally:
            tally_hook.PATIENCE = patience
        self.assertEqual(error.exception.code, "503")
        await self.idle()
        self.assertEqual(self.ends(), [("reported", {"input": 7, "output": 2})])

    async def test_it_is_not_asked_for_when_the_holds_time_is_over(self):
        self.service.seconds = 0.5
        data = await self.chat()
        self.service.refusals = [grpc.StatusCode.UNAVAILABLE] * 100
        with self.assertLogs("tally", "ERROR"), self.assertRaises(tally_hook.ProxyException):
            await self.hook.async_post_call_success_hook(data, self.caller, Some(usage=usage(7, 2)))
        await self.idle()
        self.assertGreater(len(self.service.refusals), 90)
        self.assertEqual(self.ends(), [])

    async def test_one_that_is_resolved_already_is_done(self):
        data = await self.chat()
        self.service.refusals = [grpc.StatusCode.NOT_FOUND]
        answer = Some(usage=usage(7, 2))
        with self.assertLogs("tally", "WARNING") as told:
            self.assertIs(await self.hook.async_post_call_success_hook(data, self.caller, answer), answer)
        self.assertIn("1-1-1 had ended already", told.output[0])

    async def test_a_cancelled_request_is_settled_all_the_same(self):
        data = await self.chat()
        self.service.refusals = [grpc.StatusCode.UNAVAILABLE]
        ends = self.hook.async_post_call_success_hook(data, self.caller, Some(usage=usage(7, 2)))
        task = asyncio.create_task(ends)
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait({task})
        await self.idle()
        self.assertEqual(self.ends(), [("reported", {"input": 7, "output": 2})])


class Embeddings(Hook):
    """A price that knows no output."""

    meters = {"input", "cached_input"}

    async def test_an_embedding_holds_no_output_and_is_settled(self):
        for tokens, counts in ((usage(5, 0), {"input": 5}), (usage(5, 0, 2), {"input": 5, "cached_input": 2})):
            data = await self.begin("aembedding", input="how much?")
            ask = self.service.asked[-1]
            [bound] = ask.bounds
            self.assertEqual((bound.meter, bound.count, ask.max_output), ("input", ask.input, 1))
            self.assertNotIn("max_tokens", data)
            await self.hook.async_post_call_success_hook(data, self.caller, Some(usage=tokens, data=[]))
            self.assertEqual(self.ends()[-1], ("reported", counts))

    async def test_one_whose_engine_tells_no_usage_is_estimated(self):
        data = await self.begin("aembedding", input="how much?")
        await self.hook.async_post_call_success_hook(data, self.caller, Some(usage=usage(0, 0), data=[]))
        [(known, counts)] = self.ends()
        self.assertEqual((known, list(counts)), ("estimated", ["input"]))


class Narrow(Hook):
    """A price that knows no subsets, and one that knows no output."""

    async def test_meters_that_the_price_does_not_know_are_left_out(self):
        for meters, counts in (({"input", "output"}, {"input": 7, "output": 2}), ({"input"}, {"input": 7})):
            self.service.meters = meters
            data = await self.chat()
            await self.hook.async_post_call_success_hook(data, self.caller, Some(usage=usage(7, 2, 3)))
            self.assertEqual(self.ends()[-1], ("reported", counts))


if __name__ == "__main__":
    unittest.main()
