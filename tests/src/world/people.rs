//! What issuers and holders of a world write.

use tally_ledger::{
    action::{Action, BindApiKey, Correct, Issue, NewGrant, OpenAccount, Revoke, Surrender},
    class::Burn,
    codec::List,
    correction::CorrectionProof,
    entry::Entry,
    ids::{AccountNumber, Amount, ApiKeyNumber, ClassNumber, GrantNumber, ModelNumber, Time},
    person::Roles,
    transaction::Author,
};

use super::{
    Dice, World,
    draft::{Draft, api_key, holder, person},
};
use crate::{oracle::Payload, rfc9162};

impl World {
    /// Persons who have a role now, or anybody.
    pub(super) fn with_role(&self, dice: &mut Dice, role: Roles) -> Vec<Author> {
        let mut found: Vec<Author> = (self.oracle.persons.iter())
            .filter(|(_, found)| found.roles.has(role))
            .map(|(number, _)| person(*number))
            .collect();
        if found.is_empty() || dice.wild(12) {
            found.push(person(dice.below(14) as u32));
            found.reverse();
        } else {
            let by = dice.below(found.len() as u64) as usize;
            found.rotate_left(by);
        }
        found
    }

    /// An account, or a number that may be none.
    pub(super) fn an_account(&self, dice: &mut Dice) -> u32 {
        let count = self.oracle.accounts.len() as u64;
        match dice.wild(10) {
            true => (count + dice.below(3)) as u32,
            false => dice.below(count) as u32,
        }
    }

    /// A class, or a number that may be none.
    pub(super) fn a_class(&self, dice: &mut Dice) -> u16 {
        let count = self.oracle.classes.len() as u64;
        match dice.wild(10) {
            true => (count + dice.below(3)) as u16,
            false => dice.below(count) as u16,
        }
    }

    pub(super) fn write_open_account(&mut self, dice: &mut Dice) -> Draft {
        let mut classes = Vec::new();
        for _ in 0..dice.below(4) {
            let class = ClassNumber(self.a_class(dice));
            if !classes.contains(&class) || dice.wild(3) {
                classes.push(class);
            }
        }
        let known: Vec<_> = self.oracle.accounts.values().map(|a| a.holder).collect();
        let holder = match dice.any(&known).filter(|_| dice.once_in(10)) {
            Some(same) => same,
            None => self.ring.fresh(),
        };
        let action = Action::OpenAccount(OpenAccount {
            unit: dice.word(),
            holder,
            classes: List::new(classes).unwrap(),
        });
        let issuers = self.with_role(dice, Roles::ISSUER);
        self.envelope(dice, issuers[0], &[], action)
    }

    fn new_grant(&self, dice: &mut Dice) -> NewGrant {
        let now = self.oracle.time;
        let vests = match dice.below(6) {
            0 => now + dice.span(),
            1 => now + 1 + dice.below(100),
            2 => now,
            _ => now - dice.below(now).min(100_000),
        };
        let expires = match dice.below(8) {
            0 => now + 1 + dice.below(200),
            1 => vests.max(now) + 1,
            2..=6 => vests.max(now) + dice.span(),
            _ => u64::MAX,
        };
        let expires = match dice.wild(8) {
            true => dice.pick(&[now, vests, now.saturating_sub(1), 0]),
            false => expires,
        };
        NewGrant {
            account: AccountNumber(self.an_account(dice)),
            class: ClassNumber(self.a_class(dice)),
            amount: Amount(if dice.wild(8) { 0 } else { dice.amount() }),
            vests: Time(vests),
            expires: Time(expires),
        }
    }

    pub(super) fn write_issue(&mut self, dice: &mut Dice) -> Draft {
        let count = match dice.below(30) {
            0 => 20 + dice.below(40),
            _ => 1 + dice.below(4),
        };
        let count = if dice.wild(10) { 0 } else { count };
        let mut grants: Vec<NewGrant> = (0..count).map(|_| self.new_grant(dice)).collect();
        if count > 10 {
            let first = grants[0];
            for grant in &mut grants {
                (grant.account, grant.class) = (first.account, first.class);
                grant.amount = Amount(1 + grant.amount.0 % 1_000);
            }
        }
        let action = Action::Issue(Issue {
            grants: List::new(grants).unwrap(),
        });
        self.by_issuers(dice, action)
    }

    /// By one issuer or by two.
    fn by_issuers(&mut self, dice: &mut Dice, action: Action) -> Draft {
        let issuers = self.with_role(dice, Roles::ISSUER);
        let signers = match dice.below(3) {
            0 => 1,
            _ => issuers.len().min(2),
        };
        self.envelope(dice, issuers[0], &issuers[..signers], action)
    }

