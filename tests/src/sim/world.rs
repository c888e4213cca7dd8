//! A run: four validators, a network, a client, and what goes wrong.
//!
//! One thread, one queue of events in virtual time, one source of random
//! numbers: the same seed gives the same trace, byte by byte.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use malachitebft_core_types::Timeout;
use tally_consensus::{Guard, disk::Disk};
use tally_ledger::crypto::ChainId;

use super::message::{Out, Packet, show};
use super::{
    app::Shared,
    client::Client,
    clock::Clock,
    genesis::{Memo, NODES, genesis, keys},
    judge::Judge,
    liar::Liar,
    node::{Counts, Happening, Node},
    plan::{Fault, Loss, Plan, SECOND, Sabotage},
    rng::Rng,
};

/// Virtual time that nodes have after everything has healed.
const PATIENCE: u64 = 120 * SECOND;
/// Heights that they must make in it.
const PROGRESS: u64 = 5;
/// Heights within which the chain has what an honest node saw signed twice:
/// each comes to propose a few times.
const TOLD: u64 = 24;
/// Events of a run, at most.
const MOST_EVENTS: u64 = 400_000;

enum Event {
    Packet(usize, usize, Packet),
    Timer(usize, u64, Timeout, u64),
    Begin(usize, u64),
    Status(usize),
    Boot(usize),
    Fault(Fault),
    Client,
    Babble,
    Heal,
}

/// What happened in a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Hash over all events and all messages.
    pub trace: String,
    /// Height of the chain.
    pub heights: u64,
    /// Events.
    pub events: u64,
    /// Virtual time, in ms.
    pub virtual_ms: u64,
    /// Crashes.
    pub crashes: u64,
    /// Debits that became receipts.
    pub debits: u64,
    /// Double signatures that honest nodes noticed.
    pub evidences: u64,
    /// Heights at which the chain says that somebody signed twice.
    pub marked: u64,
    /// What nodes counted.
    pub counts: Counts,
    /// Blocks that were not decided in their first round.
    pub late_blocks: u64,
}

