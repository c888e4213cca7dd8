//! What gateways of a world write: journals, leases, debits.

use tally_ledger::{
    action::{Action, Debits, Lease, OpenJournal},
    debit::{Debit, Detail, FIXED_BYTES, Fixed, Flags, Position, Queued, batch_leaf},
    hash::Hash,
    ids::{
        AccountNumber, Amount, ApiKeyNumber, ClassNumber, DebitNumber, GatewayNumber,
        JournalNumber, LeaseNumber, ModelNumber, TableVersion,
    },
    price::{MAX_METERS, Usage},
};

use super::{
    Dice, World,
    draft::{Draft, api_key, gateway},
};
use crate::{oracle::Payload, rfc9162};

impl World {
    /// A gateway, mostly one that is not suspended.
    fn a_gateway(&self, dice: &mut Dice) -> u32 {
        let all = &self.oracle.gateways;
        if dice.wild(12) {
            return all.len() as u32;
        }
        let free: Vec<u32> = (all.iter().filter(|(_, g)| !g.suspended))
            .map(|(number, _)| *number)
            .collect();
        match dice.any(&free).filter(|_| dice.below(12) > 0) {
            Some(number) => number,
            None => dice.below(all.len() as u64) as u32,
        }
    }

    /// A gateway that has a journal, if there is one.
    fn a_ready_gateway(&self, dice: &mut Dice) -> u32 {
        let number = self.a_gateway(dice);
        match self.oracle.gateways.get(&number) {
            Some(gateway) if gateway.journal == 0 && !dice.wild(4) => {
                let ready = |g: &&u32| self.oracle.gateways[g].journal > 0;
                let ready: Vec<u32> = self.oracle.gateways.keys().filter(ready).copied().collect();
                dice.any(&ready).unwrap_or(number)
            }
            _ => number,
        }
    }

    /// Its current journal, or another number.
    fn journal(&self, dice: &mut Dice, number: u32) -> JournalNumber {
        let current = self.oracle.gateways.get(&number).map_or(0, |g| g.journal);
        JournalNumber(match dice.wild(6) {
            true => dice.pick(&[0, current.saturating_sub(1), current + 1, u32::MAX]),
            false => current,
        })
    }

    pub(super) fn write_open_journal(&mut self, dice: &mut Dice) -> Draft {
        let fresh: Vec<u32> = (self.oracle.gateways.iter())
            .filter(|(_, gateway)| gateway.journal == 0)
            .map(|(number, _)| *number)
            .collect();
        let number = match dice.any(&fresh).filter(|_| !dice.wild(4)) {
            Some(number) => number,
            None => self.a_gateway(dice),
        };
        let last = self.oracle.gateways.get(&number).map_or(0, |g| g.journal);
        let next = match dice.wild(3) {
            true => dice.pick(&[0, last, last + 2]),
            false => last + 1,
        };
        let intact = match last {
            0 => !dice.wild(2),
            _ => dice.below(3) > 0,
        };
        let action = Action::OpenJournal(OpenJournal {
            journal: JournalNumber(next),
            previous_intact: intact,
        });
        self.envelope(dice, gateway(number), &[], action)
    }

    pub(super) fn write_lease(&mut self, dice: &mut Dice) -> Draft {
        let number = self.a_ready_gateway(dice);
        let key = self.a_key(dice);
        let of_key = self.oracle.api_keys.get(&key).map_or(0, |k| k.account);
        let account = match dice.wild(8) {
            true => self.an_account(dice),
            false => of_key,
        };
        let class = self.class_with_balance(dice, account);
        let last = self
            .oracle
            .gateways
            .get(&number)
            .map_or(0, |g| g.last_lease);
        let lease = match dice.wild(6) {
            true => dice.pick(&[0, last, last + 2, u64::MAX]),
            false => last + 1,
        };
        let free = (self.oracle.spendable(account, class).iter())
            .map(|grant| self.oracle.grants[&(account, *grant)].free)
            .sum::<u64>();
        let wanted = match dice.below(8) {
            0 => free / 2,
            1 => free / 2 + 1,
            2 => free,
            3 => u64::MAX,
            4 => dice.amount(),
            _ => free / (2 + dice.below(8)),
        };
        let wanted = if dice.wild(8) { 0 } else { wanted.max(1) };
        let worst_case = match dice.below(4) {
            0 => 0,
            1 => free,
            2 => u64::MAX,
            _ => 1 + dice.below(100_000),
        };
        let duration = match dice.below(3) {
            0 => 1 + dice.below(2_000) as u32,
            1 => 1 + dice.below(600_000) as u32,
            _ => u32::MAX,
        };
        let action = Action::Lease(Lease {
            journal: self.journal(dice, number),
            number: LeaseNumber(lease),
            account: AccountNumber(account),
            class: ClassNumber(class),
            api_key: ApiKeyNumber(key),
            wanted: Amount(wanted),
            worst_case: Amount(worst_case),
            duration_ms: if dice.wild(8) { 0 } else { duration },
        });
        let consents = match dice.wild(8) {
            true => self.a_key(dice),
            false => key,
        };
        self.envelope(dice, gateway(number), &[api_key(consents)], action)
    }

