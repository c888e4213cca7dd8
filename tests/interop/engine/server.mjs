#!/usr/bin/env node
// An OpenAI-compatible server in front of a real llama.cpp engine, on loopback.
//
// For each request that reaches the engine, one JSON line goes to the usage log
// before the client can see the end of its answer: that is what "the engine
// reported". A client that closes its connection stops the generation.
//
//   node server.mjs --modules DIR --model-file FILE --usage-log FILE --address-file FILE

import { appendFileSync, renameSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { randomUUID } from "node:crypto";
import { parseArgs } from "node:util";
import { loadEngine } from "./engine.mjs";
import {
  BadRequest, chunk, completion, embedding, failure, readLimits, readMessages, usageObject,
} from "./openai.mjs";

const BODY_LIMIT = 4 * 1024 * 1024;

const { values: options } = parseArgs({
  options: {
    "modules": { type: "string" },
    "model-file": { type: "string" },
    "usage-log": { type: "string" },
    "address-file": { type: "string" },
    "model": { type: "string", multiple: true, default: ["tiny"] },
    "port": { type: "string", default: "0" },
    "slots": { type: "string", default: "4" },
    "context-size": { type: "string", default: "4096" },
    "token-delay-ms": { type: "string", default: "0" },
  },
});

const engine = await loadEngine({
  modules: options.modules,
  modelFile: options["model-file"],
  slots: Number(options.slots),
  contextSize: Number(options["context-size"]),
  tokenDelayMs: Number(options["token-delay-ms"]),
});

async function readBody(request) {
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > BODY_LIMIT) throw new BadRequest("body: too large");
    parts.push(part);
  }
  try {
    return JSON.parse(Buffer.concat(parts).toString("utf8"));
  } catch {
    throw new BadRequest("body: not JSON");
  }
}

function sendJson(response, status, body) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(body));
}

function report(requestId, { headers, url }, body, usage) {
  appendFileSync(options["usage-log"], JSON.stringify({
    request_id: requestId,
    path: url,
    model: body.model,
    stream: body.stream === true,
    prompt_tokens: usage.prompt,
    cached_tokens: usage.cached,
    completion_tokens: usage.completion,
    finish_reason: usage.finish,
    aborted: usage.aborted,
    headers: Object.keys(headers),
  }) + "\n");
}

// The answer's two forms: `text` takes each token, `end` the usage.
// As in vLLM, `continuous_usage_stats` puts the usage so far on each piece.
function streamed(response, body, id, created, prompt) {
  const extra = body.stream_options ?? {};
  const asked = extra.include_usage === true;
  const soFar = (usage) => {
    if (!asked) return undefined;
    return extra.continuous_usage_stats === true ? usageObject(usage) : null;
  };
  const send = (delta, finish, usage) => {
    const piece = chunk(id, created, body.model, delta, finish, usage);
    response.write(`data: ${JSON.stringify(piece)}\n\n`);
  };
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  const start = { prompt: prompt.length, cached: 0, completion: 0 };
  send({ role: "assistant", content: "" }, null, soFar(start));
  return {
    text: (text, usage) => send({ content: text }, null, soFar(usage)),
    end: (usage) => {
      send({}, usage.finish, soFar(usage));
      if (asked) send(null, null, usageObject(usage));
      response.end("data: [DONE]\n\n");
    },
  };
}

function whole(response, body, id, created) {
  let answer = "";
  return {
    text: (text) => { answer += text; },
    end: (usage) => sendJson(response, 200, completion(id, created, body.model, answer, usage)),
  };
}

// What an engine does that fails when its answer has begun, but not its output.
function failing(response, messages) {
  const how = /^fail: (error|role|break)$/.exec(messages[0].content)?.[1];
  if (how === undefined) return false;
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  response.flushHeaders();
  if (how === "role") {
    const delta = { role: "assistant", content: "" };
    response.write(`data: ${JSON.stringify(chunk("failing", 0, "failing", delta, null))}\n\n`);
  }
  if (how === "error") {
    response.end(`data: ${JSON.stringify(failure("out of memory", "server_error", null))}\n\n`);
  } else {
    setTimeout(() => response.destroy(), 50);
  }
  return true;
}

// The counts of a real tokenizer; the numbers mean nothing.
async function embeddings(request, response) {
  const body = await readBody(request);
  if (typeof body.input !== "string") throw new BadRequest("input: only one text is served");
  const { length } = engine.tokenize([{ role: "user", content: body.input }]);
  const usage = { prompt: length, cached: 0, completion: 0, finish: "stop", aborted: false };
  report(body.request_id ?? randomUUID(), request, body, usage);
  return sendJson(response, 200, embedding(body.model, usage));
}

async function chat(request, response) {
  const hungUp = new AbortController();
  response.on("close", () => hungUp.abort());
  const body = await readBody(request);
  if (!options.model.includes(body.model)) {
    const message = `no model ${body.model}`;
    return sendJson(response, 404, failure(message, "invalid_request_error", "model_not_found"));
  }
  const messages = readMessages(body);
  if (failing(response, messages)) return undefined;
  const prompt = engine.tokenize(messages);
  const limits = readLimits(body, engine.room(prompt));
  const requestId = body.request_id ?? request.headers["x-request-id"] ?? randomUUID();
  const form = body.stream === true ? streamed : whole;
  const created = Math.floor(Date.now() / 1000);
  const answer = form(response, body, `chatcmpl-${requestId}`, created, prompt);
  const usage = await engine.generate(prompt, limits, hungUp.signal, answer.text);
  report(requestId, request, body, usage);
  if (!usage.aborted) answer.end(usage);
}

async function route(request, response) {
  const path = `${request.method} ${new URL(request.url, "http://engine").pathname}`;
  if (path === "POST /v1/chat/completions") return chat(request, response);
  if (path === "POST /v1/embeddings") return embeddings(request, response);
  if (path === "GET /health") return sendJson(response, 200, { status: "ok" });
  if (path === "GET /v1/models") {
    const data = options.model.map((id) => ({ id, object: "model", created: 0, owned_by: "interop" }));
    return sendJson(response, 200, { object: "list", data });
  }
  return sendJson(response, 404, failure(`no route ${path}`, "invalid_request_error", null));
}

const server = createServer((request, response) => {
  route(request, response).catch((error) => {
    if (!(error instanceof BadRequest)) console.error(error);
    if (response.headersSent) return response.destroy();
    const [status, type] = error instanceof BadRequest
      ? [400, "invalid_request_error"] : [500, "server_error"];
    sendJson(response, status, failure(error.message, type, null));
  });
});

server.listen(Number(options.port), "127.0.0.1", () => {
  const address = `http://127.0.0.1:${server.address().port}`;
  if (options["address-file"] !== undefined) {
    writeFileSync(`${options["address-file"]}.new`, address);
    renameSync(`${options["address-file"]}.new`, options["address-file"]);
  }
  console.log(`listening on ${address}`);
});
process.on("SIGTERM", () => process.exit(0));
process.on("SIGINT", () => process.exit(0));
