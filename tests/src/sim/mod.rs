//! The deterministic simulation: four validators in one thread under a
//! virtual clock.
//!
//! Each validator is the engine's real core, the real host of consensus with
//! its guard file, undecided bodies and the engine's log, the real ledger and
//! the real block files, over a disk in memory that loses unsynced writes.
//! Only actors, network, clock and node are others: see [`engine`],
//! [`world`], [`disk`] and [`app`]. Messages are lost, late, doubled and
//! reordered, the network falls apart, nodes crash between any two operations
//! of disk or core, and in some runs one validator lies. The [`judge`] looks
//! at everything that is signed and committed; after the world has healed
//! there must be progress, and every debit final exactly once.

pub mod app;
pub mod client;
pub mod clock;
pub mod core;
pub mod disk;
pub mod engine;
pub mod genesis;
pub mod judge;
pub mod liar;
pub mod message;
pub mod node;
pub mod plan;
pub mod rng;
pub mod world;

pub use plan::Sabotage;
pub use world::{Report, World};

/// Runs a seed. The error says what must not be.
pub fn run(seed: u64, sabotage: Option<Sabotage>) -> Result<Report, String> {
    // One thread beside this one, for what the host does off its own; each is
    // waited for, so the order of things is the same.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(World::new(seed, sabotage).run())
}
