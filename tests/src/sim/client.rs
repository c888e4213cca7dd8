//! The gateway and the people of a simulation: a fixed life of transactions,
//! each sent again and again until it is final.
//!
//! They see the chain as it is, and write what comes next: accounts, grants,
//! API keys, journals, leases, and debits in batches that are fixed when they
//! are made.

use std::collections::BTreeMap;

use tally_ledger::{
    action::{Action, BindApiKey, Debits, Issue, Lease, NewGrant, OpenAccount, OpenJournal},
    crypto::{ChainId, SecretKey},
    debit::{Debit, Detail, FIXED_BYTES, Fixed, Flags, Position, RECORD_BYTES, batch_leaf},
    hash::Hash,
    ids::{
        AccountNumber, Amount, ApiKeyNumber, ClassNumber, DebitNumber, GatewayNumber, HOUR_MS,
        JournalNumber, LeaseNumber, ModelNumber, Person, TableVersion, Time,
    },
    merkle,
    price::Usage,
    state::State,
    transaction::{Author, Body, Transaction},
};

use super::{
    genesis::{key, list},
    rng::Rng,
};

/// Accounts that are opened.
const ACCOUNTS: u32 = 2;
/// Batches that may be on their way at once.
const BATCHES: usize = 3;

/// Something sent that is not final yet.
struct Open {
    name: String,
    transaction: Transaction,
    sent: u64,
}

/// The world outside the validators.
pub struct Client {
    chain: ChainId,
    rng: Rng,
    /// Debits to make in all.
    wanted: u64,
    /// Those that were made: hash of the detail.
    made: Vec<Hash>,
    open: Vec<Open>,
    written: BTreeMap<String, ()>,
    /// The journal of the batches, and its last number.
    journal: (u32, u64),
    leases: u64,
    /// Per account: how often its grants were written, and when the last
    /// ones expire.
    grants: [(u32, u64); ACCOUNTS as usize],
}

fn gateway() -> GatewayNumber {
    GatewayNumber(0)
}

impl Client {
    /// One that makes so many debits.
    pub fn new(chain: ChainId, wanted: u64, rng: Rng) -> Self {
        Self {
            chain,
            rng,
            wanted,
            made: Vec::new(),
            open: Vec::new(),
            written: BTreeMap::new(),
            journal: (0, 0),
            leases: 0,
            grants: [(0, 0); ACCOUNTS as usize],
        }
    }

    /// Whether all debits are made, and nothing is on its way.
    pub fn is_done(&self) -> bool {
        self.made.len() as u64 >= self.wanted && self.open.is_empty()
    }

    /// Whether every debit became exactly one receipt.
    pub fn check(&self, receipts: &BTreeMap<Hash, u32>) -> Result<(), String> {
        for (number, detail) in self.made.iter().enumerate() {
            match receipts.get(detail) {
                Some(1) => {}
                found => return Err(format!("debit {number} has {found:?} receipts, not 1")),
            }
        }
        match receipts.len() == self.made.len() {
            true => Ok(()),
            false => Err(format!(
                "{} receipts, {} debits",
                receipts.len(),
                self.made.len()
            )),
        }
    }

    /// What is not final yet.
    pub fn describe(&self) -> String {
        let open: Vec<&str> = self.open.iter().map(|open| open.name.as_str()).collect();
        format!(
            "{} of {} debits, open: {open:?}",
            self.made.len(),
            self.wanted
        )
    }

    /// Looks at the chain; what is to be sent now.
    pub fn act(&mut self, state: &State, now: u64) -> Vec<Transaction> {
        self.open.retain(|open| !is_final(state, open));
        self.found(state);
        if state.api_keys().len() as u32 == ACCOUNTS {
            self.spend(state);
        }
        let mut send = Vec::new();
        for open in &mut self.open {
            if open.sent == 0 || now >= open.sent + 700_000 {
                open.sent = now.max(1);
                send.push(open.transaction.clone());
            }
        }
        send
    }

