//! Debits: a batch of signed statements of what was served, read in place.
//! Upholds I3 (a lease's remainder bounds what is charged), I4 (the price is
//! computed here) and I5 (only the journal's next number is taken, and no
//! well-formed one is refused).
//!
//! A debit is refused, and its batch with it, only for what cannot change
//! later; in this order: form, lease above the gateway's last, account,
//! class, API key unknown or unlike the open lease's, price table, model,
//! usage. Everything else is an outcome:
//!
//! ```text
//! cost     = price(usage, fee)
//! payable  = cost - what the fee is above the class's largest
//! charged  = min(payable, limit, lease's remainder; 0 if it is closed)
//! loss     = cost - charged
//! ```

use std::borrow::Borrow;

use super::{Call, Draft, leases::has_consent};
use crate::{
    account::{Account, ApiKey, OpenLease, Recall},
    action::{Action, Debits},
    class::Class,
    debit::{
        Debit, Detail, FIXED_BYTES, Fixed, Flags, KIND_REQUEST, Position, RawDebit, batch_leaf,
        journal_hash, raw_debits,
    },
    entry::{Entry, Receipt},
    gateway::Gateway,
    hash::Hash,
    ids::{Amount, DebitNumber, GatewayNumber, TableVersion},
    merkle::{self, Frontier},
    reason::Reason,
    redacted::{Dropped, RedactedBatch, Remains},
};

/// A debit that will be taken.
struct Taken {
    fixed: Fixed,
    /// Where its lease stands in the account; `None`: it is closed.
    lease: Option<usize>,
    cost: Amount,
    /// Of the cost, what the class pays.
    payable: Amount,
    /// Class and API key may buy the model.
    buys: bool,
}

/// What a debit names.
struct Place<'a> {
    class: &'a Class,
    api_key: &'a ApiKey,
    /// Where its lease stands in the account; `None`: it is closed.
    lease: Option<usize>,
    open: Option<&'a OpenLease>,
}

/// The fixed parts of a batch's debits.
pub(super) fn fixed_parts(payload: &[u8]) -> impl Iterator<Item = Fixed> {
    raw_debits(payload).map(|raw| Fixed::read(raw.fixed))
}

/// What a batch commits to, and what journal and receipts need of it.
struct Hashed {
    root: Hash,
    journal: Hash,
    details: Vec<Hash>,
}

fn hash_batch(start: Position, journal: Hash, payload: &[u8]) -> Hashed {
    let records = raw_debits(payload);
    hash_records(
        start,
        journal,
        records.map(|raw| (raw.fixed, raw.detail_hash())),
    )
}

fn hash_redacted(start: Position, journal: Hash, batch: &RedactedBatch) -> Hashed {
    let records = batch.remains();
    hash_records(
        start,
        journal,
        records.map(|(fixed, remains)| (fixed.write(), remains.hash())),
    )
}

/// Of fixed parts and hashes of details.
fn hash_records<F: Borrow<[u8; FIXED_BYTES]>>(
    start: Position,
    journal: Hash,
    records: impl Iterator<Item = (F, Hash)>,
) -> Hashed {
    let mut batch = Frontier::new();
    let mut journal = journal;
    let mut details = Vec::with_capacity(records.size_hint().0);
    let mut position = start;
    for (fixed, detail) in records {
        let leaf = merkle::leaf_hash(&batch_leaf(&position, fixed.borrow(), &detail));
        journal = journal_hash(&journal, &leaf);
        batch.append(leaf);
        details.push(detail);
        position.number.0 += 1;
    }
    Hashed {
        root: batch.root(),
        journal,
        details,
    }
}

