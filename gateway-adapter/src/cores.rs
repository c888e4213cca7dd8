//! The threads that serve: one per core of the machine, each with a runtime of
//! its own. A connection stays on one of them with its requests, and with the
//! connections to engines that these use, so that nothing on a request's way
//! wakes another thread. The chain is followed beside them, on the runtime
//! that the gateway was started in.
//!
//! Which thread a connection comes to is decided when it is taken: the one
//! with the fewest. What is bounded or counted for all (connections, holds,
//! limits per minute) is shared, and does not know of them.

use std::{
    cell::{Cell, RefCell},
    io,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{runtime::Handle, task::JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

thread_local! {
    static HERE: Cell<usize> = const { Cell::new(0) };
    /// Whether this thread is held up; none if it does not serve.
    static HELD_UP: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
}

/// Does something during which nothing else runs on this thread: connections
/// go to others meanwhile.
pub(crate) fn hold_up<T>(work: impl FnOnce() -> T) -> T {
    let mark = |held_up: bool| {
        HELD_UP.with_borrow(|mark| {
            if let Some(mark) = mark {
                mark.store(held_up, Ordering::Relaxed);
            }
        });
    };
    mark(true);
    let done = work();
    mark(false);
    done
}

/// The number of this thread, from 1; 0: it is none of those that serve.
pub fn here() -> usize {
    HERE.get()
}

/// How many serve.
pub fn count() -> usize {
    // As it was first: what is made later fits to what was made before.
    static COUNT: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));
    *COUNT
}

/// The threads; they end when this is dropped, with all that runs on them.
#[derive(Debug)]
pub struct Cores {
    cores: Vec<Core>,
    lost: CancellationToken,
    _end: DropGuard,
}

#[derive(Debug)]
struct Core {
    handle: Handle,
    connections: Arc<AtomicUsize>,
    held_up: Arc<AtomicBool>,
}

/// One connection on a thread.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Cores {
    /// Starts them; each does `idle` when it has nothing else to do.
    pub fn start(idle: fn()) -> io::Result<Self> {
        Self::each(|number, end, lost| core(number, idle, end, lost))
    }

    fn each(
        core: impl Fn(usize, CancellationToken, CancellationToken) -> io::Result<Core>,
    ) -> io::Result<Self> {
        let (end, lost) = (CancellationToken::new(), CancellationToken::new());
        // Those that have started end as well if another one does not.
        let guard = end.clone().drop_guard();
        let cores = (1..=count()).map(|number| core(number, end.clone(), lost.clone()));
        Ok(Cores {
            cores: cores.collect::<io::Result<_>>()?,
            lost,
            _end: guard,
        })
    }

    /// Resolves when one of them has ended by itself, with all that ran on it.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Runs a task on each of them.
    pub fn on_each<T>(&self, tasks: &mut JoinSet<()>, task: impl Fn() -> T)
    where
        T: Future<Output = ()> + Send + 'static,
    {
        for core in &self.cores {
            tasks.spawn_on(task(), &core.handle);
        }
    }

    /// Serves a connection on the thread that has the fewest, as one of `all`;
    /// not on one that is held up, if there is another.
    pub fn spawn(
        &self,
        all: &mut JoinSet<()>,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let fewest = |core: &&Core| {
            let held_up = core.held_up.load(Ordering::Relaxed);
            (held_up, core.connections.load(Ordering::Relaxed))
        };
        let core = self.cores.iter().min_by_key(fewest);
        let core = core.expect("there is one at least");
        core.connections.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(core.connections.clone());
        let connection = async move {
            let _counted = counted;
            connection.await;
        };
        all.spawn_on(connection, &core.handle);
    }
}

