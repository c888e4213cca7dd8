//! What a watcher keeps of the chain while it is not read.

use std::{ops::Range, sync::Weak};

use futures::StreamExt;
use tally_ledger::{
    block::{BLOCK_VERSION, Block, Certificate, Header},
    codec::{self, List},
    crypto::ChainId,
    genesis::Genesis,
    hash::Hash,
    ids::Time,
    reason::Reason,
    state::State,
    transaction::{Transaction, TransactionId},
};
use tokio::sync::{Semaphore, watch};
use tonic::Request;

use super::*;
use crate::{
    access_log::AccessLog,
    config::AccessConfig,
    rpc::login::{Caller, Found},
    view::{Listing, NotAdmitted, Place, ReadError, ReceiptName},
};

/// A chain that is told of blocks and keeps none.
struct Told {
    state: State,
    news: broadcast::Sender<Arc<CommittedBlock>>,
}

impl View for Told {
    fn with_state<T>(&self, read: impl FnOnce(&State, Option<&Certificate>) -> T) -> T {
        read(&self.state, None)
    }
    fn subscribe(&self) -> broadcast::Receiver<Arc<CommittedBlock>> {
        self.news.subscribe()
    }
    fn genesis(&self) -> &Genesis {
        unreachable!()
    }
    fn block(&self, _: Height) -> Result<Option<Arc<CommittedBlock>>, ReadError> {
        unreachable!()
    }
    fn rewrites(&self) -> u64 {
        unreachable!()
    }
    fn header(&self, _: Height) -> Result<Option<(Header, Certificate)>, ReadError> {
        unreachable!()
    }
    fn entries(&self, _: Range<u64>) -> Result<Vec<Entry>, ReadError> {
        unreachable!()
    }
    fn inclusion(&self, _: u64, _: u64) -> Result<Option<Vec<Hash>>, ReadError> {
        unreachable!()
    }
    fn consistency(&self, _: u64, _: u64) -> Result<Option<Vec<Hash>>, ReadError> {
        unreachable!()
    }
    fn find_transaction(&self, _: &TransactionId) -> Result<Option<Place>, ReadError> {
        unreachable!()
    }
    fn find_receipt(&self, _: ReceiptName) -> Result<Option<u64>, ReadError> {
        unreachable!()
    }
    fn list(&self, _: Listing, _: u64, _: usize) -> Result<Vec<u64>, ReadError> {
        unreachable!()
    }
    fn indexed(&self) -> Height {
        unreachable!()
    }
    fn last_before(&self, _: Listing, _: u64) -> Result<Option<u64>, ReadError> {
        unreachable!()
    }
    fn multi_path(&self, _: &[u64], _: u64) -> Result<Option<Vec<Hash>>, ReadError> {
        unreachable!()
    }
    fn submit(&self, _: Transaction) -> Result<TransactionId, NotAdmitted> {
        unreachable!()
    }
    fn waiting(&self, _: &TransactionId) -> Option<Transaction> {
        unreachable!()
    }
    fn refusal(&self, _: &TransactionId) -> Option<Reason> {
        unreachable!()
    }
    fn refusals(&self) -> watch::Receiver<()> {
        unreachable!()
    }
    fn local(&self) -> crate::view::Local {
        unreachable!()
    }
}

/// The genesis of the golden vectors.
fn genesis() -> Genesis {
    let vectors = include_str!("../../../../ledger/vectors/genesis.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
    let digits = vectors["encoding"].as_str().unwrap().as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    let bytes: Vec<u8> = digits.chunks(2).map(byte).collect();
    codec::decode(&bytes, bytes.len()).unwrap()
}

fn block(height: u64) -> Arc<CommittedBlock> {
    let header = Header {
        version: BLOCK_VERSION,
        chain: ChainId::default(),
        height: Height(height),
        time: Time(height),
        previous: Hash::ZERO,
        proposer: 0,
        transactions_root: Hash::ZERO,
        log_size: 0,
        log_root: Hash::ZERO,
        state_root: Hash::ZERO,
        next_validators: Hash::ZERO,
    };
    let certificate = Certificate {
        round: 0,
        precommits: List::default(),
    };
    Arc::new(CommittedBlock {
        block: Block {
            header,
            transactions: Vec::new(),
        },
        redacted: Vec::new(),
        id: header.id(),
        certificate,
        transactions: Vec::new(),
        first_entry: 0,
        entries: Vec::new(),
    })
}

async fn until(what: &str, ready: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if ready() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_is_not_read_holds_no_block_back() {
    let (news, _) = broadcast::channel(256);
    let state = State::genesis(&genesis()).unwrap();
    let view = Arc::new(Told { state, news });
    let folder = tempfile::tempdir().unwrap();
    let log = AccessLog::open(folder.path(), &AccessConfig::default()).unwrap();
    let mut request = Request::new(());
    request.extensions_mut().insert(Found {
        caller: Ok(Caller::Trusted),
        from: None,
    });
    let places = Arc::new(Semaphore::new(1));
    let watcher = Watcher {
        view: view.clone(),
        gate: Gate::new(view.clone(), log),
        reads: Reads::new(view.clone()),
        visit: Visit::of(&request, "Watch"),
        filter: Filter::from(&v1::WatchRequest::default()),
        next: Height(1),
        lag: 256,
        stall: Duration::from_secs(3_600),
        _place: places.clone().try_acquire_owned().unwrap(),
    };
    let mut stream = watcher.blocks(None);
    let tell = |height| {
        let block = block(height);
        let told: Weak<_> = Arc::downgrade(&block);
        // Nobody listens before the watcher does.
        let _ = view.news.send(block);
        told
    };
    // It is told of the first block, and then not read.
    let first = tokio::spawn(async move { (stream.next().await, stream) });
    // Before it waits for a block, it takes none.
    let mut told = Vec::new();
    for _ in 0..10_000 {
        if first.is_finished() {
            break;
        }
        told.push(tell(1));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(first.is_finished(), "it is not shown the first block");
    let (message, stream) = first.await.unwrap();
    let header = message.unwrap().unwrap().header.unwrap().header.unwrap();
    assert_eq!(header.height, 1);
    until("it takes the news", || view.news.receiver_count() == 1).await;
    told.extend((2..100).map(tell));
    until("all blocks are gone", || {
        told.iter().all(|block| block.strong_count() == 0)
    })
    .await;
    // Its task goes with the stream.
    drop(stream);
    until("its place is free", || places.available_permits() == 1).await;
    until("it is gone", || view.news.receiver_count() == 0).await;
}
