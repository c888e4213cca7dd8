//! A small world to run rules in: a genesis with issuers, admins, gateways
//! and two classes, keys that follow from numbers, and blocks made one by
//! one. Every block is built, encoded, decoded, checked and committed on two
//! states, which must agree.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use tally_ledger::{
    action::{
        Action, BindApiKey, Debits, Issue, Lease, NewGrant, OpenAccount, OpenJournal, Surrender,
    },
    block::{Block, Certificate, Header, Validator, ValidatorSet, vote_bytes},
    certified::CertifiedHeader,
    class::{Burn, ClassRules},
    codec::List,
    crypto::{Domain, PublicKey, SecretKey},
    debit::{
        DEBIT_VERSION, Debit, Detail, FIRST_DEBIT_VERSION, Fixed, Flags, KIND_REQUEST, Position,
        batch_leaf,
    },
    entry::{Entry, Event, Receipt, Shortfall},
    execute::{BlockError, Strict, admit, build, check},
    gateway::Caps,
    genesis::{GENESIS_VERSION, Genesis, GenesisGateway, GenesisPerson},
    ids::*,
    merkle::{Levels, leaf_hash},
    parameters::Parameters,
    person::Roles,
    price::{Meter, Model, PriceTable, Usage},
    reason::Reason,
    state::State,
    transaction::{Author, AuthorKind, Body, Transaction},
};

mod actions;
mod evidence;
mod genesis;

pub use actions::*;
#[allow(unused_imports)]
pub use evidence::*;
pub use genesis::*;

pub struct World {
    pub genesis: Genesis,
    pub state: State,
    /// Follows by checking what the first has built.
    follower: State,
    /// Time of the next block.
    pub now: u64,
    /// All leaf hashes of the log.
    pub log: Levels,
    pub entries: Vec<Entry>,
    pub blocks: Vec<Block>,
    next_id: u64,
}

impl World {
    pub fn of(genesis: Genesis) -> World {
        let state = State::genesis(&genesis).unwrap();
        let start = tally_ledger::state::genesis_entry(*state.chain());
        World {
            follower: state.clone(),
            now: START + 1000,
            log: Levels::of([start.leaf_hash()]),
            entries: vec![start],
            blocks: Vec::new(),
            state,
            genesis,
            next_id: 0,
        }
    }

    /// Account 0 with 100 CT of the base class, API key 0, and both
    /// gateways with an open journal.
    pub fn ready() -> World {
        World::ready_of(genesis())
    }

    pub fn ready_of(genesis: Genesis) -> World {
        let mut world = World::of(genesis);
        world.open_account();
        world.issue(0, BASE, 100 * CT);
        world.bind(0);
        for gateway in [G0, G1] {
            world.open_journal(gateway, true);
        }
        world
    }

    /// The last header, certified by all validators.
    pub fn certified(&self) -> CertifiedHeader {
        let header = *self.state.header().unwrap();
        CertifiedHeader {
            header,
            certificate: self.certify(&header),
            set_changes: List::default(),
        }
    }

    /// All validators' precommits for a header, whatever it says.
    pub fn certify(&self, header: &Header) -> Certificate {
        let vote = vote_bytes(header.height, 0, Some(&header.id()));
        let precommit = |index: u16| {
            let key = SecretKey::from_seed(&[200 + index as u8; 32]);
            let signature = key.sign(Domain::Precommit, self.state.chain(), &vote);
            (index, signature)
        };
        Certificate {
            round: 0,
            precommits: list((0..3).map(precommit).collect()),
        }
    }

    pub fn time(&self) -> Time {
        Time(self.now)
    }

