//! Reading a chat completion request, and what is sent to the engine instead.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{object::Object, upstream::Upstream};
use crate::usage::PromptSize;

/// Most answers that one request may ask for.
const MAX_CHOICES: u32 = 128;

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRequest {
    /// For people.
    pub message: String,
    /// The field.
    pub param: Option<&'static str>,
}

/// A chat completion request.
#[derive(Debug)]
pub struct Chat<'a> {
    object: Object<'a>,
    /// The model's name.
    pub model: String,
    /// Streamed.
    pub stream: bool,
    /// The client asked for the usage chunk.
    pub wants_usage: bool,
    /// The client asked for usage on each chunk.
    pub wants_continuous: bool,
    /// Largest output of one answer, if the client said.
    pub max_output: Option<u32>,
    /// Answers to generate.
    pub choices: u32,
    /// `service_tier`, if it is a text.
    pub tier: Option<String>,
    /// How large the prompt is.
    pub size: PromptSize,
}

#[derive(Deserialize, Default)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
    #[serde(default)]
    continuous_usage_stats: Option<bool>,
}

fn bad(message: impl Into<String>, param: Option<&'static str>) -> BadRequest {
    BadRequest {
        message: message.into(),
        param,
    }
}

impl<'a> Chat<'a> {
    /// Reads a request's body.
    pub fn parse(body: &'a [u8]) -> Result<Self, BadRequest> {
        let object = Object::parse(body)
            .map_err(|error| bad(format!("not a JSON object: {error}"), None))?;
        let field =
            |name: &'static str| move |_| bad(format!("`{name}` has another form"), Some(name));
        let model: String = object
            .read("model")
            .map_err(field("model"))?
            .ok_or_else(|| bad("`model` is missing", Some("model")))?;
        let stream = object
            .read("stream")
            .map_err(field("stream"))?
            .unwrap_or(false);
        let options: StreamOptions = object
            .read("stream_options")
            .map_err(field("stream_options"))?
            .unwrap_or_default();
        let newer = limit(&object, "max_completion_tokens")?;
        let older = limit(&object, "max_tokens")?;
        let mut choices = 1;
        for name in ["n", "best_of"] {
            let count: u32 = object.read(name).map_err(field(name))?.unwrap_or(1);
            if !(1..=MAX_CHOICES).contains(&count) {
                return Err(bad(
                    format!("`{name}` must be between 1 and {MAX_CHOICES}"),
                    Some(name),
                ));
            }
            choices = choices.max(count);
        }
        let messages: Vec<&RawValue> = object
            .read("messages")
            .map_err(field("messages"))?
            .ok_or_else(|| bad("`messages` is missing", Some("messages")))?;
        let size = PromptSize {
            bytes: prompt_bytes(&object),
            messages: messages.len() as u64,
            media: media(object.get("messages").unwrap_or_default()),
        };
        Ok(Chat {
            model,
            stream,
            wants_usage: options.include_usage.unwrap_or(false),
            wants_continuous: options.continuous_usage_stats.unwrap_or(false),
            // Engines differ in which of the two wins: the larger is safe.
            max_output: newer.max(older),
            choices,
            tier: object.read("service_tier").ok().flatten(),
            size,
            object,
        })
    }

    /// Whether [`Chat::to_tokenize`] covers all that ends up in the prompt.
    pub fn is_countable(&self) -> bool {
        let others = ["functions", "documents", "response_format"];
        self.size.media == 0 && others.iter().all(|name| self.object.get(name).is_none())
    }

    /// What vLLM's `/tokenize` is asked about this chat; `None` where it
    /// would not count all that ends up in the prompt.
    pub fn to_tokenize(&self, upstream: &Upstream) -> Option<String> {
        if !self.is_countable() {
            return None;
        }
        let mut asked = Object::parse(b"{}").ok()?;
        for name in [
            "model",
            "messages",
            "tools",
            "chat_template",
            "chat_template_kwargs",
            "add_generation_prompt",
            "continue_final_message",
            "add_special_tokens",
        ] {
            if let Some(json) = self.object.get(name) {
                asked.set(name, json.to_owned());
            }
        }
        if let Some(name) = upstream.name_of(&self.model) {
            asked.set("model", json_string(name));
        }
        Some(asked.to_json())
    }

    /// The body for the engine: its own name of the model, usage forced on,
    /// output bounded, the hold's id and the priority set where the engine
    /// wants them. `None`: the client's own body will do.
    pub fn rewrite(
        mut self,
        upstream: &Upstream,
        bound: u32,
        receipt: &str,
        priority: Option<i64>,
    ) -> Option<String> {
        let mut changed = false;
        if let Some(name) = upstream.name_of(&self.model) {
            changed = true;
            self.object.set("model", json_string(name));
        }
        if let Some(priority) = priority {
            changed = true;
            self.object.set("priority", priority.to_string());
        }
        if self.stream && (!self.wants_usage || upstream.continuous_usage) {
            changed = true;
            let old = self.object.get("stream_options").unwrap_or("{}").to_owned();
            if let Ok(mut options) = Object::parse(old.as_bytes()) {
                options.set("include_usage", "true".into());
                if upstream.continuous_usage {
                    options.set("continuous_usage_stats", "true".into());
                }
                self.object.set("stream_options", options.to_json());
            }
        }
        if self.max_output != Some(bound) {
            changed = true;
            let names = ["max_completion_tokens", "max_tokens"];
            let given: Vec<_> = names
                .into_iter()
                .filter(|name| self.object.get(name).is_some())
                .collect();
            for name in &given {
                self.object.set(name, bound.to_string());
            }
            if given.is_empty() {
                self.object.set("max_tokens", bound.to_string());
            }
        }
        if upstream.request_id {
            changed = true;
            self.object.set("request_id", format!("{receipt:?}"));
        }
        changed.then(|| self.object.to_json())
    }
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A limit of output; one beyond 32 bits is as good as none.
fn limit(object: &Object<'_>, name: &'static str) -> Result<Option<u32>, BadRequest> {
    let limit: Option<u64> = object.read(name).map_err(|_| {
        bad(
            format!("`{name}` must be a whole number, 0 or more"),
            Some(name),
        )
    })?;
    Ok(limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)))
}

