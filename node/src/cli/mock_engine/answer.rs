//! What the mock engine answers: text of a length that follows from the seed
//! and the request, with cached and reasoning counts that do too. The same
//! seed and request always give the same answer.

use serde_json::{Value, json};

/// The part of a chat request that the engine obeys.
#[derive(Debug, Clone, serde::Deserialize)]
pub(crate) struct ChatRequest {
    /// Which model.
    pub(crate) model: String,
    /// The conversation.
    pub(crate) messages: Vec<Value>,
    /// Whether to stream.
    #[serde(default)]
    pub(crate) stream: bool,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    n: Option<u32>,
    /// vLLM's field; becomes part of the answer's id.
    request_id: Option<String>,
}

#[derive(Debug, Clone, Default, serde::Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
    #[serde(default)]
    continuous_usage_stats: bool,
}

/// A planned answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The request's id, or one from its content.
    pub(crate) id: String,
    /// The model.
    pub(crate) model: String,
    /// Input tokens.
    pub(crate) prompt: u32,
    /// Of these, read from the cache.
    pub(crate) cached: u32,
    /// Output tokens.
    pub(crate) completion: u32,
    /// Of these, reasoning; they come first.
    pub(crate) reasoning: u32,
    /// Whether the limit cut it.
    pub(crate) cut: bool,
}

/// Why a request is malformed, in OpenAI's words.
pub(crate) type BadRequest = &'static str;

/// SplitMix64: a stream of numbers from a seed, the same everywhere.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `most`, both included.
    fn up_to(&mut self, most: u32) -> u32 {
        (self.next() % (u64::from(most) + 1)) as u32
    }
}

/// FNV-1a; only spreads requests, hides nothing.
fn spread(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl ChatRequest {
    /// Plans the answer.
    pub(crate) fn plan(&self, seed: u64, max_output: u32) -> Result<Answer, BadRequest> {
        if self.messages.is_empty() {
            return Err("messages must not be empty");
        }
        if self.n.is_some_and(|n| n != 1) {
            return Err("n must be 1");
        }
        let limit = self.max_completion_tokens.or(self.max_tokens);
        if limit == Some(0) {
            return Err("max_tokens must be at least 1");
        }
        let text = serde_json::to_string(&(&self.model, &self.messages)).unwrap_or_default();
        let hash = spread(text.as_bytes());
        let mut numbers = Numbers(seed ^ hash);
        let prompt = prompt_tokens(&self.messages);
        let cached = if numbers.up_to(1) == 0 {
            0
        } else {
            numbers.up_to(prompt)
        };
        let natural = 1 + numbers.up_to(max_output.max(1) - 1);
        let completion = limit.map_or(natural, |limit| natural.min(limit));
        let reasoning = if numbers.up_to(2) == 0 {
            numbers.up_to(completion)
        } else {
            0
        };
        let id = self
            .request_id
            .clone()
            .unwrap_or_else(|| format!("{hash:016x}"));
        Ok(Answer {
            id: format!("chatcmpl-{id}"),
            model: self.model.clone(),
            prompt,
            cached,
            completion,
            reasoning,
            cut: completion < natural,
        })
    }

    /// Whether the stream ends with a usage chunk.
    pub(crate) fn wants_usage(&self) -> bool {
        self.stream_options
            .as_ref()
            .is_some_and(|options| options.include_usage)
    }

    /// Whether every chunk carries the usage so far (vLLM).
    pub(crate) fn wants_continuous_usage(&self) -> bool {
        let options = self.stream_options.as_ref();
        self.wants_usage() && options.is_some_and(|options| options.continuous_usage_stats)
    }
}

/// The part of a tokenize request that is counted.
#[derive(Debug, Clone, serde::Deserialize)]
pub(crate) struct Prompt {
    messages: Vec<Value>,
}

impl Prompt {
    /// As many as the answer to this chat will report.
    pub(crate) fn tokens(&self) -> u32 {
        prompt_tokens(&self.messages)
    }
}

/// One token per four bytes of text, and four per message for its frame.
fn prompt_tokens(messages: &[Value]) -> u32 {
    let bytes: usize = messages
        .iter()
        .map(|message| match &message["content"] {
            Value::String(text) => text.len(),
            Value::Null => 0,
            parts => parts.to_string().len(),
        })
        .sum();
    u32::try_from(bytes.div_ceil(4) + 4 * messages.len()).unwrap_or(u32::MAX)
}

const WORDS: [&str; 16] = [
    "ledger", "quorum", "grant", "receipt", "block", "leaf", "proof", "token", "lease", "journal",
    "entry", "root", "vote", "round", "price", "meter",
];

impl Answer {
    /// The text of one token.
    pub(crate) fn token(&self, index: u32) -> String {
        let word = WORDS[(index as usize).wrapping_mul(7) % WORDS.len()];
        if index == self.reasoning {
            word.to_owned()
        } else {
            format!(" {word}")
        }
    }

    /// Why it ended.
    pub(crate) fn finish(&self) -> &'static str {
        if self.cut { "length" } else { "stop" }
    }

    /// Usage after `completion` tokens.
    pub(crate) fn usage(&self, completion: u32) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": completion,
            "total_tokens": u64::from(self.prompt) + u64::from(completion),
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning.min(completion)},
        })
    }

    /// The whole answer.
    pub(crate) fn whole(&self) -> Value {
        let text: String = (self.reasoning..self.completion)
            .map(|i| self.token(i))
            .collect();
        let mut message = json!({"role": "assistant", "content": text});
        if self.reasoning > 0 {
            let thought: String = (0..self.reasoning).map(|i| self.token(i)).collect();
            message["reasoning_content"] = thought.into();
        }
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": 0,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish()}],
            "usage": self.usage(self.completion),
        })
    }

    /// One chunk of the stream.
    pub(crate) fn chunk(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": 0,
            "model": self.model,
            "choices": choices,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(extra: Value) -> ChatRequest {
        let mut body =
            json!({"model": "m", "messages": [{"role": "user", "content": "0123456789"}]});
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn answers_repeat_and_vary_by_seed() {
        let answers: Vec<Answer> = (0..64)
            .map(|seed| request(json!({})).plan(seed, 64).unwrap())
            .collect();
        assert_eq!(answers[5], request(json!({})).plan(5, 64).unwrap());
        assert!(
            answers
                .iter()
                .all(|a| a.prompt == 7 && a.cached <= 7 && !a.cut)
        );
        assert!(answers.iter().all(|a| (1..=64).contains(&a.completion)));
        assert!(answers.iter().all(|a| a.reasoning <= a.completion));
        let differing = |value: fn(&Answer) -> u32| {
            answers
                .iter()
                .map(value)
                .collect::<std::collections::BTreeSet<_>>()
                .len()
        };
        assert!(differing(|a| a.completion) > 20);
        assert!(differing(|a| a.cached) > 3 && differing(|a| a.reasoning) > 5);
    }

    #[test]
    fn limits_are_obeyed() {
        for seed in 0..64 {
            for name in ["max_tokens", "max_completion_tokens"] {
                let answer = request(json!({name: 3})).plan(seed, 64).unwrap();
                assert!(answer.completion <= 3);
                assert_eq!(answer.cut, answer.finish() == "length");
            }
        }
        assert!(request(json!({"max_tokens": 0})).plan(0, 64).is_err());
        assert!(request(json!({"n": 2})).plan(0, 64).is_err());
    }
}
