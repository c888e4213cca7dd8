//! Comparing: the ledger's log and state must be what the oracle says.

use std::collections::BTreeMap;

use tally_ledger::{
    account::{Account, OpenLease},
    class::Totals as Real,
    entry::{Entry, Event},
    ids::{AccountNumber, DAY_MS, HOUR_MS},
    state::State,
};

use crate::oracle::{Fact, Lease, LogEntry, Oracle, Totals};

/// The whole log, entry by entry.
pub fn log(oracle: &Oracle, entries: &[Entry]) {
    // Earlier blocks have been compared before.
    let from = oracle.parent_log as usize;
    for (i, (expected, entry)) in oracle.log.iter().zip(entries).enumerate().skip(from) {
        let mut found = read(entry);
        forget_unmade_end(&mut found.fact, &expected.fact);
        assert_eq!(&found, expected, "entry {i}: ledger (left), oracle (right)");
    }
    assert_eq!(entries.len(), oracle.log.len(), "size of the log");
}

/// The end of a lease that was not granted means nothing.
fn forget_unmade_end(found: &mut Fact, expected: &Fact) {
    if let (
        Fact::LeaseGranted {
            granted: 0, end, ..
        },
        Fact::LeaseGranted { end: wanted, .. },
    ) = (found, expected)
    {
        *end = *wanted;
    }
}

/// An entry in the oracle's words.
pub fn read(entry: &Entry) -> LogEntry {
    match entry {
        Entry::Receipt(r) => LogEntry {
            height: r.height.0,
            account: Some(r.account.0),
            entry: r.entry,
            control: 0,
            fact: Fact::Receipt {
                flags: r.flags.0,
                gateway: r.position.gateway.0,
                journal: r.position.journal.0,
                number: r.position.number.0,
                class: r.class.0,
                cost: r.cost.0,
                charged: r.charged.0,
            },
        },
        Entry::Event(leaf, event) => {
            assert_eq!(leaf.event, event.hash(), "a leaf carries its event's hash");
            assert_eq!(leaf.kind, event.kind());
            LogEntry {
                height: leaf.height.0,
                account: entry.account().map(|account| account.0),
                entry: leaf.entry,
                control: leaf.control,
                fact: fact(event),
            }
        }
    }
}

fn fact(event: &Event) -> Fact {
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
        } => Fact::LeaseGranted {
            gateway: gateway.0,
            lease: lease.0,
            class: class.0,
            api_key: api_key.0,
            granted: granted.0,
            shortfall: format!("{shortfall:?}"),
            end: end.0,
            table: table.0,
        },
        Event::LeaseEnded {
            gateway,
            lease,
            recall,
        } => Fact::LeaseEnded {
            gateway: gateway.0,
            lease: lease.0,
            recall: format!("{recall:?}"),
        },
        Event::LeaseClosed {
            gateway,
            lease,
            transaction,
            returned,
            unreported,
        } => Fact::LeaseClosed {
            gateway: gateway.0,
            lease: lease.0,
            by_gateway: transaction.is_some(),
            returned: returned.0,
            unreported: unreported.0,
        },
        Event::JournalOpened {
            gateway,
            journal,
            previous_intact,
            closed_last,
            ..
        } => Fact::JournalOpened {
            gateway: gateway.0,
            journal: journal.0,
            intact: *previous_intact,
            closed_last: closed_last.0,
        },
        _ => of_people(event),
    }
}

