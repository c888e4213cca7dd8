//! Server-sent events, split and read as they pass.
//!
//! Network reads and events do not coincide: an event may be split over two
//! reads, a read may hold many. Whole events leave at once; only the rest of
//! an unfinished one waits, up to a limit.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{endpoint::Ending, object::Object, reply::error_object};
use crate::usage::{Counted, Counts};

/// Splits a byte stream into events, each with its empty line.
#[derive(Debug, Default)]
pub struct Splitter {
    rest: Vec<u8>,
}

impl Splitter {
    /// Takes in bytes; gives whole events.
    pub fn push(&mut self, bytes: &[u8], mut event: impl FnMut(&[u8])) {
        self.rest.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(length) = event_length(&self.rest[start..]) {
            event(&self.rest[start..start + length]);
            start += length;
        }
        self.rest.drain(..start);
    }

    /// Bytes of the unfinished event.
    pub fn waiting(&self) -> usize {
        self.rest.len()
    }

    /// What is left at the end: an event without its empty line, or nothing.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }
}

/// Length of the first event with its empty line; lines end with LF, CRLF or
/// CR.
fn event_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut line_start = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'\n' => at + 1,
            // CR at the very end: an LF may follow.
            b'\r' if at + 1 == bytes.len() => return None,
            b'\r' if bytes[at + 1] == b'\n' => at + 2,
            b'\r' => at + 1,
            _ => {
                at += 1;
                continue;
            }
        };
        if at == line_start && line_start > 0 {
            return Some(end);
        }
        at = end;
        line_start = end;
    }
    None
}

/// The data of an event: its `data` lines joined. One line, as engines send
/// it, is not copied.
pub fn data(event: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(event).ok()?;
    let mut joined: Option<Cow<'_, str>> = None;
    for line in text.split(['\n', '\r']) {
        let Some(value) = line.strip_prefix("data:") else {
            continue;
        };
        let value = value.strip_prefix(' ').unwrap_or(value);
        match &mut joined {
            None => joined = Some(Cow::Borrowed(value)),
            Some(data) => {
                let data = data.to_mut();
                data.push('\n');
                data.push_str(value);
            }
        }
    }
    joined
}

/// What a chunk of a stream, or a whole answer, says to the meter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Usage so far, if it is on this chunk.
    pub usage: Option<Counts>,
    /// The chunk has no choices: it is there for its usage only.
    pub only_usage: bool,
    /// What its deltas hold.
    pub counted: Counted,
    /// The engine reports an error.
    pub error: bool,
    /// It is the stream's last.
    pub end: bool,
    /// Its number, where events are numbered.
    pub sequence: Option<u64>,
}

/// A chunk in the form that engines send.
#[derive(Deserialize)]
struct KnownChunk<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// One whose choices have another form.
#[derive(Deserialize)]
struct RawChunk<'a> {
    #[serde(borrow, default)]
    choices: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    message: Option<Delta<'a>>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    refusal: Option<Cow<'a, str>>,
    /// Engines have both names, and some send both.
    #[serde(borrow, default)]
    reasoning: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    #[serde(borrow, default)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    arguments: Option<Cow<'a, str>>,
}

impl Delta<'_> {
    fn count(&self, counted: &mut Counted) {
        let length =
            |text: &Option<Cow<'_, str>>| text.as_ref().map_or(0, |text| text.len() as u64);
        let tools: u64 = self
            .tool_calls
            .iter()
            .flatten()
            .filter_map(|call| call.function.as_ref())
            .map(|function| length(&function.name) + length(&function.arguments))
            .sum();
        let reasoning = length(&self.reasoning_content).max(length(&self.reasoning));
        let said = length(&self.content) + length(&self.refusal) + tools;
        if said + reasoning > 0 {
            counted.deltas += 1;
            counted.bytes += said + reasoning;
            counted.reasoning += u64::from(said == 0);
        }
    }
}

impl Chunk {
    /// Whether something was generated, by what this says.
    pub fn has_output(&self) -> bool {
        self.counted.output() > 0 || self.usage.is_some_and(|usage| usage.output > 0)
    }

