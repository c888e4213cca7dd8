// The OpenAI chat-completion format: reading a request, writing an answer.

/** A request that cannot be served as it is; it becomes an HTTP 400. */
export class BadRequest extends Error {}

/** The limits and sampling of a request; `room` is what the context has left. */
export function readLimits(body, room) {
  const limit = body.max_completion_tokens ?? body.max_tokens ?? room;
  if (!Number.isInteger(limit) || limit < 1 || limit > room) {
    throw new BadRequest(`max_tokens: from 1 to ${room} for this prompt`);
  }
  if ((body.n ?? 1) !== 1) throw new BadRequest("n: only 1 is served");
  return {
    maxTokens: limit,
    temperature: body.temperature ?? 1,
    topP: body.top_p ?? 1,
    seed: body.seed ?? Math.floor(Math.random() * 2 ** 31),
  };
}

/** The messages with their text parts joined. */
export function readMessages({ messages }) {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw new BadRequest("messages: a non-empty list is needed");
  }
  return messages.map(({ role, content }) => {
    if (typeof role !== "string") throw new BadRequest("messages: role is missing");
    if (typeof content === "string") return { role, content };
    if (!Array.isArray(content) || content.some((part) => typeof part.text !== "string")) {
      throw new BadRequest("messages: only text is served");
    }
    return { role, content: content.map((part) => part.text).join("") };
  });
}

/** The usage object of an answer. */
export function usageObject({ prompt, cached, completion }) {
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: cached },
  };
}

/** A whole answer. */
export function completion(id, created, model, text, usage) {
  const message = { role: "assistant", content: text, refusal: null };
  return {
    id, object: "chat.completion", created, model,
    choices: [{ index: 0, message, logprobs: null, finish_reason: usage.finish }],
    usage: usageObject(usage),
  };
}

/** One piece of a streamed answer; without a delta, the usage piece. */
export function chunk(id, created, model, delta, finish, usage) {
  const choices = delta === null ? [] : [{ index: 0, delta, logprobs: null, finish_reason: finish }];
  const piece = { id, object: "chat.completion.chunk", created, model, choices };
  return usage === undefined ? piece : { ...piece, usage };
}

/** An answer to an embedding. */
export function embedding(model, { prompt }) {
  const data = [{ object: "embedding", index: 0, embedding: [0.5, 0.25] }];
  return { object: "list", model, data, usage: { prompt_tokens: prompt, total_tokens: prompt } };
}

/** An error object. */
export function failure(message, type, code) {
  return { error: { message, type, param: null, code } };
}
