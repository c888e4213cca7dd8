//! The stored bytes against the roots of a certified header: transactions,
//! batches, and every entry of the log.
//!
//! Of a receipt everything follows from the block and from counting, but what
//! only execution knows: cost, charged amount and the ledger's own flags. An
//! event must be its leaf's, of a transaction of the block or a due step, and
//! carry the next numbers. Whatever else a leaf says is bound by the log root
//! alone.

use super::{
    Divergence, Field, StoredEntry,
    stored::{between_receipts, kind},
};
use crate::{
    action::{Action, Debits},
    block::Header,
    debit::{Fixed, Flags, Position, batch_leaf, raw_debits, record_bytes},
    entry::{Entry, Event, EventLeaf, Receipt},
    genesis::Genesis,
    hash::Hash,
    ids::{AccountNumber, Amount, DebitNumber, GatewayNumber, Height},
    merkle::{self, Frontier},
    redacted::{RedactedBatch, Remains, StoredBlock, batch_of},
    state::genesis_entry,
    transaction::{AuthorKind, Body, Transaction, TransactionId},
};

/// A debit that a block carries, with its place in it.
#[derive(Debug, Clone, Copy)]
struct Carried {
    transaction: usize,
    debit: u64,
    position: Position,
    fixed: Fixed,
    detail: Hash,
    /// What is kept in the place of its detail: what it cost, and whether the
    /// model was not its class's to buy.
    outcome: Option<(Amount, bool)>,
}

/// The stored history so far.
#[derive(Debug, Clone)]
pub struct Bytes {
    genesis: Entry,
    log: Frontier,
    controls: u64,
    /// Number of entries of each account.
    accounts: Vec<u32>,
    /// Debits of the block at hand; here so that its memory is kept.
    carried: Vec<Carried>,
    receipts: u64,
}

/// How far the entries of a block have been followed.
struct Place<'b> {
    header: &'b Header,
    ids: Vec<TransactionId>,
    /// The transaction whose entries are being read.
    transaction: usize,
    /// The next debit without a receipt.
    debit: usize,
}

impl Bytes {
    /// Begins with nothing: the log's entry 0, the genesis's, comes with the
    /// entries of block 1.
    pub fn new(genesis: &Genesis) -> Self {
        Bytes {
            genesis: genesis_entry(genesis.chain()),
            log: Frontier::new(),
            controls: 0,
            accounts: Vec::new(),
            carried: Vec::new(),
            receipts: 0,
        }
    }

    /// The log so far.
    pub fn log(&self) -> &Frontier {
        &self.log
    }

    /// Receipts so far.
    pub fn receipts(&self) -> u64 {
        self.receipts
    }

