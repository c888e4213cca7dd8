//! How large a prompt is, before anybody has counted its tokens.
//!
//! What ends up in the prompt is measured in bytes of its JSON, which are at
//! least as many as its tokens; see [`crate::usage`]. A prompt that comes as
//! token numbers is counted exactly. Pictures, sounds and files are found by
//! their names, however those are escaped.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{
    object::Object,
    request::{BadRequest, bad},
};
use crate::usage::PromptSize;

/// Most prompts in one request.
const MAX_PROMPTS: u64 = 2_048;

/// Fields and types of pictures, sounds and files.
const MEDIA: [&str; 11] = [
    "image_url",
    "input_audio",
    "file",
    "video_url",
    "audio_url",
    "image_embeds",
    "audio_embeds",
    "input_image",
    "input_file",
    "input_video",
    "computer_screenshot",
];

/// A measured prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prompt {
    /// How large it is.
    pub size: PromptSize,
    /// Prompts in it, each of which gets its answers.
    pub prompts: u32,
    /// It is text that an engine can count alone.
    pub is_text: bool,
}

fn length(object: &Object<'_>, name: &str) -> u64 {
    object.get(name).map_or(0, |json| json.len() as u64)
}

/// Bytes of fields that the engine's template renders, indented at worst:
/// four times their JSON.
pub(super) fn rendered(object: &Object<'_>, names: &[&str]) -> u64 {
    4 * names.iter().map(|name| length(object, name)).sum::<u64>()
}

/// The prompt of a chat.
pub(super) fn of_chat(object: &Object<'_>) -> Result<Prompt, BadRequest> {
    let messages = messages(object)?;
    let messages = messages.ok_or_else(|| bad("`messages` is missing", Some("messages")))?;
    let media = media(object.get("messages").unwrap_or_default());
    let templates = [
        "tools",
        "functions",
        "response_format",
        "documents",
        "chat_template_kwargs",
    ];
    let json = object.get("messages").unwrap_or_default();
    if refers(json) {
        let why = "`messages` refers to a file that is not in the request: send its content";
        return Err(bad(why, Some("messages")));
    }
    let bytes = text_bytes(json);
    Ok(Prompt {
        size: PromptSize {
            bytes: bytes + rendered(object, &templates),
            messages,
            media,
            ..PromptSize::default()
        },
        prompts: 1,
        is_text: media == 0,
    })
}

fn messages(object: &Object<'_>) -> Result<Option<u64>, BadRequest> {
    let messages: Option<Length> = object.read("messages").map_err(form("messages"))?;
    Ok(messages.map(|messages| messages.0))
}

pub(super) fn form(name: &'static str) -> impl Fn(serde_json::Error) -> BadRequest {
    move |_| bad(format!("`{name}` has another form"), Some(name))
}

/// The prompts of completions.
pub(super) fn of_completions(object: &Object<'_>) -> Result<Prompt, BadRequest> {
    let given: Option<Texts> = object.read("prompt").map_err(form("prompt"))?;
    let given = given.ok_or_else(|| bad("`prompt` is missing", Some("prompt")))?;
    let prompts = given.prompts();
    if prompts > MAX_PROMPTS {
        let why = format!("`prompt` must hold at most {MAX_PROMPTS} prompts");
        return Err(bad(why, Some("prompt")));
    }
    let mut size = given.size(object.get("prompt").unwrap_or_default());
    size.bytes += length(object, "suffix");
    Ok(Prompt {
        size,
        prompts: prompts.max(1) as u32,
        is_text: given == Texts::ONE,
    })
}

/// The inputs of embeddings; some engines take a chat instead.
pub(super) fn of_embeddings(object: &Object<'_>) -> Result<Prompt, BadRequest> {
    let given: Option<Texts> = object.read("input").map_err(form("input"))?;
    let messages = messages(object)?;
    if given.is_none() && messages.is_none() {
        return Err(bad("`input` is missing", Some("input")));
    }
    let chat = object.get("messages").unwrap_or_default();
    let mut size = given
        .unwrap_or_default()
        .size(object.get("input").unwrap_or_default());
    size.bytes += text_bytes(chat);
    size.bytes += rendered(object, &["chat_template_kwargs"]);
    size.messages += messages.unwrap_or(0);
    size.media = media(chat);
    Ok(Prompt {
        size,
        prompts: 1,
        is_text: false,
    })
}

