//! Scenes: worlds that a test sets up by hand, for what random scripts reach
//! too rarely. Everything is compared as in a script.

use tally_ledger::{
    action::{Action, BindApiKey, Debits, Issue, Lease, NewGrant, OpenAccount, OpenJournal},
    class::Burn,
    codec::List,
    debit::{Debit, Detail, Fixed, Flags},
    gateway::Caps,
    genesis::Genesis,
    ids::{
        AccountNumber, Amount, ApiKeyNumber, ClassNumber, DebitNumber, JournalNumber, LeaseNumber,
        ModelNumber, TableVersion, Time,
    },
    parameters::Parameters,
    price::Usage,
    reason::Reason,
    transaction::Author,
};

use super::{
    Dice, KeyRing, World,
    draft::{api_key, gateway, holder, person},
    gateways::batch_root,
    genesis,
    sent::Verdict,
};
use crate::oracle::{LogEntry, Payload, Shown};

/// A transaction of a scene.
#[derive(Debug, Clone)]
pub struct Act {
    /// Who writes it.
    pub author: Author,
    /// Who else signs it.
    pub others: Vec<Author>,
    /// What to do.
    pub action: Action,
    /// What travels beside Debits.
    pub debits: Vec<Debit>,
    /// What the body of an Evidence shows.
    pub shown: Option<Shown>,
}

/// What became of a block of acts.
#[derive(Debug)]
pub struct Outcome {
    /// Per act: the faults for which it was refused; none: accepted.
    pub faults: Vec<Vec<Reason>>,
    /// New facts of the log.
    pub facts: Vec<LogEntry>,
}

impl World {
    /// A world without limits, with two gateways and nobody else; `change`
    /// may narrow it.
    pub fn quiet(change: impl FnOnce(&mut Genesis)) -> World {
        let mut ring = KeyRing::default();
        let mut genesis = genesis::genesis(&mut Dice::new(&[]), &mut ring);
        let most = Amount(u64::MAX);
        genesis.parameters = Parameters {
            threshold: 1,
            issuer_day_limit: most,
            issuer_day_account_limit: most,
            ..Parameters::default()
        };
        let mut classes = genesis.classes.to_vec();
        for rules in &mut classes {
            rules.models = List::default();
            rules.supply_cap = most;
            rules.burn = Burn::Both;
        }
        genesis.classes = List::new(classes).unwrap();
        let mut gateways = genesis.gateways.to_vec();
        for gateway in &mut gateways {
            gateway.caps = Caps {
                open: most,
                open_account: most,
                hour: most,
                hour_account: most,
            };
        }
        genesis.gateways = List::new(gateways).unwrap();
        change(&mut genesis);
        World::of(genesis, ring)
    }

    /// Makes a block of these acts so many ms after the one before.
    pub fn after(&mut self, ms: u64, acts: Vec<Act>) -> Outcome {
        let time = self.oracle.time + ms;
        self.oracle.begin_block(time);
        let mut dice = Dice::new(&[]);
        let mut candidates = Vec::new();
        for act in acts {
            let mut draft = self.envelope(&mut dice, act.author, &act.others, act.action);
            if let Action::Debits(batch) = &mut draft.action {
                let number = act.author.number;
                batch.count = act.debits.len() as u32;
                batch.root = batch_root(number, batch.journal, batch.first.0, &act.debits);
                for debit in &act.debits {
                    debit.write(&mut draft.payload);
                }
                draft.meaning = Payload::Debits {
                    debits: act.debits,
                    root_fits: true,
                };
            }
            if let Some(shown) = act.shown {
                draft.meaning = Payload::Shown(shown);
            }
            let sent = self.sign(draft);
            candidates.push(self.judge(sent));
        }
        let faults = (candidates.iter())
            .map(|(_, verdict)| match verdict {
                Verdict::Refused(faults) => faults.clone(),
                _ => Vec::new(),
            })
            .collect();
        // Some checks of their own, another each time.
        let checks = (self.oracle.height * 37 % 256) as u8;
        let facts = self.finish(time, candidates, checks);
        Outcome { faults, facts }
    }

