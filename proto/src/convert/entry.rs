//! Entries of the log: receipts and events.

use bytes::Bytes;
use tally_ledger::{
    account::Recall,
    debit::{Debit, Detail, Position},
    entry::{Entry, Event, EventLeaf, Receipt, Shortfall},
    ids::GatewayNumber,
};

use super::{bytes_of, key_bytes, state::grant_to_proto};
use crate::v1;

impl From<Position> for v1::DebitId {
    fn from(from: Position) -> Self {
        v1::DebitId {
            gateway: from.gateway.0,
            journal: from.journal.0,
            number: from.number.0,
        }
    }
}

impl From<&Receipt> for v1::Receipt {
    fn from(from: &Receipt) -> Self {
        v1::Receipt {
            flags: from.flags.0.into(),
            flag_names: from.flags.names().into_iter().map(str::to_owned).collect(),
            account: from.account.0,
            entry: from.entry,
            debit: Some(from.position.into()),
            class: from.class.0.into(),
            cost: from.cost.0,
            charged: from.charged.0,
            loss: from.cost.saturating_sub(from.charged).0,
            detail_hash: bytes_of(&from.detail),
        }
    }
}

impl v1::Detail {
    /// The detail of `gateway`'s debit, with what its fixed part adds.
    pub fn new(gateway: GatewayNumber, debit: &Debit) -> Self {
        let Detail {
            salt,
            model,
            table,
            usage,
            hold_journal,
            hold,
            queued,
            ..
        } = debit.detail;
        let queued = queued.unwrap_or_default();
        v1::Detail {
            salt: Bytes::copy_from_slice(&salt),
            model: model.0,
            table: table.0,
            counts: usage.0.to_vec(),
            hold: Some(v1::HoldId {
                gateway: gateway.0,
                journal: hold_journal.0,
                number: hold,
            }),
            project: debit.detail.project,
            purpose: debit.detail.purpose,
            arrival: debit.detail.arrival,
            duration: debit.detail.duration,
            request: bytes_of(&debit.detail.request),
            limit: debit.fixed.limit.0,
            fee: debit.fixed.fee.0,
            lease: debit.fixed.lease.0,
            api_key: debit.fixed.api_key.0,
            queue: queued.queue,
            joined: queued.joined,
            dispatched: queued.dispatched,
        }
    }
}

impl v1::Entry {
    /// The entry at `index` of the log, without a path.
    pub fn new(index: u64, entry: &Entry) -> Self {
        let (height, leaf, fact) = match entry {
            Entry::Receipt(receipt) => (
                receipt.height,
                Bytes::copy_from_slice(&receipt.leaf()),
                v1::entry::Fact::Receipt(receipt.into()),
            ),
            Entry::Event(leaf, event) => (
                leaf.height,
                Bytes::copy_from_slice(&leaf.leaf()),
                v1::entry::Fact::Event(v1::Event::new(leaf, event)),
            ),
        };
        v1::Entry {
            index,
            height: height.0,
            leaf,
            fact: Some(fact),
            path: Vec::new(),
        }
    }
}

impl v1::Event {
    /// An event with its leaf.
    pub fn new(leaf: &EventLeaf, event: &Event) -> Self {
        use tally_ledger::ids::AccountNumber;
        let account = (leaf.account != AccountNumber::NONE).then_some(leaf.account.0);
        let base = v1::Event {
            kind: leaf.kind.into(),
            name: name(event).to_owned(),
            encoded: event.encode().into(),
            control: leaf.control,
            entry: leaf.entry,
            account,
            transaction: event.transaction().map_or_else(Bytes::new, bytes_of),
            ..Default::default()
        };
        fill(base, event)
    }
}

