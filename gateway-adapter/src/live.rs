//! A value that is replaced as a whole while it is read. Reading takes no
//! lock; who has read it keeps what it has seen.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

/// The value of now.
#[derive(Debug)]
pub struct Live<T>(ArcSwap<T>);

impl<T> Live<T> {
    /// Starts with `value`.
    pub fn new(value: T) -> Self {
        Live(ArcSwap::from_pointee(value))
    }

    /// The value of now.
    pub fn get(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// The same, for a short look: without touching what readers share.
    pub fn look(&self) -> Guard<Arc<T>> {
        self.0.load()
    }

    /// Replaces it, for whoever reads it from now on.
    pub fn set(&self, value: T) {
        self.0.store(Arc::new(value));
    }
}

impl<T: Default> Default for Live<T> {
    fn default() -> Self {
        Live::new(T::default())
    }
}
