//! A disk that loses what was not synced, and fails at will.

use std::time::Duration;

use super::*;

/// Bytes of each segment, and how many of them are durable.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    pub(super) segments: BTreeMap<u64, (Vec<u8>, usize)>,
    pub(super) open: u64,
    pub(super) aside: usize,
    /// The n-th sync from now fails.
    pub(super) fail_sync: Option<u32>,
    /// Every sync panics.
    pub(super) panic: bool,
    /// How long a sync takes.
    pub(super) pause: Duration,
    /// The threads that synced.
    pub(super) synced: Vec<String>,
    /// The threads that began segments.
    pub(super) began: Vec<String>,
}

fn this_thread() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

#[derive(Debug, Clone, Default)]
pub(super) struct Fake(Arc<Mutex<Disk>>);

impl Fake {
    pub(super) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }
    /// What is left after a power cut.
    pub(super) fn crashed(&self) -> Fake {
        let mut disk = self.disk().clone();
        for (bytes, durable) in disk.segments.values_mut() {
            bytes.truncate(*durable);
        }
        disk.fail_sync = None;
        Fake(Arc::new(Mutex::new(disk)))
    }
    pub(super) fn with(&self, change: impl FnOnce(&mut Disk)) -> Fake {
        let copy = self.crashed();
        change(&mut copy.disk());
        copy
    }
}

impl Store for Fake {
    fn segments(&self) -> io::Result<Vec<u64>> {
        Ok(self.disk().segments.keys().copied().collect())
    }
    fn read(&self, segment: u64) -> io::Result<Vec<u8>> {
        Ok(self.disk().segments[&segment].0.clone())
    }
    fn create(&mut self, segment: u64) -> io::Result<()> {
        let mut disk = self.disk();
        assert!(disk.segments.insert(segment, (Vec::new(), 0)).is_none());
        disk.open = segment;
        disk.began.push(this_thread());
        Ok(())
    }
    fn cut(&mut self, segment: u64, length: u64) -> io::Result<()> {
        let mut disk = self.disk();
        let (bytes, durable) = disk.segments.get_mut(&segment).unwrap();
        bytes.truncate(length as usize);
        *durable = bytes.len();
        disk.open = segment;
        Ok(())
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        let open = disk.open;
        disk.segments
            .get_mut(&open)
            .unwrap()
            .0
            .extend_from_slice(bytes);
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        let pause = self.disk().pause;
        std::thread::sleep(pause);
        let panic = self.disk().panic;
        assert!(!panic, "a test's disk breaks");
        let mut disk = self.disk();
        disk.synced.push(this_thread());
        if let Some(left) = &mut disk.fail_sync {
            if *left == 0 {
                return Err(io::Error::other("no space"));
            }
            *left -= 1;
        }
        for (bytes, durable) in disk.segments.values_mut() {
            *durable = bytes.len();
        }
        Ok(())
    }
    fn remove(&mut self, segment: u64) -> io::Result<()> {
        self.disk().segments.remove(&segment);
        Ok(())
    }
    fn set_aside(&mut self, segment: u64) -> io::Result<()> {
        let mut disk = self.disk();
        disk.segments.remove(&segment);
        disk.aside += 1;
        Ok(())
    }
}
