//! Who asked this node for what: an append-only log for auditors.
//!
//! `HOME/access/access-<first number, 20 digits>.jsonl`, one JSON object per
//! line: number, time (ms), caller, address, method, subject, answer. Never a
//! token, and nothing of an answer. A file is closed when it is large enough,
//! the oldest goes when there are too many: the log is bounded.
//!
//! A call never waits for it. What comes faster than the disk takes it is left
//! out, and so are refusals beyond `MOST_REFUSALS` in a second: nobody who is
//! refused can push out what others did. Numbers go on all the same, so a gap
//! shows what is missing. A torn last line is cut off at the start; a line that
//! is no record (a bad disk) is passed over with a warning, and those after it
//! are kept.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::config::AccessConfig;

/// Records that wait for the disk.
const QUEUE: usize = 4_096;
/// Refusals that are noted in a second.
const MOST_REFUSALS: u32 = 50;
/// Longest text of a field, in characters.
const MOST_TEXT: usize = 100;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Contiguous; a gap is what was left out.
    pub number: u64,
    /// When, in ms since 1970 UTC, by this machine's clock.
    pub time: u64,
    /// `person:3`; `trusted`, `nobody` or `unknown`.
    pub caller: String,
    /// From where; empty: not known.
    pub address: String,
    /// Name of the method.
    pub method: String,
    /// About what.
    pub subject: String,
    /// `allowed`, or the reason of the refusal.
    pub answer: String,
}

/// What is noted.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who.
    pub caller: String,
    /// From where.
    pub address: Option<String>,
    /// Which method.
    pub method: &'static str,
    /// About what.
    pub subject: String,
    /// Why it was refused.
    pub refused: Option<String>,
}

/// Some records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// In their order.
    pub records: Vec<Record>,
    /// Where to go on; 0: these were the last.
    pub next: u64,
    /// The first that is kept; 0: none is.
    pub first: u64,
}

/// The log of a running node. Clones are the same log.
#[derive(Debug, Clone)]
pub struct AccessLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    sender: SyncSender<Record>,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    /// The next record's number.
    next: u64,
    second: u64,
    /// Refusals in that second.
    refusals: u32,
}

impl Counts {
    fn refusal_fits(&mut self, second: u64) -> bool {
        if self.second != second {
            (self.second, self.refusals) = (second, 0);
        }
        self.refusals += 1;
        self.refusals <= MOST_REFUSALS
    }
}

fn file_name(first: u64) -> String {
    format!("access-{first:020}.jsonl")
}

