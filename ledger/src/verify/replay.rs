//! Execution again: the same function that proposer and voters ran, on
//! nothing but the genesis and the stored blocks.

use std::collections::BTreeMap;

use super::{
    Divergence, Field, StoredEntry,
    stored::{between, kind},
};
use crate::{
    action::Action,
    block::{Block, Header},
    debit::Position,
    entry::Entry,
    execute::{BlockError, Execution, SignatureCheck, Tally, compare_roots, outcome_stored},
    genesis::{Genesis, GenesisError},
    hash::Hex,
    ids::{ClassNumber, Height},
    redacted::StoredBlock,
    snapshot::SnapshotError,
    state::{State, genesis_entry},
    transaction::{Author, Body},
    tree::Table,
};

/// What else is stored with a block.
#[derive(Default)]
pub struct Beside<'a> {
    /// The block's entries, those of block 1 behind the genesis's. Compared
    /// one by one; and if the roots differ, these say where.
    pub entries: Option<&'a [StoredEntry<'a>]>,
    /// The state after the block, if somebody kept it. Asked for only if the
    /// state roots differ.
    pub state: Option<&'a dyn Fn() -> Option<State>>,
}

/// The state so far.
#[derive(Debug, Clone)]
pub struct Replay {
    state: State,
    /// Entries of the log that it began with and did not make.
    began_with: u64,
}

impl Replay {
    /// Begins with the genesis.
    pub fn new(genesis: &Genesis) -> Result<Self, GenesisError> {
        let state = State::genesis(genesis)?;
        Ok(Replay {
            state,
            began_with: 0,
        })
    }

    /// Begins with a snapshot of the block with this certified header: then
    /// its state and log roots are what a quorum signed.
    pub fn from_snapshot(
        genesis: &Genesis,
        snapshot: &[u8],
        certified: &Header,
    ) -> Result<Self, Divergence> {
        let height = certified.height;
        let wrong = |error: SnapshotError| {
            Divergence::of_block(
                height,
                Field::Header("snapshot"),
                "a state of this chain",
                error,
            )
        };
        let state = State::from_snapshot(genesis, snapshot).map_err(wrong)?;
        if state.header() != Some(certified) {
            let (expected, found) = (certified.id(), state.block_id());
            let field = Field::Header("snapshot's block");
            return Err(Divergence::of_block(height, field, expected, found));
        }
        let began_with = state.log().size();
        let replay = Replay { state, began_with };
        replay.check_classes()?;
        replay.check_balances()?;
        Ok(replay)
    }

    /// The state after the last block.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Entries that were made again so far.
    pub fn entries(&self) -> u64 {
        self.state.log().size() - self.began_with
    }

    /// Executes the next block; signatures of transactions are checked by
    /// `signatures`. Every field of the header must be what comes out, every
    /// stored entry too, and I1 must hold in every class. Where a detail was
    /// dropped, its debit's cost is taken from what is left and not computed.
    pub fn block(
        &mut self,
        stored_block: &StoredBlock,
        signatures: &dyn SignatureCheck,
        beside: &Beside<'_>,
    ) -> Result<(), Divergence> {
        let block = stored_block.block();
        let header = &block.header;
        let first = self.state.log().size();
        let stored = beside
            .entries
            .map(|stored| self.after_genesis(header, stored));
        let stored = stored.transpose()?;
        let execution = outcome_stored(&self.state, stored_block, signatures)
            .map_err(|error| self.refused(header, error))?;
        if let Err(error) = compare_roots(header, execution.header(), first) {
            return Err(self.differs(block, error, execution, stored, beside));
        }
        if let Some(stored) = stored
            && let Some(wrong) = first_other(block, first, execution.entries(), stored)
        {
            return Err(wrong);
        }
        self.state.commit(execution);
        self.check_classes()
    }

