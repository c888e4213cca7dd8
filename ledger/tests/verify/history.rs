//! A stored history as files have it, what each level of the verifier says of
//! it, and how lying validators change its last block.

use tally_ledger::{
    block::{Block, Certificate},
    entry::Entry,
    execute::SignatureCheck,
    genesis::Genesis,
    ids::*,
    merkle::{Frontier, leaf_hash},
    verify::{Beside, Bytes, Divergence, Headers, Replay, StoredEntry, read_block},
};

use crate::world::*;

pub(crate) const LIMIT: usize = 8 << 20;

/// An entry as files have it.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) leaf: Vec<u8>,
    pub(crate) event: Option<Vec<u8>>,
}

impl Stored {
    pub(crate) fn of(entry: &Entry) -> Self {
        let event = match entry {
            Entry::Receipt(_) => None,
            Entry::Event(_, event) => Some(event.encode()),
        };
        let leaf = entry.leaf();
        Stored { leaf, event }
    }

    pub(crate) fn view(&self) -> StoredEntry<'_> {
        match &self.event {
            None => StoredEntry::Receipt(self.leaf[..].try_into().unwrap()),
            Some(event) => StoredEntry::Event(self.leaf[..].try_into().unwrap(), event),
        }
    }
}

/// A stored history: bodies and certificates, and each block's entries.
#[derive(Clone)]
pub(crate) struct History {
    pub(crate) world: std::rc::Rc<World>,
    pub(crate) blocks: Vec<(Certificate, Vec<u8>)>,
    pub(crate) entries: Vec<Vec<Stored>>,
}

impl History {
    pub(crate) fn of(world: World) -> Self {
        let mut all = world.entries.iter().map(Stored::of);
        let mut size = 0;
        let entries = world.blocks.iter().map(|block| {
            let count = block.header.log_size - size;
            size = block.header.log_size;
            all.by_ref().take(count as usize).collect()
        });
        let entries = entries.collect();
        let blocks = world.blocks.iter();
        let blocks = blocks.map(|block| (world.certify(&block.header), block.encode()));
        History {
            blocks: blocks.collect(),
            entries,
            world: world.into(),
        }
    }

    pub(crate) fn genesis(&self) -> &Genesis {
        &self.world.genesis
    }

    /// The last block, changed and signed again by validators that lie, with
    /// the roots of its transactions and of the stored log made anew.
    pub(crate) fn forge(&mut self, change: impl FnOnce(&mut Block)) {
        let last = self.blocks.len() - 1;
        let mut block = Block::decode(&self.blocks[last].1, LIMIT).unwrap();
        let mut log = Frontier::new();
        let stored = self.entries.iter().flatten();
        stored.for_each(|entry| log.append(leaf_hash(&entry.leaf)));
        block.header.log_size = log.size();
        block.header.log_root = log.root();
        change(&mut block);
        self.blocks[last] = (self.world.certify(&block.header), block.encode());
    }

    pub(crate) fn last(&mut self) -> &mut Vec<Stored> {
        self.entries.last_mut().unwrap()
    }

    pub(crate) fn roots(&self) -> Result<Headers, Divergence> {
        let mut headers = Headers::new(self.genesis()).unwrap();
        for (certificate, body) in &self.blocks {
            headers.next(certificate, body)?;
        }
        Ok(headers)
    }

    pub(crate) fn bytes(&self) -> Result<Bytes, Divergence> {
        let mut bytes = Bytes::new(self.genesis());
        for (height, ((_, body), entries)) in (1..).zip(self.blocks.iter().zip(&self.entries)) {
            let block = read_block(Height(height), body, LIMIT)?;
            let entries: Vec<_> = entries.iter().map(Stored::view).collect();
            bytes.block(&block, &entries)?;
        }
        Ok(bytes)
    }

    /// Execution with what `signatures` says; with the log beside, or without.
    pub(crate) fn replay(
        &self,
        signatures: &dyn SignatureCheck,
        with_log: bool,
    ) -> Result<Replay, Divergence> {
        let mut replay = Replay::new(self.genesis()).unwrap();
        for (height, ((_, body), entries)) in (1..).zip(self.blocks.iter().zip(&self.entries)) {
            let block = read_block(Height(height), body, LIMIT)?;
            let entries: Vec<_> = entries.iter().map(Stored::view).collect();
            let beside = Beside {
                entries: with_log.then_some(&entries),
                state: None,
            };
            replay.block(&block, signatures, &beside)?;
        }
        replay.check_balances()?;
        Ok(replay)
    }
}

/// Puts the root of a block's changed transactions into its header.
pub(crate) fn rooted(block: &mut Block) {
    let mut root = Frontier::new();
    for transaction in &block.transactions {
        root.append(leaf_hash(&transaction.leaf()));
    }
    block.header.transactions_root = root.root();
}