/// An event's name for people and machines.
pub fn name(event: &Event) -> &'static str {
    match event {
        Event::LeaseGranted { .. } => "LeaseGranted",
        Event::LeaseEnded { .. } => "LeaseEnded",
        Event::LeaseClosed { .. } => "LeaseClosed",
        Event::Genesis { .. } => "Genesis",
        Event::AccountOpened { .. } => "AccountOpened",
        Event::GrantIssued { .. } => "GrantIssued",
        Event::GrantVested { .. } => "GrantVested",
        Event::GrantExpired { .. } => "GrantExpired",
        Event::GrantRevoked { .. } => "GrantRevoked",
        Event::Surrendered { .. } => "Surrendered",
        Event::Corrected { .. } => "Corrected",
        Event::Frozen { .. } => "Frozen",
        Event::Unfrozen { .. } => "Unfrozen",
        Event::ApiKeyBound { .. } => "ApiKeyBound",
        Event::ApiKeyRevoked { .. } => "ApiKeyRevoked",
        Event::HolderKeyRotated { .. } => "HolderKeyRotated",
        Event::JournalOpened { .. } => "JournalOpened",
        Event::RoleSet { .. } => "RoleSet",
        Event::ClassSet { .. } => "ClassSet",
        Event::PriceTableSet { .. } => "PriceTableSet",
        Event::ParametersSet { .. } => "ParametersSet",
        Event::GatewayRegistered { .. } => "GatewayRegistered",
        Event::GatewayKeySet { .. } => "GatewayKeySet",
        Event::GatewaySuspended { .. } => "GatewaySuspended",
        Event::RatesSet { .. } => "RatesSet",
        Event::Erased { .. } => "Erased",
        Event::SignedTwice { .. } => "SignedTwice",
        Event::UnitSet { .. } => "UnitSet",
    }
}

/// Why a lease granted less than it wanted; empty: it did not.
fn shortfall_name(shortfall: Shortfall) -> &'static str {
    match shortfall {
        Shortfall::None => "",
        Shortfall::Balance => "balance",
        Shortfall::GatewayCap => "gateway_cap",
        Shortfall::KeyCap => "key_cap",
        Shortfall::KeyEnded => "key_ended",
        Shortfall::Frozen => "frozen",
        Shortfall::Suspended => "suspended",
        Shortfall::TooManyLeases => "too_many_leases",
    }
}

/// Why a lease ended early; empty: it did not.
pub fn recall_name(recall: Recall) -> &'static str {
    match recall {
        Recall::No => "",
        Recall::Wanted => "wanted",
        Recall::Frozen => "frozen",
        Recall::Revoked => "revoked",
        Recall::KeyRevoked => "key_revoked",
        Recall::Suspended => "suspended",
        Recall::NewJournal => "new_journal",
        Recall::JournalLost => "journal_lost",
    }
}