/// Bytes of everything that ends up in the prompt. Tools are rendered by the
/// engine's template, indented at worst: four times their JSON.
fn prompt_bytes(object: &Object<'_>) -> u64 {
    let length = |name| object.get(name).map_or(0, |json| json.len() as u64);
    let rendered = [
        "tools",
        "functions",
        "response_format",
        "documents",
        "chat_template_kwargs",
    ];
    length("messages") + length("chat_template") + 4 * rendered.map(length).iter().sum::<u64>()
}

/// Pictures, sounds and files in the messages; text that looks like one is
/// counted too, which only makes the hold larger.
fn media(messages: &str) -> u64 {
    [
        "\"image_url\"",
        "\"input_audio\"",
        "\"file\"",
        "\"video_url\"",
        "\"audio_url\"",
    ]
    .iter()
    .map(|kind| messages.matches(kind).count() as u64)
    .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream() -> Upstream {
        Upstream::for_tests(4096)
    }

    fn rewritten(body: &str, bound: u32) -> String {
        let chat = Chat::parse(body.as_bytes()).unwrap();
        chat.rewrite(&upstream(), bound, "0-1-2", None)
            .unwrap_or_else(|| body.to_owned())
    }

    #[test]
    fn a_request_that_needs_nothing_goes_out_as_it_came() {
        let body = r#"{ "model":"m", "messages":[{"role":"user","content":"hi"}], "max_tokens":5, "x":1e400 }"#;
        let chat = Chat::parse(body.as_bytes()).unwrap();
        assert_eq!(
            (chat.max_output, chat.choices, chat.stream),
            (Some(5), 1, false)
        );
        assert_eq!(chat.rewrite(&upstream(), 5, "0-1-2", None), None);
    }

    #[test]
    fn output_is_bounded_by_whatever_name_it_has() {
        assert_eq!(
            rewritten(
                r#"{"model":"m","messages":[],"max_completion_tokens":999999999}"#,
                7
            ),
            r#"{"model":"m","messages":[],"max_completion_tokens":7}"#
        );
        assert_eq!(
            rewritten(
                r#"{"model":"m","messages":[],"max_tokens":9,"max_completion_tokens":8}"#,
                7
            ),
            r#"{"model":"m","messages":[],"max_tokens":7,"max_completion_tokens":7}"#
        );
        assert_eq!(
            rewritten(r#"{"model":"m","messages":[]}"#, 7),
            r#"{"model":"m","messages":[],"max_tokens":7}"#
        );
    }

    #[test]
    fn usage_is_forced_on_and_other_options_stay() {
        assert_eq!(
            rewritten(
                r#"{"model":"m","messages":[],"stream":true,"stream_options":{"y":2},"max_tokens":1}"#,
                1
            ),
            r#"{"model":"m","messages":[],"stream":true,"stream_options":{"y":2,"include_usage":true},"max_tokens":1}"#
        );
    }

    #[test]
    fn only_text_is_counted_by_the_engine_and_only_its_fields_are_sent() {
        let asked = |body: &str| {
            Chat::parse(body.as_bytes())
                .unwrap()
                .to_tokenize(&upstream())
        };
        assert_eq!(
            asked(r#"{"model":"m","messages":[1e400],"max_tokens":5,"tools":[]}"#).unwrap(),
            r#"{"model":"m","messages":[1e400],"tools":[]}"#
        );
        for body in [
            r#"{"model":"m","messages":[{"content":[{"type":"image_url","x":"\"image_url\""}]}]}"#,
            r#"{"model":"m","messages":[{"content":[{"image_url":"x"}]}]}"#,
            r#"{"model":"m","messages":[],"response_format":{}}"#,
        ] {
            assert_eq!(asked(body), None, "{body}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        for (body, param) in [
            (r#"{"messages":[]}"#, Some("model")),
            (r#"{"model":1,"messages":[]}"#, Some("model")),
            (r#"{"model":"m"}"#, Some("messages")),
            (r#"{"model":"m","messages":[],"n":0}"#, Some("n")),
            (r#"{"model":"m","messages":[],"n":129}"#, Some("n")),
            (
                r#"{"model":"m","messages":[],"max_tokens":-1}"#,
                Some("max_tokens"),
            ),
            (
                r#"{"model":"m","messages":[],"stream":"yes"}"#,
                Some("stream"),
            ),
            ("[]", None),
            ("", None),
        ] {
            assert_eq!(
                Chat::parse(body.as_bytes()).unwrap_err().param,
                param,
                "{body}"
            );
        }
    }

    #[test]
    fn the_prompt_is_never_smaller_than_its_text() {
        let text = "a\u{1F600}\"\\".repeat(50);
        let body =
            serde_json::json!({"model": "m", "messages": [{"role": "user", "content": text}]})
                .to_string();
        let chat = Chat::parse(body.as_bytes()).unwrap();
        assert!(u64::from(chat.size.bound()) >= text.len() as u64 + 2 * crate::usage::PER_MESSAGE);
        assert!(chat.size.likely() < chat.size.bound());
    }
}
