//! What a request used, and the most that it can use.
//!
//! Counts come from the engine's `usage` object. Cached and reasoning tokens
//! are **subsets** of prompt and completion tokens. A subset that is reported
//! above its whole is lowered to the whole and the debit is flagged, so that
//! a debit always has a price (the ledger refuses no next number).
//!
//! **Input bound.** Before dispatch nobody has counted the prompt's tokens,
//! so a hold uses an upper bound: a byte-level tokenizer makes at most one
//! token of each byte of text, and JSON never shortens text, so the tokens of
//! a prompt are at most the bytes of its JSON, plus what the engine's chat
//! template adds per message ([`PER_MESSAGE`]), plus [`PER_MEDIA`] for each
//! picture or sound, whose tokens do not depend on the bytes of its address.
//! Usage above the hold is recorded as known and charged the hold.
//!
//! **Likely input.** When the engine never said what the prompt counted
//! (client gone, stream broken), the input is taken as a third of the text's
//! bytes, one token at least.

use serde::Deserialize;
use tally_ledger::{
    debit::Flags,
    ids::Amount,
    price::{MAX_METERS, Model, Usage},
};

/// Tokens that a chat template may add per message.
pub const PER_MESSAGE: u64 = 32;
/// Tokens allowed for one picture or sound.
pub const PER_MEDIA: u64 = 16_384;
/// Bytes of text per token when nobody counted the input.
pub const LIKELY_BYTES_PER_TOKEN: u64 = 3;
/// No tokenizer in use averages more bytes of output than this per token.
pub const MOST_BYTES_PER_TOKEN: u64 = 8;

/// Names of the meters that the OpenAI conventions fill.
pub const INPUT: &str = "input";
/// A subset of [`INPUT`].
pub const CACHED_INPUT: &str = "cached_input";
/// Everything generated.
pub const OUTPUT: &str = "output";
/// A subset of [`OUTPUT`].
pub const REASONING: &str = "reasoning";

/// Token counts as an engine reports them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All prompt tokens.
    pub input: u64,
    /// Those of them that were cached.
    pub cached: u64,
    /// All generated tokens.
    pub output: u64,
    /// Those of them that were reasoning.
    pub reasoning: u64,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    cached_tokens: Option<u64>,
    #[serde(default)]
    reasoning_tokens: Option<u64>,
}

/// By the names of chat completions and of responses; some engines send both.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Reported {
    prompt_tokens: Option<u64>,
    input_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    output_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
    input_tokens_details: Option<Details>,
    completion_tokens_details: Option<Details>,
    output_tokens_details: Option<Details>,
}

impl Counts {
    /// Reads a `usage` object, of chat completions or of responses; `None`
    /// for `null` and for anything without prompt tokens.
    pub fn parse(json: &str) -> Option<Counts> {
        let usage: Reported = serde_json::from_str::<Option<Reported>>(json).ok()??;
        let input = usage.prompt_tokens_details.or(usage.input_tokens_details);
        let cached = input.and_then(|details| details.cached_tokens);
        let output = usage
            .completion_tokens_details
            .or(usage.output_tokens_details);
        let reasoning = output.and_then(|details| details.reasoning_tokens);
        let generated = usage.completion_tokens.or(usage.output_tokens);
        Some(Counts {
            input: usage.prompt_tokens.or(usage.input_tokens)?,
            cached: cached.unwrap_or(0),
            output: generated.unwrap_or(0),
            reasoning: reasoning.unwrap_or(0),
        })
    }

    /// A `usage` object of chat completions.
    pub fn to_json(self) -> String {
        serde_json::json!({
            "prompt_tokens": self.input,
            "completion_tokens": self.output,
            "total_tokens": self.input.saturating_add(self.output),
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        })
        .to_string()
    }