    /// A class of which the account has something, if there is one.
    fn class_with_balance(&self, dice: &mut Dice, account: u32) -> u16 {
        let full: Vec<u16> = (self.oracle.classes.keys().copied())
            .filter(|class| !self.oracle.spendable(account, *class).is_empty())
            .collect();
        match dice.any(&full).filter(|_| dice.below(8) > 0) {
            Some(class) => class,
            None => self.a_class(dice),
        }
    }

    pub(super) fn write_return(&mut self, dice: &mut Dice) -> Draft {
        let open: Vec<(u32, u64)> = self.oracle.open_leases().map(|(key, _)| key).collect();
        let (mut who, number) = dice.any(&open).unwrap_or((0, 1));
        if dice.wild(2) {
            who = self.a_gateway(dice);
        }
        let number = if dice.wild(3) { number + 1 } else { number };
        let action = Action::ReturnLease(LeaseNumber(number));
        self.envelope(dice, gateway(who), &[], action)
    }

    pub(super) fn write_debits(&mut self, dice: &mut Dice) -> Draft {
        let serving: Vec<u32> = (self.oracle.open_leases())
            .map(|((gateway, _), _)| gateway)
            .collect();
        let number = match dice.any(&serving).filter(|_| dice.below(12) > 0) {
            Some(number) => number,
            None => self.a_ready_gateway(dice),
        };
        let count = if dice.wild(10) { 0 } else { 1 + dice.below(6) };
        let wrong = dice.below(count.max(1));
        let first_version = dice.below(3) == 0;
        let other = dice.wild(20).then_some(wrong);
        let debits: Vec<Debit> = (0..count)
            .map(|i| {
                let mut own = Dice::new(&[dice.word(), dice.word(), dice.word()]);
                own.hostile = dice.hostile && i == wrong;
                let mut debit = self.a_debit(&mut own, number);
                if first_version != (other == Some(i)) {
                    debit.fixed.version -= 1;
                    debit.detail.queued = None;
                }
                debit
            })
            .collect();
        let last = self
            .oracle
            .gateways
            .get(&number)
            .map_or(0, |g| g.last_debit);
        let first = match dice.wild(6) {
            true => dice.pick(&[0, last, last + 2, u64::MAX]),
            false => last + 1,
        };
        let journal = self.journal(dice, number);
        let mut root = batch_root(number, journal, first, &debits);
        let mut records = Vec::new();
        debits.iter().for_each(|debit| debit.write(&mut records));
        let mut root_fits = true;
        if dice.wild(12) {
            root.0[31] ^= 1;
            root_fits = false;
        }
        let counted = match dice.wild(12) {
            true => dice.pick(&[0, count as u32 + 1, u32::MAX]),
            false => count as u32,
        };
        let action = Action::Debits(Debits {
            journal,
            first: DebitNumber(first),
            count: counted,
            root,
        });
        let mut draft = self.envelope(dice, gateway(number), &[], action);
        draft.payload = records;
        draft.meaning = Payload::Debits { debits, root_fits };
        draft
    }

