//! Accounts and API keys: open, freeze, erase, bind, revoke, rotate.

use super::{Call, Draft};
use crate::{
    account::{Account, ApiKey, MAX_API_KEYS, Recall},
    action::{BindApiKey, OpenAccount},
    crypto::PublicKey,
    entry::Event,
    ids::{AccountNumber, Amount, ApiKeyNumber, GrantNumber},
    reason::Reason,
    transaction::AuthorKind,
};

impl Draft<'_> {
    pub(super) fn open_account(
        &mut self,
        call: &Call<'_>,
        action: &OpenAccount,
    ) -> Result<(), Reason> {
        self.issuer(call)?;
        for class in action.classes.iter() {
            self.class(*class)?;
        }
        if self.accounts.len() >= AccountNumber::NONE.0 as usize {
            return Err(Reason::TableFull);
        }
        let number = self.accounts.push(Account {
            unit: action.unit,
            holder: action.holder,
            frozen: false,
            classes: action.classes.clone(),
            entries: 0,
            last_grant: GrantNumber(0),
            totals: Vec::new(),
            grants: Vec::new(),
            leases: Vec::new(),
            api_keys: Vec::new(),
            hours: Vec::new(),
            days: Vec::new(),
        });
        let event = Event::AccountOpened {
            transaction: call.id,
            unit: action.unit,
            holder: action.holder,
        };
        self.log_of(AccountNumber(number), event);
        Ok(())
    }

    pub(super) fn freeze(&mut self, call: &Call<'_>, number: AccountNumber) -> Result<(), Reason> {
        self.issuer(call)?;
        if self.account(number)?.frozen {
            return Err(Reason::Frozen);
        }
        self.account_mut(number).frozen = true;
        self.recall(number, Recall::Frozen, |_| true);
        let transaction = call.id;
        self.log_of(number, Event::Frozen { transaction });
        Ok(())
    }

    pub(super) fn unfreeze(
        &mut self,
        call: &Call<'_>,
        number: AccountNumber,
    ) -> Result<(), Reason> {
        self.two_issuers(call)?;
        if !self.account(number)?.frozen {
            return Err(Reason::NotFrozen);
        }
        self.account_mut(number).frozen = false;
        let transaction = call.id;
        self.log_of(number, Event::Unfrozen { transaction });
        Ok(())
    }

    pub(super) fn erase(&mut self, call: &Call<'_>, number: AccountNumber) -> Result<(), Reason> {
        self.checked_by_issuer(call, number)?;
        let event = Event::Erased {
            transaction: call.id,
            entries: self.account(number)?.entries,
        };
        self.log_of(number, event);
        Ok(())
    }

    pub(super) fn bind_api_key(
        &mut self,
        call: &Call<'_>,
        action: &BindApiKey,
    ) -> Result<(), Reason> {
        self.holder_or_issuers(call, action.account)?;
        let account = self.account(action.account)?;
        let table = self.price_table(self.chain.table);
        let table = table.expect("the table in force exists");
        if action
            .models
            .iter()
            .any(|model| table.model(*model).is_none())
        {
            return Err(Reason::UnknownModel);
        }
        self.not_frozen(call, action.account)?;
        let bound = self.base.index.api_keys.contains_key(&action.key);
        if bound || self.keys.get(&action.key).is_some() {
            return Err(Reason::KeyBoundBefore);
        }
        if account.api_keys.len() >= MAX_API_KEYS {
            return Err(Reason::TooManyKeys);
        }
        if action.expires <= self.now {
            return Err(Reason::Dates);
        }
        if self.api_keys.len() >= u32::MAX as usize {
            return Err(Reason::TableFull);
        }
        let number = self.api_keys.push(ApiKey {
            account: action.account,
            key: action.key,
            models: action.models.clone(),
            cap: action.cap,
            expires: action.expires,
            revoked: false,
            spent: Amount::ZERO,
            leased: Amount::ZERO,
        });
        let number = ApiKeyNumber(number);
        self.keys.set(action.key, number);
        // The new number is the highest: the list stays ascending.
        self.account_mut(action.account).api_keys.push(number);
        let event = Event::ApiKeyBound {
            transaction: call.id,
            api_key: number,
            key: action.key,
        };
        self.log_of(action.account, event);
        Ok(())
    }

    pub(super) fn revoke_api_key(
        &mut self,
        call: &Call<'_>,
        number: ApiKeyNumber,
    ) -> Result<(), Reason> {
        let author = call.body.author;
        match author.kind {
            AuthorKind::Person => self.issuer(call).map(|_| ())?,
            AuthorKind::ApiKey if author != number.into() => return Err(Reason::NotYours),
            AuthorKind::ApiKey | AuthorKind::Account => (),
            AuthorKind::Gateway | AuthorKind::Validator => return Err(Reason::WrongAuthor),
        }
        let api_key = self.api_key(number)?;
        let owner = api_key.account;
        if author.kind == AuthorKind::Account {
            self.holder(call, owner)?;
        }
        if api_key.revoked {
            return Err(Reason::AlreadyRevoked);
        }
        self.account(owner)?;
        self.api_key_mut(number).revoked = true;
        let account = self.account_mut(owner);
        account.api_keys.retain(|bound| *bound != number);
        self.recall(owner, Recall::KeyRevoked, |lease| lease.api_key == number);
        let event = Event::ApiKeyRevoked {
            transaction: call.id,
            api_key: number,
        };
        self.log_of(owner, event);
        Ok(())
    }

    pub(super) fn rotate_holder_key(
        &mut self,
        call: &Call<'_>,
        number: AccountNumber,
        key: PublicKey,
    ) -> Result<(), Reason> {
        self.holder_or_issuers(call, number)?;
        self.account(number)?;
        self.not_frozen(call, number)?;
        self.account_mut(number).holder = key;
        let event = Event::HolderKeyRotated {
            transaction: call.id,
            key,
        };
        self.log_of(number, event);
        Ok(())
    }
}
