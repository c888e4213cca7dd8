//! One sample of every event.

use tally_ledger::{
    account::Recall,
    crypto::ChainId,
    entry::{Event, Shortfall},
    evidence::Kind,
    ids::*,
};

use super::{super::GATEWAY, evidence, grant, hash, public};

/// Every event, in the order of the tags.
pub(crate) fn events() -> Vec<(&'static str, Event)> {
    let transaction = hash(1);
    let gateway = GATEWAY;
    let lease = LeaseNumber(9);
    let grant_number = GrantNumber(3);
    let amount = Amount(2_500_000);
    let api_key = ApiKeyNumber(5);
    vec![
        (
            "lease_granted",
            Event::LeaseGranted {
                transaction,
                gateway,
                lease,
                class: ClassNumber(1),
                api_key,
                granted: Amount(10_000_000),
                shortfall: Shortfall::Balance,
                end: Time(1_800_000_600_500),
                table: TableVersion(1),
            },
        ),
        (
            "lease_ended",
            Event::LeaseEnded {
                gateway,
                lease,
                recall: Recall::Wanted,
            },
        ),
        (
            "lease_closed",
            Event::LeaseClosed {
                gateway,
                lease,
                transaction: Some(transaction),
                returned: amount,
                unreported: Amount(0),
            },
        ),
        (
            "genesis",
            Event::Genesis {
                chain: ChainId(hash(2)),
            },
        ),
        (
            "account_opened",
            Event::AccountOpened {
                transaction,
                unit: 4_711,
                holder: public(50),
            },
        ),
        (
            "grant_issued",
            Event::GrantIssued {
                transaction,
                grant: grant(),
            },
        ),
        (
            "grant_vested",
            Event::GrantVested {
                grant: grant_number,
                amount,
            },
        ),
        (
            "grant_expired",
            Event::GrantExpired {
                grant: grant_number,
                amount,
            },
        ),
        (
            "grant_revoked",
            Event::GrantRevoked {
                transaction,
                grant: grant_number,
                amount,
            },
        ),
        (
            "surrendered",
            Event::Surrendered {
                transaction,
                grant: grant_number,
                amount,
            },
        ),
        (
            "corrected",
            Event::Corrected {
                transaction,
                entry: 4_242,
                grant: grant(),
            },
        ),
        ("frozen", Event::Frozen { transaction }),
        ("unfrozen", Event::Unfrozen { transaction }),
        (
            "api_key_bound",
            Event::ApiKeyBound {
                transaction,
                api_key,
                key: public(51),
            },
        ),
        (
            "api_key_revoked",
            Event::ApiKeyRevoked {
                transaction,
                api_key,
            },
        ),
        (
            "holder_key_rotated",
            Event::HolderKeyRotated {
                transaction,
                key: public(52),
            },
        ),
        (
            "journal_opened",
            Event::JournalOpened {
                transaction,
                gateway,
                journal: JournalNumber(2),
                previous_intact: true,
                closed_last: DebitNumber(7),
                closed_hash: hash(3),
            },
        ),
        (
            "role_set",
            Event::RoleSet {
                transaction,
                person: Person(9),
            },
        ),
        (
            "class_set",
            Event::ClassSet {
                transaction,
                class: ClassNumber(2),
            },
        ),
        (
            "price_table_set",
            Event::PriceTableSet {
                transaction,
                version: TableVersion(2),
            },
        ),
        ("parameters_set", Event::ParametersSet { transaction }),
        (
            "gateway_registered",
            Event::GatewayRegistered {
                transaction,
                gateway: GatewayNumber(1),
            },
        ),
        (
            "gateway_key_set",
            Event::GatewayKeySet {
                transaction,
                gateway,
            },
        ),
        (
            "gateway_suspended",
            Event::GatewaySuspended {
                transaction,
                gateway,
            },
        ),
        ("rates_set", Event::RatesSet { transaction }),
        (
            "signed_twice",
            Event::SignedTwice {
                transaction,
                place: evidence::place(),
                signed: Kind::Precommits,
                evidence: evidence::votes().hash(),
            },
        ),
        (
            "erased",
            Event::Erased {
                transaction,
                entries: 812,
            },
        ),
        (
            "unit_set",
            Event::UnitSet {
                transaction,
                person: Person(9),
                unit: Some(4_711),
            },
        ),
    ]
}
