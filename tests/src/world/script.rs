//! Scripts: what proptest makes, shrinks and prints. Words only; what they
//! mean depends on the world in which they are played.

use std::fmt;

use proptest::{collection::vec, prelude::*};

/// One transaction to be written.
#[derive(Clone)]
pub struct Op {
    /// Which action, by weight.
    pub kind: u8,
    /// Honest below 192; above, something may be wrong with it.
    pub mood: u8,
    /// All further choices.
    pub words: [u32; 5],
}

impl fmt::Debug for Op {
    /// On one line, as it can be pasted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Op { kind, mood, words } = self;
        let words = words.map(|word| word.to_string()).join(", ");
        write!(f, "Op {{ kind: {kind}, mood: {mood}, words: [{words}] }}")
    }
}

/// One block to be made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How long after the one before.
    pub wait: (u8, u32),
    /// Its candidates.
    pub ops: Vec<Op>,
    /// What else to check after it.
    pub checks: u8,
}

/// A world and what happens in it.
#[derive(Debug, Clone)]
pub struct Script {
    /// Choices of the genesis.
    pub genesis: [u32; 4],
    /// The blocks.
    pub blocks: Vec<Plan>,
}

fn op(kinds: impl Strategy<Value = u8>) -> impl Strategy<Value = Op> {
    (kinds, any::<u8>(), any::<[u32; 5]>()).prop_map(|(kind, mood, words)| Op { kind, mood, words })
}

fn played(
    blocks: usize,
    transactions: usize,
    kinds: impl Strategy<Value = u8>,
) -> impl Strategy<Value = Script> {
    let ops = vec(op(kinds), 0..=transactions);
    let plan = (any::<(u8, u32)>(), ops, any::<u8>()).prop_map(|(wait, ops, checks)| Plan {
        wait,
        ops,
        checks,
    });
    let plans = vec(plan, blocks / 2..=blocks);
    (any::<[u32; 4]>(), plans).prop_map(|(genesis, blocks)| Script { genesis, blocks })
}

/// Scripts of so many blocks with at most so many transactions each.
pub fn scripts(blocks: usize, transactions: usize) -> impl Strategy<Value = Script> {
    played(blocks, transactions, any::<u8>())
}

/// The same, with little but issues, leases, debits, journals and stops: all
/// want the same few accounts' tokens.
pub fn contended(blocks: usize, transactions: usize) -> impl Strategy<Value = Script> {
    let kinds = prop_oneof![
        2 => 5..=23u8,
        1 => 24..=31u8,
        1 => 40..=45u8,
        1 => 46..=91u8,
        8 => 92..=150u8,
        2 => 151..=165u8,
        8 => 166..=230u8,
        1 => 239..=248u8,
    ];
    played(blocks, transactions, kinds)
}