    /// The counts as `model` meters them, and whether they had to be lowered
    /// to have a price.
    pub fn to_usage(self, model: &Model) -> (Usage, bool) {
        let most = u64::from(u32::MAX);
        let (input, output) = (self.input.min(most), self.output.min(most));
        let (cached, reasoning) = (self.cached.min(input), self.reasoning.min(output));
        let fitted = Counts {
            input,
            cached,
            output,
            reasoning,
        };
        let mut usage = Usage::default();
        for (i, meter) in model.meters.iter().enumerate().take(MAX_METERS) {
            usage.0[i] = match meter.name.as_str() {
                INPUT => input as u32,
                CACHED_INPUT => cached as u32,
                OUTPUT => output as u32,
                REASONING => reasoning as u32,
                _ => 0,
            };
        }
        (usage, fitted != self)
    }
}

/// The dearest way in which `input` and `output` tokens can be split into
/// cached and reasoning ones, and its cost with `fee`.
pub fn worst_case(model: &Model, input: u32, output: u32, fee: Amount) -> (Usage, Amount) {
    let corners = [(0, 0), (input, 0), (0, output), (input, output)];
    let priced = corners.map(|(cached, reasoning)| {
        let counts = Counts {
            input: input.into(),
            cached: cached.into(),
            output: output.into(),
            reasoning: reasoning.into(),
        };
        let (usage, _) = counts.to_usage(model);
        // Fitted counts have a price in a valid table; the fee is checked
        // where it enters.
        let cost = model.cost(&usage, fee).unwrap_or(Amount(u64::MAX));
        (usage, cost)
    });
    priced
        .into_iter()
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
        .unwrap_or_default()
}

/// The largest output, at most `output`, whose worst case costs at most
/// `budget`; `None` if not even one token of it can be paid.
pub fn payable_output(
    model: &Model,
    input: u32,
    output: u32,
    fee: Amount,
    budget: Amount,
) -> Option<u32> {
    let pays = |tokens: u32| worst_case(model, input, tokens, fee).1 <= budget;
    if output == 0 || !pays(1) {
        return None;
    }
    let (mut good, mut bad) = (1u32, u64::from(output) + 1);
    while bad - u64::from(good) > 1 {
        let middle = good + ((bad - u64::from(good)) / 2) as u32;
        if pays(middle) {
            good = middle;
        } else {
            bad = middle.into();
        }
    }
    Some(good)
}

/// What is known of a prompt before it is dispatched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PromptSize {
    /// Bytes of the JSON that holds text and tools.
    pub bytes: u64,
    /// Messages.
    pub messages: u64,
    /// Pictures, sounds and files.
    pub media: u64,
    /// Tokens that came as numbers; not in `bytes`.
    pub tokens: u64,
}

impl PromptSize {
    /// At least as many tokens as the prompt has; see the module's page.
    pub fn bound(self) -> u32 {
        let around = self.messages * PER_MESSAGE + self.media * PER_MEDIA + PER_MESSAGE;
        let tokens = self.bytes + self.tokens + around;
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }

    /// About as many tokens as the prompt has.
    pub fn likely(self) -> u32 {
        let text = self.bytes.div_ceil(LIKELY_BYTES_PER_TOKEN);
        let tokens = (text + self.tokens).max(1);
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }
}

/// Output counted from a stream that may never report its usage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Deltas that held something; engines send a token or more in each.
    pub deltas: u64,
    /// Bytes of what they held.
    pub bytes: u64,
    /// Of the deltas, those that held reasoning only.
    pub reasoning: u64,
}

impl Counted {
    /// Tokens generated: never more than were, unless tokens average over
    /// [`MOST_BYTES_PER_TOKEN`] bytes.
    pub fn output(self) -> u64 {
        self.deltas.max(self.bytes.div_ceil(MOST_BYTES_PER_TOKEN))
    }
}

