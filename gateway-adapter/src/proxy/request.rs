//! Reading a request of a metered endpoint, and what is sent to the engine
//! instead.

use serde::Deserialize;

use super::{
    endpoint::{Endpoint, StreamUsage},
    object::Object,
    upstream::Upstream,
};
use crate::usage::PromptSize;

/// Most answers that one request may ask for per prompt.
const MAX_CHOICES: u32 = 128;

/// Limits of output that some engines obey instead of the route's own.
const OTHER_LIMITS: [&str; 3] = ["n_predict", "num_predict", "max_new_tokens"];

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRequest {
    /// For people.
    pub message: String,
    /// The field.
    pub param: Option<&'static str>,
}

/// A request of a metered endpoint.
#[derive(Debug)]
pub struct Call<'a> {
    object: Object<'a>,
    /// Where it was sent.
    pub endpoint: &'static Endpoint,
    /// The model's name.
    pub model: String,
    /// Streamed.
    pub stream: bool,
    /// The client asked for the usage chunk.
    pub wants_usage: bool,
    /// The client asked for usage on each chunk.
    pub wants_continuous: bool,
    /// Largest output of one answer, if the client said.
    given_output: Option<u32>,
    /// Answers to generate, over all prompts.
    pub choices: u32,
    /// `service_tier`, if it is a text.
    pub tier: Option<String>,
    /// How large the prompt is.
    pub size: PromptSize,
    is_text: bool,
    changed: bool,
}

#[derive(Deserialize, Default)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
    #[serde(default)]
    continuous_usage_stats: Option<bool>,
}

pub(super) fn bad(message: impl Into<String>, param: Option<&'static str>) -> BadRequest {
    BadRequest {
        message: message.into(),
        param,
    }
}

impl<'a> Call<'a> {
    /// Reads a request's body.
    pub fn parse(endpoint: &'static Endpoint, body: &'a [u8]) -> Result<Self, BadRequest> {
        let object = Object::parse(body)
            .map_err(|error| bad(format!("not a JSON object: {error}"), None))?;
        let wrong = |name: &'static str| bad(format!("`{name}` has another form"), Some(name));
        let field = |name: &'static str| move |_| wrong(name);
        let model: String = object
            .read("model")
            .map_err(field("model"))?
            .ok_or_else(|| bad("`model` is missing", Some("model")))?;
        let stream = object
            .read("stream")
            .map_err(field("stream"))?
            .unwrap_or(false);
        if stream && endpoint.stream_usage == StreamUsage::None {
            return Err(bad("this endpoint does not stream", Some("stream")));
        }
        let options = object.get("stream_options").unwrap_or("{}");
        if Object::parse(options.as_bytes()).is_err() {
            return Err(wrong("stream_options"));
        }
        let options: StreamOptions = match endpoint.stream_usage {
            StreamUsage::Asked => object
                .read("stream_options")
                .map_err(field("stream_options"))?
                .unwrap_or_default(),
            _ => StreamOptions::default(),
        };
        refuse_unmeasured(endpoint, &object)?;
        let prompt = (endpoint.prompt)(&object)?;
        let mut choices = 1;
        for name in endpoint.choices {
            let count: u32 = object.read(name).map_err(field(name))?.unwrap_or(1);
            if !(1..=MAX_CHOICES).contains(&count) {
                return Err(bad(
                    format!("`{name}` must be between 1 and {MAX_CHOICES}"),
                    Some(name),
                ));
            }
            choices = choices.max(count);
        }
        // Engines differ in which name wins: the larger limit is safe.
        let mut given_output = None;
        for name in endpoint.limits {
            given_output = given_output.max(limit(&object, name)?);
        }
        Ok(Call {
            endpoint,
            model,
            stream,
            wants_usage: options.include_usage.unwrap_or(false),
            wants_continuous: options.continuous_usage_stats.unwrap_or(false),
            given_output,
            choices: choices.saturating_mul(prompt.prompts),
            tier: object.read("service_tier").ok().flatten(),
            size: prompt.size,
            is_text: prompt.is_text,
            changed: false,
            object,
        })
    }

    /// Largest output of one answer, at an engine whose own limit is `most`.
    pub fn output(&self, most: u32) -> u32 {
        if !self.endpoint.generates() {
            return 0;
        }
        let wanted = self.given_output.or(self.endpoint.default_output);
        wanted.unwrap_or(most).min(most)
    }

