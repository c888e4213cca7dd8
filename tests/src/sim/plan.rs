//! What goes wrong in a simulation, all of it from the seed.

use super::{genesis::NODES, rng::Rng};

/// One second.
pub const SECOND: u64 = 1_000_000;

/// A way to make the checks fail: the simulation must notice each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// After a crash, nodes have a fresh guard file and no log: they have
    /// forgotten what they signed.
    Forget,
    /// Disks say that they have synced, and have not.
    Lie,
}

/// What a node loses beyond its unsynced writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The engine's log.
    Log,
    /// The whole disk, the guard file too.
    Disk,
}

/// Something that goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// A node's power fails: now, at an operation of its disk, or at an
    /// effect of its core. It is back so long after.
    Crash {
        /// Which.
        node: usize,
        /// Operations of the disk from now.
        operations: Option<u64>,
        /// Effects of the core from now.
        effects: Option<u64>,
    },
    /// The power of all fails.
    Blackout,
    /// Nodes on different sides do not hear each other.
    Cut {
        /// Whether a node is on the other side.
        sides: [bool; NODES],
    },
    /// All hear each other again.
    Join,
}

/// What goes wrong in one run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Who lies.
    pub liar: Option<usize>,
    /// Messages lost, of 1,000.
    pub loss: u64,
    /// Messages that come twice, of 1,000.
    pub twice: u64,
    /// Messages that are late by up to a second, of 1,000.
    pub late: u64,
    /// The usual longest delay, in us.
    pub delay: u64,
    /// Errors of the clocks, in ms.
    pub skews: [i64; NODES],
    /// When, and what.
    pub faults: Vec<(u64, Fault)>,
    /// How long a node is down, at most, in us.
    pub down: u64,
    /// A node that is started crashes again at once, in so many of 1,000.
    pub crash_again: u64,
    /// When everything heals.
    pub heal: u64,
    /// Debits to be made.
    pub debits: u64,
    /// A node that comes back once with less than a crash leaves it.
    pub bereft: Option<(usize, Loss)>,
    /// What the simulation must notice.
    pub sabotage: Option<Sabotage>,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(rng: &mut Rng) -> Self {
        let liar = rng.chance(400).then(|| rng.below(NODES as u64) as usize);
        let heal = rng.between(8, 20) * SECOND;
        let skew = rng.pick(&[0, 0, 50, 240, 600]);
        let mut plan = Self {
            liar,
            loss: rng.pick(&[0, 0, 20, 80, 200]),
            twice: rng.pick(&[0, 20, 200]),
            late: rng.pick(&[0, 0, 20, 150]),
            delay: rng.pick(&[1_000, 5_000, 20_000, 60_000]),
            skews: std::array::from_fn(|_| rng.below(2 * skew + 1) as i64 - skew as i64),
            faults: Vec::new(),
            down: rng.pick(&[300_000, 2 * SECOND, 5 * SECOND]),
            crash_again: rng.pick(&[0, 0, 100, 300]),
            heal,
            debits: rng.between(8, 24),
            bereft: None,
            sabotage: None,
        };
        plan.crashes(rng);
        plan.cuts(rng);
        plan.losses(rng);
        plan
    }

    fn crashes(&mut self, rng: &mut Rng) {
        for _ in 0..rng.pick(&[0, 1, 3, 6, 12]) {
            let (operations, effects) = match rng.below(3) {
                0 => (None, None),
                1 => (Some(rng.below(30)), None),
                _ => (None, Some(rng.below(40))),
            };
            let node = rng.below(NODES as u64) as usize;
            let fault = Fault::Crash {
                node,
                operations,
                effects,
            };
            self.faults.push((rng.below(self.heal), fault));
        }
        if rng.chance(200) {
            self.faults.push((rng.below(self.heal), Fault::Blackout));
        }
    }

    /// One node at most, and nobody lies then: more could stop the chain.
    fn losses(&mut self, rng: &mut Rng) {
        if self.liar.is_none() && rng.chance(400) {
            let node = rng.below(NODES as u64) as usize;
            self.bereft = Some((node, rng.pick(&[Loss::Log, Loss::Log, Loss::Disk])));
            let crash = Fault::Crash {
                node,
                operations: None,
                effects: None,
            };
            self.faults.push((rng.below(self.heal), crash));
        }
    }

    fn cuts(&mut self, rng: &mut Rng) {
        for _ in 0..rng.pick(&[0, 0, 1, 2, 4]) {
            let at = rng.below(self.heal);
            let sides = std::array::from_fn(|_| rng.chance(400));
            self.faults.push((at, Fault::Cut { sides }));
            let until = at + rng.between(SECOND / 5, 6 * SECOND);
            self.faults.push((until.min(self.heal), Fault::Join));
        }
    }
}
