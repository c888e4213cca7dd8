//! Entries: the leaves of the append-only log, one per fact.
//!
//! Two layouts, both at most 118 bytes so that a leaf hash is two SHA-256
//! compressions:
//!
//! ```text
//! receipt, 86: version u8 | kind u8 = 1 | flags u16 | height u64 |
//!              account u32 | entry number u32 | gateway u32 | journal u32 |
//!              number u64 | class u16 | cost u64 | charged u64 | H(detail) 32
//! other, 58:   version u8 | kind u8 | height u64 | account u32 (0xffffffff:
//!              none) | entry number u32 | control number u64 (0: lease
//!              granted, ended, closed) | H(event) 32
//! ```
//!
//! Each entry of an account carries the account's next contiguous number, so
//! that "all entries between two" can be proven. Entries that are neither
//! receipt nor lease carry a contiguous control number: a follower knows that
//! it missed no revocation.

use serde::{Deserialize, Serialize};

use crate::{
    account::{Grant, Recall},
    action::Reserved,
    codec,
    crypto::{ChainId, PublicKey},
    debit::{Flags, Position},
    hash::{Context, Hash},
    ids::{
        AccountNumber, Amount, ApiKeyNumber, ClassNumber, DebitNumber, GatewayNumber, GrantNumber,
        Height, JournalNumber, LeaseNumber, Person, TableVersion, Time,
    },
    transaction::TransactionId,
};

/// Version of the leaf layouts.
pub const LEAF_VERSION: u8 = 1;
/// Kind byte of a receipt.
pub const KIND_RECEIPT: u8 = 1;
/// Bytes of a receipt's leaf.
pub const RECEIPT_LEAF_BYTES: usize = 86;
/// Bytes of every other leaf.
pub const EVENT_LEAF_BYTES: usize = 58;

/// The outcome of a debit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Gateway's and ledger's remarks.
    pub flags: Flags,
    /// In which block.
    pub height: Height,
    /// Who paid.
    pub account: AccountNumber,
    /// Its number among the account's entries.
    pub entry: u32,
    /// Which debit.
    pub position: Position,
    /// With what.
    pub class: ClassNumber,
    /// Price of the usage and the fee; cost = charged + loss (I4).
    pub cost: Amount,
    /// What the account paid.
    pub charged: Amount,
    /// Hash of the debit's detail.
    pub detail: Hash,
}

impl Receipt {
    /// The leaf.
    pub fn leaf(&self) -> [u8; RECEIPT_LEAF_BYTES] {
        let mut leaf = [0; RECEIPT_LEAF_BYTES];
        leaf[0] = LEAF_VERSION;
        leaf[1] = KIND_RECEIPT;
        leaf[2..4].copy_from_slice(&self.flags.0.to_le_bytes());
        leaf[4..12].copy_from_slice(&self.height.0.to_le_bytes());
        leaf[12..16].copy_from_slice(&self.account.0.to_le_bytes());
        leaf[16..20].copy_from_slice(&self.entry.to_le_bytes());
        leaf[20..24].copy_from_slice(&self.position.gateway.0.to_le_bytes());
        leaf[24..28].copy_from_slice(&self.position.journal.0.to_le_bytes());
        leaf[28..36].copy_from_slice(&self.position.number.0.to_le_bytes());
        leaf[36..38].copy_from_slice(&self.class.0.to_le_bytes());
        leaf[38..46].copy_from_slice(&self.cost.0.to_le_bytes());
        leaf[46..54].copy_from_slice(&self.charged.0.to_le_bytes());
        leaf[54..86].copy_from_slice(&self.detail.0);
        leaf
    }

