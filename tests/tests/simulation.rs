//! The simulation over many seeds: see `tally_tests::sim`.
//!
//! `cargo test -p tally-tests --test simulation -- --seeds N` runs N seeds
//! instead of 200, `--seed S` one, and `--from S` begins at S; so do
//! `TALLY_SIM_SEEDS`, `TALLY_SIM_SEED` and `TALLY_SIM_FROM`. A seed that fails
//! says so, with the command that repeats it.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use tally_tests::sim::{self, Report, Sabotage};

/// Seeds of a usual run.
const SEEDS: u64 = 200;
/// Seeds of scenarios that once went wrong, with the virtual time, in ms,
/// within which each must end: 477, clocks so far apart that only the slowest
/// node's blocks are voted for, and a liar among four; half of the one
/// transaction that waited was none. 4386, the same so slow that grants expire
/// before a block has taken them: the client repeated them for ever.
const SCENARIOS: [(u64, u64); 2] = [(477, 100_000), (4386, 120_000)];
/// Seeds that are tried for the checks to notice a sabotage.
const TRIES: u64 = 40;

/// A number from the command line or the environment.
fn option(name: &str) -> Option<u64> {
    let flag = format!("--{name}");
    let mut words = env::args().skip_while(|word| *word != flag).skip(1);
    let variable = format!("TALLY_SIM_{}", name.to_uppercase());
    let text = words.next().or_else(|| env::var(variable).ok())?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{flag}: {text} is no number")))
}

fn run(seed: u64, sabotage: Option<Sabotage>) -> Result<Report, String> {
    let result = catch_unwind(AssertUnwindSafe(|| sim::run(seed, sabotage)));
    result.unwrap_or_else(|_| Err("a panic, see above".into()))
}

/// Runs seeds on all processors; gives back reports and failures.
fn run_all(first: u64, count: u64) -> (Vec<Report>, Vec<u64>) {
    let (next, done) = (AtomicU64::new(first), Mutex::new((Vec::new(), Vec::new())));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let result = run(seed, None);
                    let mut done = done.lock().expect("nobody panics with it");
                    match result {
                        Ok(report) => done.0.push(report),
                        Err(why) => {
                            println!(
                                "seed {seed} fails: {why}\nrepeat it with: cargo test -p \
                                 tally-tests --test simulation -- --seed {seed}\n"
                            );
                            done.1.push(seed);
                        }
                    }
                }
            });
        }
    });
    done.into_inner().expect("nobody panics with it")
}

/// What the runs have reached in all: faults that do not happen prove
/// nothing.
fn covered(reports: &[Report]) -> Vec<(&'static str, u64)> {
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum();
    vec![
        ("heights", sum(|r| r.heights)),
        ("debits", sum(|r| r.debits)),
        ("crashes", sum(|r| r.crashes)),
        ("entries replayed", sum(|r| r.counts.replayed)),
        ("starts as an observer", sum(|r| r.counts.observed)),
        ("engines started again", sum(|r| r.counts.restarts)),
        ("blocks by value sync", sum(|r| r.counts.synced)),
        ("blocks after round 0", sum(|r| r.late_blocks)),
        ("virtual seconds of the slowest", slowest(reports) / 1_000),
        ("double signatures seen", sum(|r| r.evidences)),
        ("heights with evidence on the chain", sum(|r| r.marked)),
    ]
}

fn slowest(reports: &[Report]) -> u64 {
    reports.iter().map(|r| r.virtual_ms).max().unwrap_or(0)
}

/// The same seed gives the same trace, another one another.
fn same_seed_same_trace() -> Result<(), String> {
    let trace = |seed| run(seed, None).map(|report| report.trace);
    for seed in [1, 2, 5] {
        if trace(seed)? != trace(seed)? {
            return Err(format!("seed {seed} has two traces"));
        }
    }
    match trace(1)? == trace(2)? {
        true => Err("seeds 1 and 2 have the same trace".into()),
        false => Ok(()),
    }
}

/// The checks notice what they are there for.
fn noticed(sabotage: Sabotage, word: &str) -> Result<(), String> {
    let noticed = |seed| match run(seed, Some(sabotage)) {
        Err(why) if why.contains(word) => Some(seed),
        _ => None,
    };
    match (0..TRIES).find_map(noticed) {
        Some(seed) => {
            println!("{sabotage:?}: noticed with seed {seed}");
            Ok(())
        }
        None => Err(format!("{sabotage:?} is not noticed in {TRIES} seeds")),
    }
}

/// What once went wrong does not any more.
fn scenarios() -> Result<(), String> {
    for (seed, within) in SCENARIOS {
        let report = run(seed, None).map_err(|why| format!("seed {seed}: {why}"))?;
        let took = report.virtual_ms;
        println!("seed {seed}: {took} ms of virtual time");
        if took > within {
            return Err(format!("seed {seed} takes {took} ms, not {within}"));
        }
    }
    Ok(())
}

fn check(name: &str, result: Result<(), String>) -> bool {
    match result {
        Ok(()) => println!("{name}: ok"),
        Err(ref why) => println!("{name}: FAILED: {why}"),
    }
    result.is_ok()
}

fn main() -> ExitCode {
    if env::args().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    if let Some(seed) = option("seed") {
        let result = run(seed, None);
        return match check("seed", result.map(|report| println!("{report:#?}"))) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        };
    }
    let started = Instant::now();
    let (first, count) = (
        option("from").unwrap_or(0),
        option("seeds").unwrap_or(SEEDS),
    );
    let (reports, failed) = run_all(first, count);
    println!("{count} seeds in {:?}", started.elapsed());
    let mut well = check(
        "seeds",
        match failed.len() {
            0 => Ok(()),
            some => Err(format!("{some} of {count}: {failed:?}")),
        },
    );
    for (what, sum) in covered(&reports) {
        println!("  {what}: {sum}");
        if count >= SEEDS && sum == 0 {
            well &= check(what, Err("never happened".into()));
        }
    }
    well &= check("scenarios", scenarios());
    well &= check("same seed, same trace", same_seed_same_trace());
    well &= check(
        "a node that forgets what it signed is noticed",
        noticed(Sabotage::Forget, "signs two messages"),
    );
    well &= check(
        "a disk that does not keep what it promised is noticed",
        noticed(Sabotage::Lie, "after a crash it has"),
    );
    match well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
