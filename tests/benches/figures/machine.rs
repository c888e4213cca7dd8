//! What the machine did meanwhile: idle share, and how long an fdatasync of
//! a 4 KiB append took beside the load, ten times a second.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::figure::percentile_of;

/// Watches the machine until it is dropped.
pub(crate) struct Probe {
    start: (u64, u64),
    syncs: Arc<Mutex<Vec<f64>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    /// Starts to watch; the file that it syncs is in `folder`.
    pub(crate) fn start(folder: &Path) -> Self {
        let (syncs, stop) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(AtomicBool::new(false)),
        );
        let mut file = File::create(folder.join("fdatasync.probe")).unwrap();
        let (theirs, stopped) = (syncs.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let started = Instant::now();
                file.write_all(&[7; 4096]).unwrap();
                file.sync_data().unwrap();
                theirs
                    .lock()
                    .unwrap()
                    .push(started.elapsed().as_secs_f64() * 1e3);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self {
            start: jiffies(),
            syncs,
            stop,
            thread: Some(thread),
        }
    }

    /// Percentile of the fdatasync latency so far, in ms.
    pub(crate) fn sync_ms(&self, share: f64) -> f64 {
        percentile_of(&mut self.syncs.lock().unwrap().clone(), share)
    }

    /// What was seen.
    pub(crate) fn report(&self) -> Value {
        let (idle, all) = jiffies();
        let share = (idle - self.start.0) as f64 / (all - self.start.1).max(1) as f64;
        json!({
            "idle_share": (share * 1000.0).round() / 1000.0,
            "fdatasync_ms_p50": self.sync_ms(0.5),
            "fdatasync_ms_p99": self.sync_ms(0.99),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
        })
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// (idle, all) since the machine's start, over all cores.
fn jiffies() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = first
        .split_whitespace()
        .skip(1)
        .filter_map(|f| f.parse().ok())
        .collect();
    let idle = fields.iter().skip(3).take(2).sum();
    (idle, fields.iter().take(8).sum())
}

/// Bytes of all files below a folder, as the disk counts them.
pub(crate) fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
