//! Entries as they are stored, and how two entries differ.

use crate::{
    codec,
    entry::{EVENT_LEAF_BYTES, Entry, Event, EventLeaf, RECEIPT_LEAF_BYTES, Receipt},
    hash::{Context, Hash},
    merkle,
};

/// Most bytes of a stored event.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// An entry of the log as it is stored, read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredEntry<'a> {
    /// A receipt's leaf.
    Receipt(&'a [u8; RECEIPT_LEAF_BYTES]),
    /// An event's leaf, and the event's canonical bytes.
    Event(&'a [u8; EVENT_LEAF_BYTES], &'a [u8]),
}

impl StoredEntry<'_> {
    /// Bytes of its leaf in the log.
    pub fn leaf(&self) -> &[u8] {
        match self {
            StoredEntry::Receipt(leaf) => *leaf,
            StoredEntry::Event(leaf, _) => *leaf,
        }
    }

    pub(super) fn leaf_hash(&self) -> Hash {
        merkle::leaf_hash(self.leaf())
    }

    /// The entry; `None` if leaf or event are none, or do not belong together.
    pub(super) fn read(&self) -> Option<Entry> {
        match self {
            StoredEntry::Receipt(leaf) => Receipt::from_leaf(*leaf).map(Entry::Receipt),
            StoredEntry::Event(leaf, bytes) => {
                let leaf = EventLeaf::from_leaf(*leaf)?;
                let event: Event = codec::decode(bytes, MAX_EVENT_BYTES).ok()?;
                // What was decoded encodes to these very bytes: nothing need be
                // encoded again.
                let (tag, _) = bytes.split_first_chunk()?;
                let kind = u32::from_le_bytes(*tag).checked_add(2);
                let own =
                    leaf.event == Context::EntryBody.hash(bytes) && kind == Some(leaf.kind.into());
                own.then_some(Entry::Event(leaf, event))
            }
        }
    }

    /// Whether it is stored as this entry would be.
    pub(super) fn is(&self, entry: &Entry) -> bool {
        match (self, entry) {
            (StoredEntry::Receipt(leaf), Entry::Receipt(receipt)) => **leaf == receipt.leaf(),
            (StoredEntry::Event(leaf, bytes), Entry::Event(own, event)) => {
                **leaf == own.leaf() && *bytes == event.encode()
            }
            _ => false,
        }
    }
}

/// What of an entry differs, and its two values.
pub(super) type Difference = (&'static str, String, String);

fn first<const N: usize>(pairs: [(&'static str, String, String); N]) -> Option<Difference> {
    pairs
        .into_iter()
        .find(|(_, expected, found)| expected != found)
}

fn pair(
    what: &'static str,
    expected: impl ToString,
    found: impl ToString,
) -> (&'static str, String, String) {
    (what, expected.to_string(), found.to_string())
}

/// The first field in which two receipts differ.
pub(super) fn between_receipts(expected: &Receipt, found: &Receipt) -> Option<Difference> {
    let (own, other) = (expected.position, found.position);
    let flags = |receipt: &Receipt| match receipt.flags.names() {
        names if names.is_empty() => "none".to_owned(),
        names => names.join(", "),
    };
    first([
        pair("gateway", own.gateway, other.gateway),
        pair("journal", own.journal, other.journal),
        pair("number", own.number, other.number),
        pair("height", expected.height, found.height),
        pair("account", expected.account, found.account),
        pair("class", expected.class, found.class),
        pair("account's entry number", expected.entry, found.entry),
        pair("cost", expected.cost, found.cost),
        pair("charged amount", expected.charged, found.charged),
        pair("flags", flags(expected), flags(found)),
        pair("detail's hash", expected.detail, found.detail),
    ])
}

/// The first thing in which two entries differ.
pub(super) fn between(expected: &Entry, found: &Entry) -> Option<Difference> {
    match (expected, found) {
        (Entry::Receipt(expected), Entry::Receipt(found)) => between_receipts(expected, found),
        (Entry::Event(own, expected), Entry::Event(other, found)) => first([
            pair("kind", own.kind, other.kind),
            pair("event", format!("{expected:?}"), format!("{found:?}")),
            pair("height", own.height, other.height),
            pair("account", own.account, other.account),
            pair("account's entry number", own.entry, other.entry),
            pair("control number", own.control, other.control),
        ]),
        (expected, found) => Some(pair("kind", kind(expected), kind(found))),
    }
}

/// What an entry is, in short.
pub(super) fn kind(entry: &Entry) -> String {
    match entry {
        Entry::Receipt(_) => "a receipt".to_owned(),
        Entry::Event(_, event) => format!("{event:?}"),
    }
}