fn of_people(event: &Event) -> Fact {
    match event {
        Event::AccountOpened { unit, .. } => Fact::AccountOpened { unit: *unit },
        Event::GrantIssued { grant, .. } => Fact::GrantIssued {
            grant: grant.number.0,
            class: grant.class.0,
            amount: grant.amount.0,
            vests: grant.vests.0,
            expires: grant.expires.0,
        },
        Event::GrantVested { grant, amount } => Fact::GrantVested {
            grant: grant.0,
            amount: amount.0,
        },
        Event::GrantExpired { grant, amount } => Fact::GrantExpired {
            grant: grant.0,
            amount: amount.0,
        },
        Event::GrantRevoked { grant, amount, .. } => Fact::GrantRevoked {
            grant: grant.0,
            amount: amount.0,
        },
        Event::Surrendered { grant, amount, .. } => Fact::Surrendered {
            grant: grant.0,
            amount: amount.0,
        },
        Event::Corrected { entry, grant, .. } => Fact::Corrected {
            entry: *entry,
            grant: grant.number.0,
            amount: grant.amount.0,
            expires: grant.expires.0,
        },
        Event::Frozen { .. } => Fact::Frozen,
        Event::Unfrozen { .. } => Fact::Unfrozen,
        Event::Erased { entries, .. } => Fact::Erased { entries: *entries },
        Event::ApiKeyBound { api_key, .. } => Fact::ApiKeyBound { api_key: api_key.0 },
        Event::ApiKeyRevoked { api_key, .. } => Fact::ApiKeyRevoked { api_key: api_key.0 },
        Event::HolderKeyRotated { .. } => Fact::HolderKeyRotated,
        Event::RoleSet { person, .. } => Fact::RoleSet { person: person.0 },
        Event::ClassSet { class, .. } => Fact::ClassSet { class: class.0 },
        Event::PriceTableSet { version, .. } => Fact::PriceTableSet { version: version.0 },
        Event::ParametersSet { .. } => Fact::ParametersSet,
        Event::RatesSet { .. } => Fact::RatesSet,
        Event::SignedTwice { place, signed, .. } => Fact::SignedTwice {
            validator: place.validator,
            height: place.height.0,
            round: place.round,
            signed: signed.name(),
        },
        Event::UnitSet { person, unit, .. } => Fact::UnitSet {
            person: person.0,
            unit: *unit,
        },
        Event::GatewayRegistered { gateway, .. } => Fact::GatewayRegistered { gateway: gateway.0 },
        Event::GatewayKeySet { gateway, .. } => Fact::GatewayKeySet { gateway: gateway.0 },
        Event::GatewaySuspended { gateway, .. } => Fact::GatewaySuspended { gateway: gateway.0 },
        other => {
            assert!(matches!(other, Event::Genesis { .. }), "{other:?}");
            Fact::Genesis
        }
    }
}

/// Every leaf of the state.
pub fn states(oracle: &Oracle, state: &State) {
    assert_eq!(state.height().0, oracle.height);
    assert_eq!(state.log().size(), oracle.log.len() as u64);
    assert_eq!(state.counts().controls, oracle.control_entries());
    let in_force = state.price_table(state.counts().table);
    assert_eq!(in_force, Some(&oracle.tables[&oracle.table]));
    assert_eq!(state.parameters(), &oracle.parameters);
    rates(oracle, state);
    let totals = oracle.totals();
    accounts(oracle, state, &totals);
    classes(oracle, state, &totals);
    gateways(oracle, state);
    keys(oracle, state);
    persons(oracle, state);
    corrections(oracle, state);
    marks(oracle, state);
}

/// The last ones set; what waiting was worth is summed over all of them.
fn rates(oracle: &Oracle, state: &State) {
    let last = oracle.rates.last().map(|(_, rates)| rates);
    assert_eq!(state.rates().map(|found| &found.rates), last);
    let found = state.rates().cloned().unwrap_or_default();
    assert_eq!(found.worth_at(state.time()), oracle.waiting_worth());
}

