//! Processes killed at random moments, under load: four validators, a
//! gateway and the mock engine. In each round one or two validators, the
//! gateway, or both are killed with SIGKILL and started again while clients
//! and an operator go on; then everything acknowledged must be in the log,
//! once, charged right, and the same on all validators.
//!
//! `cargo test -p tally-node --test kills -- --rounds N` runs N rounds
//! instead of 3, `--seed S` with another plan; so do `TALLY_KILLS_ROUNDS` and
//! `TALLY_KILLS_SEED`. The seed decides what is killed, when, and what is
//! asked; how the processes interleave is the machine's. A run that fails
//! says how to repeat it, and keeps homes and logs.

#![allow(clippy::unwrap_used)]

#[path = "../cli_common/mod.rs"]
mod cli_common;
mod control;
// The client of `tally demo`.
#[allow(dead_code)]
#[path = "../../src/cli/demo/http.rs"]
mod http;
mod judge;
mod load;
mod plan;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    thread::sleep,
    time::Instant,
};

use anyhow::{Context, ensure};
use cli_common::{
    LIMIT,
    gateway::{HOLDERS, Metered},
    wait_for,
};
use control::Operator;
use judge::Judge;
use load::Load;
use plan::Strike;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::runtime::Runtime;

/// Rounds of a usual run.
const ROUNDS: u64 = 3;
/// Answers take some time, so that kills break some off.
const ENGINE: &str = "--think-ms 10 --chunk-ms 3";

/// A number from the command line or the environment.
fn option(name: &str) -> Option<u64> {
    let flag = format!("--{name}");
    let mut words = env::args().skip_while(|word| *word != flag).skip(1);
    let variable = format!("TALLY_KILLS_{}", name.to_uppercase());
    let text = words.next().or_else(|| env::var(variable).ok())?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{flag}: {text} is no number")))
}

/// What happened in all.
#[derive(Debug, Default)]
struct Totals {
    kills: usize,
    served: usize,
    broken: u64,
    finals: usize,
    handed_in_again: usize,
}

struct Run {
    runtime: Runtime,
    judge: Judge,
    totals: Totals,
    url: String,
}

impl Run {
    fn new(metered: &mut Metered) -> anyhow::Result<Self> {
        metered.start_gateway();
        let genesis = std::fs::read(metered.net.folder.path().join("net/genesis.json"))?;
        let genesis = serde_json::from_slice(&genesis)?;
        let judge = Judge::new(genesis, metered.net.grpc.clone(), metered.engine.clone());
        Ok(Run {
            runtime: Runtime::new()?,
            judge,
            totals: Totals::default(),
            url: metered.serving(),
        })
    }

    fn round(&mut self, metered: &mut Metered, seed: u64, round: u64) -> anyhow::Result<()> {
        let mut rng = StdRng::seed_from_u64(seed.rotate_left(32) ^ round);
        let runtime = self.runtime.handle().clone();
        let load = Load::start(&runtime, rng.r#gen(), &self.url, &metered.secrets);
        let folder = metered.net.folder.path().to_owned();
        let grpc = metered.net.grpc.clone();
        let operator = Operator::start(folder.clone(), grpc, rng.r#gen(), round);
        for strike in plan::round(&mut rng) {
            println!("round {round}: {strike:?}");
            self.totals.kills += strike.kills();
            self.strike(metered, &strike, &load);
        }
        serves_again(&load);
        let mut seen = runtime.block_on(load.stop());
        let mut acts = operator.stop();
        let validator = (round % 4) as usize;
        acts.settle(&folder, &metered.net.grpc[validator]);
        let wrong = [seen.wrong, acts.wrong, metered.ended()].concat();
        ensure!(wrong.is_empty(), "{wrong:#?}");
        let judged = self.judge.round(validator, &seen.served, &acts.finals);
        runtime.block_on(judged)?;
        println!(
            "round {round}: {} served, {} broken off ({}), {} not sent, {} transactions, {} of \
             them handed in again",
            seen.served.len(),
            seen.broken,
            seen.last,
            seen.unsent,
            acts.finals.len(),
            acts.open.len()
        );
        self.totals.served += seen.served.len();
        self.totals.broken += seen.broken;
        self.totals.finals += acts.finals.len();
        self.totals.handed_in_again += acts.open.len();
        let noticed = self.judge.notices(&mut seen.served);
        ensure!(runtime.block_on(noticed), "the checks notice nothing");
        Ok(())
    }

    fn strike(&mut self, metered: &mut Metered, strike: &Strike, load: &Load) {
        sleep(strike.after);
        for validator in &strike.validators {
            metered.net.kill(*validator);
        }
        if strike.gateway {
            metered.kill_gateway();
        }
        sleep(strike.down);
        if strike.gateway && strike.gateway_first {
            metered.start_gateway();
        }
        for validator in &strike.validators {
            metered.net.start_node(*validator);
        }
        if strike.gateway && !strike.gateway_first {
            metered.start_gateway();
        }
        if strike.gateway {
            self.url = metered.serving();
            load.moved(self.url.clone());
        }
    }
}

/// Everybody is served again.
fn serves_again(load: &Load) {
    let before = load.seen().by_account.clone();
    wait_for("answer for each account", LIMIT, || {
        let seen = load.seen();
        let count = |account| seen.by_account.get(&account).copied().unwrap_or(0);
        let more = |account| count(account) > before.get(&account).copied().unwrap_or(0);
        (0..HOLDERS).all(more).then_some(())
    });
}

fn run(metered: &mut Metered, seed: u64, rounds: u64) -> anyhow::Result<()> {
    let mut run = Run::new(metered)?;
    for round in 0..rounds {
        run.round(metered, seed, round)
            .with_context(|| format!("round {round}"))?;
    }
    let judged = run.judge.same_logs();
    run.runtime.block_on(judged)?;
    let (receipts, estimates) = run.judge.receipts();
    let totals = run.totals;
    println!("{rounds} rounds: {totals:?}, {receipts} receipts, {estimates} of them estimates");
    // Faults that do not happen prove nothing.
    ensure!(totals.kills > 0 && totals.broken > 0 && totals.finals > 0);
    ensure!(run.judge.compared == totals.served && receipts >= totals.served);
    Ok(())
}

fn main() -> ExitCode {
    if env::args().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    let seed = option("seed").unwrap_or(1);
    let rounds = option("rounds").unwrap_or(ROUNDS);
    let started = Instant::now();
    let mut metered = Metered::new(ENGINE);
    let result = catch_unwind(AssertUnwindSafe(|| run(&mut metered, seed, rounds)));
    let why = match result {
        Ok(Ok(())) => {
            println!("seed {seed}: ok in {:?}", started.elapsed());
            return ExitCode::SUCCESS;
        }
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "a panic, see above".to_owned(),
    };
    metered.net.folder.disable_cleanup(true);
    println!(
        "seed {seed} fails: {why}\nhomes and logs: {}\nrepeat it with: cargo test -p tally-node \
         --test kills -- --seed {seed} --rounds {rounds}",
        metered.net.folder.path().display()
    );
    ExitCode::FAILURE
}
