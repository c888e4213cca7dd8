//! Worlds: the real ledger and the oracle side by side, and the people and
//! gateways who write transactions for both.
//!
//! A script's words become transactions that know the world as the oracle
//! sees it: most are valid, some nearly, some hostile. The oracle runs each
//! at once; then the ledger builds the block from all of them, must accept
//! and refuse the same ones for the same reasons, and must be in the same
//! state afterwards.

mod accusers;
mod checks;
mod coverage;
mod dice;
mod draft;
mod gateways;
mod genesis;
mod governors;
mod people;
mod scene;
mod script;
mod sent;

use std::collections::{BTreeMap, HashMap};

use tally_ledger::{
    block::Block,
    crypto::{ChainId, PublicKey, SecretKey},
    entry::Entry,
    execute,
    genesis::Genesis,
    hash::Hash,
    ids::{DAY_MS, HOUR_MS, Time},
    reason::Reason,
    state::State,
};

use crate::{
    oracle::{LogEntry, Oracle},
    rfc9162,
};
use draft::Draft;
use sent::{Candidate, Memo, Sent, Verdict, broken};

pub use coverage::Coverage;
pub use dice::Dice;
pub use people::leaf_bytes;
pub use scene::{Act, Outcome};
pub use script::{Op, Plan, Script, contended, scripts};

/// Longest jump to a due step.
const LONGEST_JUMP: u64 = 40 * DAY_MS;

/// All secrets of a world, by public half.
#[derive(Default)]
pub struct KeyRing {
    made: u64,
    secrets: HashMap<PublicKey, SecretKey>,
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
    /// Running hash of each gateway's journal.
    journals: BTreeMap<u32, Hash>,
}

impl World {
    /// A world with a few accounts, keys, journals and grants.
    pub fn new(words: &[u32]) -> Self {
        let mut ring = KeyRing::default();
        let mut dice = Dice::new(words);
        let genesis = genesis::genesis(&mut dice, &mut ring);
        let mut world = World::of(genesis, ring);
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
                wait: (0, 1),
                ops: kinds.into_iter().map(&mut op).collect(),
                checks: 0,
            };
            world.block(&plan);
        }
        world
    }

    /// Both ledgers at a genesis.
    fn of(genesis: Genesis, ring: KeyRing) -> Self {
        let first = tally_ledger::state::genesis_entry(genesis.chain());
        let leaves = vec![rfc9162::leaf(&leaf_bytes(&first))];
        let world = World {
            oracle: Oracle::new(&genesis),
            state: State::genesis(&genesis).unwrap(),
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
            journals: BTreeMap::new(),
            genesis,
            ring,
        };
        world.compare();
        world
    }

    /// Plays a whole script and checks the chain as a whole afterwards.
    pub fn play(script: &Script) -> World {
        let mut world = World::new(&script.genesis);
        for plan in &script.blocks {
            world.block(plan);
        }
        world.replay();
        world.replay_redacted();
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
        self.check_admission(time, &candidates, checks);
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
        self.check_proof(checks);
        self.compare();
        let new = &self.oracle.log[self.oracle.parent_log as usize..];
        self.coverage.see(new);
        self.oracle.log[self.oracle.parent_log as usize..].to_vec()
    }

    /// The next block's time.
    fn next_time(&self, (how, word): (u8, u32)) -> u64 {
        let (now, word) = (self.oracle.time, u64::from(word));
        let due = (self.oracle.next_due())
            .filter(|due| *due > now && *due < now + LONGEST_JUMP)
            .unwrap_or(now + 50);
        let next = match how % 64 {
            0 => now + 1,
            1..=5 => due,
            6 => due + 1,
            7 => due - 1,
            8 => (now / HOUR_MS + 1) * HOUR_MS,
            9 => (now / DAY_MS + 1) * DAY_MS,
            10 => now + u64::from(self.oracle.parameters.lease_grace_ms),
            11..=12 => now + word % (3 * HOUR_MS),
            13 => now + word % (10 * DAY_MS),
            14..=24 => now + 1 + word % 20_000,
            _ => now + 1 + word % 1_000,
        };
        next.max(now + 1)
    }

    /// Writes, signs and judges a transaction.
    fn candidate(&mut self, op: &Op) -> Candidate {
        let mut dice = Dice::new(&op.words);
        let hostile = op.mood >= 192;
        let repeats = hostile && dice.below(3) == 0;
        if repeats && let Some(sent) = self.again(&mut dice) {
            return self.judge(sent);
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

    fn write(&mut self, kind: u8, dice: &mut Dice) -> Draft {
        match kind {
            0..=4 => self.write_open_account(dice),
            5..=23 => self.write_issue(dice),
            24..=31 => self.write_bind(dice),
            32..=35 => self.write_rotate(dice),
            36 => self.write_erase(dice),
            37..=39 => self.write_revoke_key(dice),
            40..=45 => self.write_open_journal(dice),
            46..=57 => self.write_revoke(dice),
            58..=69 => self.write_surrender(dice),
            70..=84 => self.write_correct(dice),
            85..=91 => self.write_freeze(dice),
            92..=150 => self.write_lease(dice),
            151..=165 => self.write_return(dice),
            166..=229 => self.write_debits(dice),
            230 => self.write_set_unit(dice),
            231..=234 => self.write_set_role(dice),
            235..=238 => self.write_set_class(dice),
            239..=243 => self.write_set_prices(dice),
            244..=246 => self.write_set_parameters(dice),
            247..=248 => self.write_set_rates(dice),
            249 => self.write_set_unit(dice),
            250..=252 => self.write_gateway(dice),
            253..=254 => self.write_evidence(dice),
            255 => self.write_suspend(dice),
        }
    }
}