    /// One debit, mostly of an open lease; at most one thing is wrong.
    fn a_debit(&self, dice: &mut Dice, gateway: u32) -> Debit {
        let open: Vec<u64> = (self.oracle.open_leases())
            .filter(|((g, _), _)| *g == gateway)
            .map(|((_, number), _)| number)
            .collect();
        let last = self
            .oracle
            .gateways
            .get(&gateway)
            .map_or(0, |g| g.last_lease);
        let number = match dice.any(&open).filter(|_| dice.below(8) > 0) {
            Some(number) => number,
            None => dice.below(last + 1),
        };
        let lease = self.oracle.leases.get(&(gateway, number));
        let remaining = lease.map_or(0, |l| l.remaining());
        let known = |count: usize, dice: &mut Dice| dice.below(count as u64) as u32;
        let (account, class, key, oldest) = match lease {
            Some(l) => (l.account, l.class, l.api_key, l.table),
            None => (
                known(self.oracle.accounts.len(), dice),
                known(self.oracle.classes.len(), dice) as u16,
                known(self.oracle.api_keys.len(), dice),
                1,
            ),
        };
        let current = self.oracle.table;
        let table = oldest + dice.below(u64::from(current - oldest) + 1) as u32;
        let (model, usage) = self.usage(dice, table);
        let max_fee = self.oracle.classes[&class].rules.max_fee.0;
        let fee = match dice.below(8) {
            0 => max_fee,
            1 => max_fee + 1 + dice.below(1_000),
            2 if dice.once_in(10) => (1 << 62) - 1,
            _ => 0,
        };
        let limit = match dice.below(6) {
            0 => 0,
            1 => 1 + dice.below(2_000),
            2 => remaining / 3,
            _ => u64::MAX,
        };
        let mut fixed = Fixed {
            version: 2,
            kind: 1,
            flags: Flags(dice.below(8) as u16),
            account: AccountNumber(account),
            class: ClassNumber(class),
            api_key: ApiKeyNumber(key),
            lease: LeaseNumber(number),
            limit: Amount(limit),
            fee: Amount(fee),
        };
        let mut detail = Detail {
            salt: [dice.below(256) as u8; 16],
            model: ModelNumber(model),
            table: TableVersion(table),
            usage: Usage(usage),
            hold_journal: JournalNumber(1),
            hold: dice.below(1_000),
            queued: Some(Queued {
                queue: dice.below(3) as u32,
                joined: dice.word().into(),
                dispatched: dice.below(9) as u32,
            }),
            ..Detail::default()
        };
        if dice.hostile {
            self.spoil_debit(dice, last, &mut fixed, &mut detail);
        }
        Debit { fixed, detail }
    }

    fn spoil_debit(&self, dice: &mut Dice, last: u64, fixed: &mut Fixed, detail: &mut Detail) {
        match dice.below(20) {
            0 => fixed.version = dice.pick(&[1, 3, 4]),
            1 => fixed.kind = dice.pick(&[0, 2]),
            2 => fixed.flags = Flags(1 << dice.below(16)),
            3 => fixed.account.0 = self.an_account(dice),
            4 => fixed.class.0 = self.a_class(dice),
            5 => fixed.api_key.0 = self.a_key(dice),
            6 => fixed.lease.0 = last + 1,
            7 => fixed.lease.0 = u64::MAX,
            8 => fixed.fee.0 = dice.pick(&[1 << 62, u64::MAX]),
            9 => detail.model.0 = dice.pick(&[0, 9]),
            10 => detail.table.0 = dice.pick(&[0, self.oracle.table + 1]),
            11 => detail.table.0 = 1,
            12 => detail.usage.0[5] = 1,
            13 => detail.usage.0[1] = u32::MAX,
            14 => detail.usage.0[0] = 0,
            15 => fixed.account.0 = u32::MAX,
            16 => fixed.api_key.0 = u32::MAX,
            17 => fixed.class.0 = u16::MAX,
            _ => {}
        }
    }

    /// A model of the table, and counts that have a price there.
    fn usage(&self, dice: &mut Dice, table: u32) -> (u32, [u32; MAX_METERS]) {
        let model = &self.oracle.tables[&table].models[dice.below(3) as usize];
        let mut usage = [0; MAX_METERS];
        for (i, meter) in model.meters.iter().enumerate() {
            let most = match meter.subset_of {
                Some(whole) => u64::from(usage[usize::from(whole)]),
                None if dice.once_in(60) => u64::from(u32::MAX),
                None => 3_000,
            };
            usage[i] = dice.below(most + 1) as u32;
        }
        (model.number.0, usage)
    }
}

/// Root over the batch leaves of debits.
pub(super) fn batch_root(
    gateway: u32,
    journal: JournalNumber,
    first: u64,
    debits: &[Debit],
) -> Hash {
    let leaves: Vec<Hash> = (debits.iter().enumerate())
        .map(|(i, debit)| debit_leaf(gateway, journal, first, i, debit))
        .collect();
    rfc9162::root(&leaves)
}

/// Hash of a batch's `i`-th leaf.
pub(super) fn debit_leaf(
    gateway: u32,
    journal: JournalNumber,
    first: u64,
    i: usize,
    debit: &Debit,
) -> Hash {
    let mut record = Vec::new();
    debit.write(&mut record);
    let position = Position {
        gateway: GatewayNumber(gateway),
        journal,
        number: DebitNumber(first.wrapping_add(i as u64)),
    };
    let fixed: &[u8; FIXED_BYTES] = record[..FIXED_BYTES].try_into().unwrap();
    rfc9162::leaf(&batch_leaf(&position, fixed, &debit.detail.hash()))
}
