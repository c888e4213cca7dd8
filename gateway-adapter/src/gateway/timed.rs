//! A journal's store whose fsyncs are timed.

use std::{io, sync::Arc, time::Instant};

use crate::{journal::Store, metrics::Metrics};

/// Some store.
pub(super) struct Timed<S> {
    pub(super) store: S,
    pub(super) metrics: Arc<Metrics>,
}

impl<S: Store> Store for Timed<S> {
    fn segments(&self) -> io::Result<Vec<u64>> {
        self.store.segments()
    }

    fn read(&self, segment: u64) -> io::Result<Vec<u8>> {
        self.store.read(segment)
    }

    fn create(&mut self, segment: u64) -> io::Result<()> {
        self.store.create(segment)
    }

    fn cut(&mut self, segment: u64, length: u64) -> io::Result<()> {
        self.store.cut(segment, length)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.store.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        let began = Instant::now();
        let done = self.store.sync();
        self.metrics.fsync.observe(began.elapsed().as_secs_f64());
        done
    }

    fn remove(&mut self, segment: u64) -> io::Result<()> {
        self.store.remove(segment)
    }

    fn set_aside(&mut self, segment: u64) -> io::Result<()> {
        self.store.set_aside(segment)
    }
}
