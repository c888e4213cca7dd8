//! `/v1/responses`: its prompt, its events, and how its streams end.
//!
//! What a request may refer to without carrying it (earlier responses, stored
//! files, tools that the engine's owner runs) would bring input that no hold
//! could cover: such a request is refused.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::{Value, json, value::RawValue};

use super::{
    endpoint::Ending,
    object::Object,
    prompt::{Prompt, form, media, refers, rendered, text_bytes},
    request::{BadRequest, bad},
    sse::Chunk,
};
use crate::usage::{Counted, Counts, PromptSize};

/// Tools that the caller runs; all others bring input of their own.
const TOOLS: [&str; 3] = ["function", "custom", "local_shell"];

/// The prompt: `input` and `instructions`.
pub(super) fn prompt(object: &Object<'_>) -> Result<Prompt, BadRequest> {
    let input = object.get("input");
    let input = input.ok_or_else(|| bad("`input` is missing", Some("input")))?;
    let Items { count, reference } = object
        .read("input")
        .map_err(form("input"))?
        .unwrap_or_default();
    if reference || refers(input) {
        let why = "`input` refers to an item or file that is not in the request: send its content";
        return Err(bad(why, Some("input")));
    }
    let tools: Option<Vec<Tool<'_>>> = object.read("tools").map_err(form("tools"))?;
    let hosted = |tool: &&Tool<'_>| !TOOLS.contains(&&*tool.kind);
    if let Some(tool) = tools.iter().flatten().find(hosted) {
        let why = format!(
            "a `{}` tool brings input that is not in the request: only tools that you run yourself \
             can be paid for",
            tool.kind
        );
        return Err(bad(why, Some("tools")));
    }
    let instructions = object
        .get("instructions")
        .map_or(0, |json| json.len() as u64);
    Ok(Prompt {
        size: PromptSize {
            bytes: text_bytes(input) + instructions + rendered(object, &["tools", "text"]),
            messages: count + u64::from(instructions > 0),
            media: media(input),
            ..PromptSize::default()
        },
        prompts: 1,
        is_text: false,
    })
}

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

/// The items of an `input`: how many, and whether one of them is only a
/// reference.
#[derive(Debug, Default)]
struct Items {
    count: u64,
    reference: bool,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(rename = "type", default, borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(default)]
    role: Option<IgnoredAny>,
}

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Items;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of items")
            }
            fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Items, E> {
                Ok(Items {
                    count: 1,
                    reference: false,
                })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Items, A::Error> {
                let mut items = Items::default();
                while let Some(item) = list.next_element::<Item<'de>>()? {
                    items.count += 1;
                    items.reference |= match item.kind.as_deref() {
                        Some(kind) => kind == "item_reference",
                        // Without a type only messages have content.
                        None => item.role.is_none(),
                    };
                }
                Ok(items)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// An event of a stream, or a whole response.
#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(rename = "type", default, borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(default)]
    sequence_number: Option<u64>,
    #[serde(default, borrow)]
    delta: Option<&'a RawValue>,
    #[serde(default, borrow)]
    response: Option<&'a RawValue>,
    #[serde(default, borrow)]
    error: Option<&'a RawValue>,
    #[serde(default, borrow)]
    usage: Option<&'a RawValue>,
    #[serde(default, borrow)]
    output: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(default, borrow)]
    usage: Option<&'a RawValue>,
    #[serde(default, borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Output<'a> {
    #[serde(rename = "type", default, borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    content: Option<Vec<Part<'a>>>,
    #[serde(default, borrow)]
    summary: Option<Vec<Part<'a>>>,
    #[serde(default, borrow)]
    arguments: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    input: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(default, borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    refusal: Option<Cow<'a, str>>,
}

fn counts(usage: Option<&RawValue>) -> Option<Counts> {
    usage.and_then(|usage| Counts::parse(usage.get()))
}

fn present(value: Option<&RawValue>) -> bool {
    value.is_some_and(|value| value.get() != "null")
}

