//! How fast the ledger builds, checks and commits blocks of debits, on one
//! core and without a disk:
//!
//! ```text
//! cargo run --release -p tally-ledger --example debits_per_second
//! cargo run --release -p tally-ledger --example debits_per_second -- 10000 20 1000
//! ```
//!
//! Arguments: accounts, batches per block, debits per batch. Everything is
//! included but consensus: decoding, signatures (one per batch), leaf hashes,
//! price, effects, log, state tree, header.
//!
//! Where Linux tells it, the time is what this thread was on a processor, so
//! busy neighbours count little; else it is elapsed time. The output says
//! which. Processor time advances by the kernel's tick, so what takes less
//! than that over all rounds, such as decoding, is only roughly right.

// A measurement needs a clock; the rules do not.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use tally_ledger::{
    action::{Action, BindApiKey, Debits, Issue, Lease, NewGrant, OpenAccount, OpenJournal},
    block::{Block, Validator, ValidatorSet},
    class::{Burn, ClassRules},
    codec::List,
    crypto::{PublicKey, SecretKey},
    debit::{DEBIT_VERSION, Debit, Detail, Fixed, Flags, KIND_REQUEST, Position, batch_leaf},
    execute::{Strict, build, check},
    gateway::Caps,
    genesis::{GENESIS_VERSION, Genesis, GenesisGateway, GenesisPerson},
    ids::*,
    merkle::{Levels, leaf_hash},
    parameters::Parameters,
    person::Roles,
    price::{Meter, Model, PriceTable, Usage},
    state::State,
    transaction::{Author, Body, Transaction},
};

const CLASS: ClassNumber = ClassNumber(0);
const GATEWAY: GatewayNumber = GatewayNumber(0);
const START: Time = Time(1_700_000_000_000);

fn key(number: u32) -> SecretKey {
    let mut seed = [1; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_seed(&seed)
}

fn list<T, const MAX: usize>(items: Vec<T>) -> List<T, MAX> {
    List::new(items).unwrap_or_default()
}

fn genesis() -> Genesis {
    let meter = |name: &str, coefficient, subset_of| Meter {
        name: name.into(),
        coefficient,
        subset_of,
    };
    let meters = vec![
        meter("input", 1_000, None),
        meter("cached_input", 250, Some(0)),
        meter("output", 4_000, None),
        meter("reasoning", 3_000, Some(2)),
    ];
    let model = Model {
        number: ModelNumber(1),
        name: "model".into(),
        meters: list(meters),
        weight: 7,
        weight_coefficient: 3,
    };
    let roles = [Roles::ISSUER, Roles::ISSUER, Roles::ADMIN, Roles::VALIDATOR];
    let persons = (0..).zip(roles).map(|(i, roles)| GenesisPerson {
        key: key(i).public(),
        roles,
    });
    let most = Amount(u64::MAX);
    Genesis {
        version: GENESIS_VERSION,
        name: "bench".into(),
        time: START,
        persons: list(persons.collect()),
        validators: ValidatorSet(list(vec![Validator {
            consensus_key: PublicKey([1; 32]),
            checkpoint_key: PublicKey([2; 32]),
            network_key: PublicKey([3; 32]),
            owner: Person(3),
        }])),
        classes: list(vec![ClassRules {
            name: "bench".into(),
            models: List::default(),
            max_fee: Amount(0),
            burn: Burn::Both,
            supply_cap: most,
            period_days: 1,
        }]),
        prices: PriceTable {
            version: TableVersion(1),
            models: list(vec![model]),
        },
        parameters: Parameters {
            threshold: 1,
            max_block_bytes: 4 * 1024 * 1024,
            max_block_debits: 100_000,
            max_lease_ms: 86_400_000,
            ..Parameters::default()
        },
        gateways: list(vec![GenesisGateway {
            key: key(100).public(),
            caps: Caps {
                open: most,
                open_account: most,
                hour: most,
                hour_account: most,
            },
        }]),
    }
}

/// Time that this thread has been on a processor.
fn on_processor() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanos = text.split_whitespace().next()?.parse().ok()?;
    (nanos > 0).then(|| Duration::from_nanos(nanos))
}

struct Watch {
    on_processor: Option<Duration>,
    elapsed: Instant,
}

impl Watch {
    fn start() -> Self {
        Watch {
            on_processor: on_processor(),
            elapsed: Instant::now(),
        }
    }

    fn stop(&self) -> Duration {
        let now = on_processor();
        match self.on_processor.zip(now) {
            Some((start, end)) => end.saturating_sub(start),
            None => self.elapsed.elapsed(),
        }
    }
}

struct Bench {
    state: State,
    ids: u64,
}

impl Bench {
    fn sign(
        &mut self,
        author: impl Into<Author>,
        others: &[Author],
        keys: &[&SecretKey],
        action: Action,
    ) -> Transaction {
        let author = author.into();
        let counted = author == GATEWAY.into();
        self.ids += 1;
        let mut id = [0; 16];
        let mut until = 0;
        if !counted {
            id[..8].copy_from_slice(&self.ids.to_le_bytes());
            until = START.hour() + 100;
        }
        let body = Body::new(author, others, id, until, action);
        Transaction::sign(self.state.chain(), &body, keys, Vec::new())
    }

    /// Commits all of these, in as many blocks as it takes.
    fn run(&mut self, mut transactions: &[Transaction]) {
        while !transactions.is_empty() {
            let built = build(&self.state, Time(0), 0, transactions, &Strict);
            assert!(built.refused.is_empty(), "{:?}", built.refused);
            transactions = &transactions[built.block.transactions.len()..];
            self.state.commit(built.execution);
        }
    }