    /// Whether [`Call::to_tokenize`] covers all that ends up in the prompt.
    pub fn is_countable(&self) -> bool {
        let mut others = self.endpoint.uncounted.iter();
        !self.endpoint.counted.is_empty()
            && self.is_text
            && others.all(|name| self.object.get(name).is_none())
    }

    /// What vLLM's `/tokenize` is asked about this request; `None` where it
    /// would not count all that ends up in the prompt.
    pub fn to_tokenize(&self, upstream: &Upstream) -> Option<String> {
        if !self.is_countable() {
            return None;
        }
        let mut asked = Object::parse(b"{}").ok()?;
        for name in self.endpoint.counted {
            if let Some(json) = self.object.get(name) {
                asked.set(name, json.to_owned());
            }
        }
        if let Some(name) = upstream.name_of(&self.model) {
            asked.set("model", json_string(name));
        }
        Some(asked.to_json())
    }

    /// Takes `service_tier` out: its fee is paid here, and it would cost again
    /// at a provider.
    pub fn without_tier(&mut self) {
        self.object.remove("service_tier");
        self.changed = true;
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
        let mut changed = self.changed;
        if let Some(name) = upstream.name_of(&self.model) {
            changed = true;
            self.object.set("model", json_string(name));
        }
        if let Some(priority) = priority {
            changed = true;
            self.object.set("priority", priority.to_string());
        }
        let asked = self.stream && self.endpoint.stream_usage == StreamUsage::Asked;
        if asked && (!self.wants_usage || upstream.continuous_usage) {
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
        if self.given_output != Some(bound) && self.endpoint.generates() {
            changed = true;
            self.set_limit(bound);
        }
        if upstream.request_id {
            changed = true;
            self.object.set("request_id", format!("{receipt:?}"));
        }
        changed.then(|| self.object.to_json())
    }

    fn set_limit(&mut self, bound: u32) {
        let names = self.endpoint.limits.iter();
        let given: Vec<_> = names
            .filter(|name| self.object.get(name).is_some())
            .collect();
        let absent = self.endpoint.limits.last().filter(|_| given.is_empty());
        for name in given.into_iter().chain(absent) {
            self.object.set(name, bound.to_string());
        }
    }
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Refuses what would be spent without showing in the hold.
fn refuse_unmeasured(endpoint: &Endpoint, object: &Object<'_>) -> Result<(), BadRequest> {
    for name in endpoint.unseen {
        if object.get(name).is_some_and(|json| json != "false") {
            let why = format!(
                "`{name}` brings input that cannot be told from the request and so cannot be \
                 paid for: send all input in the request"
            );
            return Err(bad(why, Some(name)));
        }
    }
    let names = endpoint.limits.iter().chain(endpoint.choices);
    let names = names.chain(&["model", "stream", "stream_options"]);
    let other = object.names().find(|given| {
        let same = |name: &&str| given.eq_ignore_ascii_case(name) && given != name;
        let limits = endpoint.generates() && OTHER_LIMITS.contains(given);
        limits || names.clone().any(same)
    });
    match other {
        Some(other) => {
            let why = format!("`{other}` is no field of this endpoint, and some engines obey it");
            Err(bad(why, None))
        }
        None => Ok(()),
    }
}

/// A limit of output; one beyond 32 bits is as good as none. Zero means "none"
/// to many engines.
fn limit(object: &Object<'_>, name: &'static str) -> Result<Option<u32>, BadRequest> {
    let wrong = || {
        bad(
            format!("`{name}` must be a whole number, 1 or more"),
            Some(name),
        )
    };
    let limit: Option<u64> = object.read(name).map_err(|_| wrong())?;
    if limit == Some(0) {
        return Err(wrong());
    }
    Ok(limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::endpoint::{CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES};

    fn upstream() -> Upstream {
        Upstream::for_tests(4096)
    }

    fn rewritten(body: &str, bound: u32) -> String {
        rewritten_at(&CHAT, body, bound)
    }

    fn rewritten_at(endpoint: &'static Endpoint, body: &str, bound: u32) -> String {
        let call = Call::parse(endpoint, body.as_bytes()).unwrap();
        call.rewrite(&upstream(), bound, "0-1-2", None)
            .unwrap_or_else(|| body.to_owned())
    }

    #[test]
    fn what_an_engine_may_obey_but_no_hold_covers_is_refused() {
        for field in [
            r#""max_tokens":0"#,
            r#""max_completion_tokens":0"#,
            r#""n_predict":100000"#,
            r#""max_tokens":1,"MAX_TOKENS":100000"#,
            r#""N":8"#,
            r#""chat_template":"{{ messages }}""#,
            r#""stream_options":{"x":1,"x":2,"include_usage":false}"#,
        ] {
            let body = format!(r#"{{"model":"m","messages":[],{field}}}"#);
            assert!(Call::parse(&CHAT, body.as_bytes()).is_err(), "{field}");
        }
        for field in ["previous_response", "previous_input_messages"] {
            let body = format!(r#"{{"model":"m","input":"hi","{field}":["x"]}}"#);
            let wrong = Call::parse(&RESPONSES, body.as_bytes()).unwrap_err();
            assert_eq!(wrong.param, Some(field));
        }
        let embeds = br#"{"model":"m","prompt":"x","prompt_embeds":"AAAA"}"#;
        assert!(Call::parse(&COMPLETIONS, embeds).is_err());
    }

    #[test]
    fn a_request_that_needs_nothing_goes_out_as_it_came() {
        let body = r#"{ "model":"m", "messages":[{"role":"user","content":"hi"}], "max_tokens":5, "x":1e400 }"#;
        let chat = Call::parse(&CHAT, body.as_bytes()).unwrap();
        assert_eq!(
            (chat.output(4096), chat.choices, chat.stream),
            (5, 1, false)
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
    fn each_route_has_its_own_names() {
        assert_eq!(
            rewritten_at(
                &COMPLETIONS,
                r#"{"model":"m","prompt":"a","stream":true}"#,
                16
            ),
            r#"{"model":"m","prompt":"a","stream":true,"stream_options":{"include_usage":true},"max_tokens":16}"#
        );
        assert_eq!(
            rewritten_at(
                &RESPONSES,
                r#"{"model":"m","input":"a","max_output_tokens":9,"stream":true,"stream_options":{}}"#,
                7
            ),
            r#"{"model":"m","input":"a","max_output_tokens":7,"stream":true,"stream_options":{}}"#
        );
        let embeddings = r#"{"model":"m","input":["a"],"max_tokens":3}"#;
        assert_eq!(rewritten_at(&EMBEDDINGS, embeddings, 0), embeddings);
    }

    #[test]
    fn output_and_choices_follow_the_route() {
        let call = |endpoint, body: &'static str| Call::parse(endpoint, body.as_bytes()).unwrap();
        let many = r#"{"model":"m","prompt":["a","b",[1]],"n":2,"best_of":4}"#;
        let many = call(&COMPLETIONS, many);
        assert_eq!(
            (many.output(4096), many.output(9), many.choices),
            (16, 9, 12)
        );
        let chat = call(&CHAT, r#"{"model":"m","messages":[]}"#);
        assert_eq!((chat.output(4096), chat.choices), (4096, 1));
        let embeddings = call(&EMBEDDINGS, r#"{"model":"m","input":"a","n":5}"#);
        assert_eq!((embeddings.output(4096), embeddings.choices), (0, 1));
        let responses = r#"{"model":"m","input":"a","background":false,"conversation":null}"#;
        assert_eq!(call(&RESPONSES, responses).output(4096), 4096);
    }

    #[test]
    fn input_from_elsewhere_and_streams_of_what_is_not_streamed_are_refused() {
        for (endpoint, field) in [
            (&RESPONSES, r#""previous_response_id":"r""#),
            (&RESPONSES, r#""conversation":{"id":"c"}"#),
            (&RESPONSES, r#""background":true"#),
            (&RESPONSES, r#""prompt":{"id":"p"}"#),
            (&CHAT, r#""web_search_options":{}"#),
            (&EMBEDDINGS, r#""stream":true"#),
        ] {
            let body = format!(r#"{{"model":"m","input":"a","messages":[],{field}}}"#);
            let error = Call::parse(endpoint, body.as_bytes()).unwrap_err();
            assert!(field.contains(error.param.unwrap()), "{field}");
        }
    }

    #[test]
    fn only_text_is_counted_by_the_engine_and_only_its_fields_are_sent() {
        let asked = |body: &str| {
            Call::parse(&CHAT, body.as_bytes())
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
                Call::parse(&CHAT, body.as_bytes()).unwrap_err().param,
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
        let chat = Call::parse(&CHAT, body.as_bytes()).unwrap();
        assert!(u64::from(chat.size.bound()) >= text.len() as u64 + 2 * crate::usage::PER_MESSAGE);
        assert!(chat.size.likely() < chat.size.bound());
    }
}
