//! What is killed, when, and for how long: all from a seed.

use std::time::Duration;

use rand::{Rng, seq::index::sample};

/// Validators of the net.
const VALIDATORS: usize = 4;
/// Strikes of a round.
const STRIKES: usize = 3;

/// Processes that are killed at the same moment.
#[derive(Debug, Clone)]
pub(crate) struct Strike {
    /// How long after the round's begin, or after the last restart.
    pub(crate) after: Duration,
    /// Which validators; two are one too many for a quorum.
    pub(crate) validators: Vec<usize>,
    /// Whether the gateway too.
    pub(crate) gateway: bool,
    /// How long they are gone.
    pub(crate) down: Duration,
    /// Whether the gateway comes back before the validators.
    pub(crate) gateway_first: bool,
}

fn between(rng: &mut impl Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.gen_range(from..=to))
}

impl Strike {
    fn random(rng: &mut impl Rng) -> Self {
        // One of: 0 validators and the gateway, 1 or 2 without, 1 or 2 with it.
        let (validators, gateway) = match rng.gen_range(0..5) {
            0 => (0, true),
            1 => (1, false),
            2 => (2, false),
            3 => (1, true),
            _ => (2, true),
        };
        Strike {
            after: between(rng, 200, 2_000),
            validators: sample(rng, VALIDATORS, validators).into_vec(),
            gateway,
            down: between(rng, 0, 1_500),
            gateway_first: rng.gen_bool(0.5),
        }
    }

    /// How many processes it kills.
    pub(crate) fn kills(&self) -> usize {
        self.validators.len() + usize::from(self.gateway)
    }
}

/// The strikes of one round.
pub(crate) fn round(rng: &mut impl Rng) -> Vec<Strike> {
    (0..STRIKES).map(|_| Strike::random(rng)).collect()
}