    pub fn fresh_id(&mut self) -> [u8; 16] {
        self.next_id += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.next_id.to_le_bytes());
        id
    }

    /// A body of `author`, with everything as it should be.
    pub fn body(&mut self, author: impl Into<Author>, others: &[Author], action: Action) -> Body {
        let author = author.into();
        let counted = author.kind == AuthorKind::Gateway;
        let (id, until) = if counted {
            ([0; 16], 0)
        } else {
            (self.fresh_id(), self.time().hour() + 2)
        };
        Body::new(author, others, id, until, action)
    }

    pub fn sign(&self, body: &Body, payload: Vec<u8>) -> Transaction {
        let keys: Vec<SecretKey> = body.signers.iter().map(|signer| key(*signer)).collect();
        let keys: Vec<&SecretKey> = keys.iter().collect();
        Transaction::sign(self.state.chain(), body, &keys, payload)
    }

    pub fn tx(
        &mut self,
        author: impl Into<Author>,
        others: &[Author],
        action: Action,
    ) -> Transaction {
        let body = self.body(author, others, action);
        self.sign(&body, Vec::new())
    }

    /// One issuer.
    pub fn by_issuer(&mut self, action: Action) -> Transaction {
        self.tx(ISSUER, &[], action)
    }

    /// Maker and checker.
    pub fn by_two(&mut self, action: Action) -> Transaction {
        self.tx(ISSUER, &[CHECKER.into()], action)
    }

    /// As many admins as are needed.
    pub fn by_admins(&mut self, action: Action) -> Transaction {
        self.tx(ADMIN, &[SECOND_ADMIN.into()], action)
    }

    pub fn by_holder(&mut self, account: u32, action: Action) -> Transaction {
        self.tx(AccountNumber(account), &[], action)
    }

    /// Makes a block of exactly these; its entries.
    pub fn block(&mut self, transactions: &[Transaction]) -> Vec<Entry> {
        let built = build(&self.state, self.time(), 0, transactions.iter(), &Strict);
        assert_eq!(built.refused, []);
        assert_eq!(built.block.transactions.len(), transactions.len());
        let block = Block::decode(&built.block.encode(), 1 << 24).unwrap();
        let checked = check(&self.follower, &block, &Strict).unwrap();
        assert_eq!(checked.header(), &block.header);
        self.follower.commit(checked);
        let hashes = built.execution.leaf_hashes().to_vec();
        let entries = self.state.commit(built.execution);
        assert_eq!(hashes.len(), entries.len());
        for (entry, hash) in entries.iter().zip(hashes) {
            assert_eq!(leaf_hash(&entry.leaf()), hash);
            self.log.append(hash);
        }
        assert_eq!(self.state.state_root(), self.follower.state_root());
        assert_eq!(self.state.state_root(), block.header.state_root);
        assert_eq!(self.log.root(), block.header.log_root);
        assert_eq!(self.log.size(), self.state.counts().entries);
        self.now += 1000;
        self.entries.extend(entries.iter().cloned());
        self.blocks.push(block);
        assert_consistent(&self.state);
        entries
    }

    /// A block at `time`.
    pub fn block_at(&mut self, time: u64, transactions: &[Transaction]) -> Vec<Entry> {
        assert!(time > self.state.time().0, "time goes on");
        self.now = time;
        let entries = self.block(transactions);
        self.now = time + 1;
        entries
    }

    /// A block of one.
    pub fn run(&mut self, transaction: Transaction) -> Vec<Entry> {
        self.block(&[transaction])
    }

    /// Why a transaction is refused: the dry run, the builder and the checker
    /// must say the same, and it must leave no trace.
    pub fn refusal(&self, transaction: &Transaction) -> Reason {
        let reason = admit(&self.state, self.time(), transaction, &Strict)
            .expect_err("the transaction should be refused");
        self.refused_in_block(transaction, reason);
        reason
    }

    pub fn refused_in_block(&self, transaction: &Transaction, reason: Reason) {
        let built = build(&self.state, self.time(), 0, [transaction], &Strict);
        let empty = build(
            &self.state,
            self.time(),
            0,
            Vec::<Transaction>::new(),
            &Strict,
        );
        assert_eq!(built.block, empty.block, "a refusal leaves no trace");
        assert_eq!(built.refused, [(transaction.id(), reason)]);
        let mut block = built.block;
        block.transactions.push(transaction.clone());
        let error = check(&self.state, &block, &Strict).unwrap_err();
        match error {
            // The bounds of the block are looked at first.
            BlockError::TooLarge(_) | BlockError::TooManyDebits(_) => {
                assert_eq!(reason, Reason::TooLarge);
            }
            error => {
                let (index, id) = (0, transaction.id());
                assert_eq!(error, BlockError::Refused { index, id, reason });
            }
        }
    }

    pub fn open_account(&mut self) -> u32 {
        let number = self.state.accounts().len() as u32;
        let action = open_account(number);
        let transaction = self.by_issuer(action);
        self.run(transaction);
        number
    }

    pub fn issue(&mut self, account: u32, class: ClassNumber, amount: u64) -> GrantNumber {
        let expires = Time(self.now + 30 * DAY_MS);
        self.issue_dated(account, class, amount, self.time(), expires)
    }

    pub fn issue_dated(
        &mut self,
        account: u32,
        class: ClassNumber,
        amount: u64,
        vests: Time,
        expires: Time,
    ) -> GrantNumber {
        let action = issue_one(account, class, amount, vests, expires);
        let transaction = self.by_two(action);
        self.run(transaction);
        self.state.accounts()[account as usize].last_grant
    }

    /// Binds the next API key, without bounds.
    pub fn bind(&mut self, account: u32) -> ApiKeyNumber {
        let number = self.state.api_keys().len() as u32;
        let action = bind(account, number);
        let transaction = self.by_holder(account, action);
        self.run(transaction);
        ApiKeyNumber(number)
    }

    pub fn open_journal(&mut self, gateway: GatewayNumber, previous_intact: bool) -> Vec<Entry> {
        let journal = JournalNumber(self.state.gateway(gateway).unwrap().journal.0 + 1);
        let action = Action::OpenJournal(OpenJournal {
            journal,
            previous_intact,
        });
        let transaction = self.tx(gateway, &[], action);
        self.run(transaction)
    }

    /// The next lease of a gateway, on account 0 and API key 0.
    pub fn next_lease(&self, gateway: GatewayNumber) -> Lease {
        let state = self.state.gateway(gateway).unwrap();
        Lease {
            journal: state.journal,
            number: LeaseNumber(state.last_lease.0 + 1),
            account: AccountNumber(0),
            class: BASE,
            api_key: ApiKeyNumber(0),
            wanted: Amount(10 * CT),
            worst_case: Amount(CT),
            duration_ms: 60_000,
        }
    }

    pub fn lease_tx(&mut self, gateway: GatewayNumber, lease: Lease) -> Transaction {
        self.tx(gateway, &[lease.api_key.into()], Action::Lease(lease))
    }

    /// Runs a lease; its number, what was granted and why not more.
    pub fn lease(
        &mut self,
        gateway: GatewayNumber,
        change: impl FnOnce(&mut Lease),
    ) -> (LeaseNumber, u64, Shortfall) {
        let mut lease = self.next_lease(gateway);
        change(&mut lease);
        let transaction = self.lease_tx(gateway, lease);
        let entries = self.run(transaction);
        let granted = entries.iter().find_map(|entry| match entry {
            Entry::Event(
                _,
                Event::LeaseGranted {
                    granted, shortfall, ..
                },
            ) => Some((lease.number, granted.0, *shortfall)),
            _ => None,
        });
        granted.expect("a Lease is total")
    }

    pub fn return_lease(&mut self, gateway: GatewayNumber, lease: LeaseNumber) -> Vec<Entry> {
        let transaction = self.tx(gateway, &[], Action::ReturnLease(lease));
        self.run(transaction)
    }

    /// The next batch of a gateway.
    pub fn debits_tx(&mut self, gateway: GatewayNumber, debits: &[Debit]) -> Transaction {
        let state = *self.state.gateway(gateway).unwrap();
        let first = DebitNumber(state.last_debit.0 + 1);
        let body = self.debits_body(gateway, state.journal, first, debits);
        self.sign(&body, payload(debits))
    }

    pub fn debits_body(
        &mut self,
        gateway: GatewayNumber,
        journal: JournalNumber,
        first: DebitNumber,
        debits: &[Debit],
    ) -> Body {
        let position = |i: usize| Position {
            gateway,
            journal,
            number: DebitNumber(first.0 + i as u64),
        };
        let leaves = debits.iter().enumerate().map(|(i, debit)| {
            leaf_hash(&batch_leaf(
                &position(i),
                &debit.fixed.write(),
                &debit.detail.hash(),
            ))
        });
        let action = Action::Debits(Debits {
            journal,
            first,
            count: debits.len() as u32,
            root: Levels::of(leaves).root(),
        });
        self.body(gateway, &[], action)
    }

    /// Runs one debit; its receipt.
    pub fn debit(&mut self, gateway: GatewayNumber, debit: Debit) -> Receipt {
        let transaction = self.debits_tx(gateway, &[debit]);
        let entries = self.run(transaction);
        receipts(&entries)[0]
    }

    pub fn surrender_tx(&mut self, grant: u32, amount: u64) -> Transaction {
        self.by_holder(
            0,
            Action::Surrender(Surrender {
                account: AccountNumber(0),
                grant: GrantNumber(grant),
                amount: Amount(amount),
            }),
        )
    }
}

