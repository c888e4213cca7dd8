//! What is checked after every block, and of a whole chain.

use tally_ledger::{
    block::Block,
    entry::{Entry, Receipt},
    execute::{self, BlockError},
    hash::Hash,
    ids::Time,
    merkle,
    reason::{Reason, Retry},
    redacted::StoredBlock,
    state::State,
    state_proof::StateProof,
    transaction::{Body, Transaction},
    tree::Table,
};

use super::{
    World,
    sent::{Candidate, Verdict},
};
use crate::{compare, rfc9162};

impl World {
    /// A leaf of the state is proven under the block's state root, and the
    /// absence of one past the end of its table.
    pub(super) fn check_proof(&self, checks: u8) {
        let root = self.blocks.last().unwrap().header.state_root;
        assert_eq!(root, self.state.state_root(), "I9: the root is the state's");
        let table = Table::try_from(1 + checks % 11).unwrap();
        let size = self.state.size(table);
        for number in [0, size / 2, size.saturating_sub(1), size, u32::MAX] {
            let proof = self.state.prove(table, number);
            let bytes = proof.encode();
            let proof = StateProof::decode(&bytes).unwrap();
            let leaf = proof.verify(&root).unwrap();
            assert_eq!(leaf.is_some(), number < size, "{table:?} {number}");
            let other = Hash(root.0.map(|byte| !byte));
            assert!(proof.verify(&other).is_err());
        }
    }

    /// The replica checks the block; now and then it starts from a snapshot.
    pub(super) fn follow(&mut self, checks: u8) {
        if checks % 5 == 1 {
            let snapshot = self.replica.snapshot();
            assert_eq!(snapshot, self.replica.snapshot(), "I6: snapshots are equal");
            self.replica = State::from_snapshot(&self.genesis, &snapshot).unwrap();
        }
        let block = self.blocks.last().unwrap();
        let execution = execute::check(&self.replica, block, &self.memo)
            .unwrap_or_else(|error| panic!("I6: the replica rejects the block: {error}"));
        self.replica.commit(execution);
        assert_eq!(self.replica.state_root(), self.state.state_root(), "I6");
        assert_eq!(self.replica.next_due(), self.state.next_due(), "I6: due");
    }

    pub(super) fn compare(&self) {
        for (number, hash) in &self.journals {
            let found = self.state.gateways()[*number as usize].journal_hash;
            assert_eq!(found, *hash, "I8: journal of gateway {number}");
        }
        self.oracle.check_invariants();
        compare::log(&self.oracle, &self.entries);
        compare::states(&self.oracle, &self.state);
        compare::soulbound(&self.entries, &self.state);
    }

    pub(super) fn compare_verdicts(&mut self, candidates: &[Candidate], built: &execute::Built) {
        let mut taken = built.block.transactions.iter();
        let mut refused = built.refused.iter();
        for (n, (transaction, verdict)) in candidates.iter().enumerate() {
            let shown = || match Body::decode(&transaction.body) {
                Ok(body) => format!("candidate {n}: {body:?}"),
                Err(_) => format!("candidate {n}: not a body"),
            };
            let bytes = transaction.encode();
            if let Verdict::Accepted = verdict {
                let final_before = self.finals.get(&bytes);
                assert_eq!(final_before, None, "refused for good before: {}", shown());
                let next = refused.clone().next();
                let same = taken.next() == Some(transaction);
                assert!(same, "only the ledger refuses, {next:?}: {}", shown());
                continue;
            }
            let (id, reason) = refused
                .next()
                .unwrap_or_else(|| panic!("{}: only the oracle refuses", shown()));
            assert_eq!(*id, transaction.id(), "{}: not refused", shown());
            *self.coverage.refused.entry(*reason).or_default() += 1;
            if reason.retry() == Retry::Never {
                self.finals.insert(bytes, *reason);
            }
            if let Verdict::Refused(faults) = verdict {
                assert!(
                    faults.contains(reason),
                    "{}: refused for {reason}, expected one of {faults:?}",
                    shown()
                );
            }
        }
        assert_eq!(refused.next(), None);
        assert_eq!(taken.next(), None);
    }

    /// What is admitted is what a block takes: of each block's first
    /// transaction the oracle tells, of another one the builder.
    pub(super) fn check_admission(&self, time: u64, candidates: &[Candidate], checks: u8) {
        let Some((first, verdict)) = candidates.first() else {
            return;
        };
        let taken = self.admitted_as_built(time, first);
        match verdict {
            Verdict::Accepted => assert_eq!(taken, Ok(())),
            Verdict::Broken => assert!(taken.is_err()),
            Verdict::Refused(faults) => {
                let reason = taken.unwrap_err();
                assert!(faults.contains(&reason), "{reason}, not of {faults:?}");
            }
        }
        let (another, _) = &candidates[usize::from(checks) % candidates.len()];
        let _ = self.admitted_as_built(time, another);
    }

    /// Admission and a block of this one say the same on one state, but of
    /// what is ahead of its number: that waits for those between. What the
    /// block says.
    fn admitted_as_built(&self, time: u64, transaction: &Transaction) -> Result<(), Reason> {
        let admitted = execute::admit(&self.state, Time(time), transaction, &self.memo);
        let built = execute::build(&self.state, Time(time), 0, [transaction], &self.memo);
        let refused = built.refused.first().map(|(_, reason)| *reason);
        let taken = refused.map_or(Ok(transaction.id()), Err);
        let ahead = [Reason::LeaseNotNext, Reason::DebitNotNext];
        if !refused.is_some_and(|reason| ahead.contains(&reason)) {
            assert_eq!(admitted, taken, "admitted, and taken by a block");
        }
        taken.map(|_| ())
    }

