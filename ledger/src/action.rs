//! The actions that a transaction can ask for, and what each does.
//!
//! Tags are the declaration order, so new actions go at the end. Tags that
//! are [`Reserved`] can be neither built nor decoded. There is no transfer
//! (I2): it is not refused, it does not exist.
//!
//! Who must sign:
//!
//! | action | signers that suffice |
//! |---|---|
//! | OpenAccount, Freeze | one issuer |
//! | Issue, Revoke | one issuer within the day limits, else two issuers |
//! | Correct, Unfreeze | two issuers |
//! | BindApiKey, RotateHolderKey | the account's holder, or two issuers |
//! | RevokeApiKey | the holder, or one issuer, or the API key itself |
//! | Erase | two issuers, or the account's holder and an issuer |
//! | Surrender | the holder |
//! | OpenJournal, ReturnLease, Debits | the gateway |
//! | Lease | the gateway and the API key |
//! | SuspendGateway | one admin |
//! | Evidence | anyone whom the state knows, a validator too: it proves itself |
//! | the rest | `threshold` admins |
//!
//! Maker and checker are different persons by construction: signers are
//! unique. The author is always one of those whose signature counts.
//!
//! What a transaction is checked for, in this order; the first failure is
//! the answer: form and size, list of signers, their existence, their
//! signatures, replay, authority, references, policy, balance. A list whose
//! doc asks for an order or for no repeats is form (`Malformed`).
//!
//! Issue, Revoke, Surrender, Correct, Lease and Debits first run the due
//! vest and expiry steps of the accounts and classes that they name; if the
//! transaction is refused, these have not happened either.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    class::ClassRules,
    codec::List,
    crypto::PublicKey,
    evidence::Evidence,
    gateway::Caps,
    hash::Hash,
    ids::{
        AccountNumber, Amount, ApiKeyNumber, ClassNumber, DebitNumber, GatewayNumber, GrantNumber,
        JournalNumber, LeaseNumber, ModelNumber, Person, Time,
    },
    parameters::Parameters,
    person::Roles,
    price::PriceTable,
    rates::Rates,
};

/// Most grants in one Issue.
pub const MAX_GRANTS_PER_ISSUE: usize = 256;
/// Most models an API key may be limited to.
pub const MAX_KEY_MODELS: usize = 8;
/// Most classes in an account's order of preference.
pub const MAX_CLASS_ORDER: usize = 16;

/// Opens an account; it gets the next number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAccount {
    /// Opaque organisational number, for reports.
    pub unit: u32,
    /// The holder's key.
    pub holder: PublicKey,
    /// Classes in the order in which requests use them; known, no repeats.
    pub classes: List<ClassNumber, MAX_CLASS_ORDER>,
}

/// One grant of an Issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewGrant {
    /// To whom.
    pub account: AccountNumber,
    /// Of what.
    pub class: ClassNumber,
    /// How much; not zero.
    pub amount: Amount,
    /// When it can first be spent (a cliff). Not after block time: at once.
    pub vests: Time,
    /// When the unspent rest expires; after `vests` and after block time.
    pub expires: Time,
}

/// Issues grants, all or nothing. Who may burn them is the class's rule at
/// this moment. The sum per class must fit the class's supply cap, and each
/// account and class may hold at most 64 live grants, that is, such as still
/// hold something. A frozen account may be issued to. With one issuer, the
/// sum counts against the issuer's limits of the clock day, in total and per
/// account; with two, no limit applies and nothing is counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    /// The grants, at least one.
    pub grants: List<NewGrant, MAX_GRANTS_PER_ISSUE>,
}

/// Takes back what a grant still holds. The free part goes to `revoked` at
/// once, the leased part when its leases close; a revoked grant has no vest
/// or expiry step any more. All leases of the account and class are recalled. Needs a grant that its issuer may burn. Free and
/// leased part count against the day limits as in [`Issue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoke {
    /// Whose.
    pub account: AccountNumber,
    /// Which.
    pub grant: GrantNumber,
}

/// Gives back what a receipt charged, in whole or in part, as a new grant of
/// the same account and class, vested at once. The payload is a
/// [`crate::correction::CorrectionProof`]: the receipt's leaf and its
/// inclusion under the parent block's log root. The sum of a receipt's
/// corrections never exceeds what it charged. No supply cap applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correct {
    /// Index of the receipt in the log.
    pub entry: u64,
    /// How much; not zero.
    pub amount: Amount,
    /// When the new grant expires; after block time.
    pub expires: Time,
}

