//! An erasure is done when the disk has it.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::ThreadId,
};

use tally_node::{
    forget::{Erasures, Journal},
    storage::{Disk, DiskFile, RealDisk},
};

use super::*;

/// A disk that notes who renames a file onto which and who fsyncs which
/// folder, and can fail the fsync after a file of blocks was written again.
#[derive(Debug, Default)]
struct NotedDisk {
    fails: AtomicBool,
    done: Mutex<Vec<(ThreadId, &'static str, PathBuf)>>,
}

impl NotedDisk {
    fn note(&self, what: &'static str, path: &Path) {
        let thread = std::thread::current().id();
        let mut done = self.done.lock().unwrap();
        done.push((thread, what, path.to_owned()));
    }

    /// What the thread that did the last thing of this kind did until then.
    fn until_last(&self, what: &str, path: &Path) -> Vec<(&'static str, PathBuf)> {
        let done = self.done.lock().unwrap();
        let is = |(_, did, to): &(ThreadId, &'static str, PathBuf)| *did == what && to == path;
        let end = done.iter().rposition(is).unwrap();
        let own = done[..end].iter().filter(|(by, ..)| *by == done[end].0);
        own.map(|(_, what, path)| (*what, path.clone())).collect()
    }
}

impl Disk for NotedDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path, create)
    }
    fn open_alone(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open_alone(path)
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        RealDisk.list(folder)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)?;
        let what = if from.ends_with("redacted") {
            "rewrite"
        } else {
            "rename"
        };
        self.note(what, to);
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let thread = std::thread::current().id();
        let done = self.done.lock().unwrap();
        let rewritten = done
            .iter()
            .any(|(by, what, _)| (*by, *what) == (thread, "rewrite"));
        drop(done);
        if rewritten && self.fails.load(Ordering::SeqCst) {
            self.note("failed", folder);
            return Err(io::Error::other("input/output error"));
        }
        RealDisk.sync_folder(folder)?;
        self.note("sync", folder);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_is_not_done_before_the_renamed_files_are_durable() {
    let net = net(1);
    let home = &net.homes[0];
    let journal = Journal::of(home.folder()).path().to_owned();
    let said = || fs::read_to_string(&journal).unwrap_or_default();
    let disk = Arc::new(NotedDisk::default());
    disk.fails.store(true, Ordering::SeqCst);
    let node = net.start_on(disk.clone(), 0, SOLO).await;
    prepare(&net, &node).await;
    spend(&net, &node, 1, 0).await;
    node.finalise(erase(&net, 78, 0)).await;
    until("the folder cannot be fsynced", || async {
        let done = disk.done.lock().unwrap();
        done.iter().any(|(_, what, _)| *what == "failed")
    })
    .await;
    assert_eq!(metric(&node, "tally_node_erasures_pending").await, 1);
    node.stop().await;
    assert_eq!(said(), "", "nothing is said to be gone");

    // As after a crash, there is nothing to drop any more, and the renames
    // may not be durable yet.
    let disk = Arc::new(NotedDisk::default());
    let node = net.start_on(disk.clone(), 0, SOLO).await;
    until("it is done", || async {
        said().contains("all details of an erased account are gone")
            && Erasures::open(Arc::new(RealDisk), &home.data())
                .is_ok_and(|erasures| erasures.pending().is_empty())
    })
    .await;
    node.stop().await;
    let before = disk.until_last("rename", &home.data().join("erasures"));
    let synced = ("sync", home.data().join("blocks"));
    assert!(before.contains(&synced), "{before:?}");
    assert!(
        !before.iter().any(|(what, _)| *what == "rewrite"),
        "{before:?}"
    );
    assert!(!has_salt(home, 7));
}
