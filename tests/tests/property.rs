//! Property tests: the ledger against the naive oracle, over random worlds
//! and long scripts of valid, nearly valid and hostile transactions. After
//! every block both must have accepted the same ones for the same reasons,
//! written the same log and be in the same state; I1 to I7 and I9 hold.
//!
//! Seeds are fixed. A failing case prints its shrunk script.

#![allow(clippy::unwrap_used)]

use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use tally_tests::world::{Coverage, Script, World, scripts};

/// Plays `cases` scripts of a seed; proptest shrinks one that fails.
fn run(seed: u8, cases: u32, strategy: impl Strategy<Value = Script>) -> Coverage {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let reached = std::cell::RefCell::new(Coverage::default());
    let result = runner.run(&strategy, |script| {
        let world = World::play(&script);
        let mut all = reached.borrow_mut();
        for (action, count) in world.coverage.accepted {
            *all.accepted.entry(action).or_default() += count;
        }
        for (reason, count) in world.coverage.refused {
            *all.refused.entry(reason).or_default() += count;
        }
        Ok::<(), TestCaseError>(())
    });
    if let Err(error) = result {
        panic!("seed {seed}: {error}");
    }
    reached.into_inner()
}

#[test]
fn ledger_and_oracle_agree_on_many_short_scripts() {
    run(1, 600, scripts(12, 8));
}

#[test]
fn ledger_and_oracle_agree_on_long_scripts() {
    let reached = run(2, 60, scripts(140, 10));
    println!("{reached:#?}");
}