    /// Opens accounts with an API key each, and both gateways' journals.
    pub fn populate(&mut self, accounts: u32) {
        let open = |world: &mut World| {
            let holder = world.ring.fresh();
            let action = Action::OpenAccount(OpenAccount {
                unit: 1,
                holder,
                classes: List::default(),
            });
            Act::new(person(0), action)
        };
        let acts = (0..accounts).map(|_| open(self)).collect();
        self.after(1, acts);
        let mut acts: Vec<Act> = (0..accounts)
            .map(|account| {
                let action = Action::BindApiKey(BindApiKey {
                    account: AccountNumber(account),
                    key: self.ring.fresh(),
                    models: List::default(),
                    cap: Amount(u64::MAX),
                    expires: Time(u64::MAX),
                });
                Act::new(holder(account), action)
            })
            .collect();
        acts.extend([0, 1].map(|number| Act::journal(number, 1, true)));
        let outcome = self.after(1, acts);
        assert!(outcome.faults.iter().all(Vec::is_empty), "{outcome:?}");
    }

    /// Issues grants, as one issuer.
    pub fn issue(&mut self, grants: Vec<NewGrant>) -> Act {
        let grants = List::new(grants).unwrap();
        Act::new(person(0), Action::Issue(Issue { grants }))
    }

    /// The next lease of a gateway on an account's own key.
    pub fn lease(&self, number: u32, account: u32, class: u16, wanted: u64) -> Act {
        let found = &self.oracle.gateways[&number];
        let action = Action::Lease(Lease {
            journal: JournalNumber(found.journal),
            number: LeaseNumber(found.last_lease + 1),
            account: AccountNumber(account),
            class: ClassNumber(class),
            api_key: ApiKeyNumber(account),
            wanted: Amount(wanted),
            worst_case: Amount(wanted),
            duration_ms: u32::MAX,
        });
        let mut act = Act::new(gateway(number), action);
        act.others = vec![api_key(account)];
        act
    }

    /// Debits of a gateway, numbered on from its last.
    pub fn debits(&self, number: u32, debits: Vec<Debit>) -> Act {
        let found = &self.oracle.gateways[&number];
        let action = Action::Debits(Debits {
            journal: JournalNumber(found.journal),
            first: DebitNumber(found.last_debit + 1),
            count: 0,
            root: Default::default(),
        });
        let mut act = Act::new(gateway(number), action);
        act.debits = debits;
        act
    }

    /// A debit of an account's own key on a lease.
    pub fn debit(&self, account: u32, class: u16, lease: u64, tokens: u32, fee: u64) -> Debit {
        Debit {
            fixed: Fixed {
                version: 2,
                kind: 1,
                flags: Flags(0),
                account: AccountNumber(account),
                class: ClassNumber(class),
                api_key: ApiKeyNumber(account),
                lease: LeaseNumber(lease),
                limit: Amount(u64::MAX),
                fee: Amount(fee),
            },
            detail: Detail {
                model: ModelNumber(1),
                table: TableVersion(self.oracle.table),
                usage: Usage([tokens, 0, 0, 0, 0, 0]),
                ..Detail::default()
            },
        }
    }

    /// A grant that can be spent at once, for a while.
    pub fn grant(&self, account: u32, class: u16, amount: u64, lasts: u64) -> NewGrant {
        NewGrant {
            account: AccountNumber(account),
            class: ClassNumber(class),
            amount: Amount(amount),
            vests: Time(0),
            expires: Time(self.oracle.time.saturating_add(lasts)),
        }
    }
}

impl Act {
    /// An act that only its author signs.
    pub fn new(author: Author, action: Action) -> Act {
        Act {
            author,
            others: Vec::new(),
            action,
            debits: Vec::new(),
            shown: None,
        }
    }

    /// A gateway opens a journal.
    pub fn journal(number: u32, journal: u32, previous_intact: bool) -> Act {
        let action = Action::OpenJournal(OpenJournal {
            journal: JournalNumber(journal),
            previous_intact,
        });
        Act::new(gateway(number), action)
    }

    /// A gateway returns a lease.
    pub fn give_back(number: u32, lease: u64) -> Act {
        let action = Action::ReturnLease(LeaseNumber(lease));
        Act::new(gateway(number), action)
    }
}
