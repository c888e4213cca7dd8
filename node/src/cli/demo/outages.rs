//! Which validators of the demo run. One may be ended by hand and started
//! again, which is said once each; the demo ends only when too few are left
//! for a block to be final.

use std::{process::ExitStatus, time::Duration};

use tokio::time::timeout;

use super::world::World;
use crate::cli::{client::NodeArg, status};

/// How long a validator that was started by hand may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How often it may not, before it counts as ended.
const MISSES: u8 = 2;

/// What is known of a validator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sign {
    /// Its process is a child of this one, and runs.
    Child,
    /// Its process has ended, and another answers at this height.
    Answers(u64),
    /// Its process has ended, so, and no other answers.
    Gone(String),
}

/// What was said so far.
#[derive(Debug)]
pub(crate) struct Outages {
    /// Per validator, how often in a row it was gone.
    misses: Vec<u8>,
    /// Per validator, whether it is said to have ended.
    down: Vec<bool>,
    /// Per validator, whether somebody else started it.
    by_hand: Vec<bool>,
}

impl Outages {
    /// All run.
    pub(crate) fn new(validators: usize) -> Self {
        Outages {
            misses: vec![0; validators],
            down: vec![false; validators],
            by_hand: vec![false; validators],
        }
    }

    /// Looks at all validators; what there is to say, and an error when too
    /// few are left.
    pub(crate) async fn look(&mut self, world: &mut World) -> anyhow::Result<Vec<String>> {
        let ended = (0..world.validators()).map(|i| Ok((world.node(i), world.ended(i)?)));
        let ended: Vec<_> = ended.collect::<anyhow::Result<_>>()?;
        let signs = ended.into_iter().map(|(node, ended)| sign(node, ended));
        let signs = futures::future::join_all(signs).await;
        let mut said = Vec::new();
        for (i, sign) in signs.iter().enumerate() {
            let home = world.net.home(i).folder().display().to_string();
            said.extend(self.take(i, sign, &home));
        }
        self.enough()?;
        Ok(said)
    }

    /// Takes in what is known of one; what there is to say about it.
    fn take(&mut self, i: usize, sign: &Sign, home: &str) -> Option<String> {
        let why = match sign {
            Sign::Child => return None,
            Sign::Answers(height) => {
                self.misses[i] = 0;
                self.by_hand[i] = true;
                let was_down = std::mem::take(&mut self.down[i]);
                return was_down.then(|| format!("validator {i} is back, at height {height}\n"));
            }
            Sign::Gone(why) => why,
        };
        // A child's end is certain; the other's silence may be load.
        self.misses[i] = self.misses[i].saturating_add(1);
        let gone = !self.by_hand[i] || self.misses[i] >= MISSES;
        if self.down[i] || !gone {
            return None;
        }
        self.down[i] = true;
        Some(format!(
            "validator {i} has ended ({why}); with {} of {} the chain goes on; to start it again: \
             tally node --home {home}\n",
            self.running(),
            self.down.len()
        ))
    }

    fn running(&self) -> usize {
        self.down.iter().filter(|down| !**down).count()
    }

    /// An error when no block can become final any more.
    fn enough(&self) -> anyhow::Result<()> {
        let (all, running) = (self.down.len(), self.running());
        let needed = all * 2 / 3 + 1;
        if running >= needed {
            return Ok(());
        }
        let gone = (0..all).filter(|i| self.down[*i]);
        let gone: Vec<String> = gone.map(|i| i.to_string()).collect();
        anyhow::bail!(
            "validators {} have ended: {needed} of {all} are needed for a block to be final, so \
             the demo ends",
            gone.join(" and ")
        )
    }

    /// Validators that somebody else started and that run on.
    pub(crate) fn left(&self) -> impl Iterator<Item = usize> {
        (0..self.down.len()).filter(|i| self.by_hand[*i] && !self.down[*i])
    }
}

/// What is known of a validator whose process has ended or not.
async fn sign(node: NodeArg, ended: Option<ExitStatus>) -> Sign {
    let Some(status) = ended else {
        return Sign::Child;
    };
    match timeout(ANSWER, status::ask(&node)).await {
        Ok(Ok(answer)) => Sign::Answers(answer.height),
        _ => Sign::Gone(status.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone() -> Sign {
        Sign::Gone("signal: 9".to_owned())
    }

    #[test]
    fn each_end_and_each_return_is_said_once() {
        let mut outages = Outages::new(4);
        assert_eq!(outages.take(2, &Sign::Child, "v2"), None);
        let said = outages.take(2, &gone(), "v2").unwrap();
        assert!(
            said.contains("with 3 of 4") && said.contains("--home v2"),
            "{said}"
        );
        assert_eq!(outages.take(2, &gone(), "v2"), None);
        outages.enough().unwrap();
        let back = outages.take(2, &Sign::Answers(7), "v2").unwrap();
        assert_eq!(back, "validator 2 is back, at height 7\n");
        assert_eq!(outages.take(2, &Sign::Answers(8), "v2"), None);
        assert_eq!(outages.left().collect::<Vec<_>>(), [2]);
        // Once by hand, a single silence is not its end.
        assert_eq!(outages.take(2, &gone(), "v2"), None);
        assert_eq!(outages.take(2, &Sign::Answers(9), "v2"), None);
        assert_eq!(outages.take(2, &gone(), "v2"), None);
        assert!(outages.take(2, &gone(), "v2").is_some());
        assert_eq!(outages.left().count(), 0);
    }

    #[test]
    fn without_a_quorum_it_ends() {
        let mut outages = Outages::new(4);
        outages.take(0, &gone(), "v0");
        outages.enough().unwrap();
        outages.take(3, &gone(), "v3");
        let error = outages.enough().unwrap_err().to_string();
        assert!(
            error.contains("validators 0 and 3") && error.contains("3 of 4"),
            "{error}"
        );
    }
}