/// Lets an API key spend from an account. Not by the holder of a frozen one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindApiKey {
    /// Whose.
    pub account: AccountNumber,
    /// Public half of the key; bound once in the chain's life.
    pub key: PublicKey,
    /// Models it may buy, ascending, known to the current price table; empty:
    /// all.
    pub models: List<ModelNumber, MAX_KEY_MODELS>,
    /// Most that may ever be charged through it; `u64::MAX`: no cap.
    pub cap: Amount,
    /// When it ends; after block time. `u64::MAX`: never.
    pub expires: Time,
}

/// Gives back a part of a grant's free amount, for good. Needs a grant that
/// its holder may burn, and an account that is not frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surrender {
    /// Whose.
    pub account: AccountNumber,
    /// Which.
    pub grant: GrantNumber,
    /// How much; not zero, at most the grant's free amount.
    pub amount: Amount,
}

/// Opens the gateway's next journal and fences the one before. The
/// gateway's open leases are recalled; after a lost journal, what remains in
/// each when it closes is logged as `unreported`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenJournal {
    /// The gateway's last journal + 1.
    pub journal: JournalNumber,
    /// Whether the previous journal will still be settled from its disk.
    /// Must be true for journal 1.
    pub previous_intact: bool,
}

/// Sets an amount aside for this gateway. Refused only for what cannot
/// change: a form error, a number that is not the next, a journal that is
/// not current, an API key, account or class that does not exist or belong
/// together. Everything else is recorded as granted 0 with its reason.
///
/// With `available` the free sum of the class's spendable grants and `eight`
/// that of the first eight of them that are not empty, by (expires, number),
/// three limits apply:
/// balance = min(max(available / 2, min(available, worst_case)), eight);
/// gateway = what its four caps leave; key = cap - spent - leased.
/// granted = min(wanted, balance, gateway, key); if less than wanted, the
/// first of these three limits that equals it is the reason.
/// end = min(now + min(duration, max_lease_ms), the key's expiry).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The gateway's current journal.
    pub journal: JournalNumber,
    /// The gateway's last lease + 1.
    pub number: LeaseNumber,
    /// Whose tokens.
    pub account: AccountNumber,
    /// Of which class.
    pub class: ClassNumber,
    /// On behalf of which key; it signs too.
    pub api_key: ApiKeyNumber,
    /// How much is wanted; not zero.
    pub wanted: Amount,
    /// Worst case of one request.
    pub worst_case: Amount,
    /// For how long, in ms; not zero; shortened to the parameter's largest.
    pub duration_ms: u32,
}

/// A batch of debits; they travel in the payload (see [`crate::debit`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debits {
    /// The gateway's current journal.
    pub journal: JournalNumber,
    /// Number of the first debit: the journal's last + 1.
    pub first: DebitNumber,
    /// How many; at least 1, at most [`crate::debit::MAX_BATCH`].
    pub count: u32,
    /// RFC 9162 root over the batch leaves.
    pub root: Hash,
}

/// Creates a person (number = how many there are) or changes one: key and
/// roles. Nobody is issuer and admin, or issuer and validator owner (by role
/// or by owning a validator of the set); the admins left must reach the
/// threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRole {
    /// Who.
    pub person: Person,
    /// Their key; no other person's.
    pub key: PublicKey,
    /// All their roles from now on; none: retired.
    pub roles: Roles,
}

/// Creates a class (number = how many there are) or changes its rules, and
/// nothing else of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetClass {
    /// Which.
    pub class: ClassNumber,
    /// Its rules from now on.
    pub rules: ClassRules,
}

/// Registers a gateway; it gets the next number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterGateway {
    /// Its key; no other gateway's.
    pub key: PublicKey,
    /// Its blast radius.
    pub caps: Caps,
}

/// Replaces a gateway's key and caps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetGatewayKey {
    /// Which.
    pub gateway: GatewayNumber,
    /// Its key from now on; no other gateway's.
    pub key: PublicKey,
    /// Its caps from now on.
    pub caps: Caps,
}