    /// Accounts, grants, API keys.
    fn found(&mut self, state: &State) {
        let hour = (state.time().0 / HOUR_MS) as u32 + 3;
        for number in 0..ACCOUNTS {
            let open = Action::OpenAccount(OpenAccount {
                unit: number,
                holder: key("holder", number as usize).public(),
                classes: list(vec![ClassNumber(1), ClassNumber(0)]),
            });
            // One after the other: numbers are given in order.
            if state.accounts().len() as u32 == number {
                let person = &[(Person(0).into(), key("person", 0))];
                self.write(&format!("account {number}"), person, hour, open, Vec::new());
            }
            if state.accounts().len() as u32 != ACCOUNTS {
                continue;
            }
            self.issue(state, number, hour);
            if state.api_keys().len() as u32 == number {
                let bind = Action::BindApiKey(BindApiKey {
                    account: AccountNumber(number),
                    key: key("api key", number as usize).public(),
                    models: list(vec![]),
                    cap: Amount(u64::MAX),
                    expires: Time(u64::MAX),
                });
                let holder = (AccountNumber(number).into(), key("holder", number as usize));
                self.write(&format!("key {number}"), &[holder], hour, bind, Vec::new());
            }
        }
    }

    /// Grants, soon to expire. If they expire before a block takes them, no
    /// block ever will, and others are written.
    fn issue(&mut self, state: &State, number: u32, hour: u32) {
        let issued =
            (state.account(AccountNumber(number))).is_some_and(|account| account.last_grant.0 > 0);
        let (written, expired) = self.grants[number as usize];
        if issued || state.time().0 < expired {
            return;
        }
        let name = |written| match written {
            0 => format!("grants {number}"),
            more => format!("grants {number} {more}"),
        };
        if let Some(last) = written.checked_sub(1) {
            self.open.retain(|open| open.name != name(last));
        }
        let expires = state.time().0 + 40_000 + 60_000 * u64::from(number);
        self.grants[number as usize] = (written + 1, expires);
        let grants = (0..2).map(|class| NewGrant {
            account: AccountNumber(number),
            class: ClassNumber(class),
            amount: Amount(400_000),
            vests: Time(0),
            expires: Time(expires),
        });
        let issue = Action::Issue(Issue {
            grants: list(grants.collect()),
        });
        let issuers = [
            (Person(0).into(), key("person", 0)),
            (Person(1).into(), key("person", 1)),
        ];
        self.write(&name(written), &issuers, hour, issue, Vec::new());
    }

    /// Journals, leases, debits.
    fn spend(&mut self, state: &State) {
        let leaf = &state.gateways()[0];
        let batches = self.named("batch");
        let half = self.made.len() as u64 >= self.wanted / 2;
        let wanted = if half { 2 } else { 1 };
        let quiet = batches + self.named("journal") + self.named("lease") == 0;
        if leaf.journal.0 < wanted && quiet {
            let open = Action::OpenJournal(OpenJournal {
                journal: JournalNumber(leaf.journal.0 + 1),
                previous_intact: true,
            });
            self.gateway(
                &format!("journal {}", leaf.journal.0 + 1),
                None,
                open,
                Vec::new(),
            );
        }
        if leaf.journal.0 == 0 || self.named("journal") > 0 {
            return;
        }
        if self.journal.0 != leaf.journal.0 {
            self.journal = (leaf.journal.0, 0);
        }
        let is_open = |number| {
            state
                .lease_account(gateway(), LeaseNumber(number))
                .is_some()
        };
        self.leases = self.leases.max(leaf.last_lease.0);
        let left = self.wanted - self.made.len() as u64;
        if left > 0 && self.named("lease") == 0 && (self.leases == 0 || !is_open(self.leases)) {
            self.lease(state);
        }
        if leaf.last_lease.0 > 0 && left > 0 && batches < BATCHES && self.rng.chance(400) {
            self.batch(leaf.last_lease.0, left);
        }
    }

    fn named(&self, name: &str) -> usize {
        let open = self.open.iter();
        open.filter(|open| open.name.starts_with(name)).count()
    }

    fn lease(&mut self, state: &State) {
        let number = self.leases + 1;
        let owner = owner(number);
        let lease = Action::Lease(Lease {
            journal: state.gateways()[0].journal,
            number: LeaseNumber(number),
            account: AccountNumber(owner),
            class: ClassNumber((number / 2 % 2) as u16),
            api_key: ApiKeyNumber(api_key(state, owner)),
            wanted: Amount(20_000 + self.rng.below(50_000)),
            worst_case: Amount(5_000),
            duration_ms: 1_000 + self.rng.below(5_000) as u32,
        });
        self.gateway(&format!("lease {number}"), Some(owner), lease, Vec::new());
    }