/// Pictures, sounds and files in JSON; text that is their name is counted
/// too, which only makes the hold larger.
pub(super) fn media(json: &str) -> u64 {
    let mut found = 0;
    strings(json, |text, _| found += u64::from(MEDIA.contains(&text)));
    found
}

/// Whether it refers to files that it does not carry.
pub(super) fn refers(json: &str) -> bool {
    let mut refers = false;
    strings(json, |text, is_name| {
        refers |= is_name && matches!(text, "file_id" | "file_url");
    });
    refers
}

/// Bytes of messages; four times, where they hold calls of tools, whose
/// arguments a template renders anew.
pub(super) fn text_bytes(json: &str) -> u64 {
    let mut calls = false;
    strings(json, |text, is_name| {
        calls |= is_name && matches!(text, "tool_calls" | "function_call" | "arguments");
    });
    let times = if calls { 4 } else { 1 };
    times * json.len() as u64
}

/// Each string of some JSON that is not longer than a name, with whether it
/// is the name of a field.
pub(super) fn strings(json: &str, mut each: impl FnMut(&str, bool)) {
    // Of a name, each character escaped.
    const LONGEST: usize = 6 * 24;
    let bytes = json.as_bytes();
    let mut at = 0;
    while let Some(start) = find(bytes, at, |byte| byte == b'"') {
        let mut end = start + 1;
        let mut escaped = false;
        while let Some(next) = find(bytes, end, |byte| byte == b'"' || byte == b'\\') {
            end = next;
            if bytes[end] == b'"' {
                break;
            }
            escaped = true;
            end += 2;
        }
        at = (end + 1).max(start + 1);
        if at > bytes.len() || end - start > LONGEST {
            continue;
        }
        let after = find(bytes, at, |byte| !byte.is_ascii_whitespace());
        let is_name = after.is_some_and(|after| bytes[after] == b':');
        if !escaped {
            each(&json[start + 1..end], is_name);
        } else if let Ok(text) = serde_json::from_str::<String>(&json[start..at]) {
            each(&text, is_name);
        }
    }
}

fn find(bytes: &[u8], from: usize, wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let found = bytes.get(from..)?.iter().position(|byte| wanted(*byte))?;
    Some(from + found)
}

/// How many elements a list has.
#[derive(Debug)]
pub(super) struct Length(pub(super) u64);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Length;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Length, A::Error> {
                let mut length = 0;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    length += 1;
                }
                Ok(Length(length))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// A text, a list of token numbers, or a list of either.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Texts {
    texts: u64,
    tokens: u64,
    /// Lists of token numbers.
    lists: u64,
}

impl Texts {
    /// One text.
    const ONE: Texts = Texts {
        texts: 1,
        tokens: 0,
        lists: 0,
    };

    fn prompts(&self) -> u64 {
        self.texts + self.lists
    }

    /// The size of this, which is written as `json`.
    fn size(&self, json: &str) -> PromptSize {
        PromptSize {
            bytes: if self.texts > 0 { json.len() as u64 } else { 0 },
            tokens: self.tokens,
            messages: self.prompts(),
            media: 0,
        }
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyTexts { inside: false })
    }
}

/// A list's element: a text, a token number, or a list of token numbers.
struct Element(Texts);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let inside = AnyTexts { inside: true };
        deserializer.deserialize_any(inside).map(Element)
    }
}

struct AnyTexts {
    inside: bool,
}