/// The log's files with their first numbers, ascending.
fn files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let first = name.and_then(|name| name.strip_prefix("access-")?.strip_suffix(".jsonl"));
        if let Some(first) = first.and_then(|first| first.parse().ok()) {
            found.push((first, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The whole lines of a file, each with the file's length after it. `None`: a
/// line that is no record.
fn lines(file: &File) -> impl Iterator<Item = io::Result<(Option<Record>, u64)>> + use<'_> {
    let mut reader = BufReader::new(file);
    let mut end = 0;
    std::iter::from_fn(move || {
        let mut line = Vec::new();
        match reader.read_until(b'\n', &mut line) {
            Err(error) => Some(Err(error)),
            Ok(length) => {
                end += length as u64;
                let whole = line.strip_suffix(b"\n")?;
                Some(Ok((serde_json::from_slice(whole).ok(), end)))
            }
        }
    })
}

/// The number after a file's last record, and the length of its whole lines.
fn end_of(first: u64, path: &Path, file: &File) -> io::Result<(u64, u64)> {
    let (mut next, mut length) = (first, 0);
    let mut bad = 0_u64;
    for line in lines(file) {
        let (record, end) = line?;
        length = end;
        match record {
            Some(record) => next = next.max(record.number.saturating_add(1)),
            // Its number is not used again.
            None => (next, bad) = (next.saturating_add(1), bad + 1),
        }
    }
    if bad > 0 {
        tracing::warn!(lines = bad, path = %path.display(), "lines of the access log are no records: passed over");
    }
    Ok((next, length))
}

impl AccessLog {
    /// Opens the log in `folder`, which is made if it is not there.
    pub fn open(folder: &Path, config: &AccessConfig) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut next = 1;
        let mut open = None;
        if let Some((first, path)) = files(folder)?.pop() {
            let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
            let length;
            (next, length) = end_of(first, &path, &file)?;
            file.set_len(length)?;
            file.seek(SeekFrom::End(0))?;
            open = Some((file, length));
        }
        let (sender, receiver) = sync_channel(QUEUE);
        let writer = Writer {
            folder: folder.to_owned(),
            config: *config,
            open,
            failed: false,
        };
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer.run(&receiver))?;
        Ok(AccessLog(Arc::new(Inner {
            folder: folder.to_owned(),
            sender,
            counts: Mutex::new(Counts {
                next,
                second: 0,
                refusals: 0,
            }),
        })))
    }

    /// Notes a call; never waits.
    pub fn note(&self, asked: Asked) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let time = now.map_or(0, |now| now.as_millis() as u64);
        let refused = asked.refused.is_some();
        let bounded = |text: String| text.chars().take(MOST_TEXT).collect();
        let mut record = Record {
            number: 0,
            time,
            caller: bounded(asked.caller),
            address: bounded(asked.address.unwrap_or_default()),
            method: asked.method.to_owned(),
            subject: bounded(asked.subject),
            answer: bounded(asked.refused.unwrap_or_else(|| "allowed".to_owned())),
        };
        let mut counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        record.number = counts.next;
        counts.next += 1;
        if refused && !counts.refusal_fits(time / 1_000) {
            return;
        }
        // Full, or the writer is gone: its number stays a gap. Within the
        // lock, so that they are written in their order.
        let _ = self.0.sender.try_send(record);
    }

    /// Records from number `from` on, `limit` at most. Reads the disk.
    pub fn read(&self, from: u64, limit: usize) -> io::Result<Page> {
        let files = files(&self.0.folder)?;
        let mut page = Page {
            first: files.first().map_or(0, |(first, _)| *first),
            ..Page::default()
        };
        let before = files.partition_point(|(first, _)| *first <= from);
        for (_, path) in &files[before.saturating_sub(1)..] {
            let file = match File::open(path) {
                // Its turn to go came meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            for line in lines(&file) {
                let Some(record) = line?.0.filter(|record| record.number >= from) else {
                    continue;
                };
                if page.records.len() == limit {
                    page.next = record.number;
                    return Ok(page);
                }
                page.records.push(record);
            }
        }
        Ok(page)
    }
}

/// Writes what comes, on a thread of its own.
struct Writer {
    folder: PathBuf,
    config: AccessConfig,
    /// The file in use and its length.
    open: Option<(File, u64)>,
    /// The last write failed, and that was said.
    failed: bool,
}

impl Writer {
    fn run(mut self, receiver: &Receiver<Record>) {
        while let Ok(record) = receiver.recv() {
            let done = self.write(&record);
            match done {
                Err(error) if !self.failed => {
                    tracing::error!(%error, folder = %self.folder.display(), "the access log cannot be written");
                    self.failed = true;
                }
                Ok(()) => self.failed = false,
                Err(_) => {}
            }
        }
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        if !matches!(&self.open, Some((_, length)) if *length < self.config.file_bytes) {
            self.next_file(record.number)?;
        }
        let Some((file, length)) = &mut self.open else {
            return Ok(());
        };
        let mut line = serde_json::to_vec(record).map_err(io::Error::other)?;
        line.push(b'\n');
        let written = file.write_all(&line);
        *length += line.len() as u64;
        if written.is_err() {
            // What there is of the line is torn: go on in another file.
            self.open = None;
        }
        written
    }