    /// A batch of a few debits, numbers and contents fixed from now on.
    fn batch(&mut self, lease: u64, left: u64) {
        let count = 1 + self.rng.below(left.min(4));
        let (journal, last) = self.journal;
        let (mut payload, mut leaves) = (Vec::new(), Vec::new());
        for number in last + 1..=last + count {
            let debit = self.debit(lease, journal);
            let mut record = Vec::with_capacity(RECORD_BYTES);
            debit.write(&mut record);
            let position = Position {
                gateway: gateway(),
                journal: JournalNumber(journal),
                number: DebitNumber(number),
            };
            let mut fixed = [0; FIXED_BYTES];
            fixed.copy_from_slice(&record[..FIXED_BYTES]);
            let detail = debit.detail.hash();
            leaves.push(merkle::leaf_hash(&batch_leaf(&position, &fixed, &detail)));
            payload.extend(record);
            self.made.push(detail);
        }
        self.journal.1 += count;
        let debits = Action::Debits(Debits {
            journal: JournalNumber(journal),
            first: DebitNumber(last + 1),
            count: count as u32,
            root: merkle::root_of(&leaves),
        });
        let name = format!("batch {journal} {}", last + count);
        self.gateway(&name, None, debits, payload);
    }

    fn debit(&mut self, lease: u64, journal: u32) -> Debit {
        let counts = [self.rng.below(500) as u32, self.rng.below(200) as u32];
        Debit {
            fixed: Fixed {
                version: 2,
                kind: 1,
                flags: Flags::default(),
                account: AccountNumber(owner(lease)),
                class: ClassNumber((lease / 2 % 2) as u16),
                api_key: ApiKeyNumber(owner(lease)),
                lease: LeaseNumber(lease),
                limit: Amount(self.rng.below(4_000)),
                fee: Amount(self.rng.below(20)),
            },
            detail: Detail {
                salt: [7; 16],
                model: ModelNumber(1),
                table: TableVersion(1),
                usage: Usage([counts[0], counts[1], 0, 0, 0, 0]),
                hold_journal: JournalNumber(journal),
                hold: self.made.len() as u64 + 1,
                ..Detail::default()
            },
        }
    }

    fn gateway(&mut self, name: &str, owner: Option<u32>, action: Action, payload: Vec<u8>) {
        let mut signers = vec![(gateway().into(), key("gateway", 0))];
        let consent = owner.map(|owner| {
            let author: Author = ApiKeyNumber(owner).into();
            (author, key("api key", owner as usize))
        });
        signers.extend(consent);
        self.write(name, &signers, 0, action, payload);
    }

    /// Signs something, once.
    fn write(
        &mut self,
        name: &str,
        signers: &[(Author, SecretKey)],
        valid_until: u32,
        action: Action,
        payload: Vec<u8>,
    ) {
        if self.written.insert(name.into(), ()).is_some() {
            return;
        }
        let id = match valid_until {
            0 => [0; 16],
            _ => std::array::from_fn(|i| name.as_bytes().get(i).copied().unwrap_or(b'.')),
        };
        let others: Vec<Author> = signers[1..].iter().map(|(author, _)| *author).collect();
        let keys: Vec<&SecretKey> = signers.iter().map(|(_, key)| key).collect();
        let body = Body::new(signers[0].0, &others, id, valid_until, action);
        self.open.push(Open {
            name: name.into(),
            transaction: Transaction::sign(&self.chain, &body, &keys, payload),
            sent: 0,
        });
    }
}

/// Whose lease that is.
fn owner(lease: u64) -> u32 {
    (lease % u64::from(ACCOUNTS)) as u32
}

/// The API key of an account: they are bound in the accounts' order.
fn api_key(state: &State, account: u32) -> u32 {
    let keys = state.api_keys().iter();
    let found = keys.enumerate().find(|(_, key)| key.account.0 == account);
    found.map_or(account, |(number, _)| number as u32)
}

/// Whether the chain has taken it.
fn is_final(state: &State, open: &Open) -> bool {
    let mut words = open.name.split(' ');
    let kind = words.next().unwrap_or_default();
    let mut number = || {
        words
            .next()
            .and_then(|word| word.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let leaf = &state.gateways()[0];
    let first = number();
    match kind {
        "account" => state.accounts().len() as u64 > first,
        "grants" => {
            let account = state.account(AccountNumber(first as u32));
            account.is_some_and(|account| account.last_grant.0 > 0)
        }
        "key" => state.api_keys().len() as u64 > first,
        "journal" => u64::from(leaf.journal.0) >= first,
        "lease" => leaf.last_lease.0 >= first,
        _ => {
            let last = number();
            (u64::from(leaf.journal.0), leaf.last_debit.0) >= (first, last)
        }
    }
}