impl<'de> Visitor<'de> for AnyTexts {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, token numbers, or a list of either")
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Texts, E> {
        Ok(Texts::ONE)
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Texts, E> {
        match self.inside {
            true => Ok(Texts {
                tokens: 1,
                ..Texts::default()
            }),
            false => Err(E::custom("a number alone")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
        if self.inside {
            let mut tokens = 0;
            while list.next_element::<u64>()?.is_some() {
                tokens += 1;
            }
            return Ok(Texts {
                texts: 0,
                tokens,
                lists: 1,
            });
        }
        let mut sum = Texts::default();
        let mut bare = false;
        while let Some(Element(element)) = list.next_element()? {
            let number = element.prompts() == 0;
            if bare != number && sum != Texts::default() {
                return Err(A::Error::custom("token numbers beside prompts"));
            }
            bare = number;
            sum.texts += element.texts;
            sum.tokens += element.tokens;
            sum.lists += element.lists;
        }
        sum.lists += u64::from(bare);
        Ok(sum)
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Texts, A::Error> {
        Err(A::Error::custom("an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(json: &str) -> Option<(u64, u64, u64)> {
        let texts: Texts = serde_json::from_str(json).ok()?;
        Some((texts.texts, texts.tokens, texts.lists))
    }

    #[test]
    fn all_forms_of_a_prompt_are_measured() {
        for (json, found) in [
            (r#""hello""#, Some((1, 0, 0))),
            (r#"["a","b"]"#, Some((2, 0, 0))),
            ("[1,2,3]", Some((0, 3, 1))),
            ("[[1,2],[3]]", Some((0, 3, 2))),
            (r#"["a",[7,8]]"#, Some((1, 2, 1))),
            ("[]", Some((0, 0, 0))),
            ("7", None),
            ("[1,\"a\"]", None),
            ("[\"a\",1]", None),
            ("[-1]", None),
            ("[1.5]", None),
            ("[[[1]]]", None),
            ("{}", None),
            ("true", None),
        ] {
            assert_eq!(texts(json), found, "{json}");
        }
    }

    #[test]
    fn media_is_found_however_its_name_is_written() {
        for (json, found) in [
            (r#"[{"type":"image_url","image_url":{"url":"x"}}]"#, 2),
            (r#"[{"image\u005furl":"x"}]"#, 1),
            (r#"[{"type":"input_\u0069mage"}]"#, 1),
            (r#"["a \"image_url\" b", "file:", "\\", "file"]"#, 1),
            (r#"["unfinished \\\" file"]"#, 0),
            ("[]", 0),
        ] {
            assert_eq!(media(json), found, "{json}");
        }
        let mut names = Vec::new();
        strings(r#"{"a" : "b","c":["d"]}"#, |text, is_name| {
            names.push((text.to_owned(), is_name));
        });
        let wanted = [("a", true), ("b", false), ("c", true), ("d", false)];
        assert_eq!(names, wanted.map(|(text, name)| (text.to_owned(), name)));
    }

    #[test]
    fn files_elsewhere_are_refused_and_calls_of_tools_count_four_times() {
        let chat = |messages: &str| {
            let json = format!(r#"{{"messages":{messages}}}"#);
            of_chat(&Object::parse(json.as_bytes()).unwrap())
        };
        let file = chat(r#"[{"content":[{"type":"file","file":{"file_id":"f"}}]}]"#);
        assert_eq!(file.unwrap_err().param, Some("messages"));
        let said = r#"[{"content":"tool_calls file_id"}]"#;
        assert_eq!(chat(said).unwrap().size.bytes, said.len() as u64);
        let calls = r#"[{"tool_calls":[{"function":{"arguments":"[1,1,1]"}}]}]"#;
        assert_eq!(chat(calls).unwrap().size.bytes, 4 * calls.len() as u64);
    }

    #[test]
    fn token_numbers_are_counted_and_texts_bounded_by_their_bytes() {
        let size = |json: &str| {
            let object = Object::parse(json.as_bytes()).unwrap();
            of_completions(&object).unwrap()
        };
        let tokens = size(r#"{"prompt":[100000,100001]}"#);
        assert_eq!(
            (tokens.size.bytes, tokens.size.tokens, tokens.prompts),
            (0, 2, 1)
        );
        let text = size(r#"{"prompt":["ab","cd"],"suffix":"xyz"}"#);
        assert_eq!((text.size.bytes, text.prompts), (11 + 5, 2));
        assert!(!text.is_text && size(r#"{"prompt":"a"}"#).is_text);
        let many = format!(r#"{{"prompt":[{}"x"]}}"#, "\"x\",".repeat(2_048));
        let object = Object::parse(many.as_bytes()).unwrap();
        assert_eq!(of_completions(&object).unwrap_err().param, Some("prompt"));
    }
}