/// A run.
pub struct World {
    plan: Plan,
    rng: Rng,
    clock: Clock,
    shared: Shared,
    nodes: Vec<Node>,
    client: Client,
    liar: Option<Liar>,
    events: BTreeMap<(u64, u64), Event>,
    pushed: u64,
    sides: [bool; NODES],
    /// When a node that is down is started again.
    down: [bool; NODES],
    began: [Option<u64>; NODES],
    healed: Option<u64>,
    trace: blake3::Hasher,
    report: Report,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64, sabotage: Option<Sabotage>) -> Self {
        let mut rng = Rng::new(seed);
        let mut plan = Plan::new(&mut rng);
        if sabotage.is_some() {
            plan.sabotage = sabotage;
            plan.liar = None;
            plan.bereft = None;
        }
        let (genesis, memo) = (Arc::new(genesis()), Arc::new(Memo::default()));
        let chain = genesis.chain();
        let liar = plan.liar.map(|node| keys(node).consensus.public());
        let judge = Judge::new(&genesis, memo.clone(), liar);
        let shared = Shared {
            genesis,
            memo,
            judge: Arc::new(Mutex::new(judge)),
        };
        let clock = Clock::new();
        let node = |index: usize| {
            let mut clock = clock.clone();
            clock.skew = plan.skews[index];
            let honest = plan.liar != Some(index);
            Node::new(
                index,
                honest,
                shared.clone(),
                clock,
                Rng::new(seed * 8 + index as u64),
            )
        };
        let nodes: Vec<Node> = (0..NODES).map(node).collect();
        if plan.sabotage == Some(Sabotage::Lie) {
            nodes.iter().for_each(|node| node.disk.lie());
        }
        let mut world = Self {
            client: Client::new(chain, plan.debits, rng.fork()),
            liar: plan.liar.map(|node| Liar::new(node, chain, rng.fork())),
            clock,
            nodes,
            shared,
            events: BTreeMap::new(),
            pushed: 0,
            sides: [false; NODES],
            down: [true; NODES],
            began: [None; NODES],
            healed: None,
            trace: blake3::Hasher::new(),
            report: Report::default(),
            plan,
            rng,
        };
        world.prepare();
        world
    }

    fn prepare(&mut self) {
        for node in 0..NODES {
            let (boot, status) = (self.rng.below(SECOND / 2), self.rng.below(SECOND));
            self.push(boot, Event::Boot(node));
            self.push(status, Event::Status(node));
        }
        for (at, fault) in std::mem::take(&mut self.plan.faults) {
            self.push(at, Event::Fault(fault));
        }
        self.push(0, Event::Client);
        if self.liar.is_some() {
            self.push(SECOND / 2, Event::Babble);
        }
        self.push(self.plan.heal, Event::Heal);
    }

    fn push(&mut self, at: u64, event: Event) {
        self.pushed += 1;
        let at = at.max(self.clock.now());
        self.events.insert((at, self.pushed), event);
    }

    /// Runs to the end. The error says what must not be.
    pub async fn run(mut self) -> Result<Report, String> {
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.clock.set(at);
            self.report.events += 1;
            self.happen(event).await;
            if let Some(why) = self.verdict() {
                return Err(format!("at {} ms: {why}\n{}", at / 1_000, self.describe()));
            }
            if self.is_over() {
                break;
            }
        }
        let mut judge = self.shared.judge();
        self.client.check(&judge.receipts)?;
        self.report.marked = judge.marked();
        if let Some(why) = judge.verdict() {
            return Err(why.to_owned());
        }
        self.report.heights = judge.height();
        self.report.evidences = judge.evidences;
        self.report.late_blocks = judge.late_blocks;
        self.report.debits = judge.receipts.len() as u64;
        self.report.virtual_ms = self.clock.now() / 1_000;
        self.report.trace = self.trace.finalize().to_hex()[..16].to_string();
        drop(judge);
        Ok(self.report)
    }

    fn verdict(&self) -> Option<String> {
        let verdict = self.shared.judge().verdict().map(str::to_owned);
        let now = self.clock.now();
        verdict.or_else(|| match self.healed {
            Some(_) if now > self.plan.heal + PATIENCE || self.report.events > MOST_EVENTS => {
                Some("everything has healed, and there is no progress".into())
            }
            _ => None,
        })
    }

    fn describe(&self) -> String {
        let nodes = self.nodes.iter();
        let nodes: Vec<String> = nodes
            .map(|node| format!("node {}: {}", node.index, node.describe()))
            .collect();
        let Plan { liar, heal, .. } = self.plan;
        format!(
            "{}\nclient: {}\nliar: {liar:?}, healed at {} ms, {} events, {} crashes",
            nodes.join("\n"),
            self.client.describe(),
            heal / 1_000,
            self.report.events,
            self.report.crashes,
        )
    }

    /// All is healed, all debits are final, all honest nodes vote and have
    /// gone on.
    fn is_over(&self) -> bool {
        let Some(from) = self.healed else {
            return false;
        };
        let heights = self.shared.judge().heights;
        let honest = |node: &&Node| self.plan.liar != Some(node.index);
        let told = |node: &Node| {
            let oldest = node.app().and_then(|app| app.inner().oldest_evidence());
            oldest.is_none_or(|oldest| oldest.0 + TOLD > heights[node.index])
        };
        let goes_on = |node: &Node| node.votes() && heights[node.index] >= from + PROGRESS;
        let well = |node: &Node| goes_on(node) && told(node);
        self.client.is_done() && self.nodes.iter().filter(honest).all(well)
    }

    async fn happen(&mut self, event: Event) {
        self.note(&event);
        match event {
            Event::Packet(from, to, packet) => {
                self.tell(to, Happening::Packet(from, packet)).await;
            }
            Event::Timer(node, boot, timeout, number) => {
                if self.nodes[node].boots == boot {
                    self.tell(node, Happening::Timer(timeout, number)).await;
                }
            }
            Event::Begin(node, boot) => {
                if self.nodes[node].boots == boot {
                    self.began[node] = None;
                    self.tell(node, Happening::Time).await;
                }
            }
            Event::Status(node) => {
                if let Some(status) = self.nodes[node].status() {
                    self.spread(node, status, false);
                }
                let at = self.clock.now() + SECOND;
                self.push(at, Event::Status(node));
            }
            Event::Boot(node) => self.boot(node).await,
            Event::Fault(fault) => self.fault(fault),
            Event::Client => self.client_acts(),
            Event::Babble => self.babble(),
            Event::Heal => self.heal(),
        }
    }

    fn note(&mut self, event: &Event) {
        let now = self.clock.now();
        let text = match event {
            Event::Packet(from, to, packet) => format!("{now} {from} {to} {packet:?}"),
            Event::Timer(node, boot, timeout, _) => format!("{now} {node} {boot} {timeout:?}"),
            Event::Begin(node, boot) => format!("{now} {node} {boot} begins"),
            Event::Status(node) => format!("{now} {node} status"),
            Event::Boot(node) => format!("{now} {node} boots"),
            Event::Fault(fault) => format!("{now} {fault:?}"),
            Event::Client => format!("{now} client"),
            Event::Babble => format!("{now} babble"),
            Event::Heal => format!("{now} heal"),
        };
        self.trace.update(text.as_bytes());
        show(|| text);
    }

    async fn tell(&mut self, node: usize, what: Happening) {
        let mut out = Vec::new();
        let counts = self.nodes[node].happen(what, &mut out).await;
        self.after(node, out, counts);
    }

    async fn boot(&mut self, node: usize) {
        if !self.down[node] {
            return;
        }
        self.down[node] = false;
        self.began[node] = None;
        self.nodes[node].power_on();
        if self.plan.sabotage == Some(Sabotage::Forget) && self.nodes[node].boots > 0 {
            forget(&self.nodes[node], self.shared.genesis.chain());
        }
        if self.nodes[node].boots > 0
            && let Some((_, loss)) = self.plan.bereft.take_if(|(bereft, _)| *bereft == node)
        {
            self.bereave(node, loss);
        }
        if self.healed.is_none() && self.rng.chance(self.plan.crash_again) {
            let operations = self.rng.below(12);
            self.nodes[node].doom(Some(operations), None);
        }
        let mut out = Vec::new();
        let counts = self.nodes[node].boot(&mut out).await;
        self.after(node, out, counts);
    }

    fn bereave(&mut self, node: usize, loss: Loss) {
        let disk = &self.nodes[node].disk;
        match loss {
            Loss::Log => {
                let home = std::path::Path::new("consensus");
                // It may not be there.
                let _ = disk.remove(&home.join("consensus.wal"));
                disk.sync_folder(home).expect("the power is on");
            }
            Loss::Disk => {
                disk.wipe();
                self.shared.judge().wiped(node);
            }
        }
    }

    /// What a node wants after something has happened to it.
    fn after(&mut self, node: usize, out: Vec<Out>, counts: Counts) {
        let boot = self.nodes[node].boots;
        for out in out {
            match out {
                Out::All(packet, cut) => self.spread(node, packet, cut),
                Out::One(to, packet) => {
                    let packet = match self.liar.as_mut().filter(|liar| liar.node == node) {
                        Some(liar) => liar.twist_response(packet),
                        None => packet,
                    };
                    self.send(node, to, packet);
                }
                Out::Timer(at, timeout, number) => {
                    self.push(at, Event::Timer(node, boot, timeout, number));
                }
            }
        }
        let sum = &mut self.report.counts;
        sum.replayed += counts.replayed;
        sum.observed += counts.observed;
        sum.synced += counts.synced;
        sum.restarts += counts.restarts;
        let wants = self.nodes[node].wants();
        if let Some(at) = wants
            && self.began[node] != Some(at)
        {
            self.began[node] = Some(at);
            self.push(at, Event::Begin(node, boot));
        }
        if !self.nodes[node].is_up() {
            self.has_crashed(node);
        }
    }

    fn has_crashed(&mut self, node: usize) {
        if self.down[node] {
            return;
        }
        self.nodes[node].crash();
        self.report.crashes += 1;
        self.down[node] = true;
        let after = match self.healed {
            None => self.rng.between(20_000, self.plan.down),
            Some(_) => SECOND / 10,
        };
        let at = self.clock.now() + after;
        self.push(at, Event::Boot(node));
    }

    /// To all others, or to some if the sender crashes meanwhile.
    fn spread(&mut self, from: usize, packet: Packet, cut: bool) {
        if let Some(liar) = &mut self.liar {
            liar.hear(&packet);
            if liar.node == from {
                let letters = liar.twist(packet, self.nodes[from].app());
                letters
                    .into_iter()
                    .for_each(|(to, packet)| self.send(from, to, packet));
                return;
            }
        }
        for to in (0..NODES).filter(|to| *to != from) {
            if !cut || self.rng.chance(500) {
                self.send(from, to, packet.clone());
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, packet: Packet) {
        if self.sides[from] != self.sides[to] || self.rng.chance(self.plan.loss) {
            return;
        }
        let copies = 1 + u64::from(self.rng.chance(self.plan.twice));
        for _ in 0..copies {
            let mut after = self.rng.between(200, self.plan.delay);
            if self.rng.chance(self.plan.late) {
                after += self.rng.below(SECOND);
            }
            let at = self.clock.now() + after;
            self.push(at, Event::Packet(from, to, packet.clone()));
        }
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Crash {
                node,
                operations: None,
                effects: None,
            } => self.power_fails(node),
            Fault::Crash {
                node,
                operations,
                effects,
            } => self.nodes[node].doom(operations, effects),
            Fault::Blackout => (0..NODES).for_each(|node| self.power_fails(node)),
            Fault::Cut { sides } => self.sides = sides,
            Fault::Join => self.sides = [false; NODES],
        }
    }

    fn power_fails(&mut self, node: usize) {
        if self.nodes[node].is_up() {
            self.nodes[node].crash();
            self.has_crashed(node);
        }
    }

    fn client_acts(&mut self) {
        let now = self.clock.now();
        let transactions = {
            let judge = self.shared.judge();
            self.client.act(&judge.state, now)
        };
        for transaction in transactions {
            let packet = Packet::Transaction(transaction.encode().into());
            for to in 0..NODES {
                let after = self.rng.between(200, self.plan.delay);
                if !self.rng.chance(self.plan.loss) {
                    self.push(now + after, Event::Packet(NODES, to, packet.clone()));
                }
            }
        }
        self.push(now + SECOND / 7, Event::Client);
    }

    fn babble(&mut self) {
        let at = self.clock.now() + self.rng.between(SECOND / 10, SECOND);
        self.push(at, Event::Babble);
        let height = self.shared.judge().height();
        if let Some(liar) = &mut self.liar {
            let (from, letters) = (liar.node, liar.babble(height));
            letters
                .into_iter()
                .for_each(|(to, packet)| self.send(from, to, packet));
        }
    }

    /// Faults stop, all nodes are started.
    fn heal(&mut self) {
        (self.plan.loss, self.plan.twice, self.plan.late) = (0, 0, 0);
        self.plan.delay = 5_000;
        self.sides = [false; NODES];
        self.healed = Some(self.shared.judge().height());
        for node in 0..NODES {
            self.nodes[node].doom(Some(u64::MAX), None);
            if self.down[node] {
                self.push(self.clock.now(), Event::Boot(node));
            }
        }
    }
}

/// Takes a node's memory of what it has signed.
fn forget(node: &Node, chain: ChainId) {
    let home = std::path::Path::new("consensus");
    for name in ["guard", "consensus.wal"] {
        // It may not be there.
        let _ = node.disk.remove(&home.join(name));
    }
    let key = keys(node.index).consensus.public();
    let fresh = Guard::create_on(&node.disk, home, chain, key);
    fresh.expect("the disk takes a guard file");
    node.disk.sync_folder(home).expect("the power is on");
}