    fn by_two_issuers(&mut self, dice: &mut Dice, action: Action) -> Draft {
        let issuers = self.with_role(dice, Roles::ISSUER);
        let signers = if dice.wild(4) {
            1
        } else {
            issuers.len().min(2)
        };
        self.envelope(dice, issuers[0], &issuers[..signers], action)
    }

    /// A grant, mostly one that holds something and may be burned so.
    fn a_grant(&self, dice: &mut Dice, may: fn(Burn) -> bool) -> (u32, u32) {
        let all: Vec<(u32, u32)> = self.oracle.grants.keys().copied().collect();
        let live: Vec<(u32, u32)> = (all.iter().copied())
            .filter(|(account, number)| self.oracle.is_live(*account, *number))
            .filter(|key| may(self.oracle.grants[key].burn))
            .collect();
        let among = if dice.wild(2) { &all } else { &live };
        dice.any(among).unwrap_or((0, dice.below(9) as u32))
    }

    pub(super) fn write_revoke(&mut self, dice: &mut Dice) -> Draft {
        let (account, grant) = self.a_grant(dice, Burn::by_issuer);
        let action = Action::Revoke(Revoke {
            account: AccountNumber(account),
            grant: GrantNumber(grant),
        });
        self.by_issuers(dice, action)
    }

    pub(super) fn write_surrender(&mut self, dice: &mut Dice) -> Draft {
        let (account, grant) = self.a_grant(dice, Burn::by_holder);
        let free = self
            .oracle
            .grants
            .get(&(account, grant))
            .map_or(0, |g| g.free);
        let amount = match dice.below(4) {
            0 => free.max(1),
            _ => 1 + dice.below(free.max(1)),
        };
        let amount = match dice.wild(3) {
            true => dice.pick(&[0, free.saturating_add(1), u64::MAX]),
            false => amount,
        };
        let action = Action::Surrender(Surrender {
            account: AccountNumber(account),
            grant: GrantNumber(grant),
            amount: Amount(amount),
        });
        let who = match dice.wild(4) {
            true => self.an_account(dice),
            false => account,
        };
        self.envelope(dice, holder(who), &[], action)
    }

    pub(super) fn write_correct(&mut self, dice: &mut Dice) -> Draft {
        let size = self.oracle.parent_log;
        let receipts: Vec<(u64, u64)> = (self.oracle.charges.iter())
            .filter(|c| c.index < size)
            .map(|c| (c.index, c.charged - self.oracle.corrected(c.index)))
            .filter(|(_, rest)| *rest > 0 || dice.hostile)
            .collect();
        let (index, rest) = match dice.any(&receipts).filter(|_| !dice.wild(6)) {
            Some(found) => found,
            None => (dice.below(size), 1),
        };
        let amount = match dice.below(4) {
            0 => rest.max(1),
            1 => rest / 2 + 1,
            _ => 1 + dice.below(rest),
        };
        let amount = match dice.wild(5) {
            true => dice.pick(&[0, rest + 1, u64::MAX]),
            false => amount,
        };
        let now = self.oracle.time;
        let expires = if dice.wild(6) { now } else { now + dice.span() };
        let mut claimed = index;
        let mut leaf = leaf_bytes(&self.entries[index as usize]);
        let mut path = rfc9162::inclusion(index as usize, &self.leaves[..size as usize]);
        let mut genuine = true;
        match dice.hostile.then(|| dice.below(8)) {
            // A receipt that charged more than it did.
            Some(0) if leaf.len() == 86 => leaf[46] ^= 1,
            Some(1) => claimed = (index + 1) % size,
            Some(2) if !path.is_empty() => path[0].0[0] ^= 1,
            Some(3) => claimed = index + (1 << 40),
            _ => claimed = index,
        }
        if claimed != index || leaf != leaf_bytes(&self.entries[index as usize]) {
            genuine = false;
        }
        if path != rfc9162::inclusion(index as usize, &self.leaves[..size as usize]) {
            genuine = false;
        }
        let action = Action::Correct(Correct {
            entry: claimed,
            amount: Amount(amount),
            expires: Time(expires),
        });
        let mut draft = self.by_two_issuers(dice, action);
        draft.meaning = Payload::Proof {
            is_receipt: leaf.len() == 86,
            genuine,
        };
        draft.proof_log = Some(size);
        draft.payload = CorrectionProof {
            leaf: List::new(leaf).unwrap(),
            path: List::new(path).unwrap(),
        }
        .encode();
        draft
    }

