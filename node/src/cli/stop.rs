//! When a long-running command ends: on SIGTERM, on Ctrl-C, and, if its
//! parent asked for that, when the parent is gone.

use std::io::Read;

use tokio::{
    signal::unix::{SignalKind, signal as unix_signal},
    sync::oneshot,
};

/// Set by a parent whose end shall end the child: the child's standard input
/// is a pipe that the parent holds open, and closes by ending.
pub(crate) const WITH_PARENT: &str = "TALLY_END_WITH_PARENT";

/// Waits until the process should stop.
pub(crate) async fn signal() {
    let mut terminate = match unix_signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(_) => return,
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
        () = parent_gone() => {}
    }
}

async fn parent_gone() {
    if std::env::var_os(WITH_PARENT).is_none() {
        return std::future::pending().await;
    }
    let (gone, parent) = oneshot::channel();
    // A thread of its own: the runtime's end would wait for one of its.
    std::thread::spawn(move || {
        let mut input = std::io::stdin();
        let mut bytes = [0; 64];
        while matches!(input.read(&mut bytes), Ok(1..)) {}
        // Nobody listens if another reason came first.
        let _ = gone.send(());
    });
    let _ = parent.await;
}