/// The usage to charge, and how it is known: reported by the engine at the
/// end, or so far; else counted; else the likely input alone.
pub fn known(
    model: &Model,
    reported: Option<(Counts, bool)>,
    counted: Counted,
    likely: u32,
) -> (Usage, Flags) {
    let (counts, flags) = match reported {
        Some((counts, true)) => (counts, Flags::default()),
        Some((counts, false)) => (counts, Flags::COUNTED),
        None => {
            let counts = Counts {
                input: likely.into(),
                cached: 0,
                output: counted.output(),
                reasoning: counted.reasoning.min(counted.output()),
            };
            let flags = if counts.output > 0 {
                Flags::COUNTED
            } else {
                Flags::ESTIMATED
            };
            (counts, flags)
        }
    };
    let (usage, lowered) = counts.to_usage(model);
    let flags = if lowered {
        flags.with(Flags::ESTIMATED)
    } else {
        flags
    };
    (usage, flags)
}

#[cfg(test)]
pub(crate) mod tests {
    use tally_ledger::{codec::List, ids::ModelNumber, price::Meter};

    use super::*;

    pub(crate) fn model() -> Model {
        let meter = |name: &str, coefficient, subset_of| Meter {
            name: name.into(),
            coefficient,
            subset_of,
        };
        Model {
            number: ModelNumber(1),
            name: "m".into(),
            meters: List::new(vec![
                meter(INPUT, 1_000, None),
                meter(CACHED_INPUT, 250, Some(0)),
                meter(OUTPUT, 4_000, None),
                meter(REASONING, 9_000, Some(2)),
            ])
            .unwrap(),
            weight: 1,
            weight_coefficient: 5_000,
        }
    }

    #[test]
    fn reads_chat_and_responses_usage() {
        let chat = r#"{"prompt_tokens":9,"completion_tokens":7,"total_tokens":16,
            "prompt_tokens_details":{"cached_tokens":4,"audio_tokens":0},
            "completion_tokens_details":{"reasoning_tokens":3}}"#;
        let responses = r#"{"input_tokens":9,"output_tokens":7,
            "input_tokens_details":{"cached_tokens":4},
            "output_tokens_details":{"reasoning_tokens":3}}"#;
        let counts = Counts {
            input: 9,
            cached: 4,
            output: 7,
            reasoning: 3,
        };
        assert_eq!(Counts::parse(chat), Some(counts));
        assert_eq!(Counts::parse(responses), Some(counts));
        let bare = r#"{"prompt_tokens":9,"completion_tokens":7,"prompt_tokens_details":null}"#;
        let plain = Counts {
            cached: 0,
            reasoning: 0,
            ..counts
        };
        assert_eq!(Counts::parse(bare), Some(plain));
        assert_eq!(Counts::parse("null"), None);
        assert_eq!(Counts::parse("{}"), None);
        assert_eq!(Counts::parse(r#"{"prompt_tokens":-1}"#), None);
    }

    #[test]
    fn a_subset_above_its_whole_is_lowered_and_said() {
        let counts = Counts {
            input: 3,
            cached: 9,
            output: u64::MAX,
            reasoning: 1,
        };
        let (usage, lowered) = counts.to_usage(&model());
        assert!(lowered);
        assert_eq!(usage, Usage([3, 3, u32::MAX, 1, 0, 0]));
        assert!(model().cost(&usage, Amount(0)).is_ok());
    }

    #[test]
    fn the_worst_case_is_the_dearest_split_and_lowering_fits_the_budget() {
        let (usage, cost) = worst_case(&model(), 10, 5, Amount(2));
        // All of the output as reasoning, none of the input cached.
        assert_eq!(usage, Usage([10, 0, 5, 5, 0, 0]));
        assert_eq!(cost, Amount(10 + 45 + 5 + 2));
        let payable = |budget| payable_output(&model(), 10, 1000, Amount(0), Amount(budget));
        assert_eq!(payable(23), None);
        assert_eq!(payable(24), Some(1));
        assert_eq!(payable(15 + 9 * 7 + 8), Some(7));
        assert_eq!(payable(u64::MAX), Some(1000));
        assert_eq!(
            payable_output(&model(), 1, u32::MAX, Amount(0), Amount(u64::MAX)),
            Some(u32::MAX)
        );
    }
}