    /// Freezes an account, or ends its freeze.
    pub(super) fn write_freeze(&mut self, dice: &mut Dice) -> Draft {
        let all: Vec<u32> = (self.oracle.accounts.iter())
            .filter(|(_, account)| account.frozen)
            .map(|(number, _)| *number)
            .collect();
        let account = match dice.any(&all).filter(|_| !dice.hostile) {
            Some(frozen) => frozen,
            None => self.an_account(dice),
        };
        let frozen = self.oracle.accounts.get(&account).is_some_and(|a| a.frozen);
        let number = AccountNumber(account);
        match frozen != dice.wild(4) {
            true => self.by_two_issuers(dice, Action::Unfreeze(number)),
            false => self.by_issuers(dice, Action::Freeze(number)),
        }
    }

    /// Erases an account: by two issuers, or its holder and one.
    pub(super) fn write_erase(&mut self, dice: &mut Dice) -> Draft {
        let account = self.an_account(dice);
        let action = Action::Erase(AccountNumber(account));
        if dice.below(2) == 0 {
            return self.by_two_issuers(dice, action);
        }
        let who = match dice.wild(5) {
            true => self.an_account(dice),
            false => account,
        };
        let issuers = self.with_role(dice, Roles::ISSUER);
        let others = match dice.wild(3) {
            true => &[],
            false => &issuers[..1],
        };
        self.envelope(dice, holder(who), others, action)
    }

    /// The account's holder, or two issuers.
    fn by_holder_or_issuers(&mut self, dice: &mut Dice, account: u32, action: Action) -> Draft {
        if dice.below(3) == 0 {
            return self.by_two_issuers(dice, action);
        }
        let who = match dice.wild(5) {
            true => self.an_account(dice),
            false => account,
        };
        self.envelope(dice, holder(who), &[], action)
    }

    pub(super) fn write_bind(&mut self, dice: &mut Dice) -> Draft {
        let account = self.an_account(dice);
        let known: Vec<_> = self.oracle.api_keys.values().map(|key| key.key).collect();
        let key = match dice.any(&known).filter(|_| dice.wild(5)) {
            Some(again) => again,
            None => self.ring.fresh(),
        };
        let mut models: Vec<ModelNumber> = match dice.below(4) {
            0 => vec![ModelNumber(1), ModelNumber(3)],
            1 => vec![ModelNumber(2)],
            _ => vec![],
        };
        if dice.wild(6) {
            models.push(ModelNumber(dice.below(6) as u32));
        }
        let now = self.oracle.time;
        let expires = match dice.below(4) {
            0 => now + dice.span(),
            _ => u64::MAX,
        };
        let expires = if dice.wild(8) { now } else { expires };
        let cap = match dice.below(4) {
            0 => dice.amount(),
            _ => u64::MAX,
        };
        let action = Action::BindApiKey(BindApiKey {
            account: AccountNumber(account),
            key,
            models: List::new(models).unwrap(),
            cap: Amount(cap),
            expires: Time(expires),
        });
        self.by_holder_or_issuers(dice, account, action)
    }

    pub(super) fn write_revoke_key(&mut self, dice: &mut Dice) -> Draft {
        let number = self.a_key(dice);
        let account = self
            .oracle
            .api_keys
            .get(&number)
            .map_or(0, |key| key.account);
        let action = Action::RevokeApiKey(ApiKeyNumber(number));
        match dice.below(3) {
            0 => self.by_issuers(dice, action),
            1 => self.by_holder_or_issuers(dice, account, action),
            _ => {
                let who = if dice.wild(3) {
                    self.a_key(dice)
                } else {
                    number
                };
                self.envelope(dice, api_key(who), &[], action)
            }
        }
    }

    /// An API key, mostly one that is not revoked.
    pub(super) fn a_key(&self, dice: &mut Dice) -> u32 {
        let count = self.oracle.api_keys.len() as u64;
        if dice.wild(8) {
            return dice.below(count + 2) as u32;
        }
        let live: Vec<u32> = (self.oracle.api_keys.iter())
            .filter(|(_, key)| !key.revoked && key.expires > self.oracle.time)
            .filter(|(_, key)| !self.oracle.accounts[&key.account].frozen)
            .map(|(number, _)| *number)
            .collect();
        match dice.below(16) {
            0 => dice.below(count) as u32,
            _ => dice.any(&live).unwrap_or(0),
        }
    }

    pub(super) fn write_rotate(&mut self, dice: &mut Dice) -> Draft {
        let account = self.an_account(dice);
        let key = self.ring.fresh();
        let action = Action::RotateHolderKey(AccountNumber(account), key);
        self.by_holder_or_issuers(dice, account, action)
    }
}

/// An entry's leaf.
pub fn leaf_bytes(entry: &Entry) -> Vec<u8> {
    match entry {
        Entry::Receipt(receipt) => receipt.leaf().to_vec(),
        Entry::Event(leaf, _) => leaf.leaf().to_vec(),
    }
}
