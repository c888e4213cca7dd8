//! Who may ask what: the table of `node/README.md`, section "Who may ask what".
//!
//! An [`Ask`] says what an answer would disclose; [`may`] is the whole rule. A
//! person may by roles, a holder its own, a gateway what it serves by.

use std::fmt;

use tally_ledger::{
    account::Account,
    ids::{AccountNumber, GatewayNumber, Person},
    person::Roles,
    state::State,
    transaction::{Author, AuthorKind},
};

/// What is asked, as far as it matters to who may.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ask {
    /// Nothing but who is asking.
    Login,
    /// Headers, consistency, parameters, prices, validators: what everybody
    /// needs who checks an answer.
    Chain,
    /// Classes with their totals.
    Classes,
    /// Entries that are neither receipts nor leases.
    Control,
    /// Blocks, or entries of all or of a class.
    Everything,
    /// An account's leaf.
    Account(AccountNumber),
    /// An account's entries.
    AccountEntries(AccountNumber),
    /// An API key: of this account, or of none.
    ApiKey(Option<AccountNumber>),
    /// A gateway's leaf.
    Gateway(GatewayNumber),
    /// A gateway's entries.
    GatewayEntries(GatewayNumber),
    /// Some receipt, before it is known whose.
    AnyReceipt,
    /// One receipt: whose, by which gateway.
    Receipt(AccountNumber, GatewayNumber),
    /// A person's leaf.
    Person(Person),
    /// The totals of a unit.
    Unit(u32),
    /// Who asked for what.
    AccessLog,
    /// A transaction with these signers.
    Transaction(Vec<Author>),
}

const ANY_ROLE: Roles = Roles(31);

impl Ask {
    /// A person with any of these roles may.
    fn roles(&self) -> Roles {
        let readers = Roles::AUDITOR;
        match self {
            Ask::Login | Ask::Chain | Ask::AnyReceipt => ANY_ROLE,
            Ask::Classes => readers.with(Roles::ISSUER).with(Roles::ADMIN),
            Ask::Control | Ask::Gateway(_) | Ask::Person(_) => readers.with(Roles::ADMIN),
            Ask::Account(_) | Ask::ApiKey(_) | Ask::Receipt(..) => readers.with(Roles::ISSUER),
            Ask::Everything
            | Ask::AccountEntries(_)
            | Ask::GatewayEntries(_)
            | Ask::Unit(_)
            | Ask::AccessLog
            | Ask::Transaction(_) => readers,
        }
    }

    /// Who may, for people.
    fn who(&self) -> &'static str {
        match self {
            Ask::Login | Ask::Chain | Ask::AnyReceipt => {
                "whoever has a role, an account or a gateway"
            }
            Ask::Classes => "auditors, issuers, admins and gateways",
            Ask::Control => "auditors, admins and gateways that are not suspended",
            Ask::Everything | Ask::AccessLog => "auditors",
            Ask::Account(_) => {
                "auditors, issuers, its holder, and gateways that serve one of its API keys"
            }
            Ask::AccountEntries(_) => "auditors and its holder",
            Ask::ApiKey(_) => {
                "auditors, issuers, its account's holder, and gateways that are not suspended"
            }
            Ask::Gateway(_) => "auditors, admins and gateways",
            Ask::GatewayEntries(_) => "auditors and that gateway",
            Ask::Receipt(..) => "auditors, issuers, its holder and its gateway",
            Ask::Person(_) => "auditors, admins and that person",
            Ask::Unit(_) => "auditors and that unit's managers",
            Ask::Transaction(_) => "auditors and who signed it",
        }
    }

    /// Whether an answer is about somebody, so that it is noted who asked.
    pub(super) fn is_about_somebody(&self) -> bool {
        !matches!(
            self,
            Ask::Login | Ask::Chain | Ask::Classes | Ask::AnyReceipt
        )
    }

    /// As a refusal names it: by its kind alone. Whose a receipt, an API key
    /// or a transaction is, its name does not tell, and so must no refusal.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Ask::Login => "who it is",
            Ask::Chain => "the chain's headers",
            Ask::Classes => "the classes",
            Ask::Control => "the control entries",
            Ask::Everything => "what is about everybody",
            Ask::Account(_) => "this account",
            Ask::AccountEntries(_) => "this account's entries",
            Ask::ApiKey(_) => "this API key",
            Ask::Gateway(_) => "this gateway",
            Ask::GatewayEntries(_) => "this gateway's entries",
            Ask::AnyReceipt | Ask::Receipt(..) => "this receipt",
            Ask::Person(_) => "this person",
            Ask::Unit(_) => "this unit's totals",
            Ask::AccessLog => "the access log",
            Ask::Transaction(_) => "this transaction",
        }
    }
}

