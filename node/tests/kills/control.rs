//! Control transactions meanwhile: an operator's commands, to any validator,
//! and what each said became of it. One whose outcome stayed open is handed
//! in again, the same bytes, when all is well again.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;

use crate::cli_common::run;

/// An operator at work.
#[derive(Debug)]
pub(crate) struct Operator {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Acts>,
}

/// What became of the transactions.
#[derive(Debug, Default)]
pub(crate) struct Acts {
    /// Ids of those that Submit called final.
    pub(crate) finals: Vec<String>,
    /// Files of those whose outcome stayed open.
    pub(crate) open: Vec<String>,
    /// What must never be.
    pub(crate) wrong: Vec<String>,
}

struct Desk {
    folder: PathBuf,
    grpc: Vec<String>,
    acts: Acts,
}

impl Operator {
    /// Starts to open accounts; `round` makes their names.
    pub(crate) fn start(folder: PathBuf, grpc: Vec<String>, seed: u64, round: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut desk = Desk {
                folder,
                grpc,
                acts: Acts::default(),
            };
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                let node = rng.gen_range(0..desk.grpc.len());
                desk.open_account(&format!("round-{round}-{count}"), node);
                count += 1;
            }
            desk.acts
        });
        Operator { stop, thread }
    }

    /// Lets the last command end.
    pub(crate) fn stop(self) -> Acts {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the operator does not panic")
    }
}

impl Desk {
    fn open_account(&mut self, name: &str, node: usize) {
        let create = format!("keypair create {name}.key --kind account");
        run(&self.folder, &create).ok();
        let open = format!(
            "--format json account open --unit 1 --holder {name}.key --class innovation \
             --genesis net/genesis.json --key net/keys/issuer-0.key --timeout 5s --node {}",
            self.grpc[node]
        );
        let ran = run(&self.folder, &open);
        match ran.code {
            0 => self.acts.finals.push(id_of(&ran.out)),
            5 => {
                let file = ran.err.split_whitespace().last().unwrap_or_default();
                self.acts.open.push(file.to_owned());
            }
            // No node answered: nothing was handed in.
            6 => {}
            _ => self.acts.wrong.push(format!("{open}: {ran:?}")),
        }
    }
}

impl Acts {
    /// Hands in again what is open; everything is final after that.
    pub(crate) fn settle(&mut self, folder: &std::path::Path, node: &str) {
        for file in &self.open {
            let line = format!("--format json tx submit {file} --timeout 60s --node {node}");
            let out = run(folder, &line).ok();
            self.finals.push(id_of(&out));
        }
    }
}

fn id_of(out: &str) -> String {
    let done: Value = serde_json::from_str(out).expect("JSON was asked for");
    assert_eq!(done["outcome"], "final", "{done}");
    done["transaction"].as_str().expect("an id").to_owned()
}