    /// Reads a receipt's leaf; `None` for any other bytes.
    pub fn from_leaf(leaf: &[u8]) -> Option<Self> {
        let leaf: &[u8; RECEIPT_LEAF_BYTES] = leaf.try_into().ok()?;
        if leaf[..2] != [LEAF_VERSION, KIND_RECEIPT] {
            return None;
        }
        let u64_at = |at: usize| u64::from_le_bytes(leaf[at..at + 8].try_into().expect("8 bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(leaf[at..at + 4].try_into().expect("4 bytes"));
        let u16_at = |at: usize| u16::from_le_bytes([leaf[at], leaf[at + 1]]);
        Some(Receipt {
            flags: Flags(u16_at(2)),
            height: Height(u64_at(4)),
            account: AccountNumber(u32_at(12)),
            entry: u32_at(16),
            position: Position {
                gateway: GatewayNumber(u32_at(20)),
                journal: JournalNumber(u32_at(24)),
                number: DebitNumber(u64_at(28)),
            },
            class: ClassNumber(u16_at(36)),
            cost: Amount(u64_at(38)),
            charged: Amount(u64_at(46)),
            detail: Hash(leaf[54..].try_into().expect("32 bytes")),
        })
    }
}

/// Why a Lease granted less than it wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shortfall {
    /// Tag 0: it did not.
    None,
    /// Tag 1: for want of balance; other gateways' leases are recalled.
    Balance,
    /// Tag 2: a cap of the gateway.
    GatewayCap,
    /// Tag 3: the API key's cap.
    KeyCap,
    /// Tag 4: the API key has ended or is revoked.
    KeyEnded,
    /// Tag 5: the account is frozen.
    Frozen,
    /// Tag 6: the gateway is suspended.
    Suspended,
    /// Tag 7: the account has its largest number of open leases.
    TooManyLeases,
}

/// A fact other than a receipt. Tag + 2 is the leaf's kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Kind 2. Granted 0: nothing was set aside, there is no such lease.
    LeaseGranted {
        /// By which transaction.
        transaction: TransactionId,
        /// For whom.
        gateway: GatewayNumber,
        /// Its number there.
        lease: LeaseNumber,
        /// Of what.
        class: ClassNumber,
        /// Through which key.
        api_key: ApiKeyNumber,
        /// How much.
        granted: Amount,
        /// Why not more.
        shortfall: Shortfall,
        /// When it ends.
        end: Time,
        /// Price table in force.
        table: TableVersion,
    },
    /// Kind 3.
    LeaseEnded {
        /// Whose.
        gateway: GatewayNumber,
        /// Which.
        lease: LeaseNumber,
        /// Why early.
        recall: Recall,
    },
    /// Kind 4.
    LeaseClosed {
        /// Whose.
        gateway: GatewayNumber,
        /// Which.
        lease: LeaseNumber,
        /// By the gateway's ReturnLease, if so.
        transaction: Option<TransactionId>,
        /// What remained.
        returned: Amount,
        /// Upper bound of what a lost journal spent and did not report.
        unreported: Amount,
    },
    /// Kind 5. The log's entry 0 and control entry 1.
    Genesis {
        /// Its hash.
        chain: ChainId,
    },
    /// Kind 6.
    AccountOpened {
        /// By which transaction.
        transaction: TransactionId,
        /// Opaque organisational number.
        unit: u32,
        /// The holder's key.
        holder: PublicKey,
    },
    /// Kind 7.
    GrantIssued {
        /// By which transaction.
        transaction: TransactionId,
        /// The grant as it was issued.
        grant: Grant,
    },
    /// Kind 8. It can be spent from now on.
    GrantVested {
        /// Which.
        grant: GrantNumber,
        /// What became available.
        amount: Amount,
    },
    /// Kind 9.
    GrantExpired {
        /// Which.
        grant: GrantNumber,
        /// What was free; what is leased follows when its leases close.
        amount: Amount,
    },
    /// Kind 10.
    GrantRevoked {
        /// By which transaction.
        transaction: TransactionId,
        /// Which.
        grant: GrantNumber,
        /// What was free; what is leased follows when its leases close.
        amount: Amount,
    },
    /// Kind 11.
    Surrendered {
        /// By which transaction.
        transaction: TransactionId,
        /// Which grant.
        grant: GrantNumber,
        /// How much.
        amount: Amount,
    },
    /// Kind 12.
    Corrected {
        /// By which transaction.
        transaction: TransactionId,
        /// Which receipt.
        entry: u64,
        /// The grant that gives it back.
        grant: Grant,
    },
    /// Kind 13.
    Frozen {
        /// By which transaction.
        transaction: TransactionId,
    },
    /// Kind 14.
    Unfrozen {
        /// By which transaction.
        transaction: TransactionId,
    },
    /// Kind 15.
    ApiKeyBound {
        /// By which transaction.
        transaction: TransactionId,
        /// Its number.
        api_key: ApiKeyNumber,
        /// Its public half.
        key: PublicKey,
    },
    /// Kind 16.
    ApiKeyRevoked {
        /// By which transaction.
        transaction: TransactionId,
        /// Which.
        api_key: ApiKeyNumber,
    },
    /// Kind 17.
    HolderKeyRotated {
        /// By which transaction.
        transaction: TransactionId,
        /// The key from now on.
        key: PublicKey,
    },
    /// Kind 18.
    JournalOpened {
        /// By which transaction.
        transaction: TransactionId,
        /// Whose.
        gateway: GatewayNumber,
        /// Which.
        journal: JournalNumber,
        /// Whether the previous one is still there.
        previous_intact: bool,
        /// Last debit of the previous one.
        closed_last: DebitNumber,
        /// Running hash of the previous one.
        closed_hash: Hash,
    },
    /// Kind 19.
    RoleSet {
        /// By which transaction.
        transaction: TransactionId,
        /// Who.
        person: Person,
    },
    /// Kind 20.
    ClassSet {
        /// By which transaction.
        transaction: TransactionId,
        /// Which.
        class: ClassNumber,
    },
    /// Kind 21.
    PriceTableSet {
        /// By which transaction.
        transaction: TransactionId,
        /// Which.
        version: TableVersion,
    },
    /// Kind 22.
    ParametersSet {
        /// By which transaction.
        transaction: TransactionId,
    },
    /// Kind 23.
    GatewayRegistered {
        /// By which transaction.
        transaction: TransactionId,
        /// Its number.
        gateway: GatewayNumber,
    },
    /// Kind 24.
    GatewayKeySet {
        /// By which transaction.
        transaction: TransactionId,
        /// Which.
        gateway: GatewayNumber,
    },
    /// Kind 25.
    GatewaySuspended {
        /// By which transaction.
        transaction: TransactionId,
        /// Which.
        gateway: GatewayNumber,
    },
    /// Kind 26.
    RatesSet {
        /// By which transaction.
        transaction: TransactionId,
    },
    /// Kind 27: reserved.
    Reserved27(Reserved),
    /// Kind 28. The account's receipts up to here lose their details.
    Erased {
        /// By which transaction.
        transaction: TransactionId,
        /// How many entries the account has before this one.
        entries: u32,
    },
}