/// As the access log names it, and nobody else.
impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ask::Login => f.write_str("itself"),
            Ask::Chain => f.write_str("chain"),
            Ask::Classes => f.write_str("classes"),
            Ask::Control => f.write_str("control"),
            Ask::Everything => f.write_str("everything"),
            Ask::Account(number) => write!(f, "account:{number}"),
            Ask::AccountEntries(number) => write!(f, "entries of account:{number}"),
            Ask::ApiKey(Some(number)) => write!(f, "API key of account:{number}"),
            Ask::ApiKey(None) => f.write_str("API key of nobody"),
            Ask::Gateway(number) => write!(f, "gateway:{number}"),
            Ask::GatewayEntries(number) => write!(f, "entries of gateway:{number}"),
            Ask::AnyReceipt => f.write_str("receipt"),
            Ask::Receipt(account, gateway) => {
                write!(f, "receipt of account:{account} by gateway:{gateway}")
            }
            Ask::Person(number) => write!(f, "person:{number}"),
            Ask::Unit(number) => write!(f, "unit:{number}"),
            Ask::AccessLog => f.write_str("access log"),
            Ask::Transaction(signers) => match signers.first() {
                Some(author) => write!(f, "transaction of {author}"),
                None => f.write_str("transaction"),
            },
        }
    }
}

/// Whether `caller` may, in this state; else who may.
pub(super) fn may(state: &State, caller: Author, ask: &Ask) -> Result<(), &'static str> {
    let number = caller.number;
    let may = match caller.kind {
        AuthorKind::Person => person_may(state, Person(number), ask),
        AuthorKind::Gateway => gateway_may(state, GatewayNumber(number), ask),
        AuthorKind::Account => holder_may(AccountNumber(number), ask),
        AuthorKind::ApiKey | AuthorKind::Validator => false,
    };
    let signed = matches!(ask, Ask::Transaction(signers) if signers.contains(&caller));
    match may || signed || *ask == Ask::Login {
        true => Ok(()),
        false => Err(ask.who()),
    }
}

fn person_may(state: &State, number: Person, ask: &Ask) -> bool {
    let Some(person) = state.person(number) else {
        return false;
    };
    let by_role = person.roles.0 & ask.roles().0 != 0;
    let own = match ask {
        Ask::Person(asked) => *asked == number && person.roles != Roles::NONE,
        Ask::Unit(unit) => person.roles.has(Roles::UNIT_MANAGER) && person.unit == Some(*unit),
        _ => false,
    };
    by_role || own
}

/// A suspended gateway keeps what settling takes: its debits are accepted
/// until its last lease is closed, and must be proven to it.
fn gateway_may(state: &State, number: GatewayNumber, ask: &Ask) -> bool {
    let Some(gateway) = state.gateway(number) else {
        return false;
    };
    let serves = !gateway.suspended;
    match ask {
        Ask::Login | Ask::Chain | Ask::Classes | Ask::AnyReceipt | Ask::Gateway(_) => true,
        Ask::Control | Ask::ApiKey(_) => serves,
        Ask::Account(account) => {
            let account = state.account(*account);
            account.is_some_and(|it| has_lease(it, number) || (serves && !it.api_keys.is_empty()))
        }
        Ask::GatewayEntries(asked) | Ask::Receipt(_, asked) => *asked == number,
        _ => false,
    }
}

fn has_lease(account: &Account, gateway: GatewayNumber) -> bool {
    account.leases.iter().any(|lease| lease.gateway == gateway)
}

fn holder_may(number: AccountNumber, ask: &Ask) -> bool {
    match ask {
        Ask::Login | Ask::Chain | Ask::AnyReceipt => true,
        Ask::Account(asked)
        | Ask::AccountEntries(asked)
        | Ask::ApiKey(Some(asked))
        | Ask::Receipt(asked, _) => *asked == number,
        _ => false,
    }
}
