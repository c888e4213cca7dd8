//! A full disk: whichever file cannot be written, the node stops with a line
//! that says what to do, acknowledges nothing that it does not have, and goes
//! on when there is room.

use std::{
    cell::Cell,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::net::{CT, Net, Running, until};
use tally_ledger::transaction::Transaction;
use tally_node::{
    Engine,
    storage::{Disk, DiskFile, RealDisk},
};
use tally_proto::v1;

/// A disk on which files of one name find no room any more.
#[derive(Debug, Clone, Default)]
struct FullDisk(Arc<Mutex<Option<&'static str>>>);

impl FullDisk {
    fn fill(&self, name: &'static str) {
        *self.0.lock().unwrap() = Some(name);
    }

    fn room(&self, path: &Path) -> io::Result<()> {
        let full = *self.0.lock().unwrap();
        let path = path.to_string_lossy();
        match full {
            Some(name) if path.contains(name) => Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "No space left on device",
            )),
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
struct File {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    disk: FullDisk,
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(bytes, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = self.disk.room(&self.path) {
            // A full disk takes a part.
            self.file.write_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(error);
        }
        self.file.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
}

impl Disk for FullDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let file = RealDisk.open(path, create)?;
        let (path, disk) = (path.to_owned(), self.clone());
        Ok(Box::new(File { file, path, disk }))
    }
    fn open_alone(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = RealDisk.open_alone(path)?;
        let (path, disk) = (path.to_owned(), self.clone());
        Ok(Box::new(File { file, path, disk }))
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        RealDisk.list(folder)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        RealDisk.sync_folder(folder)
    }
}

/// Submits, again while that is slow, until it is called final or the node has
/// stopped; which of them.
async fn is_final(node: &Running, transaction: &Transaction) -> bool {
    let called_final = || async {
        let request = v1::SubmitRequest {
            transaction: Some(transaction.clone().into()),
            wait: v1::Wait::Final.into(),
            timeout_ms: 2_000,
        };
        let answer = node.ledger.clone().submit(request).await;
        answer.is_ok_and(|answer| answer.into_inner().outcome() == v1::Outcome::Final)
    };
    let is_final = Cell::new(false);
    until("it is final, or the node stops", || async {
        is_final.set(called_final().await);
        is_final.get() || node.has_ended()
    })
    .await;
    is_final.get()
}

/// What a client asks for until the node has stopped: accounts (events) and
/// debits (receipts). Gives what was called final.
async fn use_up(net: &Net, node: &Running) -> Vec<Transaction> {
    const BATCH: u64 = 40;
    let mut finals = Vec::new();
    for i in 1..40 {
        let debits = net.debits(1 + (i - 1) * BATCH, BATCH, 1, 0, 1000);
        for transaction in [net.open_account(i as u32), debits] {
            if is_final(node, &transaction).await {
                finals.push(transaction);
                continue;
            }
            return finals;
        }
    }
    panic!("it goes on although a file of it is full");
}

async fn check(full: &'static str, named: &str) {
    let net = Net::new(1);
    let disk = FullDisk::default();
    let on: Arc<dyn Disk> = Arc::new(disk.clone());
    let node = net.start_on(on, 0, Engine::Validators).await;
    net.prepare(&node, 10 * CT).await;
    disk.fill(full);
    let finals = use_up(&net, &node).await;
    let why = node.ended().await.to_string();
    assert!(why.contains(named), "{full}: {why}");
    let todo = why.to_lowercase();
    assert!(
        todo.contains("make room") && todo.contains("start the node again"),
        "{full}: {why}"
    );

    let node = net.start(0, Engine::Validators).await;
    for transaction in &finals {
        let request = v1::GetTransactionRequest {
            id: transaction.id().0.to_vec().into(),
        };
        let found = node.ledger.clone().get_transaction(request).await;
        let outcome = found.unwrap().into_inner().outcome();
        assert_eq!(outcome, v1::Outcome::Final, "{full}");
    }
    node.finalise(net.open_account(90)).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn block_files_without_room_stop_the_node() {
    check("/data/blocks/", "data/blocks").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_files_without_room_stop_the_node() {
    for name in ["/log/leaves", "/log/events", "/log/tiles-8"] {
        check(name, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_without_room_stop_the_node() {
    check("/data/snapshots/", "data/snapshots").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_without_room_stops_the_node() {
    check("/consensus/guard", "consensus/guard").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undecided_blocks_without_room_stop_the_node() {
    check("/consensus/undecided", "consensus/undecided").await;
}

/// A process whose files may not grow above `limit` blocks of 512 bytes; what
/// it says on stderr, and its exit code.
fn limited(
    net: &crate::cli_common::Net,
    limit: u64,
) -> std::thread::JoinHandle<(Option<i32>, String)> {
    let script = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" node --home net/v0");
    let child = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_tally")])
        .current_dir(net.folder.path())
        .env("RUST_LOG", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    })
}

/// A real process, and the system's own refusal to write more.
#[test]
fn a_process_that_may_not_write_more_ends_with_a_line_and_starts_again() {
    let mut net = crate::cli_common::Net::make(1);
    let ended = limited(&net, 48);
    let deadline = Instant::now() + Duration::from_secs(90);
    let mut finals = Vec::new();
    let mut number = 0;
    while !ended.is_finished() {
        assert!(Instant::now() < deadline, "it goes on with full files");
        number += 1;
        let open = format!(
            "account open --unit {number} --holder KEYS/holder-0.key --class innovation GENESIS \
             --key KEYS/issuer-0.key --timeout 2s"
        );
        let ran = net.run(0, &open);
        if ran.code == 0 {
            finals.push(ran.json()["transaction"].as_str().unwrap().to_owned());
        }
    }
    let (code, said) = ended.join().unwrap();
    assert_eq!(code, Some(1), "{said}");
    let last = said.lines().last().unwrap().to_lowercase();
    assert!(
        last.starts_with("tally: ")
            && last.contains("make room")
            && last.contains("start the node again"),
        "{said}"
    );
    assert!(!finals.is_empty());
    net.start_node(0);
    net.wait_height(0, 1);
    let entries = net.run(0, "entry list --control --limit 1000").json();
    let opened = entries.as_array().unwrap().iter();
    let opened = opened
        .filter(|entry| entry["what"] == "AccountOpened")
        .count();
    assert!(opened >= finals.len(), "{opened} of {finals:?}");
    net.run(
        0,
        "account open --unit 0 --holder KEYS/holder-0.key --class innovation GENESIS \
         --key KEYS/issuer-0.key",
    )
    .ok();
}