/// Reads an event, or a whole response.
pub(super) fn read(json: &str) -> Chunk {
    let Ok(raw) = serde_json::from_str::<Raw<'_>>(json) else {
        return Chunk::default();
    };
    let Some(kind) = raw.kind.as_deref() else {
        return Chunk {
            usage: counts(raw.usage),
            counted: raw.output.map(counted_output).unwrap_or_default(),
            error: present(raw.error),
            ..Chunk::default()
        };
    };
    let end = matches!(
        kind,
        "response.completed" | "response.incomplete" | "response.failed"
    );
    let response = raw.response.filter(|_| end);
    let response = response.and_then(|json| serde_json::from_str::<Response<'_>>(json.get()).ok());
    let usage = response.as_ref().and_then(|it| counts(it.usage));
    let failed = response.is_some_and(|it| present(it.error));
    Chunk {
        usage,
        only_usage: end,
        counted: raw
            .delta
            .map(|delta| counted_delta(kind, delta))
            .unwrap_or_default(),
        error: kind == "error" || kind == "response.failed" || failed || present(raw.error),
        end,
        sequence: raw.sequence_number,
    }
}

fn counted_delta(kind: &str, delta: &RawValue) -> Counted {
    let Ok(text) = serde_json::from_str::<Cow<'_, str>>(delta.get()) else {
        return Counted::default();
    };
    if text.is_empty() || !kind.ends_with(".delta") {
        return Counted::default();
    }
    Counted {
        deltas: 1,
        // Sound is longer than what it counts.
        bytes: if kind.contains("audio") {
            0
        } else {
            text.len() as u64
        },
        reasoning: u64::from(kind.contains("reasoning")),
    }
}

fn counted_output(output: &RawValue) -> Counted {
    let mut counted = Counted::default();
    let items: Vec<Output<'_>> = serde_json::from_str(output.get()).unwrap_or_default();
    for item in &items {
        let parts = item.content.iter().chain(&item.summary).flatten();
        let texts = parts.flat_map(|part| [&part.text, &part.refusal]);
        let texts = texts.chain([&item.arguments, &item.input]);
        let bytes: usize = texts.flatten().map(|text| text.len()).sum();
        if bytes > 0 {
            counted.deltas += 1;
            counted.bytes += bytes as u64;
            counted.reasoning += u64::from(item.kind.as_deref() == Some("reasoning"));
        }
    }
    counted
}

fn event(kind: &str, data: &Value) -> Vec<u8> {
    format!("event: {kind}\ndata: {data}\n\n").into_bytes()
}

/// The event that ends a stream for want of balance.
pub(super) fn cut(ending: &Ending<'_>) -> Vec<u8> {
    let kind = "response.incomplete";
    let first: Value = serde_json::from_str(ending.first).unwrap_or_default();
    let mut response = match &first["response"] {
        Value::Object(response) => response.clone(),
        _ => serde_json::Map::new(),
    };
    let reason = json!({"reason": "max_output_tokens"});
    response.insert("status".into(), "incomplete".into());
    response.insert("incomplete_details".into(), reason);
    if let Some(counts) = ending.usage {
        let usage = json!({
            "input_tokens": counts.input,
            "input_tokens_details": {"cached_tokens": counts.cached},
            "output_tokens": counts.output,
            "output_tokens_details": {"reasoning_tokens": counts.reasoning},
            "total_tokens": counts.input.saturating_add(counts.output),
        });
        response.insert("usage".into(), usage);
    }
    let data = json!({"type": kind, "sequence_number": ending.next, "response": response});
    event(kind, &data)
}

