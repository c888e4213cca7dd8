//! The metered routes: what each does differently, in one description.
//!
//! | route | limit of one answer | answers | usage in a stream |
//! |---|---|---|---|
//! | `/v1/chat/completions` | `max_completion_tokens`, `max_tokens` | `n`, `best_of` | asked for, in a chunk of its own |
//! | `/v1/completions` | `max_tokens`, 16 if absent | prompts x `n`, `best_of` | the same |
//! | `/v1/responses` | `max_output_tokens` | 1 | in the last event, always |
//! | `/v1/embeddings` | no output | 1 | never streamed |
//!
//! Everything else of a request's way is the same for all. Nothing here needs
//! the HTTP proxy: bytes in, values out.

use super::{
    object::Object,
    prompt::{self, Prompt},
    request::BadRequest,
    responses,
    sse::{self, Chunk},
};
use crate::usage::Counts;

/// How a stream tells its usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamUsage {
    /// Answers are not streamed.
    None,
    /// If `stream_options.include_usage` asks for it.
    Asked,
    /// In its last event.
    Always,
}

/// What is needed to end a stream in its own form.
#[derive(Debug, Clone, Copy)]
pub struct Ending<'a> {
    /// The stream's first chunk or event, as JSON.
    pub first: &'a str,
    /// Number of the next event, where events are numbered.
    pub next: u64,
    /// Answers in it.
    pub choices: u32,
    /// Usage to tell, if the client is to be told.
    pub usage: Option<Counts>,
}

/// A metered route.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it is, here and at the engine.
    pub path: &'static str,
    /// What metrics call it (`gen_ai.operation.name`).
    pub operation: &'static str,
    /// How a stream tells its usage.
    pub stream_usage: StreamUsage,
    /// Fields with the largest output of one answer; the last is set where a
    /// request has none. Empty: nothing is generated.
    pub limits: &'static [&'static str],
    /// The limit where a request has none; `None`: the engine's largest.
    pub default_output: Option<u32>,
    /// Fields that ask for several answers; the largest counts.
    pub choices: &'static [&'static str],
    /// Fields that bring input which is not in the request, so that no hold
    /// could cover it.
    pub unseen: &'static [&'static str],
    /// Measures the prompt.
    pub prompt: fn(&Object<'_>) -> Result<Prompt, BadRequest>,
    /// Fields that an engine which counts prompts is sent.
    pub counted: &'static [&'static str],
    /// Fields that end up in the prompt but would not be counted.
    pub uncounted: &'static [&'static str],
    /// Reads an event's JSON, or a whole answer's; whatever cannot be read
    /// says nothing.
    pub read: fn(&str) -> Chunk,
    /// The events that end a stream for want of balance, as the engine ends
    /// one at a limit.
    pub cut: fn(&Ending<'_>) -> Vec<u8>,
    /// The event that ends a stream with an error: message, code, number.
    pub failed: fn(&str, &str, u64) -> Vec<u8>,
}

/// `POST /v1/chat/completions`.
pub static CHAT: Endpoint = Endpoint {
    path: "/v1/chat/completions",
    operation: "chat",
    stream_usage: StreamUsage::Asked,
    limits: &["max_completion_tokens", "max_tokens"],
    default_output: None,
    choices: &["n", "best_of"],
    unseen: &["web_search_options", "chat_template"],
    prompt: prompt::of_chat,
    counted: &[
        "model",
        "messages",
        "tools",
        "chat_template_kwargs",
        "add_generation_prompt",
        "continue_final_message",
        "add_special_tokens",
    ],
    uncounted: &["functions", "documents", "response_format"],
    read: Chunk::read,
    cut: sse::cut_chat,
    failed: sse::failed,
};

/// `POST /v1/completions`.
pub static COMPLETIONS: Endpoint = Endpoint {
    path: "/v1/completions",
    operation: "text_completion",
    // As OpenAI and vLLM have it.
    default_output: Some(16),
    limits: &["max_tokens"],
    unseen: &["prompt_embeds"],
    prompt: prompt::of_completions,
    counted: &["model", "prompt", "add_special_tokens"],
    uncounted: &["suffix"],
    cut: sse::cut_text,
    ..CHAT
};

/// `POST /v1/responses`.
pub static RESPONSES: Endpoint = Endpoint {
    path: "/v1/responses",
    stream_usage: StreamUsage::Always,
    limits: &["max_output_tokens"],
    choices: &[],
    unseen: &[
        "previous_response_id",
        "previous_response",
        "previous_input_messages",
        "chat_template",
        "conversation",
        "background",
        "prompt",
    ],
    prompt: responses::prompt,
    counted: &[],
    uncounted: &[],
    read: responses::read,
    cut: responses::cut,
    failed: responses::failed,
    ..CHAT
};

/// `POST /v1/embeddings`.
pub static EMBEDDINGS: Endpoint = Endpoint {
    path: "/v1/embeddings",
    operation: "embeddings",
    stream_usage: StreamUsage::None,
    limits: &[],
    choices: &[],
    unseen: &["chat_template"],
    prompt: prompt::of_embeddings,
    counted: &[],
    uncounted: &[],
    ..CHAT
};

impl Endpoint {
    /// The metered route at a path.
    pub fn of(path: &str) -> Option<&'static Endpoint> {
        let all = [&CHAT, &COMPLETIONS, &RESPONSES, &EMBEDDINGS];
        all.into_iter().find(|route| route.path == path)
    }

    /// Whether its answers hold output.
    pub fn generates(&self) -> bool {
        !self.limits.is_empty()
    }
}
