//! Worlds: the real ledger and the oracle side by side, and the people and
//! gateways who write transactions for both.
//!
//! A script's words become transactions that know the world as the oracle
//! sees it: most are valid, some nearly, some hostile. The oracle runs each
//! at once; then the ledger builds the block from all of them, must accept
//! and refuse the same ones for the same reasons, and must be in the same
//! state afterwards.

mod dice;
mod draft;
mod gateways;
mod genesis;
mod governors;
mod people;
mod script;

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
};

use tally_ledger::{
    block::Block,
    codec::List,
    crypto::{ChainId, Domain, PublicKey, SecretKey, Signature},
    entry::Entry,
    execute::{self, BlockError, SignatureCheck, Strict},
    genesis::Genesis,
    hash::Hash,
    ids::{DAY_MS, HOUR_MS, Time},
    merkle,
    reason::{Reason, Retry},
    state::State,
    transaction::{
        Author, AuthorKind, BODY_VERSION, Body, Transaction, signing_domain, transaction_id,
    },
};

use crate::{
    compare,
    oracle::{LogEntry, Oracle, Payload, Refusal, Request},
    rfc9162,
};
use draft::Draft;

pub use dice::Dice;
pub use people::leaf_bytes;
pub use script::{Op, Plan, Script, scripts};

/// Longest jump to a due step.
const LONGEST_JUMP: u64 = 40 * DAY_MS;

/// All secrets of a world, by public half.
#[derive(Default)]
pub struct KeyRing {
    made: u64,
    secrets: HashMap<PublicKey, SecretKey>,
}