    /// I9: a block with a refused transaction, with one left out, or with
    /// another header is invalid.
    pub(super) fn check_tampering(&self, checks: u8, candidates: &[Candidate], block: &Block) {
        let refuses = |block: &Block| execute::check(&self.state, block, &self.memo).unwrap_err();
        let mut other = block.clone();
        match checks / 32 {
            0 => {
                let bad = candidates
                    .iter()
                    .find(|(_, verdict)| !matches!(verdict, Verdict::Accepted));
                let Some((transaction, _)) = bad else { return };
                other.transactions.push(transaction.clone());
                let leaves: Vec<Hash> = (other.transactions.iter())
                    .map(|transaction| rfc9162::leaf(&transaction.leaf()))
                    .collect();
                other.header.transactions_root = rfc9162::root(&leaves);
                refuses(&other);
            }
            1 if other.transactions.pop().is_some() => {
                refuses(&other);
            }
            2 => {
                other.header.state_root.0[0] ^= 1;
                let name = "state root";
                assert!(matches!(refuses(&other), BlockError::Root { name: n, .. } if n == name));
            }
            3 => {
                other.header.log_root.0[0] ^= 1;
                assert!(matches!(refuses(&other), BlockError::LogRoot { .. }));
            }
            4 => {
                other.header.time = self.state.time();
                refuses(&other);
            }
            _ => {}
        }
    }

    /// I6: the blocks, as bytes, give the same roots from the genesis on.
    pub fn replay(&self) {
        let mut state = State::genesis(&self.genesis).unwrap();
        let mut entries = vec![self.entries[0].clone()];
        for block in &self.blocks {
            let bytes = block.encode();
            let read = Block::decode(&bytes, bytes.len()).unwrap();
            assert_eq!(&read, block);
            let execution = execute::check(&state, &read, &self.memo).unwrap();
            entries.extend(state.commit(execution));
        }
        assert_eq!(state.state_root(), self.state.state_root(), "I6");
        assert_eq!(state.snapshot(), self.state.snapshot(), "I6");
        assert_eq!(entries, self.entries, "I6");
    }

    /// I6: so do blocks that lost the details of some of their debits, and
    /// later those of all; what is left proves what it proved.
    pub fn replay_redacted(&self) {
        for share in [3, 1] {
            let mut state = State::genesis(&self.genesis).unwrap();
            let mut entries = vec![self.entries[0].clone()];
            for block in &self.blocks {
                let stored = StoredBlock::Whole(block.clone());
                let (from, to) = (entries.len(), block.header.log_size as usize);
                let receipts = || {
                    let entries = self.entries[from..to].iter();
                    entries.filter_map(|entry| match entry {
                        Entry::Receipt(receipt) => Some(receipt),
                        Entry::Event(..) => None,
                    })
                };
                let some = |receipt: &Receipt| receipt.entry.is_multiple_of(3);
                let left = stored.redact(receipts(), some).unwrap();
                let some = left.as_ref().map_or(0, |(_, count)| *count);
                assert_eq!(
                    some as usize,
                    receipts().filter(|r| r.entry.is_multiple_of(3)).count()
                );
                let mut left = left.map_or(stored, |(block, _)| StoredBlock::Redacted(block));
                if share == 1 {
                    let all = left.redact(receipts(), |_| true).unwrap();
                    let rest = all.as_ref().map_or(0, |(_, count)| *count);
                    assert_eq!((some + rest) as usize, receipts().count());
                    left = all.map_or(left, |(block, _)| StoredBlock::Redacted(block));
                }
                let bytes = left.encode();
                assert_eq!(StoredBlock::header_of(&bytes), Ok(block.header));
                let read = StoredBlock::decode(&bytes, bytes.len()).unwrap();
                assert_eq!(read, left);
                assert!(read.is_whole());
                let execution = execute::check_stored(&state, &read, &self.memo).unwrap();
                entries.extend(state.commit(execution));
            }
            assert_eq!(state.snapshot(), self.state.snapshot(), "I6");
            assert_eq!(entries, self.entries, "I6");
        }
    }

    /// I7: the log's roots are those of RFC 9162, and any two are consistent.
    pub fn check_log(&self) {
        let levels = merkle::Levels::of(self.leaves.iter().copied());
        let step = 1 + self.roots.len() / 12;
        let some: Vec<&(u64, Hash)> = self.roots.iter().step_by(step).collect();
        for (i, (old, old_root)) in some.iter().enumerate() {
            let before = &self.leaves[..*old as usize];
            assert_eq!(rfc9162::root(before), *old_root, "I7: root at {old}");
            for (new, new_root) in &some[i..] {
                let path = levels.consistency(*old, *new).unwrap();
                let leaves = &self.leaves[..*new as usize];
                assert_eq!(path, rfc9162::consistency(*old as usize, leaves), "I7");
                let holds = merkle::verify_consistency(*old, *new, old_root, new_root, &path);
                assert!(holds, "I7: {old} and {new}");
                let mut forged = *old_root;
                forged.0[0] ^= 1;
                let holds = merkle::verify_consistency(*old, *new, &forged, new_root, &path);
                assert!(!holds, "I7: another history of {old}");
            }
        }
    }
}
