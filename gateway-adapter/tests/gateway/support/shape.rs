//! The forms of the engine's answers, by route.

use serde_json::{Value, json};

/// Whose form an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Chat,
    Text,
    Response,
    Embedding,
}

/// What an answer counted.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    pub input: u64,
    pub cached: u64,
    pub output: u64,
    pub reasoning: u64,
}

fn list(value: &Value) -> u64 {
    match value {
        Value::Null => 0,
        Value::Array(items) if items.iter().all(Value::is_u64) => 1,
        Value::Array(items) => items.len() as u64,
        _ => 1,
    }
}

impl Shape {
    pub fn of(path: &str) -> Shape {
        match path {
            "/v1/chat/completions" => Shape::Chat,
            "/v1/completions" => Shape::Text,
            "/v1/responses" => Shape::Response,
            "/v1/embeddings" => Shape::Embedding,
            other => panic!("{other}"),
        }
    }

    /// Tokens of a prompt: ten per message, prompt or item.
    pub fn prompt(self, request: &Value) -> u64 {
        let field = match self {
            Shape::Chat => "messages",
            Shape::Text => "prompt",
            Shape::Response | Shape::Embedding => "input",
        };
        10 * list(&request[field])
    }

    /// The output limit that the request names.
    pub fn limit(self, request: &Value) -> u64 {
        let names = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
        let given = names.iter().find_map(|name| request[*name].as_u64());
        if self == Shape::Embedding {
            return 0;
        }
        given.unwrap()
    }

    /// Answers to generate.
    pub fn choices(self, request: &Value) -> u64 {
        let prompts = match self {
            Shape::Text => list(&request["prompt"]),
            _ => 1,
        };
        prompts * request["n"].as_u64().unwrap_or(1)
    }

    pub fn usage(self, used: Option<Used>) -> Value {
        let Some(used) = used else {
            return Value::Null;
        };
        match self {
            Shape::Response => json!({
                "input_tokens": used.input,
                "output_tokens": used.output,
                "input_tokens_details": {"cached_tokens": used.cached},
                "output_tokens_details": {"reasoning_tokens": used.reasoning},
            }),
            Shape::Embedding => json!({"prompt_tokens": used.input, "total_tokens": used.input}),
            _ => json!({
                "prompt_tokens": used.input,
                "completion_tokens": used.output,
                "total_tokens": 0,
                "prompt_tokens_details": {"cached_tokens": used.cached},
                "completion_tokens_details": {"reasoning_tokens": used.reasoning},
            }),
        }
    }

    /// A whole answer.
    pub fn whole(self, words: &str, choices: u64, finish: &str, usage: &Value) -> Value {
        let choice = |i: u64| match self {
            Shape::Text => json!({"index": i, "text": words, "finish_reason": finish}),
            _ => json!({
                "index": i,
                "message": {"role": "assistant", "content": words},
                "finish_reason": finish,
            }),
        };
        let choices: Vec<Value> = (0..choices).map(choice).collect();
        match self {
            Shape::Chat | Shape::Text => {
                json!({"id": "x", "object": "chat.completion", "choices": choices, "usage": usage})
            }
            Shape::Embedding => json!({
                "object": "list",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}],
                "usage": usage,
            }),
            Shape::Response => json!({
                "id": "x",
                "object": "response",
                "status": "completed",
                "error": null,
                "output": [{"type": "message", "content": [{"type": "output_text", "text": words}]}],
                "usage": usage,
            }),
        }
    }

    /// One event of a stream.
    pub fn event(self, data: &Value) -> String {
        match (self, data["type"].as_str()) {
            (Shape::Response, Some(kind)) => format!("event: {kind}\ndata: {data}\n\n"),
            _ => format!("data: {data}\n\n"),
        }
    }

    /// What a stream begins with.
    pub fn first(self) -> Option<Value> {
        (self == Shape::Response).then(|| {
            json!({
                "type": "response.created",
                "sequence_number": 0,
                "response": {"id": "x", "status": "in_progress", "usage": null},
            })
        })
    }

    /// Word number `i`, from 0.
    pub fn word(self, i: u64) -> Value {
        match self {
            Shape::Response => json!({
                "type": "response.output_text.delta",
                "delta": "word ",
                "sequence_number": i + 1,
            }),
            Shape::Text => json!({"id": "x", "choices": [{"index": 0, "text": "word "}]}),
            _ => json!({"id": "x", "choices": [{"index": 0, "delta": {"content": "word "}}]}),
        }
    }

    /// The events behind the last word, the very last one too.
    pub fn ends(self, finish: &str, usage: &Value, tells: bool, tokens: u64) -> Vec<String> {
        if self == Shape::Response {
            let whole = self.whole("", 1, finish, usage);
            let done = json!({
                "type": "response.completed",
                "sequence_number": tokens + 1,
                "response": whole,
            });
            return vec![self.event(&done)];
        }
        let mut choice = json!({"index": 0, "delta": {}, "finish_reason": finish});
        if self == Shape::Text {
            choice = json!({"index": 0, "text": "", "finish_reason": finish});
        }
        let mut ends = vec![self.event(&json!({"id": "x", "choices": [choice]}))];
        if tells && !usage.is_null() {
            ends.push(self.event(&json!({"id": "x", "choices": [], "usage": usage})));
        }
        ends.push("data: [DONE]\n\n".into());
        ends
    }
}