    /// Takes the next block, whose header is certified, and the entries that
    /// are stored from where the log ends to the header's log size.
    pub fn block(
        &mut self,
        block: &StoredBlock,
        entries: &[StoredEntry<'_>],
    ) -> Result<(), Divergence> {
        let header = &block.block().header;
        let mut place = Place {
            header,
            ids: self.transactions(block)?,
            transaction: 0,
            debit: 0,
        };
        for stored in entries {
            let index = self.log.size();
            let entry = stored.read().ok_or_else(|| {
                let field = Field::Entry {
                    what: "leaf",
                    index,
                };
                let expected = "an entry's leaf, with the event that it names";
                Divergence::of_block(header.height, field, expected, "another").at_entry(index)
            })?;
            match &entry {
                _ if index == 0 => self.start(header.height, &entry)?,
                Entry::Receipt(receipt) => self.receipt(&mut place, index, receipt)?,
                Entry::Event(leaf, event) => self.event(&mut place, index, leaf, event)?,
            }
            self.log.append(stored.leaf_hash());
        }
        if let Some(left) = self.carried.get(place.debit) {
            return Err(place.wrong_debit(left, "receipt", "one", "none"));
        }
        self.compare_log(header)
    }

    /// Transactions root and batch roots; the ids. Collects the debits.
    fn transactions(&mut self, stored: &StoredBlock) -> Result<Vec<TransactionId>, Divergence> {
        let (block, redacted) = (stored.block(), stored.batches());
        let height = block.header.height;
        let mut root = Frontier::new();
        let mut ids = Vec::with_capacity(block.transactions.len());
        for (index, transaction) in block.transactions.iter().enumerate() {
            let id = transaction.id();
            let leaf = match batch_of(redacted, index) {
                Some(batch) => transaction.leaf_with(&id, &batch.payload),
                None => transaction.leaf_of(&id),
            };
            root.append(merkle::leaf_hash(&leaf));
            ids.push(id);
        }
        let (expected, found) = (block.header.transactions_root, root.root());
        if expected != found {
            let field = Field::Header("transactions root");
            return Err(Divergence::of_block(height, field, expected, found));
        }
        self.carried.clear();
        for (index, transaction) in block.transactions.iter().enumerate() {
            self.batch(height, index, transaction, batch_of(redacted, index))
                .map_err(|wrong| wrong.in_transaction(index, ids[index]))?;
        }
        Ok(ids)
    }

    fn batch(
        &mut self,
        height: Height,
        index: usize,
        transaction: &Transaction,
        redacted: Option<&RedactedBatch>,
    ) -> Result<(), Divergence> {
        let wrong = |field, expected: String, found: String| {
            Err(Divergence::of_block(height, field, expected, found))
        };
        let body = match Body::decode(&transaction.body) {
            Ok(body) => body,
            Err(error) => return wrong(Field::TransactionBody, "a body".into(), error.why),
        };
        let Action::Debits(debits) = body.action else {
            return match redacted {
                Some(_) => wrong(
                    Field::TransactionBody,
                    "a batch, for details to be dropped of".into(),
                    "another action".into(),
                ),
                None => Ok(()),
            };
        };
        let payload = &transaction.payload[..];
        let size = payload.first().and_then(|version| record_bytes(*version));
        let count = debits.count as usize;
        let (fits, found) = match redacted {
            Some(batch) => (batch.debits.len() == count, batch.debits.len().to_string()),
            None => (
                size.and_then(|size| size.checked_mul(count)) == Some(payload.len()),
                format!("{} bytes", payload.len()),
            ),
        };
        if !fits {
            return wrong(Field::DebitCount, debits.count.to_string(), found);
        }
        if body.author.kind != AuthorKind::Gateway {
            let found = format!("{:?} {}", body.author.kind, body.author.number);
            return wrong(Field::TransactionBody, "a gateway's batch".into(), found);
        }
        let gateway = GatewayNumber(body.author.number);
        let root = match redacted {
            Some(batch) => self.redacted(index, gateway, &debits, batch),
            None => self.debits(index, gateway, &debits, payload),
        };
        if root != debits.root {
            return wrong(Field::BatchRoot, debits.root.to_string(), root.to_string());
        }
        Ok(())
    }

    /// Hashes a batch's debits and collects them.
    fn debits(
        &mut self,
        transaction: usize,
        gateway: GatewayNumber,
        debits: &Debits,
        payload: &[u8],
    ) -> Hash {
        let mut batch = Frontier::new();
        for (debit, raw) in (0..).zip(raw_debits(payload)) {
            let position = Position {
                gateway,
                journal: debits.journal,
                number: DebitNumber(debits.first.0.wrapping_add(debit)),
            };
            let detail = raw.detail_hash();
            let leaf = batch_leaf(&position, raw.fixed, &detail);
            batch.append(merkle::leaf_hash(&leaf));
            self.carried.push(Carried {
                transaction,
                debit,
                position,
                fixed: Fixed::read(raw.fixed),
                detail,
                outcome: None,
            });
        }
        batch.root()
    }

    /// The same of a batch that lost details.
    fn redacted(
        &mut self,
        transaction: usize,
        gateway: GatewayNumber,
        debits: &Debits,
        left: &RedactedBatch,
    ) -> Hash {
        let first = Position {
            gateway,
            journal: debits.journal,
            number: debits.first,
        };
        let mut batch = Frontier::new();
        left.leaf_hashes(first).for_each(|leaf| batch.append(leaf));
        for (debit, (fixed, remains)) in (0..).zip(left.remains()) {
            self.carried.push(Carried {
                transaction,
                debit,
                position: Position {
                    number: DebitNumber(debits.first.0.wrapping_add(debit)),
                    ..first
                },
                fixed: *fixed,
                detail: remains.hash(),
                outcome: match remains {
                    Remains::Kept(_) => None,
                    Remains::Dropped(dropped) => Some((dropped.cost, dropped.class_rule)),
                },
            });
        }
        batch.root()
    }

    /// Entry 0 is the genesis's.
    fn start(&mut self, height: Height, entry: &Entry) -> Result<(), Divergence> {
        self.controls = 1;
        if *entry == self.genesis {
            return Ok(());
        }
        let field = Field::Entry {
            what: "event",
            index: 0,
        };
        let (expected, found) = (kind(&self.genesis), kind(entry));
        Err(Divergence::of_block(height, field, expected, found).at_entry(0))
    }

    /// The next number of an account; `None`: there is no such account.
    fn count(&mut self, account: AccountNumber) -> Option<u32> {
        let entries = self.accounts.get_mut(account.0 as usize)?;
        *entries = entries.checked_add(1)?;
        Some(*entries)
    }

    fn receipt(
        &mut self,
        place: &mut Place<'_>,
        index: u64,
        found: &Receipt,
    ) -> Result<(), Divergence> {
        let Some(carried) = self.carried.get(place.debit).copied() else {
            let expected = "no further receipt";
            return Err(place.wrong_entry(index, "kind", expected, "a receipt"));
        };
        place.debit += 1;
        place.transaction = carried.transaction;
        let Carried {
            position, fixed, ..
        } = carried;
        let expected = Receipt {
            flags: found.flags.with(fixed.flags),
            height: place.header.height,
            account: fixed.account,
            entry: self.count(fixed.account).unwrap_or(0),
            position,
            class: fixed.class,
            detail: carried.detail,
            cost: carried.outcome.map_or(found.cost, |(cost, _)| cost),
            ..*found
        };
        if expected != *found {
            let (what, expected, found) = between_receipts(&expected, found).unwrap_or_default();
            return Err(place
                .wrong_debit(&carried, what, expected, found)
                .at_entry(index));
        }
        let class_rule = found.flags.has(Flags::CLASS_RULE);
        if let Some((_, kept)) = carried.outcome.filter(|(_, kept)| *kept != class_rule) {
            let wrong = place.wrong_debit(&carried, "class rule", class_rule, kept);
            return Err(wrong.at_entry(index));
        }
        let most = found.cost.min(fixed.limit);
        if found.charged > most {
            let expected = format!("at most {most}");
            let wrong = place.wrong_debit(&carried, "charged amount", expected, found.charged);
            return Err(wrong.at_entry(index));
        }
        self.receipts += 1;
        Ok(())
    }

    fn event(
        &mut self,
        place: &mut Place<'_>,
        index: u64,
        leaf: &EventLeaf,
        event: &Event,
    ) -> Result<(), Divergence> {
        if let Some(id) = event.transaction() {
            let later = &place.ids[place.transaction..];
            let Some(at) = later.iter().position(|other| other == id) else {
                let expected = "one of the block, not before the last entry's";
                return Err(place.wrong_entry(index, "transaction", expected, id));
            };
            place.transaction += at;
        }
        let control = match event.is_control() {
            true => {
                self.controls += 1;
                self.controls
            }
            false => 0,
        };
        if matches!(event, Event::AccountOpened { .. }) {
            self.accounts.push(0);
        }
        let entry = match leaf.account {
            AccountNumber::NONE => Some(0),
            account => self.count(account),
        };
        let Some(entry) = entry else {
            let expected = format!("below {}", self.accounts.len());
            return Err(place.wrong_entry(index, "account", expected, leaf.account));
        };
        let equal = [
            ("height", place.header.height.0, leaf.height.0),
            ("account's entry number", entry.into(), leaf.entry.into()),
            ("control number", control, leaf.control),
        ];
        match equal.iter().find(|(_, expected, found)| expected != found) {
            Some((what, expected, found)) => Err(place.wrong_entry(index, what, expected, found)),
            None => Ok(()),
        }
    }

    fn compare_log(&self, header: &Header) -> Result<(), Divergence> {
        let wrong = |name, expected: String, found: String| {
            let field = Field::Header(name);
            Err(Divergence::of_block(header.height, field, expected, found))
        };
        let (size, root) = (self.log.size(), self.log.root());
        if size != header.log_size {
            return wrong("log size", header.log_size.to_string(), size.to_string());
        }
        if root != header.log_root {
            return wrong("log root", header.log_root.to_string(), root.to_string());
        }
        Ok(())
    }
}

impl Place<'_> {
    fn wrong_debit(
        &self,
        carried: &Carried,
        what: &'static str,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Divergence {
        let Carried {
            transaction, debit, ..
        } = *carried;
        let field = Field::Debit {
            what,
            debit,
            transaction,
        };
        Divergence::of_block(self.header.height, field, expected, found)
            .in_transaction(transaction, self.ids[transaction])
    }

    fn wrong_entry(
        &self,
        index: u64,
        what: &'static str,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Divergence {
        let field = Field::Entry { what, index };
        Divergence::of_block(self.header.height, field, expected, found).at_entry(index)
    }
}