impl Event {
    /// The leaf's kind byte.
    pub fn kind(&self) -> u8 {
        let tag = u32::from_le_bytes(self.encode()[..4].try_into().expect("a tag leads"));
        tag as u8 + 2
    }

    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// What the leaf carries.
    pub fn hash(&self) -> Hash {
        Context::EntryBody.hash(&self.encode())
    }

    /// Lease entries have no control number.
    pub fn is_control(&self) -> bool {
        !matches!(
            self,
            Event::LeaseGranted { .. } | Event::LeaseEnded { .. } | Event::LeaseClosed { .. }
        )
    }
}

/// The leaf of an entry that is not a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLeaf {
    /// [`Event::kind`].
    pub kind: u8,
    /// In which block; 0: the genesis.
    pub height: Height,
    /// Whose, or [`AccountNumber::NONE`].
    pub account: AccountNumber,
    /// Its number among the account's entries; 0 without account.
    pub entry: u32,
    /// Its number among the control entries, or 0.
    pub control: u64,
    /// Hash of the event.
    pub event: Hash,
}

impl EventLeaf {
    /// The leaf.
    pub fn leaf(&self) -> [u8; EVENT_LEAF_BYTES] {
        let mut leaf = [0; EVENT_LEAF_BYTES];
        leaf[0] = LEAF_VERSION;
        leaf[1] = self.kind;
        leaf[2..10].copy_from_slice(&self.height.0.to_le_bytes());
        leaf[10..14].copy_from_slice(&self.account.0.to_le_bytes());
        leaf[14..18].copy_from_slice(&self.entry.to_le_bytes());
        leaf[18..26].copy_from_slice(&self.control.to_le_bytes());
        leaf[26..].copy_from_slice(&self.event.0);
        leaf
    }

    /// Reads such a leaf; `None` for any other bytes.
    pub fn from_leaf(leaf: &[u8]) -> Option<Self> {
        let leaf: &[u8; EVENT_LEAF_BYTES] = leaf.try_into().ok()?;
        if leaf[0] != LEAF_VERSION || leaf[1] == KIND_RECEIPT {
            return None;
        }
        let u64_at = |at: usize| u64::from_le_bytes(leaf[at..at + 8].try_into().expect("8 bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(leaf[at..at + 4].try_into().expect("4 bytes"));
        Some(EventLeaf {
            kind: leaf[1],
            height: Height(u64_at(2)),
            account: AccountNumber(u32_at(10)),
            entry: u32_at(14),
            control: u64_at(18),
            event: Hash(leaf[26..].try_into().expect("32 bytes")),
        })
    }
}

/// An entry with everything known of it, as execution makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The outcome of a debit.
    Receipt(Receipt),
    /// Anything else.
    Event(EventLeaf, Event),
}

impl Entry {
    /// In which block; 0: the genesis.
    pub fn height(&self) -> Height {
        match self {
            Entry::Receipt(receipt) => receipt.height,
            Entry::Event(leaf, _) => leaf.height,
        }
    }

    /// The account whose entry it is, if any.
    pub fn account(&self) -> Option<AccountNumber> {
        match self {
            Entry::Receipt(receipt) => Some(receipt.account),
            Entry::Event(leaf, _) => (leaf.account != AccountNumber::NONE).then_some(leaf.account),
        }
    }
}
