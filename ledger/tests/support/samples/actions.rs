//! One sample of every action.

use tally_ledger::{
    action::*,
    class::Burn,
    ids::*,
    person::Roles,
    transaction::{Author, AuthorKind, Body},
};

use super::{
    super::{GATEWAY, JOURNAL},
    caps, evidence, hash, list, parameters, public, rates, rules, second_table,
};

fn lease() -> Lease {
    Lease {
        journal: JOURNAL,
        number: LeaseNumber(10),
        account: AccountNumber(2),
        class: ClassNumber(1),
        api_key: ApiKeyNumber(5),
        wanted: Amount(10_000_000),
        worst_case: Amount(250_000),
        duration_ms: 600_000,
    }
}

/// Every action, in the order of the tags.
pub(crate) fn actions() -> Vec<(&'static str, Action)> {
    let account = AccountNumber(2);
    let new_grant = |class| NewGrant {
        account,
        class: ClassNumber(class),
        amount: Amount(12_500_000),
        vests: Time(1_800_000_000_000),
        expires: Time(1_900_000_000_000),
    };
    vec![
        (
            "open_account",
            Action::OpenAccount(OpenAccount {
                unit: 4_711,
                holder: public(50),
                classes: list(vec![ClassNumber(1), ClassNumber(0)]),
            }),
        ),
        (
            "issue",
            Action::Issue(Issue {
                grants: list(vec![new_grant(0), new_grant(1)]),
            }),
        ),
        (
            "revoke",
            Action::Revoke(Revoke {
                account,
                grant: GrantNumber(3),
            }),
        ),
        (
            "correct",
            Action::Correct(Correct {
                entry: 4_242,
                amount: Amount(300),
                expires: Time(1_900_000_000_000),
            }),
        ),
        ("freeze", Action::Freeze(account)),
        ("unfreeze", Action::Unfreeze(account)),
        (
            "bind_api_key",
            Action::BindApiKey(BindApiKey {
                account,
                key: public(51),
                models: list(vec![ModelNumber(1), ModelNumber(7)]),
                cap: Amount(u64::MAX),
                expires: Time(u64::MAX),
            }),
        ),
        ("revoke_api_key", Action::RevokeApiKey(ApiKeyNumber(5))),
        (
            "rotate_holder_key",
            Action::RotateHolderKey(account, public(52)),
        ),
        (
            "surrender",
            Action::Surrender(Surrender {
                account,
                grant: GrantNumber(3),
                amount: Amount(1_000_000),
            }),
        ),
        (
            "open_journal",
            Action::OpenJournal(OpenJournal {
                journal: JournalNumber(2),
                previous_intact: true,
            }),
        ),
        ("lease", Action::Lease(lease())),
        ("return_lease", Action::ReturnLease(LeaseNumber(9))),
        (
            "debits",
            Action::Debits(Debits {
                journal: JOURNAL,
                first: DebitNumber(1),
                count: 5,
                root: hash(9),
            }),
        ),
        (
            "set_role",
            Action::SetRole(SetRole {
                person: Person(9),
                key: public(10),
                roles: Roles::AUDITOR,
            }),
        ),
        (
            "set_class",
            Action::SetClass(SetClass {
                class: ClassNumber(2),
                rules: rules("bio", vec![ModelNumber(7)], 0, Burn::Neither),
            }),
        ),
        ("set_price_table", Action::SetPriceTable(second_table())),
        ("set_parameters", Action::SetParameters(parameters())),
        (
            "register_gateway",
            Action::RegisterGateway(RegisterGateway {
                key: public(41),
                caps: caps(),
            }),
        ),
        (
            "set_gateway_key",
            Action::SetGatewayKey(SetGatewayKey {
                gateway: GATEWAY,
                key: public(42),
                caps: caps(),
            }),
        ),
        ("suspend_gateway", Action::SuspendGateway(GATEWAY)),
        ("set_rates", Action::SetRates(rates())),
        ("evidence", Action::Evidence(Box::new(evidence::votes()))),
        ("erase", Action::Erase(account)),
        (
            "set_unit",
            Action::SetUnit(SetUnit {
                person: Person(9),
                unit: Some(4_711),
            }),
        ),
        (
            "set_unit_to_none",
            Action::SetUnit(SetUnit {
                person: Person(9),
                unit: None,
            }),
        ),
    ]
}

/// A body for an action, with an author that may write it and, for a Lease,
/// the API key as second signer.
pub(crate) fn body(action: Action) -> Body {
    let (author, others): (Author, Vec<Author>) = match &action {
        Action::OpenJournal(_) | Action::ReturnLease(_) | Action::Debits(_) => {
            (GATEWAY.into(), vec![])
        }
        Action::Lease(lease) => (GATEWAY.into(), vec![lease.api_key.into()]),
        Action::Surrender(surrender) => (surrender.account.into(), vec![]),
        Action::RevokeApiKey(api_key) => ((*api_key).into(), vec![]),
        _ => (Person(3).into(), vec![Person(2).into()]),
    };
    let counted = author.kind == AuthorKind::Gateway;
    let (id, hour) = if counted {
        ([0; 16], 0)
    } else {
        ([0xa5; 16], 500_024)
    };
    Body::new(author, &others, id, hour, action)
}