/// The event that ends a stream with an error.
pub(super) fn failed(message: &str, code: &str, next: u64) -> Vec<u8> {
    let data = json!({
        "type": "error", "code": code, "message": message, "param": null, "sequence_number": next,
    });
    event("error", &data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(json: &str) -> Result<Prompt, BadRequest> {
        prompt(&Object::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn what_is_not_in_the_request_is_refused() {
        for (body, param) in [
            (r#"{}"#, "input"),
            (r#"{"input":7}"#, "input"),
            (r#"{"input":[{"type":"item_reference","id":"x"}]}"#, "input"),
            (
                r#"{"input":[{"type":"item_r\u0065ference","id":"x"}]}"#,
                "input",
            ),
            (r#"{"input":[{"id":"msg_1"}]}"#, "input"),
            (
                r#"{"input":[{"role":"user","content":[{"type":"input_file","file_id":"f"}]}]}"#,
                "input",
            ),
            (r#"{"input":"a","tools":[{"type":"web_search"}]}"#, "tools"),
            (r#"{"input":"a","tools":[{}]}"#, "tools"),
        ] {
            assert_eq!(measured(body).unwrap_err().param, Some(param), "{body}");
        }
    }

    #[test]
    fn input_instructions_tools_and_pictures_are_measured() {
        let text = measured(r#"{"input":"hello","instructions":"be"}"#).unwrap();
        assert_eq!((text.size.bytes, text.size.messages), (7 + 4, 2));
        let items = r#"[{"role":"user","content":"file_id item_reference"},{"type":"reasoning"}]"#;
        let tools = r#"[{"type":"function","name":"f"}]"#;
        let body = format!(r#"{{"input":{items},"tools":{tools}}}"#);
        let listed = measured(&body).unwrap();
        assert_eq!(listed.size.messages, 2);
        assert_eq!(listed.size.bytes as usize, items.len() + 4 * tools.len());
        let picture =
            r#"{"input":[{"role":"user","content":[{"type":"input_image","image_url":"u"}]}]}"#;
        assert_eq!(measured(picture).unwrap().size.media, 2);
    }

    #[test]
    fn events_are_counted_and_the_last_one_has_the_usage() {
        let delta =
            read(r#"{"type":"response.output_text.delta","delta":"hello","sequence_number":4}"#);
        assert_eq!((delta.counted.deltas, delta.counted.bytes), (1, 5));
        assert_eq!(
            (delta.sequence, delta.end, delta.usage),
            (Some(4), false, None)
        );
        let hm = read(r#"{"type":"response.reasoning_text.delta","delta":"hm"}"#);
        assert_eq!(hm.counted.reasoning, 1);
        let done = read(
            r#"{"type":"response.completed","response":{"output":[],"error":null,"usage":
            {"input_tokens":3,"output_tokens":4,"output_tokens_details":{"reasoning_tokens":1}}}}"#,
        );
        let usage = done.usage.unwrap();
        assert!(done.end && !done.error);
        assert_eq!((usage.input, usage.output, usage.reasoning), (3, 4, 1));
        let failed = r#"{"type":"response.failed","response":{"error":{"code":"x"},"usage":null}}"#;
        assert!(read(failed).error && read(failed).end);
        assert!(read(r#"{"type":"error","code":"x"}"#).error);
        // The response so far is no usage.
        let created = r#"{"type":"response.created","response":{"usage":{"input_tokens":9}}}"#;
        assert_eq!(read(created).usage, None);
        assert_eq!(read("nonsense"), Chunk::default());
        let whole = read(
            r#"{"object":"response","error":null,"usage":null,"output":[
            {"type":"reasoning","summary":[{"text":"x"}]},
            {"type":"message","content":[{"type":"output_text","text":"0123456789"}]},
            {"type":"function_call","arguments":"{}"}]}"#,
        );
        assert_eq!((whole.counted.deltas, whole.counted.bytes), (3, 13));
        assert!(!whole.error && !whole.end);
    }

    #[test]
    fn a_cut_stream_ends_as_one_at_its_limit() {
        let ending = Ending {
            first: r#"{"type":"response.created","response":{"id":"r","status":"in_progress"}}"#,
            next: 9,
            choices: 1,
            usage: Some(Counts {
                input: 3,
                output: 4,
                ..Counts::default()
            }),
        };
        let text = String::from_utf8(cut(&ending)).unwrap();
        let data = text
            .strip_prefix("event: response.incomplete\ndata: ")
            .unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(
            (&data["response"]["id"], &data["sequence_number"]),
            (&json!("r"), &json!(9))
        );
        assert_eq!(
            data["response"]["incomplete_details"]["reason"],
            "max_output_tokens"
        );
        let chunk = read(&data.to_string());
        assert!(chunk.end && chunk.usage == ending.usage);
    }
}