fn core(
    number: usize,
    idle: fn(),
    end: CancellationToken,
    lost: CancellationToken,
) -> io::Result<Core> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(idle)
        .build()?;
    let handle = runtime.handle().clone();
    // What is logged goes where it goes for whoever starts the gateway.
    let log = tracing::dispatcher::get_default(Clone::clone);
    let held_up = Arc::<AtomicBool>::default();
    let mark = held_up.clone();
    std::thread::Builder::new()
        .name(format!("serve-{number}"))
        .spawn(move || {
            HERE.set(number);
            HELD_UP.set(Some(mark));
            let _log = tracing::dispatcher::set_default(&log);
            let lost = lost.drop_guard();
            runtime.block_on(end.cancelled());
            // It was told to.
            lost.disarm();
        })?;
    Ok(Core {
        handle,
        connections: Arc::default(),
        held_up,
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Mutex, time::Duration};

    use tokio::sync::Semaphore;

    use super::*;

    /// Where each of `count` connections is served, while all are.
    async fn places(cores: &Cores, all: &mut JoinSet<()>, count: usize) -> Vec<usize> {
        let (places, go) = (Arc::<Mutex<Vec<usize>>>::default(), Semaphore::new(0));
        let go = Arc::new(go);
        for _ in 0..count {
            let (places, go) = (places.clone(), go.clone());
            cores.spawn(all, async move {
                places.lock().unwrap().push(here());
                let _ = go.acquire().await;
            });
        }
        while places.lock().unwrap().len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        go.close();
        let places = places.lock().unwrap();
        (0..=super::count())
            .map(|core| places.iter().filter(|at| **at == core).count())
            .collect()
    }

    #[tokio::test]
    async fn connections_are_dealt_evenly_and_those_that_ended_do_not_count() {
        assert_eq!(here(), 0);
        let cores = Cores::start(|| {}).unwrap();
        for _ in 0..2 {
            let mut all = JoinSet::new();
            let places = places(&cores, &mut all, 3 * count()).await;
            assert_eq!(places[0], 0);
            assert!(places[1..].iter().all(|at| *at == 3), "{places:?}");
            while all.join_next().await.is_some() {}
        }
    }

    #[tokio::test]
    async fn what_is_done_with_nothing_else_to_do_is_done_on_each_thread() {
        static IDLE: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());
        let cores = Cores::start(|| _ = IDLE.lock().unwrap().insert(here())).unwrap();
        let mut all = JoinSet::new();
        cores.on_each(&mut all, || async {});
        while all.join_next().await.is_some() {}
        while !(1..=count()).eq(IDLE.lock().unwrap().iter().copied()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn no_connection_comes_to_a_thread_that_is_held_up() {
        let cores = Cores::start(|| {}).unwrap();
        let mut all = JoinSet::new();
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let (sender, held_up) = tokio::sync::oneshot::channel();
        cores.spawn(&mut all, async move {
            hold_up(|| {
                sender.send(here()).unwrap();
                let _ = gone.recv();
            });
        });
        let held_up = held_up.await.unwrap();
        if count() > 1 {
            let mut others = JoinSet::new();
            let places = places(&cores, &mut others, 4 * count());
            let places = tokio::time::timeout(Duration::from_secs(10), places).await;
            let places = places.expect("all are served elsewhere");
            assert_eq!(places[held_up], 0, "{places:?}");
            while others.join_next().await.is_some() {}
        }
        drop(go);
        while all.join_next().await.is_some() {}
        // It is no more, and has the fewest.
        let places = places(&cores, &mut all, count()).await;
        assert_eq!(places[held_up], 1, "{places:?}");
    }

    #[tokio::test]
    async fn one_that_ends_without_being_told_is_known() {
        static PANIC: AtomicBool = AtomicBool::new(false);
        let cores = Cores::start(|| assert!(!PANIC.load(Ordering::Relaxed))).unwrap();
        let mut all = JoinSet::new();
        cores.on_each(&mut all, || async {});
        while all.join_next().await.is_some() {}
        let early = tokio::time::timeout(Duration::from_millis(20), cores.lost());
        assert!(early.await.is_err());
        PANIC.store(true, Ordering::Relaxed);
        cores.spawn(&mut all, async {});
        let lost = tokio::time::timeout(Duration::from_secs(10), cores.lost());
        lost.await.unwrap();
    }

    #[tokio::test]
    async fn those_that_have_started_end_if_another_cannot() {
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let sender = Mutex::new(Some(sender));
        let running = Mutex::new(JoinSet::new());
        let started = Cores::each(|number, end, lost| {
            let first = core(number, || {}, end, lost)?;
            let Some(sender) = sender.lock().unwrap().take() else {
                return Err(io::ErrorKind::OutOfMemory.into());
            };
            let runs = async move {
                let _sender = sender;
                std::future::pending::<()>().await;
            };
            running.lock().unwrap().spawn_on(runs, &first.handle);
            // On a machine with one core there is no second one to fail.
            if count() == 1 {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            Ok(first)
        });
        assert!(started.is_err());
        let ended = tokio::time::timeout(Duration::from_secs(10), receiver);
        assert!(ended.await.expect("it ends").is_err());
    }

    #[tokio::test]
    async fn the_threads_end_with_what_runs_on_them() {
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let cores = Cores::start(|| {}).unwrap();
        let mut all = JoinSet::new();
        cores.spawn(&mut all, async move {
            let _sender = sender;
            std::future::pending::<()>().await;
        });
        drop(cores);
        assert!(receiver.await.is_err());
        assert!(all.join_next().await.unwrap().unwrap_err().is_cancelled());
    }
}
