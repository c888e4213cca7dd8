//! Calls of the application: one at a time, and off the async threads where
//! they may take long.

use std::panic::resume_unwind;

use tokio::task::spawn_blocking;

use crate::application::Application;

/// The application, while nobody calls it.
pub(crate) struct Calls<A>(Option<A>);

impl<A: Application> Calls<A> {
    pub(crate) fn new(application: A) -> Self {
        Self(Some(application))
    }

    /// For calls that are cheap.
    pub(crate) fn cheap(&mut self) -> &mut A {
        self.0
            .as_mut()
            .expect("between calls the application is here")
    }

    /// For calls that execute blocks or touch a disk. Must not be dropped
    /// before it is done.
    pub(crate) async fn blocking<R, F>(&mut self, call: F) -> R
    where
        R: Send + 'static,
        F: FnOnce(&mut A) -> R + Send + 'static,
    {
        let mut application = self
            .0
            .take()
            .expect("between calls the application is here");
        let task = spawn_blocking(move || {
            let result = call(&mut application);
            (application, result)
        });
        match task.await {
            Ok((application, result)) => {
                self.0 = Some(application);
                result
            }
            Err(error) => resume_unwind(error.into_panic()),
        }
    }
}