    fn next_file(&mut self, first: u64) -> io::Result<()> {
        if let Some((file, _)) = self.open.take() {
            file.sync_data()?;
        }
        let path = self.folder.join(file_name(first));
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(path)?;
        let length = file.metadata()?.len();
        self.open = Some((file, length));
        let files = files(&self.folder)?;
        let old = files.len().saturating_sub(self.config.files);
        files[..old]
            .iter()
            .try_for_each(|(_, path)| fs::remove_file(path))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn config(file_bytes: u64, files: usize) -> AccessConfig {
        AccessConfig { file_bytes, files }
    }

    fn asked(subject: &str) -> Asked {
        Asked {
            caller: "person:3".to_owned(),
            address: Some("127.0.0.1".to_owned()),
            method: "GetAccount",
            subject: subject.to_owned(),
            refused: None,
        }
    }

    /// All records, once the last one is `number`.
    fn until(log: &AccessLog, number: u64) -> Page {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if !log.read(number, 1).unwrap().records.is_empty() {
                return log.read(0, 10_000).unwrap();
            }
            assert!(Instant::now() < deadline, "record {number} is not written");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn it_goes_on_after_a_start_and_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let log = AccessLog::open(folder.path(), &config(1 << 20, 3)).unwrap();
        (0..3).for_each(|i| log.note(asked(&format!("account:{i}"))));
        let page = until(&log, 3);
        assert_eq!((page.first, page.next, page.records.len()), (1, 0, 3));
        assert_eq!(page.records[2].subject, "account:2");
        assert_eq!(page.records[2].answer, "allowed");
        drop(log);
        let (_, path) = files(folder.path()).unwrap().pop().unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"number\":4,\"ti").unwrap();
        let log = AccessLog::open(folder.path(), &config(1 << 20, 3)).unwrap();
        log.note(asked("account:9"));
        let page = until(&log, 4);
        assert_eq!(
            (page.records.len(), &*page.records[3].subject),
            (4, "account:9")
        );
    }

    #[test]
    fn a_flipped_byte_costs_one_record_and_no_later_one() {
        let folder = tempfile::tempdir().unwrap();
        let log = AccessLog::open(folder.path(), &config(1 << 20, 3)).unwrap();
        (0..5).for_each(|i| log.note(asked(&format!("account:{i}"))));
        until(&log, 5);
        drop(log);
        let (_, path) = files(folder.path()).unwrap().pop().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let lines: Vec<_> = (0..bytes.len()).filter(|i| bytes[*i] == b'\n').collect();
        // The brace of the second record, and of the last one.
        (bytes[lines[0] + 1], bytes[lines[3] + 1]) = (b'[', b'[');
        fs::write(&path, &bytes).unwrap();
        let log = AccessLog::open(folder.path(), &config(1 << 20, 3)).unwrap();
        log.note(asked("account:9"));
        let page = until(&log, 6);
        let numbers: Vec<u64> = page.records.iter().map(|record| record.number).collect();
        assert_eq!(numbers, [1, 3, 4, 6]);
        assert_eq!(page.records[3].subject, "account:9");
        assert!(fs::read(&path).unwrap().starts_with(&bytes));
    }

    #[test]
    fn it_is_bounded_and_read_by_cursor() {
        let folder = tempfile::tempdir().unwrap();
        let log = AccessLog::open(folder.path(), &config(1_000, 3)).unwrap();
        for number in 1..=200 {
            log.note(asked(&format!("account:{number}")));
        }
        until(&log, 200);
        let found = files(folder.path()).unwrap();
        assert_eq!(found.len(), 3);
        let first = found[0].0;
        assert!(first > 150, "{first}");
        let (mut from, mut all) = (0, Vec::new());
        loop {
            let page = log.read(from, 7).unwrap();
            assert!(page.first == first && page.records.len() <= 7);
            all.extend(page.records.iter().map(|record| record.number));
            if page.next == 0 {
                break;
            }
            from = page.next;
        }
        assert_eq!(all, (first..=200).collect::<Vec<_>>());
        assert_eq!(log.read(201, 7).unwrap().records, []);
    }

    #[test]
    fn refusals_cannot_push_out_what_others_did() {
        let folder = tempfile::tempdir().unwrap();
        let log = AccessLog::open(folder.path(), &config(1 << 20, 3)).unwrap();
        let refused = Asked {
            refused: Some("NotLoggedIn".to_owned()),
            ..asked(&"x".repeat(1_000))
        };
        (0..2_000).for_each(|_| log.note(refused.clone()));
        log.note(asked("account:1"));
        let page = until(&log, 2_001);
        // Two seconds may have been touched.
        assert!(
            page.records.len() <= 4 * MOST_REFUSALS as usize,
            "{}",
            page.records.len()
        );
        assert_eq!(page.records[0].subject.len(), MOST_TEXT);
        assert_eq!(page.records[0].answer, "NotLoggedIn");
    }
}
