//! Running the binary: what the command line's tests share.

#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod gateway;

use std::{
    cell::Cell,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tally_node::Home;

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Ran {
    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}", self.out, self.err);
        self.out
    }

    /// The same as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// The error of a command that must have ended with this code.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        self.err
    }
}

/// The binary, in a folder, without a caller's settings.
pub(crate) fn tally(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tally"));
    command.current_dir(folder).stdin(Stdio::null());
    for name in [
        "TALLY_GENESIS",
        "TALLY_NODE",
        "TALLY_KEY",
        "TALLY_CA",
        "TALLY_LOGIN",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs a command line, split at spaces.
pub(crate) fn run(folder: &Path, line: &str) -> Ran {
    let output = tally(folder)
        .args(line.split_whitespace())
        .output()
        .unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Writes a file.
pub(crate) fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

/// A running process, killed when dropped. It also ends when this process
/// does: its standard input is a pipe whose other end is here.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a command line that ends with this process; what it says on
    /// stderr goes to the end of `log`.
    pub(crate) fn start(folder: &Path, log: &Path, line: &str) -> Self {
        let log = fs::File::options().create(true).append(true).open(log);
        let child = tally(folder)
            .args(line.split_whitespace())
            .env("TALLY_END_WITH_PARENT", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        Running(child)
    }

    /// The JSON with which it says where it listens.
    pub(crate) fn said(&mut self) -> Value {
        let out = self.0.stdout.take().expect("said once");
        let mut lines = BufReader::new(out).lines();
        let mut text = String::new();
        while !text.ends_with("}\n") {
            let line = lines.next().expect("it ends before it says anything");
            text += &line.unwrap();
            text.push('\n');
        }
        serde_json::from_str(&text).unwrap()
    }

    /// Sends it a signal, such as `HUP`.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.0.id());
        let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(sent.success());
    }

    /// SIGTERM; gives its exit code.
    pub(crate) fn terminate(&mut self, limit: Duration) -> i32 {
        self.signal("TERM");
        let ended = wait_for("end of the process", limit, || self.0.try_wait().unwrap());
        ended.code().expect("it was not killed by a signal")
    }
}

/// Starts a command whose first line of JSON says where it listens.
pub(crate) fn start(folder: &Path, line: &str) -> (Running, Value) {
    let mut running = Running::start(folder, &folder.join("started.log"), line);
    let said = running.said();
    (running, said)
}

/// Waits until `condition` gives something.
#[track_caller]
pub(crate) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "no {what} within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One HTTP request; the whole answer, head included.
pub(crate) fn http(address: &str, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// One chat completion, as a holder's client asks; the whole answer, head
/// included.
pub(crate) fn chat(address: &str, secret: &str, body: &str) -> String {
    post(address, &format!("authorization: Bearer {secret}"), body)
}

/// The same with any lines of a head.
pub(crate) fn post(address: &str, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         {head}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A trial net: homes made by `tally testnet`, nodes as separate processes.
pub(crate) struct Net {
    /// Holds everything.
    pub(crate) folder: tempfile::TempDir,
    /// gRPC addresses.
    pub(crate) grpc: Vec<String>,
    nodes: Vec<Option<Running>>,
    /// The node that told last that something is final, and at what height.
    told: Cell<(usize, u64)>,
}

/// The height of what a command called final last.
fn final_height(out: &str) -> Option<u64> {
    let done: Value = serde_json::from_str(out).ok()?;
    let rows = done.as_array().cloned().unwrap_or_else(|| vec![done]);
    let finals = rows.iter().filter(|row| row["outcome"] == "final");
    finals.filter_map(|row| row["height"].as_u64()).max()
}

/// How long anything of a net may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

impl Net {
    /// Makes a net; no node runs yet.
    pub(crate) fn make(validators: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = run(
            folder.path(),
            &format!("--format json testnet net --validators {validators}"),
        );
        let made = made.json();
        let rows = made["validators"].as_array().unwrap();
        let grpc = rows
            .iter()
            .map(|row| row["grpc"].as_str().unwrap().to_owned())
            .collect();
        let nodes = (0..validators).map(|_| None).collect();
        Net {
            folder,
            grpc,
            nodes,
            told: Cell::default(),
        }
    }

    /// Makes a net and starts all its nodes.
    pub(crate) fn start(validators: usize) -> Self {
        let mut net = Self::make(validators);
        (0..validators).for_each(|i| net.start_node(i));
        for i in 0..validators {
            net.wait_height(i, 1);
        }
        net
    }

    /// The home of node `i`.
    pub(crate) fn home(&self, i: usize) -> Home {
        Home::new(self.folder.path().join(format!("net/v{i}")))
    }

    /// What node `i` says on stderr.
    pub(crate) fn log(&self, i: usize) -> PathBuf {
        self.folder.path().join(format!("v{i}.log"))
    }

    /// Starts a node.
    pub(crate) fn start_node(&mut self, i: usize) {
        let line = format!("node --home net/v{i}");
        self.nodes[i] = Some(Running::start(self.folder.path(), &self.log(i), &line));
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, i: usize) {
        self.nodes[i] = None;
    }

    /// SIGTERM; gives the exit code.
    pub(crate) fn terminate(&mut self, i: usize, limit: Duration) -> i32 {
        let mut node = self.nodes[i].take().expect("it runs");
        node.terminate(limit)
    }

    /// The nodes that have ended by themselves.
    pub(crate) fn ended(&mut self) -> Vec<usize> {
        let nodes = self.nodes.iter_mut().enumerate();
        let ended = nodes.filter_map(|(i, node)| {
            let node = node.as_mut()?;
            node.0.try_wait().unwrap().map(|_| i)
        });
        ended.collect()
    }

    /// Runs a command line against node `i`; `KEYS` stands for the folder of
    /// keys, `GENESIS` for the genesis argument. What another node has called
    /// final before, this one has too.
    #[track_caller]
    pub(crate) fn run(&self, i: usize, line: &str) -> Ran {
        let (by, height) = self.told.get();
        if by != i && height > 0 {
            self.wait_height(i, height);
            self.told.set((i, height));
        }
        let line = line
            .replace("KEYS", "net/keys")
            .replace("GENESIS", "--genesis net/genesis.json");
        let ran = run(
            self.folder.path(),
            &format!("{line} --format json --node {}", self.grpc[i]),
        );
        if let Some(height) = final_height(&ran.out) {
            self.told.set((i, height));
        }
        ran
    }

    /// The state of node `i`, as `status` prints it.
    pub(crate) fn status(&self, i: usize) -> Value {
        let ran = run(
            self.folder.path(),
            &format!("status --format json --node {}", self.grpc[i]),
        );
        let value: Value = serde_json::from_str(&ran.out).unwrap();
        value["validators"][0].clone()
    }

    /// Waits until node `i` has this height.
    #[track_caller]
    pub(crate) fn wait_height(&self, i: usize, height: u64) -> u64 {
        let log = self.log(i);
        wait_for(
            &format!("block {height} at node {i} ({})", log.display()),
            LIMIT,
            || {
                self.status(i)["height"]
                    .as_u64()
                    .filter(|now| *now >= height)
            },
        )
    }
}