type Checked = (PublicKey, &'static str, Vec<u8>, Signature);

/// Remembers what strict verification said about exactly these inputs.
#[derive(Default)]
struct Memo(RefCell<HashMap<Checked, bool>>);

impl SignatureCheck for Memo {
    fn verify(
        &self,
        key: &PublicKey,
        domain: Domain,
        chain: &ChainId,
        bytes: &[u8],
        signature: &Signature,
    ) -> bool {
        let asked = (*key, domain.name(), bytes.to_vec(), *signature);
        *(self.0.borrow_mut().entry(asked))
            .or_insert_with(|| Strict.verify(key, domain, chain, bytes, signature))
    }
}

/// A transaction as sent, and what is true of it.
#[derive(Clone)]
struct Sent {
    transaction: Transaction,
    request: Request,
    signed_by: Vec<Option<PublicKey>>,
    spoiled: bool,
    proof_log: Option<u64>,
}

/// What the oracle says of a candidate.
enum Verdict {
    Accepted,
    Refused(Vec<Reason>),
    /// Broken bytes: refused, for whatever reason is met first.
    Broken,
}

type Candidate = (Transaction, Verdict);

/// How often what happened, to see that scripts reach it.
#[derive(Debug, Default)]
pub struct Coverage {
    /// Accepted, by action.
    pub accepted: BTreeMap<String, usize>,
    /// Refused, by the ledger's reason.
    pub refused: BTreeMap<Reason, usize>,
}

/// The real ledger and the oracle side by side.
pub struct World {
    /// Where both start.
    pub genesis: Genesis,
    /// The naive ledger.
    pub oracle: Oracle,
    /// The real one, as a proposer runs it.
    pub state: State,
    /// Another one, which only checks blocks and is now and then restored
    /// from a snapshot.
    pub replica: State,
    /// What was reached.
    pub coverage: Coverage,
    chain: ChainId,
    ring: KeyRing,
    memo: Memo,
    ids_made: u64,
    entries: Vec<Entry>,
    leaves: Vec<Hash>,
    blocks: Vec<Block>,
    roots: Vec<(u64, Hash)>,
    sent: Vec<Sent>,
    /// Refused for a reason that says so for good.
    finals: HashMap<Vec<u8>, Reason>,
}

impl World {
    /// A world with a few accounts, keys, journals and grants.
    pub fn new(words: &[u32]) -> Self {
        let mut ring = KeyRing::default();
        let mut dice = Dice::new(words);
        let genesis = genesis::genesis(&mut dice, &mut ring);
        let state = State::genesis(&genesis).unwrap();
        let first = tally_ledger::state::genesis_entry(genesis.chain());
        let leaves = vec![rfc9162::leaf(&leaf_bytes(&first))];
        let mut world = World {
            oracle: Oracle::new(&genesis),
            replica: State::genesis(&genesis).unwrap(),
            coverage: Coverage::default(),
            chain: genesis.chain(),
            memo: Memo::default(),
            ids_made: 0,
            entries: vec![first],
            roots: vec![(1, rfc9162::root(&leaves))],
            leaves,
            blocks: Vec::new(),
            sent: Vec::new(),
            finals: HashMap::new(),
            genesis,
            state,
            ring,
        };
        world.compare();
        let mut op = |kind: u8| Op {
            kind,
            mood: 0,
            words: std::array::from_fn(|_| dice.word()),
        };
        for kinds in [
            vec![0, 0, 0],
            vec![24, 24, 24, 40, 40, 40, 8, 8, 8, 8, 8, 8],
        ] {
            let plan = Plan {
                wait: (15, 1),
                ops: kinds.into_iter().map(&mut op).collect(),
                checks: 0,
            };
            world.block(&plan);
        }
        world
    }

    /// Plays a whole script and checks the chain as a whole afterwards.
    pub fn play(script: &Script) -> World {
        let mut world = World::new(&script.genesis);
        for plan in &script.blocks {
            world.block(plan);
        }
        world.replay();
        world.check_log();
        world
    }

    /// Makes a block in both ledgers and compares them.
    pub fn block(&mut self, plan: &Plan) {
        let time = self.next_time(plan.wait);
        self.oracle.begin_block(time);
        let candidates = plan.ops.iter().map(|op| self.candidate(op)).collect();
        self.finish(time, candidates, plan.checks);
    }

    /// The ledger's part of a block, and all comparisons. Gives the log's
    /// new facts.
    fn finish(&mut self, time: u64, candidates: Vec<Candidate>, checks: u8) -> Vec<LogEntry> {
        self.oracle.end_block();
        let transactions = candidates.iter().map(|(transaction, _)| transaction);
        let built = execute::build(
            &self.state,
            Time(time),
            (checks % 4).into(),
            transactions,
            &self.memo,
        );
        self.compare_verdicts(&candidates, &built);
        self.check_admission(time, candidates.first());
        self.check_tampering(checks, &candidates, &built.block);

        let same = execute::check(&self.state, &built.block, &self.memo).unwrap();
        assert_eq!(
            same.header(),
            built.execution.header(),
            "I9: build is check"
        );
        let hashes = built.execution.leaf_hashes().to_vec();
        let entries = self.state.commit(built.execution);
        let leaves: Vec<Hash> = (entries.iter())
            .map(|entry| rfc9162::leaf(&leaf_bytes(entry)))
            .collect();
        assert_eq!(leaves, hashes, "leaf hashes are those of the leaves");
        self.leaves.extend(leaves);
        self.entries.extend(entries);
        self.roots
            .push((self.leaves.len() as u64, built.block.header.log_root));
        self.blocks.push(built.block);
        self.follow(checks);
        self.compare();
        self.oracle.log[self.oracle.parent_log as usize..].to_vec()
    }

    /// The replica checks the block; now and then it starts from a snapshot.
    fn follow(&mut self, checks: u8) {
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

    fn compare(&self) {
        self.oracle.check_invariants();
        compare::log(&self.oracle, &self.entries);
        compare::states(&self.oracle, &self.state);
        compare::soulbound(&self.entries, &self.state);
    }

    fn compare_verdicts(&mut self, candidates: &[Candidate], built: &execute::Built) {
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

    /// What is valid first in the block is admitted, and what cannot be
    /// signed by its author never is.
    fn check_admission(&self, time: u64, first: Option<&Candidate>) {
        let Some((transaction, verdict)) = first else {
            return;
        };
        let answer = execute::admit(&self.state, Time(time), transaction, &self.memo);
        match verdict {
            // Admission does not run the next block's due steps: it may be
            // wrong, but never for good.
            Verdict::Accepted => match answer {
                Ok(id) => assert_eq!(id, transaction.id()),
                Err(reason) => assert_ne!(reason.retry(), Retry::Never, "{reason}"),
            },
            Verdict::Broken => assert!(answer.is_err()),
            Verdict::Refused(faults) => {
                let unsigned = faults.iter().any(|fault| fault.number() < 20);
                assert!(!unsigned || answer.is_err(), "{faults:?} is admitted");
            }
        }
    }

    /// I9: a block with a refused transaction, with one left out, or with
    /// another header is invalid.
    fn check_tampering(&self, checks: u8, candidates: &[Candidate], block: &Block) {
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
                assert_eq!(refuses(&other), BlockError::Header("state root"));
            }
            3 => {
                other.header.log_root.0[0] ^= 1;
                assert_eq!(refuses(&other), BlockError::Header("log root"));
            }
            4 => {
                other.header.time = self.state.time();
                refuses(&other);
            }
            _ => {}
        }
    }

    /// The next block's time.
    fn next_time(&self, (how, word): (u8, u32)) -> u64 {
        let (now, word) = (self.oracle.time, u64::from(word));
        let due = (self.oracle.next_due())
            .filter(|due| *due > now && *due < now + LONGEST_JUMP)
            .unwrap_or(now + 50);
        let next = match how % 24 {
            0..=5 => now + 1 + word % 1_000,
            6..=8 => due,
            9 => due + 1,
            10 => due - 1,
            11 => (now / HOUR_MS + 1) * HOUR_MS,
            12 => (now / DAY_MS + 1) * DAY_MS,
            13 => now + u64::from(self.oracle.parameters.lease_grace_ms),
            14 => now + word % (3 * HOUR_MS),
            15 => now + 1,
            16 => now + word % (10 * DAY_MS) * u64::from(word % 3 == 0),
            _ => now + 1 + word % 20_000,
        };
        next.max(now + 1)
    }

    /// Writes, signs and judges a transaction.
    fn candidate(&mut self, op: &Op) -> Candidate {
        let mut dice = Dice::new(&op.words);
        let hostile = op.mood >= 192;
        if hostile && dice.below(3) == 0 {
            if let Some(sent) = self.again(&mut dice) {
                return self.judge(sent);
            }
        }
        let spoils = hostile && dice.below(3) == 0;
        dice.hostile = hostile && !spoils;
        let mut draft = self.write(op.kind, &mut dice);
        if spoils {
            self.spoil(&mut dice, &mut draft);
        }
        let sent = self.sign(draft);
        if hostile && dice.below(8) == 0 {
            return (broken(&mut dice, sent.transaction), Verdict::Broken);
        }
        self.sent.push(sent.clone());
        self.judge(sent)
    }

    /// Something that was sent before, as it is now.
    fn again(&self, dice: &mut Dice) -> Option<Sent> {
        let count = self.sent.len() as u64;
        let back = dice.below(count.min(40));
        let mut sent = self.sent.iter().rev().nth(back as usize)?.clone();
        let present: Vec<_> = (sent.request.signers.iter())
            .map(|signer| self.public_of(*signer))
            .collect();
        sent.request.signed = !sent.spoiled && present == sent.signed_by;
        if let (Payload::Proof { genuine, .. }, Some(size)) =
            (&mut sent.request.payload, sent.proof_log)
        {
            *genuine &= size == self.oracle.parent_log;
        }
        Some(sent)
    }

    fn judge(&mut self, sent: Sent) -> Candidate {
        let verdict = match self.oracle.apply(&sent.request) {
            Ok(_) => {
                let name = format!("{:?}", sent.request.action);
                let name = name.split(['(', ' ']).next().unwrap_or_default();
                *self.coverage.accepted.entry(name.into()).or_default() += 1;
                Verdict::Accepted
            }
            Err(Refusal(faults)) => Verdict::Refused(faults),
        };
        (sent.transaction, verdict)
    }

    fn write(&mut self, kind: u8, dice: &mut Dice) -> Draft {
        match kind {
            0..=4 => self.write_open_account(dice),
            5..=23 => self.write_issue(dice),
            24..=31 => self.write_bind(dice),
            32..=36 => self.write_rotate(dice),
            37..=39 => self.write_revoke_key(dice),
            40..=45 => self.write_open_journal(dice),
            46..=57 => self.write_revoke(dice),
            58..=69 => self.write_surrender(dice),
            70..=84 => self.write_correct(dice),
            85..=91 => self.write_freeze(dice),
            92..=150 => self.write_lease(dice),
            151..=165 => self.write_return(dice),
            166..=230 => self.write_debits(dice),
            231..=234 => self.write_set_role(dice),
            235..=238 => self.write_set_class(dice),
            239..=243 => self.write_set_prices(dice),
            244..=248 => self.write_set_parameters(dice),
            249..=254 => self.write_gateway(dice),
            255 => self.write_suspend(dice),
        }
    }

    /// A signer's present key.
    fn public_of(&self, author: Author) -> Option<PublicKey> {
        let number = author.number;
        match author.kind {
            AuthorKind::Person => self.oracle.persons.get(&number).map(|p| p.key),
            AuthorKind::Gateway => self.oracle.gateways.get(&number).map(|g| g.key),
            AuthorKind::Account => self.oracle.accounts.get(&number).map(|a| a.holder),
            AuthorKind::ApiKey => self.oracle.api_keys.get(&number).map(|k| k.key),
        }
    }

    fn sign(&mut self, draft: Draft) -> Sent {
        let body = Body {
            version: BODY_VERSION,
            author: draft.author,
            signers: List::new(draft.signers.clone()).unwrap(),
            id: draft.id,
            valid_until: draft.valid_until,
            action: draft.action.clone(),
        };
        let bytes = body.encode();
        let signed_by: Vec<Option<PublicKey>> = (draft.signers.iter())
            .map(|signer| self.public_of(*signer))
            .collect();
        let nobody = SecretKey::from_seed(&[1; 32]);
        let mut signatures: Vec<Signature> = (draft.signers.iter().zip(&signed_by))
            .map(|(signer, public)| {
                let secret = public.and_then(|public| self.ring.secrets.get(&public));
                let domain = signing_domain(*signer, &body);
                secret.unwrap_or(&nobody).sign(domain, &self.chain, &bytes)
            })
            .collect();
        let spoiled = draft.spoiled && !signatures.is_empty();
        if spoiled {
            signatures[0].0[3] ^= 4;
        }
        if draft.miscounted && signatures.pop().is_none() {
            signatures.push(Signature([0; 64]));
        }
        let request = Request {
            author: draft.author,
            signers: draft.signers,
            signed: !spoiled,
            counted: !draft.miscounted,
            id: draft.id,
            valid_until: draft.valid_until,
            transaction: transaction_id(&bytes),
            action: draft.action,
            payload: draft.meaning,
        };
        Sent {
            transaction: Transaction {
                body: bytes,
                signatures: List::new(signatures).unwrap(),
                payload: draft.payload,
            },
            request,
            signed_by,
            spoiled,
            proof_log: draft.proof_log,
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

/// Breaks a transaction's bytes.
fn broken(dice: &mut Dice, mut transaction: Transaction) -> Transaction {
    let place = dice.word() as usize;
    let bit = 1 << dice.below(8);
    match dice.below(4) {
        0 => transaction.body.push(0),
        1 if !transaction.payload.is_empty() => {
            let at = place % transaction.payload.len();
            transaction.payload[at] ^= bit;
        }
        2 if !transaction.signatures.is_empty() => {
            let mut signatures = transaction.signatures.to_vec();
            signatures[0].0[place % 64] ^= bit;
            transaction.signatures = List::new(signatures).unwrap();
        }
        _ => {
            let at = place % transaction.body.len();
            transaction.body[at] ^= bit;
        }
    }
    transaction
}