fn accounts(oracle: &Oracle, state: &State, totals: &BTreeMap<(u32, u16), Totals>) {
    assert_eq!(state.accounts().len(), oracle.accounts.len());
    for (number, expected) in &oracle.accounts {
        let found = state.account(AccountNumber(*number)).unwrap();
        assert_eq!(found.unit, expected.unit);
        assert_eq!(found.holder, expected.holder);
        assert_eq!(found.frozen, expected.frozen);
        assert_eq!(found.entries, oracle.entries_of(Some(*number)));
        for class in oracle.classes.keys() {
            let kept = found.totals.iter().find(|(c, _)| c.0 == *class);
            let found = kept.map(|(_, totals)| *totals).unwrap_or_default();
            let expected = totals.get(&(*number, *class)).copied().unwrap_or_default();
            let place = format!("totals of account {number}, class {class}");
            assert_eq!(plain(&found), expected, "{place}");
            assert!(found.are_conserved(), "I1: {place}");
        }
        grants(oracle, *number, found);
        leases(oracle, *number, found);
        counters(oracle, *number, found);
        let bound: Vec<u32> = (oracle.api_keys.iter())
            .filter(|(_, key)| key.account == *number && !key.revoked)
            .map(|(key, _)| *key)
            .collect();
        let found: Vec<u32> = found.api_keys.iter().map(|key| key.0).collect();
        assert_eq!(found, bound, "API keys of account {number}");
    }
}

fn grants(oracle: &Oracle, account: u32, found: &Account) {
    let all = || oracle.grants.range((account, 0)..=(account, u32::MAX));
    assert_eq!(found.last_grant.0 as usize, all().count());
    let live: Vec<_> = all()
        .filter(|((_, number), _)| oracle.is_live(account, *number))
        .collect();
    let numbers: Vec<u32> = found.grants.iter().map(|grant| grant.number.0).collect();
    let expected: Vec<u32> = live.iter().map(|((_, number), _)| *number).collect();
    assert_eq!(numbers, expected, "live grants of account {account}");
    for (found, ((_, number), grant)) in found.grants.iter().zip(live) {
        let place = format!("grant {number} of account {account}");
        assert_eq!(found.class.0, grant.class, "{place}: class");
        assert_eq!(found.amount.0, grant.amount, "{place}: amount");
        assert_eq!(found.free.0, grant.free, "{place}: free");
        let leased = oracle.leased_of(account, *number);
        assert_eq!(found.leased.0, leased, "I3: {place}: leased");
        assert_eq!(found.vests.0, grant.vests, "{place}: vests");
        assert_eq!(found.expires.0, grant.expires, "{place}: expires");
        assert_eq!(found.burn, grant.burn, "{place}: burn");
        assert_eq!(found.vested, grant.vest_done, "{place}: vested");
        assert_eq!(found.expired, grant.expiry_done, "{place}: expired");
        assert_eq!(found.revoked, grant.is_revoked, "{place}: revoked");
    }
}

fn leases(oracle: &Oracle, account: u32, found: &Account) {
    let open: Vec<((u32, u64), &Lease)> = (oracle.open_leases())
        .filter(|(_, lease)| lease.account == account)
        .collect();
    let keys: Vec<(u32, u64)> = (found.leases.iter())
        .map(|lease| (lease.gateway.0, lease.number.0))
        .collect();
    let expected: Vec<(u32, u64)> = open.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, expected, "open leases of account {account}");
    for (found, (key, lease)) in found.leases.iter().zip(open) {
        same_lease(key, found, lease);
    }
}

fn same_lease(key: (u32, u64), found: &OpenLease, lease: &Lease) {
    let place = format!("lease {key:?}");
    assert_eq!(found.class.0, lease.class, "{place}: class");
    assert_eq!(found.api_key.0, lease.api_key, "{place}: key");
    assert_eq!(found.granted.0, lease.granted, "{place}: granted");
    let parts: Vec<(u32, u64)> = (found.parts.iter())
        .map(|part| (part.grant.0, part.amount.0))
        .collect();
    let expected: Vec<(u32, u64)> = (lease.parts.iter().copied())
        .filter(|part| part.1 > 0)
        .collect();
    assert_eq!(parts, expected, "{place}: parts");
    assert_eq!(found.opened.0, lease.opened, "{place}: opened");
    assert_eq!(found.end.0, lease.end, "{place}: end");
    assert_eq!(found.table.0, lease.table, "{place}: table");
    let recall = format!("{:?}", found.recall);
    assert_eq!(recall, lease.recall, "{place}: recall");
    let ended = found.ended.map(|(time, height)| (time.0, height.0));
    assert_eq!(ended, lease.ended, "{place}: ended");
}