    fn set_up(&mut self, accounts: u32) {
        let issuers = [key(0), key(1)];
        let gateway = key(100);
        let journal = Action::OpenJournal(OpenJournal {
            journal: JournalNumber(1),
            previous_intact: true,
        });
        let mut all = vec![self.sign(GATEWAY, &[], &[&gateway], journal)];
        let both: Vec<&SecretKey> = issuers.iter().collect();
        for number in 0..accounts {
            let account = AccountNumber(number);
            let holder = key(1_000_000);
            let open = Action::OpenAccount(OpenAccount {
                unit: 0,
                holder: holder.public(),
                classes: list(vec![CLASS]),
            });
            all.push(self.sign(Person(0), &[], &both[..1], open));
            let grants = (0..4).map(|_| NewGrant {
                account,
                class: CLASS,
                amount: Amount(1_000_000_000),
                vests: START,
                expires: Time(u64::MAX),
            });
            let issue = Action::Issue(Issue {
                grants: list(grants.collect()),
            });
            all.push(self.sign(Person(0), &[Person(1).into()], &both, issue));
            let api_key = key(2_000_000 + number);
            let bind = Action::BindApiKey(BindApiKey {
                account,
                key: api_key.public(),
                models: List::default(),
                cap: Amount(u64::MAX),
                expires: Time(u64::MAX),
            });
            all.push(self.sign(account, &[], &[&holder], bind));
            let lease = Action::Lease(Lease {
                journal: JournalNumber(1),
                number: LeaseNumber(u64::from(number) + 1),
                account,
                class: CLASS,
                api_key: ApiKeyNumber(number),
                wanted: Amount(1_500_000_000),
                worst_case: Amount(0),
                duration_ms: 86_400_000,
            });
            let author = ApiKeyNumber(number).into();
            all.push(self.sign(GATEWAY, &[author], &[&gateway, &api_key], lease));
        }
        self.run(&all);
    }

    /// A batch from `first`, spread over the accounts.
    fn batch(&self, first: u64, count: u32, accounts: u32) -> Transaction {
        let position = |i: u32| Position {
            gateway: GATEWAY,
            journal: JournalNumber(1),
            number: DebitNumber(first + u64::from(i)),
        };
        let mut payload = Vec::new();
        let mut leaves = Vec::new();
        for i in 0..count {
            let at = position(i);
            let account = (at.number.0.wrapping_mul(2_654_435_761) % u64::from(accounts)) as u32;
            let debit = Debit {
                fixed: Fixed {
                    version: DEBIT_VERSION,
                    kind: KIND_REQUEST,
                    flags: Flags::default(),
                    account: AccountNumber(account),
                    class: CLASS,
                    api_key: ApiKeyNumber(account),
                    lease: LeaseNumber(u64::from(account) + 1),
                    limit: Amount(100_000),
                    fee: Amount(0),
                },
                detail: Detail {
                    model: ModelNumber(1),
                    table: TableVersion(1),
                    usage: Usage([900, 100, 300, 50, 0, 0]),
                    ..Detail::default()
                },
            };
            debit.write(&mut payload);
            let leaf = batch_leaf(&at, &debit.fixed.write(), &debit.detail.hash());
            leaves.push(leaf_hash(&leaf));
        }
        let action = Action::Debits(Debits {
            journal: JournalNumber(1),
            first: DebitNumber(first),
            count,
            root: Levels::of(leaves).root(),
        });
        let body = Body::new(GATEWAY.into(), &[], [0; 16], 0, action);
        Transaction::sign(self.state.chain(), &body, &[&key(100)], payload)
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u32>());
    let mut argument = |default| arguments.next().and_then(Result::ok).unwrap_or(default);
    let (accounts, batches, count) = (argument(10_000), argument(20), argument(1_000));
    let state = State::genesis(&genesis()).expect("the genesis is valid");
    let mut bench = Bench { state, ids: 0 };
    bench.set_up(accounts);

    let mut spent = [Duration::ZERO; 4];
    let mut blocks = 0;
    for round in 0..20 {
        let first = |i: u32| u64::from(round * batches * count + i * count) + 1;
        let made: Vec<Transaction> = (0..batches)
            .map(|i| bench.batch(first(i), count, accounts))
            .collect();
        let start = Watch::start();
        let built = build(&bench.state, Time(0), 0, &made, &Strict);
        spent[0] += start.stop();
        assert_eq!(built.block.transactions.len(), made.len(), "all fit");
        assert!(built.execution.entries().len() == (batches * count) as usize);
        let bytes = built.block.encode();

        let start = Watch::start();
        let block = Block::decode(&bytes, bytes.len()).expect("encoded above");
        spent[1] += start.stop();
        let start = Watch::start();
        let execution = check(&bench.state, &block, &Strict).expect("built above");
        spent[2] += start.stop();
        let start = Watch::start();
        bench.state.commit(execution);
        spent[3] += start.stop();
        blocks += 1;
    }
    let debits = f64::from(blocks * batches * count);
    let clock = match on_processor() {
        Some(_) => "processor",
        None => "elapsed",
    };
    let size = batches * count;
    println!("{accounts} accounts, blocks of {size} debits, {clock} time");
    for (what, time) in ["build", "decode", "check", "commit"].iter().zip(spent) {
        if time.is_zero() {
            println!("{what:>8}: below the clock's step");
            continue;
        }
        let micros = time.as_secs_f64() * 1e6 / debits;
        println!(
            "{what:>8}: {micros:6.3} us per debit, {:>9.0}/s",
            1e6 / micros
        );
    }
}