pub fn receipts(entries: &[Entry]) -> Vec<Receipt> {
    let receipt = |entry: &Entry| match entry {
        Entry::Receipt(receipt) => Some(*receipt),
        Entry::Event(..) => None,
    };
    entries.iter().filter_map(receipt).collect()
}

pub fn events(entries: &[Entry]) -> Vec<Event> {
    let event = |entry: &Entry| match entry {
        Entry::Event(_, event) => Some(event.clone()),
        Entry::Receipt(_) => None,
    };
    entries.iter().filter_map(event).collect()
}

/// What must hold in every state: I1 and I3, computed from scratch.
pub fn assert_consistent(state: &State) {
    for account in state.accounts() {
        for (class, totals) in &account.totals {
            assert!(totals.are_conserved(), "I1");
            let of_class = || account.grants.iter().filter(|grant| grant.class == *class);
            let free = |vested: bool| -> u64 {
                let grants = of_class().filter(|grant| grant.vested == vested);
                grants.map(|grant| grant.free.0).sum()
            };
            assert_eq!(totals.unvested.0, free(false));
            assert_eq!(totals.available.0, free(true));
            assert_eq!(
                totals.leased.0,
                of_class().map(|grant| grant.leased.0).sum::<u64>()
            );
        }
        for grant in &account.grants {
            assert!(
                grant.free.0 + grant.leased.0 > 0,
                "empty grants are dropped"
            );
            let leases = account.leases.iter().flat_map(|lease| lease.parts.iter());
            let parts = leases.filter(|part| part.grant == grant.number);
            let leased: u64 = parts.map(|part| part.amount.0).sum();
            assert_eq!(leased, grant.leased.0, "I3");
        }
        let keys: Vec<_> = account
            .leases
            .iter()
            .map(|lease| (lease.gateway, lease.number))
            .collect();
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
    }
    let leases = || state.accounts().iter().flat_map(|account| &account.leases);
    for (number, gateway) in (0..).map(GatewayNumber).zip(state.gateways()) {
        let own = || leases().filter(|lease| lease.gateway == number);
        let open: u64 = own().map(|lease| lease.remaining().0).sum();
        assert_eq!(open, gateway.open.0, "I3");
        assert_eq!(own().count() as u32, gateway.open_leases);
    }
    for (number, api_key) in (0..).map(ApiKeyNumber).zip(state.api_keys()) {
        let own = leases().filter(|lease| lease.api_key == number);
        let leased: u64 = own.map(|lease| lease.remaining().0).sum();
        assert_eq!(leased, api_key.leased.0);
        assert!(api_key.spent.0.saturating_add(leased) <= api_key.cap.0);
    }
    for (number, class) in (0..).map(ClassNumber).zip(state.classes()) {
        assert!(class.totals.are_conserved(), "I1");
        let accounts = state.accounts().iter();
        let issued: u64 = accounts
            .map(|account| account.totals_of(number).issued.0)
            .sum();
        assert_eq!(issued, class.totals.issued.0, "I1");
    }
}