/// Counters of the present hour and day; older ones mean nothing.
fn counters(oracle: &Oracle, account: u32, found: &Account) {
    let hour = (oracle.time / HOUR_MS) as u32;
    let day = (oracle.time / DAY_MS) as u32;
    for gateway in oracle.gateways.keys() {
        let counter = (found.hours.iter()).find(|c| c.gateway.0 == *gateway && c.hour == hour);
        let found = counter.map_or(0, |counter| counter.leased.0);
        let expected = oracle.hour_total(*gateway, Some(account));
        assert_eq!(found, expected, "hour of {gateway} and account {account}");
    }
    for issuer in oracle.persons.keys() {
        let counter = (found.days.iter()).find(|c| c.issuer.0 == *issuer && c.day == day);
        let found = counter.map_or(0, |counter| u128::from(counter.total.0));
        let expected = oracle.day_total(*issuer, Some(account));
        assert_eq!(found, expected, "day of {issuer} and account {account}");
    }
}

fn classes(oracle: &Oracle, state: &State, totals: &BTreeMap<(u32, u16), Totals>) {
    assert_eq!(state.classes().len(), oracle.classes.len());
    for (found, (number, expected)) in state.classes().iter().zip(&oracle.classes) {
        assert_eq!(found.rules, expected.rules);
        let sum = (totals.iter())
            .filter(|((_, class), _)| class == number)
            .fold(Totals::default(), |sum, (_, totals)| sum.plus(totals));
        assert_eq!(plain(&found.totals), sum, "totals of class {number}");
        assert!(found.totals.are_conserved(), "I1: class {number}");
        let period = (oracle.time / DAY_MS) as u32 / found.rules.period_days;
        let issued = match found.period == period {
            true => u128::from(found.period_issued.0),
            false => 0,
        };
        let expected = oracle.period_total(*number);
        assert_eq!(issued, expected, "issued of class {number} this period");
    }
}

fn gateways(oracle: &Oracle, state: &State) {
    assert_eq!(state.gateways().len(), oracle.gateways.len());
    let hour = (oracle.time / HOUR_MS) as u32;
    for (found, (number, gateway)) in state.gateways().iter().zip(&oracle.gateways) {
        let place = format!("gateway {number}");
        assert_eq!(found.key, gateway.key, "{place}");
        assert_eq!(found.caps, gateway.caps, "{place}");
        assert_eq!(found.suspended, gateway.suspended, "{place}");
        assert_eq!(found.journal.0, gateway.journal, "{place}: journal");
        assert_eq!(found.last_debit.0, gateway.last_debit, "I5: {place}");
        assert_eq!(found.last_lease.0, gateway.last_lease, "{place}: lease");
        let open = oracle.open_total(*number, None);
        assert_eq!(found.open.0, open, "I3: {place}: open");
        let count = (oracle.open_leases())
            .filter(|((g, _), _)| g == number)
            .count();
        assert_eq!(found.open_leases as usize, count, "{place}: open leases");
        let leased = match found.hour == hour {
            true => found.hour_leased.0,
            false => 0,
        };
        assert_eq!(leased, oracle.hour_total(*number, None), "{place}: hour");
        let loss = oracle.gateway_loss(*number);
        assert_eq!(found.loss.0, loss, "{place}: loss");
    }
}

