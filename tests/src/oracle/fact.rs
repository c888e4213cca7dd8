//! Facts: what the oracle expects to find in the log, in order.

/// A log entry's content, in plain numbers. Reasons of recalls and shortfalls
/// are the names that the design gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Fact {
    Receipt {
        flags: u16,
        gateway: u32,
        journal: u32,
        number: u64,
        class: u16,
        cost: u64,
        charged: u64,
    },
    LeaseGranted {
        gateway: u32,
        lease: u64,
        class: u16,
        api_key: u32,
        granted: u64,
        shortfall: String,
        /// Not compared where nothing was granted.
        end: u64,
        table: u32,
    },
    LeaseEnded {
        gateway: u32,
        lease: u64,
        recall: String,
    },
    LeaseClosed {
        gateway: u32,
        lease: u64,
        by_gateway: bool,
        returned: u64,
        unreported: u64,
    },
    Genesis,
    AccountOpened {
        unit: u32,
    },
    GrantIssued {
        grant: u32,
        class: u16,
        amount: u64,
        vests: u64,
        expires: u64,
    },
    GrantVested {
        grant: u32,
        amount: u64,
    },
    GrantExpired {
        grant: u32,
        amount: u64,
    },
    GrantRevoked {
        grant: u32,
        amount: u64,
    },
    Surrendered {
        grant: u32,
        amount: u64,
    },
    Corrected {
        entry: u64,
        grant: u32,
        amount: u64,
        expires: u64,
    },
    Frozen,
    Unfrozen,
    Erased {
        entries: u32,
    },
    ApiKeyBound {
        api_key: u32,
    },
    ApiKeyRevoked {
        api_key: u32,
    },
    HolderKeyRotated,
    JournalOpened {
        gateway: u32,
        journal: u32,
        intact: bool,
        closed_last: u64,
    },
    RoleSet {
        person: u32,
    },
    ClassSet {
        class: u16,
    },
    PriceTableSet {
        version: u32,
    },
    ParametersSet,
    RatesSet,
    SignedTwice {
        validator: u16,
        height: u64,
        round: u32,
        signed: &'static str,
    },
    UnitSet {
        person: u32,
        unit: Option<u32>,
    },
    GatewayRegistered {
        gateway: u32,
    },
    GatewayKeySet {
        gateway: u32,
    },
    GatewaySuspended {
        gateway: u32,
    },
}

impl Fact {
    /// Neither receipt nor lease.
    pub fn is_control(&self) -> bool {
        !matches!(
            self,
            Fact::Receipt { .. }
                | Fact::LeaseGranted { .. }
                | Fact::LeaseEnded { .. }
                | Fact::LeaseClosed { .. }
        )
    }
}

/// A fact with its place in the log, its account's entries and the control
/// entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// In which block.
    pub height: u64,
    /// Whose.
    pub account: Option<u32>,
    /// Its number among the account's entries; 0 without account.
    pub entry: u32,
    /// Its number among the control entries; 0: none.
    pub control: u64,
    /// What happened.
    pub fact: Fact,
}

/// What a receipt was charged to; the log's leaf does not say.
#[derive(Debug, Clone, Copy)]
pub struct Charge {
    /// Index of the receipt in the log.
    pub index: u64,
    /// Whose.
    pub account: u32,
    /// Through which key.
    pub api_key: u32,
    /// By which gateway.
    pub gateway: u32,
    /// With what.
    pub class: u16,
    /// What it cost.
    pub cost: u64,
    /// What was charged.
    pub charged: u64,
}