    /// Reads a chunk's JSON, or a whole answer's; whatever cannot be read
    /// says nothing.
    pub fn read(json: &str) -> Chunk {
        if let Ok(known) = serde_json::from_str::<KnownChunk<'_>>(json) {
            let choices = known.choices.unwrap_or_default();
            return Chunk {
                counted: count(&choices),
                ..Chunk::around(choices.is_empty(), known.usage, known.error)
            };
        }
        let Ok(raw) = serde_json::from_str::<RawChunk<'_>>(json) else {
            return Chunk::default();
        };
        // In a form that is not known they are one delta, so that it is
        // neither free nor hides the usage beside it.
        let counted = Counted {
            deltas: u64::from(raw.choices.is_some()),
            ..Counted::default()
        };
        Chunk {
            counted,
            ..Chunk::around(raw.choices.is_none(), raw.usage, raw.error)
        }
    }

    /// What it says beside its choices; `bare`: it has none.
    fn around(bare: bool, usage: Option<&RawValue>, error: Option<&RawValue>) -> Chunk {
        let present = |value: Option<&RawValue>| value.is_some_and(|value| value.get() != "null");
        Chunk {
            usage: usage.and_then(|usage| Counts::parse(usage.get())),
            only_usage: bare && present(usage),
            error: present(error),
            ..Chunk::default()
        }
    }
}