fn keys(oracle: &Oracle, state: &State) {
    assert_eq!(state.api_keys().len(), oracle.api_keys.len());
    for (found, (number, key)) in state.api_keys().iter().zip(&oracle.api_keys) {
        let place = format!("API key {number}");
        assert_eq!(found.account.0, key.account, "{place}");
        assert_eq!(found.key, key.key, "{place}");
        assert_eq!(found.cap.0, key.cap, "{place}");
        assert_eq!(found.expires.0, key.expires, "{place}");
        assert_eq!(found.revoked, key.revoked, "{place}");
        assert_eq!(found.spent.0, oracle.key_spent(*number), "{place}: spent");
        assert_eq!(
            found.leased.0,
            oracle.key_leased(*number),
            "{place}: leased"
        );
    }
}

fn persons(oracle: &Oracle, state: &State) {
    assert_eq!(state.persons().len(), oracle.persons.len());
    let day = (oracle.time / DAY_MS) as u32;
    for (found, (number, person)) in state.persons().iter().zip(&oracle.persons) {
        assert_eq!(found.key, person.key, "person {number}");
        assert_eq!(found.roles, person.roles, "person {number}");
        assert_eq!(found.unit, person.unit, "unit of person {number}");
        let total = match found.day == day {
            true => u128::from(found.day_total.0),
            false => 0,
        };
        assert_eq!(total, oracle.day_total(*number, None), "day of {number}");
    }
}

fn corrections(oracle: &Oracle, state: &State) {
    let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
    for (entry, amount) in &oracle.corrections {
        *expected.entry(*entry).or_default() += amount;
    }
    let found: BTreeMap<u64, u64> = (state.corrections().iter())
        .map(|correction| (correction.entry, correction.corrected.0))
        .collect();
    assert_eq!(found, expected, "corrections");
}

/// What is known against each validator: how much, and the latest of it.
fn marks(oracle: &Oracle, state: &State) {
    assert_eq!(state.marks().len() as u32, oracle.validators);
    for (validator, found) in (0..).zip(state.marks()) {
        let expected = oracle.marked(validator);
        let latest = expected.len().saturating_sub(16);
        let heights: Vec<u64> = found.heights.iter().map(|height| height.0).collect();
        assert_eq!(heights, expected[latest..], "validator {validator}");
        assert_eq!(
            found.count as usize,
            expected.len(),
            "validator {validator}"
        );
    }
}

/// I2, from the ledger's own log and leaves alone: what an account was ever
/// issued is the sum of its grants' entries, and of nothing else; what it
/// spent is the sum of its own receipts.
pub fn soulbound(entries: &[Entry], state: &State) {
    let mut issued: BTreeMap<(u32, u16), u64> = BTreeMap::new();
    let mut spent: BTreeMap<(u32, u16), u64> = BTreeMap::new();
    for entry in entries {
        let Some(account) = entry.account() else {
            continue;
        };
        match entry {
            Entry::Receipt(receipt) => {
                *spent.entry((account.0, receipt.class.0)).or_default() += receipt.charged.0;
            }
            Entry::Event(_, Event::GrantIssued { grant, .. } | Event::Corrected { grant, .. }) => {
                *issued.entry((account.0, grant.class.0)).or_default() += grant.amount.0;
            }
            Entry::Event(..) => {}
        }
    }
    for (number, account) in state.accounts().iter().enumerate() {
        for (class, totals) in &account.totals {
            let key = (number as u32, class.0);
            let sum = |of: &BTreeMap<(u32, u16), u64>| of.get(&key).copied().unwrap_or(0);
            assert_eq!(totals.issued.0, sum(&issued), "I2: issued to {key:?}");
            assert_eq!(totals.spent.0, sum(&spent), "I2: spent by {key:?}");
        }
    }
}

fn plain(totals: &Real) -> Totals {
    Totals {
        issued: totals.issued.0.into(),
        unvested: totals.unvested.0.into(),
        available: totals.available.0.into(),
        leased: totals.leased.0.into(),
        spent: totals.spent.0.into(),
        expired: totals.expired.0.into(),
        revoked: totals.revoked.0.into(),
        surrendered: totals.surrendered.0.into(),
        costs: totals.costs.0,
        loss: totals.loss.0,
    }
}