/// Says which organisational unit's totals a person may read as unit manager.
/// It takes effect with that role, in whichever order the two are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetUnit {
    /// Who.
    pub person: Person,
    /// Of which unit, as accounts name it; `None`: of none any more.
    pub unit: Option<u32>,
}

/// Stands where a tag is kept for later: there is no value of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reserved {}

impl Serialize for Reserved {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        match *self {}
    }
}

impl<'de> Deserialize<'de> for Reserved {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom("a tag that is reserved"))
    }
}

/// The pattern of every tag that is [`Reserved`], so that a match over all
/// actions names what it does and needs one arm for the rest:
/// `reserved!(never) => match *never {}`.
#[macro_export]
#[doc(hidden)]
macro_rules! __reserved_actions {
    ($never:ident) => {
        $crate::action::Action::SetValidators($never)
            | $crate::action::Action::SetProtocol($never)
            | $crate::action::Action::Resume($never)
            | $crate::action::Action::Attestation27($never)
            | $crate::action::Action::Attestation28($never)
            | $crate::action::Action::Attestation29($never)
            | $crate::action::Action::Attestation30($never)
            | $crate::action::Action::Attestation31($never)
            | $crate::action::Action::Attestation32($never)
    };
}

#[doc(inline)]
pub use crate::__reserved_actions as reserved;

/// What a transaction asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Tag 0.
    OpenAccount(OpenAccount),
    /// Tag 1.
    Issue(Issue),
    /// Tag 2.
    Revoke(Revoke),
    /// Tag 3.
    Correct(Correct),
    /// Tag 4. Stops all spending of an account and recalls its leases. Its
    /// holder can then only revoke API keys.
    Freeze(AccountNumber),
    /// Tag 5. Ends a freeze.
    Unfreeze(AccountNumber),
    /// Tag 6.
    BindApiKey(BindApiKey),
    /// Tag 7. Ends a key for good and recalls its leases.
    RevokeApiKey(ApiKeyNumber),
    /// Tag 8. Replaces an account's holder key. Not by the holder of a
    /// frozen account.
    RotateHolderKey(AccountNumber, PublicKey),
    /// Tag 9.
    Surrender(Surrender),
    /// Tag 10.
    OpenJournal(OpenJournal),
    /// Tag 11.
    Lease(Lease),
    /// Tag 12. Closes one of the gateway's open leases; what remains returns.
    ReturnLease(LeaseNumber),
    /// Tag 13.
    Debits(Debits),
    /// Tag 14.
    SetRole(SetRole),
    /// Tag 15.
    SetClass(SetClass),
    /// Tag 16. The next version of the price table, in force from the block
    /// after this one; at most one per block. A model's number keeps its
    /// name for all time.
    SetPriceTable(PriceTable),
    /// Tag 17. The admins that there are must reach the new threshold.
    SetParameters(Parameters),
    /// Tag 18.
    RegisterGateway(RegisterGateway),
    /// Tag 19.
    SetGatewayKey(SetGatewayKey),
    /// Tag 20. No further leases for this gateway; its leases are recalled,
    /// its debits are accepted until its last lease is closed.
    SuspendGateway(GatewayNumber),
    /// Tag 21. Classes are known, ascending, no repeats; what is left out has
    /// no limit from now on.
    SetRates(Rates),
    /// Tag 22: reserved.
    SetValidators(Reserved),
    /// Tag 23: reserved.
    SetProtocol(Reserved),
    /// Tag 24. That validators signed twice, at a height that is committed.
    /// At most [`crate::evidence::MAX_EVIDENCE_PER_BLOCK`] per block; it must
    /// mark at least one validator whose leaf does not have the height yet.
    Evidence(Box<Evidence>),
    /// Tag 25. Asks every node to drop, for good, the details of this
    /// account's receipts among its entries so far. Changes no total and no
    /// right: what comes after is kept as before.
    Erase(AccountNumber),
    /// Tag 26: reserved.
    Resume(Reserved),
    /// Tag 27: reserved for an attestation, as the five that follow.
    Attestation27(Reserved),
    /// Tag 28: reserved.
    Attestation28(Reserved),
    /// Tag 29: reserved.
    Attestation29(Reserved),
    /// Tag 30: reserved.
    Attestation30(Reserved),
    /// Tag 31: reserved.
    Attestation31(Reserved),
    /// Tag 32: reserved.
    Attestation32(Reserved),
    /// Tag 33.
    SetUnit(SetUnit),
}