impl Draft<'_> {
    pub(super) fn debits(&mut self, call: &Call<'_>, action: &Debits) -> Result<(), Reason> {
        let number = self.author_gateway(call)?;
        let mut gateway = *self.gateway(number)?;
        journal_is_open(&gateway, action)?;
        let last = gateway.last_debit.0;
        if Some(action.first.0) != last.checked_add(1) {
            return Err(Reason::DebitNotNext);
        }
        let last = last.checked_add(u64::from(action.count));
        let last = last.ok_or(Reason::TableFull)?;
        let mut position = first_position(number, action);
        let hashed = match call.redacted {
            None => hash_batch(position, gateway.journal_hash, call.payload),
            Some(batch) => hash_redacted(position, gateway.journal_hash, batch),
        };
        if hashed.root != action.root {
            return Err(Reason::DebitRoot);
        }
        let taken: Vec<Taken> = match call.redacted {
            None => raw_debits(call.payload)
                .map(|raw| self.assess(&gateway, number, &read(&raw)?))
                .collect::<Result<_, _>>()?,
            Some(batch) => batch
                .remains()
                .map(|(fixed, remains)| self.assess_remains(&gateway, number, *fixed, remains))
                .collect::<Result<_, _>>()?,
        };

        // Nothing is refused from here on: guards first, effects last.
        if self.steps_left {
            let pairs = taken.iter().map(|t| (t.fixed.account, t.fixed.class));
            self.run_steps_of(pairs);
        }
        self.entries.reserve(taken.len());
        for (taken, detail) in taken.iter().zip(hashed.details) {
            let receipt = self.take(&mut gateway, position, taken, detail);
            self.entries.push(Entry::Receipt(receipt));
            position.number.0 += 1;
        }
        gateway.last_debit = DebitNumber(last);
        gateway.journal_hash = hashed.journal;
        *self.gateway_mut(number) = gateway;
        Ok(())
    }

    /// Whether a Lease or Debits is admitted ahead of its number, because
    /// those between may be on their way. Who signed is known by then.
    pub(super) fn is_ahead(&self, call: &Call<'_>) -> Result<bool, Reason> {
        let Ok(number) = self.author_gateway(call) else {
            return Ok(false);
        };
        let gateway = self.gateway(number)?;
        match &call.body.action {
            Action::Lease(lease) => {
                has_consent(call, lease)?;
                Ok(lease.journal == gateway.journal
                    && gateway.journal.0 > 0
                    && lease.number.0 > gateway.last_lease.0.saturating_add(1))
            }
            Action::Debits(debits) => {
                journal_is_open(gateway, debits)?;
                if debits.first.0 <= gateway.last_debit.0.saturating_add(1) {
                    return Ok(false);
                }
                debits
                    .first
                    .0
                    .checked_add(u64::from(debits.count))
                    .ok_or(Reason::TableFull)?;
                let start = first_position(number, debits);
                let hashed = hash_batch(start, Hash::ZERO, call.payload);
                if hashed.root == debits.root {
                    Ok(true)
                } else {
                    Err(Reason::DebitRoot)
                }
            }
            _ => Ok(false),
        }
    }

    /// All that a debit can be refused for; none of it changes within a
    /// batch.
    fn assess(
        &self,
        gateway: &Gateway,
        number: GatewayNumber,
        debit: &Debit,
    ) -> Result<Taken, Reason> {
        let Debit { fixed, detail } = debit;
        let place = self.place(gateway, number, fixed)?;
        let oldest = place.open.map_or(TableVersion(1), |lease| lease.table);
        if !(oldest..=self.chain.table).contains(&detail.table) {
            return Err(Reason::UnknownTable);
        }
        let table = self.price_table(detail.table);
        let table = table.expect("versions up to the one in force exist");
        let model = table.model(detail.model).ok_or(Reason::UnknownModel)?;
        let cost = model.cost(&detail.usage, fixed.fee);
        let cost = cost.map_err(|_| Reason::UsageForm)?;
        let excess = fixed.fee.saturating_sub(place.class.rules.max_fee);
        let models = &place.api_key.models;
        let key_buys = models.is_empty() || models.binary_search(&detail.model).is_ok();
        Ok(Taken {
            fixed: *fixed,
            lease: place.lease,
            cost,
            payable: Amount(cost.0 - excess.0),
            buys: key_buys && place.class.rules.buys(detail.model),
        })
    }

    /// The same, of a debit that was executed before and has lost its detail
    /// since, or not.
    fn assess_remains(
        &self,
        gateway: &Gateway,
        number: GatewayNumber,
        fixed: Fixed,
        remains: Remains<'_>,
    ) -> Result<Taken, Reason> {
        has_form(&fixed)?;
        let Dropped {
            cost, class_rule, ..
        } = match remains {
            Remains::Kept(detail) => {
                let detail: Detail = *detail;
                return self.assess(gateway, number, &Debit { fixed, detail });
            }
            Remains::Dropped(dropped) => dropped,
        };
        let place = self.place(gateway, number, &fixed)?;
        let excess = fixed.fee.saturating_sub(place.class.rules.max_fee);
        let payable = cost.0.checked_sub(excess.0).ok_or(Reason::UsageForm)?;
        Ok(Taken {
            fixed,
            lease: place.lease,
            cost: *cost,
            payable: Amount(payable),
            buys: !class_rule,
        })
    }

    /// What a debit names, if it fits together.
    fn place(
        &self,
        gateway: &Gateway,
        number: GatewayNumber,
        fixed: &Fixed,
    ) -> Result<Place<'_>, Reason> {
        if fixed.lease > gateway.last_lease {
            return Err(Reason::LeaseAhead);
        }
        let account = self.account(fixed.account)?;
        let class = self.class(fixed.class)?;
        let api_key = self.api_key(fixed.api_key)?;
        let lease = account.lease_index(number, fixed.lease).ok();
        let open = lease.map(|index| &account.leases[index]);
        let matches = match open {
            Some(lease) => lease.class == fixed.class && lease.api_key == fixed.api_key,
            // It must not be open under another account.
            None => self.lease_owner(number, fixed.lease).is_none(),
        };
        if !matches {
            return Err(Reason::LeaseMismatch);
        }
        Ok(Place {
            class,
            api_key,
            lease,
            open,
        })
    }

    /// A debit's effects, but on the gateway's leaf, and its receipt.
    fn take(
        &mut self,
        gateway: &mut Gateway,
        position: Position,
        taken: &Taken,
        detail: Hash,
    ) -> Receipt {
        let Taken { fixed, cost, .. } = taken;
        let account = self.accounts.get_mut_for_good(fixed.account.0);
        let account = account.expect("assessed");
        let open = taken.lease.map(|index| &account.leases[index]);
        let remaining = open.map_or(Amount::ZERO, OpenLease::remaining);
        let charged = taken.payable.min(fixed.limit).min(remaining);
        let mut flags = fixed.flags.with(lease_flags(open));
        if charged < taken.payable {
            flags = flags.with(Flags::CAPPED);
        }
        if !taken.buys {
            flags = flags.with(Flags::CLASS_RULE);
        }
        if let Some(index) = taken.lease
            && charged > Amount::ZERO
        {
            spend(account, index, charged);
            gateway.open.0 -= charged.0;
            let api_key = self.api_keys.get_mut_for_good(fixed.api_key.0);
            let api_key = api_key.expect("assessed");
            api_key.leased.0 -= charged.0;
            api_key.spent.0 += charged.0;
        }
        account.totals_mut(fixed.class).charge(*cost, charged);
        let class = self.classes.get_mut_for_good(u32::from(fixed.class.0));
        class.expect("assessed").totals.charge(*cost, charged);
        gateway.loss.add(Amount(cost.0 - charged.0));
        account.entries += 1;
        Receipt {
            flags,
            height: self.height,
            account: fixed.account,
            entry: account.entries,
            position,
            class: fixed.class,
            cost: *cost,
            charged,
            detail,
        }
    }
}

