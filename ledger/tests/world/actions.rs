//! Actions and debits with what a test does not care about filled in.

use super::*;

pub fn open_account(number: u32) -> Action {
    Action::OpenAccount(OpenAccount {
        unit: 1,
        holder: key(AccountNumber(number)).public(),
        classes: list(vec![BASE, PRIORITY]),
    })
}

pub fn issue_one(
    account: u32,
    class: ClassNumber,
    amount: u64,
    vests: Time,
    expires: Time,
) -> Action {
    Action::Issue(Issue {
        grants: list(vec![NewGrant {
            account: AccountNumber(account),
            class,
            amount: Amount(amount),
            vests,
            expires,
        }]),
    })
}

pub fn bind(account: u32, number: u32) -> Action {
    Action::BindApiKey(BindApiKey {
        account: AccountNumber(account),
        key: key(ApiKeyNumber(number)).public(),
        models: List::default(),
        cap: Amount(u64::MAX),
        expires: NEVER,
    })
}

pub fn payload(debits: &[Debit]) -> Vec<u8> {
    let mut bytes = Vec::new();
    debits.iter().for_each(|debit| debit.write(&mut bytes));
    bytes
}

/// The same debit in the first version.
pub fn first_version(mut debit: Debit) -> Debit {
    debit.fixed.version = FIRST_DEBIT_VERSION;
    debit.detail.queued = None;
    debit
}

/// A debit of account 0, base class, API key 0: `input` units of model 1.
pub fn debit(lease: LeaseNumber, input: u32) -> Debit {
    Debit {
        fixed: Fixed {
            version: DEBIT_VERSION,
            kind: KIND_REQUEST,
            flags: Flags::default(),
            account: AccountNumber(0),
            class: BASE,
            api_key: ApiKeyNumber(0),
            lease,
            limit: Amount(u64::MAX),
            fee: Amount::ZERO,
        },
        detail: Detail {
            salt: [9; 16],
            model: ModelNumber(1),
            table: TableVersion(1),
            usage: Usage([input, 0, 0, 0, 0, 0]),
            ..Detail::default()
        },
    }
}