    /// The stored entries behind the genesis's, which block 1 comes with.
    fn after_genesis<'e>(
        &self,
        header: &Header,
        stored: &'e [StoredEntry<'e>],
    ) -> Result<&'e [StoredEntry<'e>], Divergence> {
        if self.state.height() > Height(0) {
            return Ok(stored);
        }
        let genesis = genesis_entry(*self.state.chain());
        match stored.split_first() {
            Some((first, rest)) if first.is(&genesis) => Ok(rest),
            first => {
                let found = first.and_then(|(entry, _)| entry.read());
                let found = found.as_ref().map_or_else(unread, kind);
                let field = Field::Entry {
                    what: "event",
                    index: 0,
                };
                let expected = kind(&genesis);
                Err(Divergence::of_block(header.height, field, expected, found).at_entry(0))
            }
        }
    }

    /// I1 over all accounts: what they hold is what the classes count. Once,
    /// at the end: it looks at every account.
    pub fn check_balances(&self) -> Result<(), Divergence> {
        let mut sums: BTreeMap<ClassNumber, Tally> = BTreeMap::new();
        for account in self.state.accounts() {
            for (class, totals) in &account.totals {
                sums.entry(*class).or_default().add(totals);
            }
        }
        for (number, class) in (0..).map(ClassNumber).zip(self.state.classes()) {
            let mut counted = Tally::default();
            counted.add(&class.totals);
            let held = sums.remove(&number).unwrap_or_default();
            if held != counted {
                let (expected, found) = (format!("{held:?}"), format!("{counted:?}"));
                return Err(self.wrong_totals(number, expected, found));
            }
        }
        Ok(())
    }

    fn check_classes(&self) -> Result<(), Divergence> {
        for (number, class) in (0..).map(ClassNumber).zip(self.state.classes()) {
            if !class.totals.are_conserved() {
                let expected = "issued = the sum of its buckets, costs = spent + loss (I1)";
                return Err(self.wrong_totals(number, expected, format!("{:?}", class.totals)));
            }
        }
        Ok(())
    }

    fn wrong_totals(
        &self,
        class: ClassNumber,
        expected: impl std::fmt::Display,
        found: String,
    ) -> Divergence {
        Divergence::of_block(self.state.height(), Field::Totals(class), expected, found)
    }

    /// The block cannot be executed.
    fn refused(&self, header: &Header, error: BlockError) -> Divergence {
        let of_block = |field, expected: String, found: String| {
            Divergence::of_block(header.height, field, expected, found)
        };
        let parameters = self.state.parameters();
        match error {
            BlockError::Refused { index, id, reason } => of_block(
                Field::Verdict,
                "accepted".into(),
                format!("refused: {reason}"),
            )
            .in_transaction(index, id),
            BlockError::TooLarge(bytes) => {
                let most = format!("at most {}", parameters.max_block_bytes);
                of_block(Field::Bound("bytes of the block"), most, bytes.to_string())
            }
            BlockError::TooManyDebits(debits) => {
                let most = format!("at most {}", parameters.max_block_debits);
                of_block(
                    Field::Bound("debits of the block"),
                    most,
                    debits.to_string(),
                )
            }
            BlockError::Header(name) => {
                let expected = format!("what follows block {}", self.state.height());
                of_block(Field::Header(name), expected, "another".into())
            }
            BlockError::Root { name, header, made } => {
                of_block(Field::Header(name), made.to_string(), header.to_string())
            }
            BlockError::LogSize { header, made, .. } => of_block(
                Field::Header("log size"),
                made.to_string(),
                header.to_string(),
            ),
            BlockError::LogRoot { header, made, .. } => of_block(
                Field::Header("log root"),
                made.to_string(),
                header.to_string(),
            ),
        }
    }

    /// The block was executed and comes to other roots: the first entry or
    /// leaf that differs, if what is stored beside can tell.
    fn differs(
        &self,
        block: &Block,
        error: BlockError,
        execution: Execution,
        stored: Option<&[StoredEntry<'_>]>,
        beside: &Beside<'_>,
    ) -> Divergence {
        let header = &block.header;
        let first = self.state.log().size();
        let known = match error {
            BlockError::LogSize { .. } | BlockError::LogRoot { .. } => stored
                .filter(|stored| self.is_certified(header, stored))
                .and_then(|stored| first_other(block, first, execution.entries(), stored)),
            BlockError::Root {
                name: "state root", ..
            } => beside
                .state
                .and_then(|read| read())
                .filter(|state| state.header() == Some(header))
                .and_then(|state| self.first_leaf(header.height, execution, &state)),
            _ => None,
        };
        known.unwrap_or_else(|| self.refused(header, error))
    }

    /// Whether stored entries lead to the header's log root.
    fn is_certified(&self, header: &Header, stored: &[StoredEntry<'_>]) -> bool {
        let mut log = self.state.log().clone();
        stored
            .iter()
            .for_each(|entry| log.append(entry.leaf_hash()));
        (log.size(), log.root()) == (header.log_size, header.log_root)
    }

    /// The first leaf of the state that differs from the one that was kept.
    fn first_leaf(&self, height: Height, execution: Execution, kept: &State) -> Option<Divergence> {
        let mut made = self.state.clone();
        made.commit(execution);
        let leaf = |state: &State, table, number| {
            (number < state.size(table)).then(|| state.leaves.encode(table, number))
        };
        Table::ALL.into_iter().find_map(|table| {
            let numbers = 0..made.size(table).max(kept.size(table));
            let mut numbers = numbers.map(|number| {
                let both = (leaf(&made, table, number), leaf(kept, table, number));
                (number, both)
            });
            let (number, (own, other)) = numbers.find(|(_, (own, other))| own != other)?;
            let show = |leaf: Option<Vec<u8>>| {
                leaf.map_or_else(|| "no such leaf".into(), |leaf| Hex(&leaf).to_string())
            };
            let field = Field::Leaf(table, number);
            Some(Divergence::of_block(height, field, show(own), show(other)))
        })
    }
}

/// The first entry in which execution and the stored log differ.
fn first_other(
    block: &Block,
    first: u64,
    made: &[Entry],
    stored: &[StoredEntry<'_>],
) -> Option<Divergence> {
    let same = made
        .iter()
        .zip(stored)
        .take_while(|(entry, stored)| stored.is(entry));
    let at = same.count();
    let index = first + at as u64;
    let (what, expected, found) = match (made.get(at), stored.get(at)) {
        (None, None) => return None,
        (Some(entry), None) => ("kind", kind(entry), "no entry".to_owned()),
        (made, Some(stored)) => match (made, stored.read()) {
            (None, found) => (
                "kind",
                "no entry".to_owned(),
                found.as_ref().map_or_else(unread, kind),
            ),
            (Some(entry), None) => ("leaf", kind(entry), unread()),
            (Some(entry), Some(found)) => between(entry, &found).unwrap_or_default(),
        },
    };
    Some(locate(block, made.get(at), index, what, expected, found))
}

fn unread() -> String {
    "bytes that are none".to_owned()
}

/// Names the transaction and, of a receipt, the debit behind an entry.
fn locate(
    block: &Block,
    entry: Option<&Entry>,
    index: u64,
    what: &'static str,
    expected: String,
    found: String,
) -> Divergence {
    let place = match entry {
        Some(Entry::Receipt(receipt)) => debit_at(block, &receipt.position),
        Some(Entry::Event(_, event)) => event.transaction().and_then(|id| {
            let at = block.transactions.iter().position(|t| t.id() == *id)?;
            Some((at, None))
        }),
        None => None,
    };
    let field = match place {
        Some((transaction, Some(debit))) => Field::Debit {
            what,
            debit,
            transaction,
        },
        _ => Field::Entry { what, index },
    };
    let wrong = Divergence::of_block(block.header.height, field, expected, found).at_entry(index);
    match place {
        Some((at, _)) => wrong.in_transaction(at, block.transactions[at].id()),
        None => wrong,
    }
}

/// Which transaction of a block carries a debit, and which one of its batch
/// it is.
fn debit_at(block: &Block, position: &Position) -> Option<(usize, Option<u64>)> {
    block
        .transactions
        .iter()
        .enumerate()
        .find_map(|(at, transaction)| {
            let body = Body::decode(&transaction.body).ok()?;
            let Action::Debits(debits) = body.action else {
                return None;
            };
            let debit = position.number.0.checked_sub(debits.first.0)?;
            let own = body.author == Author::from(position.gateway)
                && debits.journal == position.journal
                && debit < u64::from(debits.count);
            own.then_some((at, Some(debit)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        execute::{Strict, build},
        ids::Time,
    };

    /// The genesis of the golden vectors.
    fn genesis() -> Genesis {
        let vectors = include_str!("../../vectors/genesis.json");
        let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
        let digits = vectors["encoding"].as_str().unwrap().as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
        let bytes: Vec<u8> = digits.chunks(2).map(byte).collect();
        crate::codec::decode(&bytes, bytes.len()).unwrap()
    }

    /// A block without transactions, and the state after it with `change`
    /// made to the leaves; the header says so.
    fn forged(
        genesis: &Genesis,
        change: impl FnOnce(&mut crate::state::Leaves),
    ) -> (StoredBlock, State) {
        let state = State::genesis(genesis).unwrap();
        let time = Time(state.time().0 + 1);
        let none: [crate::transaction::Transaction; 0] = [];
        let built = build(&state, time, 0, none, &Strict);
        let (mut block, mut after) = (built.block, state.clone());
        after.commit(built.execution);
        let mut leaves = after.leaves.clone();
        change(&mut leaves);
        let mut kept = State::assemble(*state.chain(), genesis.time, None, after.log, leaves);
        block.header.state_root = kept.state_root();
        kept.header = Some(block.header);
        (StoredBlock::Whole(block), kept)
    }

    #[test]
    fn the_leaf_that_differs_is_named_if_the_state_was_kept() {
        let genesis = genesis();
        let (block, kept) = forged(&genesis, |leaves| leaves.classes[1].period += 1);
        let mut replay = Replay::new(&genesis).unwrap();
        let wrong = replay.block(&block, &Strict, &Beside::default());
        assert_eq!(wrong.unwrap_err().field, Field::Header("state root"));
        let read = || Some(kept.clone());
        let beside = Beside {
            state: Some(&read),
            entries: None,
        };
        let wrong = replay.block(&block, &Strict, &beside).unwrap_err();
        assert_eq!(wrong.field, Field::Leaf(Table::Classes, 1));
        assert_eq!(wrong.field.to_string(), "Classes 1 in the state");
        // A state of another block says nothing.
        let mut other = kept.clone();
        other.header = None;
        let read = || Some(other.clone());
        let beside = Beside {
            state: Some(&read),
            entries: None,
        };
        let wrong = replay.block(&block, &Strict, &beside).unwrap_err();
        assert_eq!(wrong.field, Field::Header("state root"));
    }

    #[test]
    fn totals_that_do_not_add_up_are_named() {
        let genesis = genesis();
        let of = |change: fn(&mut crate::class::Totals)| {
            let (block, kept) = forged(&genesis, |leaves| change(&mut leaves.classes[1].totals));
            let wrong = Replay::from_snapshot(&genesis, &kept.snapshot(), &block.block().header);
            wrong.unwrap_err()
        };
        let wrong = of(|totals| totals.issued.0 += 1);
        assert_eq!(wrong.field, Field::Totals(ClassNumber(1)));
        assert!(wrong.expected.contains("(I1)"), "{wrong}");
        // They add up, and no account has them.
        let wrong = of(|totals| {
            totals.issued.0 += 1;
            totals.available.0 += 1;
        });
        assert_eq!(wrong.field, Field::Totals(ClassNumber(1)));
        assert!(wrong.expected.starts_with("Tally"), "{wrong}");
    }
}