fn first_position(gateway: GatewayNumber, action: &Debits) -> Position {
    Position {
        gateway,
        journal: action.journal,
        number: action.first,
    }
}

fn journal_is_open(gateway: &Gateway, action: &Debits) -> Result<(), Reason> {
    gateway.has_open(action.journal)?;
    if gateway.suspended && gateway.open_leases == 0 {
        return Err(Reason::SuspendedAndClosed);
    }
    Ok(())
}

fn read(raw: &RawDebit<'_>) -> Result<Debit, Reason> {
    let debit = raw.read().ok_or(Reason::DebitForm)?;
    has_form(&debit.fixed).map(|()| debit)
}

fn has_form(fixed: &Fixed) -> Result<(), Reason> {
    if fixed.kind == KIND_REQUEST && Flags::FROM_GATEWAY.has(fixed.flags) {
        Ok(())
    } else {
        Err(Reason::DebitForm)
    }
}

/// What the ledger remarks about a lease; `None`: it is closed.
fn lease_flags(open: Option<&OpenLease>) -> Flags {
    let Some(lease) = open else {
        return Flags::LATE;
    };
    let mut flags = Flags::default();
    if lease.ended.is_some() {
        flags = flags.with(Flags::LATE);
    }
    if lease.recall != Recall::No {
        flags = flags.with(Flags::AFTER_RECALL);
    }
    flags
}

/// Takes `charged` from a lease's parts in their order, and from the grants
/// behind them.
fn spend(account: &mut Account, lease: usize, charged: Amount) {
    let mut rest = charged.0;
    let mut emptied = false;
    for at in 0..account.leases[lease].parts.len() {
        let part = &mut account.leases[lease].parts[at];
        let amount = rest.min(part.amount.0);
        part.amount.0 -= amount;
        rest -= amount;
        emptied |= part.amount == Amount::ZERO;
        let number = part.grant;
        let grant = account.grant_mut(number);
        let grant = grant.expect("I3: a grant lives as long as a lease holds some of it");
        grant.leased.0 -= amount;
        account.drop_if_empty(number);
        if rest == 0 {
            break;
        }
    }
    assert!(rest == 0, "I3: no more is charged than the lease holds");
    if emptied {
        let parts = &mut account.leases[lease].parts;
        parts.retain(|part| part.amount > Amount::ZERO);
    }
}