/// What the choices hold.
fn count(choices: &[Choice<'_>]) -> Counted {
    let mut counted = Counted::default();
    for choice in choices {
        match (
            choice.delta.as_ref().or(choice.message.as_ref()),
            &choice.text,
        ) {
            (Some(delta), _) => delta.count(&mut counted),
            (None, Some(text)) if !text.is_empty() => {
                counted.deltas += 1;
                counted.bytes += text.len() as u64;
            }
            _ => {}
        }
    }
    counted
}

/// The event without its usage, for a client that did not ask for it.
pub fn without_usage(json: &str) -> Option<Vec<u8>> {
    let mut object = Object::parse(json.as_bytes()).ok()?;
    object.remove("usage");
    Some(format!("data: {}\n\n", object.to_json()).into_bytes())
}

/// The events that end a chat's stream for want of balance: like the engine's
/// own end at a limit, in the form of the stream's other chunks.
pub(super) fn cut_chat(ending: &Ending<'_>) -> Vec<u8> {
    cut(
        ending,
        |index| json!({"index": index, "delta": {}, "finish_reason": "length"}),
    )
}

/// The same for completions.
pub(super) fn cut_text(ending: &Ending<'_>) -> Vec<u8> {
    let end =
        |index| json!({"index": index, "text": "", "logprobs": null, "finish_reason": "length"});
    cut(ending, end)
}

fn cut(ending: &Ending<'_>, end: impl Fn(u32) -> Value) -> Vec<u8> {
    let mut object = Object::parse(ending.first.as_bytes())
        .or_else(|_| Object::parse(b"{}"))
        .expect("an empty object is one");
    object.remove("usage");
    let ends: Vec<_> = (0..ending.choices).map(end).collect();
    object.set("choices", Value::from(ends).to_string());
    let mut out = format!("data: {}\n\n", object.to_json());
    if let Some(counts) = ending.usage {
        object.set("choices", "[]".into());
        object.set("usage", counts.to_json());
        out += &format!("data: {}\n\n", object.to_json());
    }
    out += "data: [DONE]\n\n";
    out.into_bytes()
}

/// The event that ends a stream with an error.
pub(super) fn failed(message: &str, code: &str, _: u64) -> Vec<u8> {
    let object = error_object(message, "server_error", None, code);
    format!("data: {object}\n\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_names_for_one_thing_hide_neither_output_nor_usage() {
        let usage = r#""usage":{"prompt_tokens":3,"input_tokens":3,"completion_tokens":2,"output_tokens":2}"#;
        let both = r#"{"content":null,"reasoning":"why","reasoning_content":"why"}"#;
        for name in ["message", "delta"] {
            let chunk = Chunk::read(&format!(r#"{{"choices":[{{"{name}":{both}}}],{usage}}}"#));
            let counts = chunk.usage.unwrap();
            assert_eq!((counts.input, counts.output), (3, 2));
            assert_eq!((chunk.counted.deltas, chunk.counted.reasoning), (1, 1));
        }
        // A form that is not known counts, and hides nothing.
        let odd = r#"{"choices":[{"delta":{"content":[{"text":"x"}]}}]"#;
        let chunk = Chunk::read(&format!("{odd},{usage}}}"));
        assert_eq!(chunk.usage.unwrap().output, 2);
        assert!(Chunk::read(&format!("{odd}}}")).has_output());
    }

    #[test]
    fn events_are_found_however_the_bytes_are_cut() {
        let stream =
            b"data: {\"a\":1}\n\ndata: x\r\n\r\n: comment\ndata: y\ndata: z\n\ndata: [DONE]\n\n";
        for cut in 1..stream.len() {
            let mut events = Vec::new();
            let mut splitter = Splitter::default();
            for part in stream.chunks(cut) {
                splitter.push(part, |event| events.push(event.to_vec()));
            }
            assert_eq!(splitter.waiting(), 0);
            assert_eq!(events.concat(), stream);
            let datas: Vec<_> = events.iter().map(|event| data(event).unwrap()).collect();
            assert_eq!(datas, [r#"{"a":1}"#, "x", "y\nz", "[DONE]"], "cut {cut}");
        }
    }

    #[test]
    fn chunks_are_counted_and_their_usage_read() {
        let chunk = Chunk::read(
            r#"{"choices":[{"delta":{"content":"hello"}},{"delta":{"reasoning_content":"hm"}}],"usage":null}"#,
        );
        let counted = Counted {
            deltas: 2,
            bytes: 7,
            reasoning: 1,
        };
        assert_eq!(
            (chunk.counted, chunk.usage, chunk.only_usage),
            (counted, None, false)
        );
        let last =
            Chunk::read(r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#);
        assert!(last.only_usage);
        assert_eq!(last.usage.unwrap().output, 4);
        assert!(Chunk::read(r#"{"error":{"message":"x"}}"#).error);
        let tool = Chunk::read(
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}]}"#,
        );
        assert_eq!(tool.counted.deltas, 1);
        assert_eq!(Chunk::read("nonsense"), Chunk::default());
        let whole = Chunk::read(
            r#"{"choices":[{"message":{"role":"assistant","content":"0123456789abcdef!"}}]}"#,
        );
        assert_eq!(whole.counted.output(), 3);
    }

    #[test]
    fn an_end_by_length_looks_like_the_engines() {
        let counts = Counts {
            input: 3,
            output: 4,
            ..Counts::default()
        };
        let ending = Ending {
            first: r#"{"id":"x","choices":[{"a":1}],"usage":{}}"#,
            next: 0,
            choices: 1,
            usage: Some(counts),
        };
        let text = String::from_utf8(cut_text(&ending)).unwrap();
        assert!(text.contains(r#""text":"""#) && !text.contains("delta"));
        let end = String::from_utf8(cut_chat(&ending)).unwrap();
        let events: Vec<_> = end.split_terminator("\n\n").collect();
        let first: serde_json::Value =
            serde_json::from_str(events[0].strip_prefix("data: ").unwrap()).unwrap();
        let ends = serde_json::json!([{"index": 0, "delta": {}, "finish_reason": "length"}]);
        assert_eq!((&first["id"], &first["choices"]), (&"x".into(), &ends));
        assert_eq!(events[2], "data: [DONE]");
        let chunk = Chunk::read(events[1].strip_prefix("data: ").unwrap());
        assert!(chunk.only_usage);
        assert_eq!(chunk.usage, Some(counts));
    }

    #[test]
    fn usage_can_be_taken_out_again() {
        let event =
            without_usage(r#"{"id":"x","choices":[{"a":1.0}],"usage":{"prompt_tokens":1}}"#);
        assert_eq!(
            event.unwrap(),
            b"data: {\"id\":\"x\",\"choices\":[{\"a\":1.0}]}\n\n"
        );
    }
}