/// The fields that each kind has.
fn fill(base: v1::Event, event: &Event) -> v1::Event {
    match event {
        Event::LeaseGranted {
            gateway,
            lease,
            class,
            api_key,
            granted,
            shortfall,
            end,
            table,
            ..
        } => v1::Event {
            gateway: Some(gateway.0),
            lease: Some(lease.0),
            class: Some(class.0.into()),
            api_key: Some(api_key.0),
            amount: Some(granted.0),
            why: shortfall_name(*shortfall).into(),
            end: Some(end.0),
            table: Some(table.0),
            ..base
        },
        Event::LeaseEnded {
            gateway,
            lease,
            recall,
        } => v1::Event {
            gateway: Some(gateway.0),
            lease: Some(lease.0),
            why: recall_name(*recall).into(),
            ..base
        },
        Event::LeaseClosed {
            gateway,
            lease,
            returned,
            unreported,
            ..
        } => v1::Event {
            gateway: Some(gateway.0),
            lease: Some(lease.0),
            amount: Some(returned.0),
            unreported: Some(unreported.0),
            ..base
        },
        Event::Genesis { chain } => v1::Event {
            chain: bytes_of(&chain.0),
            ..base
        },
        Event::AccountOpened { unit, holder, .. } => v1::Event {
            unit: Some(*unit),
            key: key_bytes(holder),
            ..base
        },
        Event::GrantIssued { grant, .. } => v1::Event {
            class: Some(grant.class.0.into()),
            grant: Some(grant.number.0),
            amount: Some(grant.amount.0),
            issued: Some(grant_to_proto(grant)),
            ..base
        },
        Event::GrantVested { grant, amount }
        | Event::GrantExpired { grant, amount }
        | Event::GrantRevoked { grant, amount, .. }
        | Event::Surrendered { grant, amount, .. } => v1::Event {
            grant: Some(grant.0),
            amount: Some(amount.0),
            ..base
        },
        Event::Corrected { entry, grant, .. } => v1::Event {
            class: Some(grant.class.0.into()),
            corrected: Some(*entry),
            grant: Some(grant.number.0),
            amount: Some(grant.amount.0),
            issued: Some(grant_to_proto(grant)),
            ..base
        },
        Event::ApiKeyBound { api_key, key, .. } => v1::Event {
            api_key: Some(api_key.0),
            key: key_bytes(key),
            ..base
        },
        Event::ApiKeyRevoked { api_key, .. } => v1::Event {
            api_key: Some(api_key.0),
            ..base
        },
        Event::HolderKeyRotated { key, .. } => v1::Event {
            key: key_bytes(key),
            ..base
        },
        Event::JournalOpened {
            gateway,
            journal,
            previous_intact,
            closed_last,
            closed_hash,
            ..
        } => v1::Event {
            gateway: Some(gateway.0),
            journal: Some(journal.0),
            previous_intact: Some(*previous_intact),
            closed_last: Some(closed_last.0),
            closed_hash: bytes_of(closed_hash),
            ..base
        },
        Event::RoleSet { person, .. } => v1::Event {
            person: Some(person.0),
            ..base
        },
        Event::ClassSet { class, .. } => v1::Event {
            class: Some(class.0.into()),
            ..base
        },
        Event::PriceTableSet { version, .. } => v1::Event {
            table: Some(version.0),
            ..base
        },
        Event::GatewayRegistered { gateway, .. }
        | Event::GatewayKeySet { gateway, .. }
        | Event::GatewaySuspended { gateway, .. } => v1::Event {
            gateway: Some(gateway.0),
            ..base
        },
        Event::SignedTwice {
            place,
            signed,
            evidence,
            ..
        } => v1::Event {
            signed_twice: Some(v1::SignedTwice {
                validator: place.validator.into(),
                height: place.height.0,
                round: place.round,
                signed: signed.name().into(),
                evidence: bytes_of(evidence),
            }),
            ..base
        },
        Event::Frozen { .. }
        | Event::Unfrozen { .. }
        | Event::ParametersSet { .. }
        | Event::RatesSet { .. } => base,
        Event::Erased { entries, .. } => v1::Event {
            erased: Some(*entries),
            ..base
        },
        Event::UnitSet { person, unit, .. } => v1::Event {
            person: Some(person.0),
            unit: *unit,
            ..base
        },
    }
}

#[cfg(test)]
mod tests {
    use tally_ledger::{
        crypto::PublicKey,
        hash::Hash,
        ids::{AccountNumber, Height},
    };

    use super::*;

    #[test]
    fn an_event_carries_the_bytes_that_its_leaf_hashes() {
        let event = Event::AccountOpened {
            transaction: Hash([1; 32]),
            unit: 7,
            holder: PublicKey([2; 32]),
        };
        let leaf = EventLeaf {
            kind: event.kind(),
            height: Height(3),
            account: AccountNumber(4),
            entry: 1,
            control: 9,
            event: event.hash(),
        };
        let entry = v1::Entry::new(12, &Entry::Event(leaf, event.clone()));
        assert_eq!(EventLeaf::from_leaf(&entry.leaf), Some(leaf));
        let Some(v1::entry::Fact::Event(proto)) = entry.fact else {
            panic!("an event is no receipt");
        };
        assert_eq!(
            tally_ledger::codec::decode::<Event>(&proto.encoded, 1000),
            Ok(event)
        );
        assert_eq!(
            (proto.account, proto.unit, proto.control),
            (Some(4), Some(7), 9)
        );
        assert_eq!(proto.transaction.as_ref(), [1; 32]);
    }
}
