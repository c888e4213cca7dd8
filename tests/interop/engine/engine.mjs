// One llama.cpp model with a few parallel sequences.
//
// Guarantees: every count comes from the engine. The prompt is what its
// tokenizer made of the text, the cached part is what it kept of a sequence's
// earlier evaluation, and each answer is checked against the engine's own meter
// of evaluated tokens. An aborted request stops at the next token.

import { strict as assert } from "node:assert";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

/** Loads the model. `modules` is the folder that npm installed into. */
export async function loadEngine({ modules, modelFile, slots, contextSize, tokenDelayMs }) {
  const entry = join(modules, "node_modules", "node-llama-cpp", "dist", "index.js");
  const { getLlama, LlamaLogLevel } = await import(pathToFileURL(entry));
  const llama = await getLlama({
    gpu: false, build: "never", skipDownload: true, logLevel: LlamaLogLevel.warn, maxThreads: 1,
  });
  const model = await llama.loadModel({ modelPath: modelFile, gpuLayers: 0 });
  const context = await model.createContext({ sequences: slots, contextSize, threads: 1 });
  return new Engine(model, context, tokenDelayMs);
}

class Engine {
  constructor(model, context, tokenDelayMs) {
    this.model = model;
    this.contextSize = context.contextSize;
    this.tokenDelayMs = tokenDelayMs;
    this.free = Array.from({ length: context.totalSequences }, () => context.getSequence());
    this.waiting = [];
  }

  /** The tokens of a conversation, ready to be answered by the assistant. */
  tokenize(messages) {
    const text = messages.map(({ role, content }) => `${role}: ${content}\n`).join("");
    const tokens = this.model.tokenize(`${text}assistant:`, false);
    return this.model.tokens.shouldPrependBosToken ? [this.model.tokens.bos, ...tokens] : tokens;
  }

  /** How many tokens an answer to this prompt may have at most. */
  room(prompt) {
    return this.contextSize - prompt.length - 1;
  }

  /**
   * Generates an answer, calls `onText` once per token of text with the usage
   * so far, and returns the usage and the finish reason. The end-of-answer token counts as one
   * completion token without text. `maxTokens` must be within the room.
   */
  async generate(prompt, { maxTokens, temperature, topP, seed }, signal, onText) {
    const usage = { prompt: prompt.length, cached: 0, completion: 0, finish: null, aborted: false };
    const sequence = await this.#take(signal);
    if (sequence === null) return { ...usage, aborted: true };
    try {
      await sequence.adaptStateToTokens(prompt.slice(0, -1), false);
      usage.cached = sequence.nextTokenIndex;
      const meter = sequence.tokenMeter.getState();
      const options = { temperature, topP, seed, yieldEogToken: true };
      let last = prompt.slice(-1);
      for await (const token of sequence.evaluate(prompt.slice(usage.cached), options)) {
        usage.completion += 1;
        if (this.model.isEogToken(token)) usage.finish = "stop";
        else onText(this.model.detokenize([token], false, last), usage);
        last = [token];
        if (usage.finish === null && usage.completion === maxTokens) usage.finish = "length";
        if (usage.finish !== null) break;
        await sleep(this.tokenDelayMs);
        if (signal.aborted) break;
      }
      usage.aborted = usage.finish === null;
      this.#checkMeter(sequence.tokenMeter.diff(meter), usage);
      return usage;
    } finally {
      this.#give(sequence);
    }
  }

  // The meter books a token as output when its evaluation yields a next token,
  // so the last token of the prompt is booked there and the last token of the
  // answer, which is not evaluated, nowhere.
  #checkMeter({ usedInputTokens, usedOutputTokens }, { prompt, cached, completion }) {
    assert.equal(usedInputTokens + 1 + cached, prompt, "prompt tokens differ from the engine's meter");
    assert.equal(usedOutputTokens, completion, "completion tokens differ from the engine's meter");
  }

  #take(signal) {
    if (signal.aborted) return null;
    if (this.free.length > 0) return this.free.pop();
    return new Promise((resolve) => {
      const entry = { resolve };
      this.waiting.push(entry);
      signal.addEventListener("abort", () => {
        const place = this.waiting.indexOf(entry);
        if (place >= 0) {
          this.waiting.splice(place, 1);
          resolve(null);
        }
      });
    });
  }

  #give(sequence) {
    const next = this.waiting.shift();
    if (next === undefined) this.free.push(sequence);
    else next.resolve(sequence);
  }
}
