//! Several gateways share one account under a virtual clock: the chain's
//! rules are written again here, naively, and every answer takes a random
//! time. After each step what is free, held and charged adds up to what was
//! granted; at the end everybody was served or refused in time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tally_ledger::{
    account::{Account as Leaf, Grant, LeasePart, OpenLease, Recall},
    class::{Burn, ClassRules},
    codec::List,
    crypto::SecretKey,
    hash::Hash,
    ids::*,
    price::{Meter, Model, PriceTable, Usage},
};

use super::*;
use crate::{ask::Need, key::Key, usage};
use fixtures::{leaf, prices};

const INPUT: u32 = 10;
const BOUND: u32 = 99;
const CLASS: ClassNumber = ClassNumber(0);
const PAIR: Pair = (CLASS, ApiKeyNumber(0));
/// Longest that a request may wait, ms.
const WAIT: u64 = 30_000;

/// What a request costs in full.
fn price(output: u32) -> u64 {
    u64::from(INPUT) + 4 * u64::from(output)
}

struct Random(u64);

impl Random {
    /// 0 to `most`, both included.
    fn up_to(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % (most + 1)
    }
}

/// What happens at a time, to a gateway.
enum Event {
    Arrive(Box<Request>),
    /// The request ends, having used this much.
    Settle(Running),
    /// The next debit is on the chain.
    Charge,
    /// A Lease reaches the chain.
    Lease {
        wanted: u64,
        worst: u64,
    },
    /// Its proof arrives.
    Proof {
        number: LeaseNumber,
        worst: u64,
    },
    Refresh,
    Return {
        lease: LeaseNumber,
        after: DebitNumber,
    },
    /// The proof that it is closed arrives.
    Closed(LeaseNumber),
    Look,
}

struct Request {
    ask: Ask,
    /// Output that the engine makes if it may.
    natural: u32,
    since: u64,
}

struct Running {
    reservation: Reservation,
    natural: u32,
}

struct Gateway {
    account: Arc<Account>,
    lane: VecDeque<Request>,
    running: usize,
    last_lease: u64,
    last_debit: u64,
    proven: u64,
    /// Debits that are not on the chain, in order.
    unproven: VecDeque<(LeaseNumber, u64)>,
    /// What each lease was charged here.
    charged: BTreeMap<LeaseNumber, u64>,
}

#[derive(Debug, Default)]
struct Outcome {
    /// Outputs of the answers in full, and of those cut short.
    full: Vec<u32>,
    short: Vec<u32>,
    refused: Vec<(Refusal, u32)>,
    longest: u64,
    /// Served requests that were not served at once.
    waited: usize,
    /// Leases and their returns.
    transactions: usize,
}

struct World {
    random: Random,
    base: Instant,
    now: u64,
    height: u64,
    leaf: Leaf,
    balance: u64,
    spent: u64,
    gateways: Vec<Gateway>,
    key: Arc<Key>,
    events: BTreeMap<(u64, u64), (usize, Event)>,
    order: u64,
    outcome: Outcome,
    /// Longest that an answer of the chain takes.
    delay: u64,
    /// Longest that an engine takes.
    think: u64,
    /// Of leases, ms.
    lease_time: u64,
}

impl World {
    fn new(seed: u64, gateways: u32, balance: u64) -> World {
        let (base, leaf) = (Instant::now(), leaf(balance));
        let account = |gateway| {
            let view = View::of(&leaf, GatewayNumber(gateway), Height(0), Time(0));
            Arc::new(Account::new(AccountNumber(0), view, base))
        };
        let gateways: Vec<Gateway> = (0..gateways)
            .map(|i| Gateway {
                account: account(i),
                lane: VecDeque::new(),
                running: 0,
                last_lease: 0,
                last_debit: 0,
                proven: 0,
                unproven: VecDeque::new(),
                charged: BTreeMap::new(),
            })
            .collect();
        let secret = SecretKey::from_seed(&[3; 32]);
        let key = Arc::new(Key {
            number: PAIR.1,
            account: gateways[0].account.clone(),
            public: secret.public(),
            secret,
            models: Vec::new(),
            expires: Time(u64::MAX),
            revoked: AtomicBool::new(false),
            request_key: [0; 32],
        });
        let mut random = Random(seed);
        let delay = [3, 20, 200][random.up_to(2) as usize];
        World {
            random,
            base,
            now: 0,
            height: 0,
            leaf,
            balance,
            spent: 0,
            gateways,
            key,
            events: BTreeMap::new(),
            order: 0,
            outcome: Outcome::default(),
            delay,
            think: delay,
            lease_time: 3_000_000,
        }
    }

    fn instant(&self) -> Instant {
        self.base + Duration::from_millis(self.now)
    }

    fn after(&mut self, most: u64, gateway: usize, event: Event) {
        let at = self.now + 1 + self.random.up_to(most);
        self.order += 1;
        self.events.insert((at, self.order), (gateway, event));
    }

    /// What is done now and then is done by a gateway at a time.
    fn look(&mut self, at: u64, gateway: usize) {
        self.order += 1;
        self.events.insert((at, self.order), (gateway, Event::Look));
    }

    fn soon(&mut self, gateway: usize, event: Event) {
        self.after(self.delay, gateway, event);
    }

    fn ask(&self, output: u32) -> Ask {
        let mut ask = Ask {
            key: self.key.clone(),
            prices: prices(),
            model: 0,
            classes: Arc::new(vec![ClassRules {
                name: "c".into(),
                models: List::default(),
                max_fee: Amount::ZERO,
                burn: Burn::IssuerOnly,
                supply_cap: Amount(u64::MAX),
                period_days: 1,
            }]),
            class: None,
            need: Need::Tokens {
                input: BOUND,
                output,
                lower: true,
            },
            choices: 1,
            fee: Amount::ZERO,
            worst: Usage::default(),
            cost: Amount::ZERO,
            mark: None,
            countable: true,
            named: None,
            exact: None,
            arrival: 0,
            project: 0,
            purpose: 0,
            request: Hash::ZERO,
            lease_time: Duration::from_millis(self.lease_time),
        };
        ask.price().unwrap();
        ask
    }

    /// Adds a request of `natural` output, bounded by `most`, within `time`.
    fn request(&mut self, gateway: usize, time: u64, natural: u32, most: u32) {
        let request = Request {
            ask: self.ask(most),
            natural,
            since: 0,
        };
        self.after(time, gateway, Event::Arrive(Box::new(request)));
    }

    fn view(&self, gateway: usize) -> View {
        let number = GatewayNumber(gateway as u32);
        View::of(&self.leaf, number, Height(self.height), Time(self.now))
    }

    /// The rule of the ledger: DESIGN 4.2 and 4.4.
    fn lease(&mut self, gateway: usize, wanted: u64, worst: u64) -> LeaseNumber {
        self.height += 1;
        self.outcome.transactions += 1;
        let number = LeaseNumber(self.gateways[gateway].last_lease + 1);
        self.gateways[gateway].last_lease = number.0;
        let free = &mut self.leaf.grants[0].free.0;
        let granted = wanted.min((*free / 2).max(worst.min(*free)));
        *free -= granted;
        let owner = GatewayNumber(gateway as u32);
        let mut recalled = Vec::new();
        if granted < wanted {
            for lease in &mut self.leaf.leases {
                if lease.gateway != owner && lease.recall == Recall::No {
                    lease.recall = Recall::Wanted;
                    recalled.push(lease.gateway.0 as usize);
                }
            }
        }
        let part = LeasePart {
            grant: GrantNumber(1),
            amount: Amount(granted),
        };
        if granted > 0 {
            self.leaf.leases.push(OpenLease {
                gateway: owner,
                number,
                class: CLASS,
                api_key: PAIR.1,
                granted: Amount(granted),
                parts: List::new(vec![part]).unwrap(),
                opened: Time(self.now),
                end: Time(self.now + self.lease_time),
                table: TableVersion(1),
                recall: Recall::No,
                ended: None,
            });
        }
        // Who watches the chain looks at the account again.
        for gateway in recalled {
            self.soon(gateway, Event::Refresh);
        }
        number
    }

    fn open(&mut self, gateway: usize, number: LeaseNumber) -> Option<usize> {
        let owner = GatewayNumber(gateway as u32);
        self.leaf
            .leases
            .iter()
            .position(|lease| (lease.gateway, lease.number) == (owner, number))
    }

    fn perform(&mut self, gateway: usize, jobs: Vec<Job>) {
        for job in jobs {
            match job {
                Job::Lease { wanted, worst, .. } => {
                    self.soon(gateway, Event::Lease { wanted, worst })
                }
                Job::Refresh { .. } => self.soon(gateway, Event::Refresh),
                Job::Return { lease, after, .. } => {
                    self.soon(gateway, Event::Return { lease, after });
                }
            }
        }
    }

    fn give_back(&mut self, gateway: usize) {
        let mut jobs = Vec::new();
        let now = self.instant();
        self.gateways[gateway]
            .account
            .returns(now, false, &mut jobs);
        self.perform(gateway, jobs);
    }

    /// Gives the lane's head its turn until it must wait.
    fn turn(&mut self, gateway: usize) {
        let now = self.instant();
        while let Some(mut request) = self.gateways[gateway].lane.pop_front() {
            let mut jobs = Vec::new();
            let account = self.gateways[gateway].account.clone();
            let waiting = self.gateways[gateway].lane.len() + 1;
            account.waiting.store(waiting, Ordering::Relaxed);
            let step = account.step(&request.ask, now, &mut jobs);
            self.perform(gateway, jobs);
            self.outcome.longest = self.outcome.longest.max(self.now - request.since);
            match step {
                Step::Wait => {
                    self.gateways[gateway].lane.push_front(request);
                    return;
                }
                Step::Count => {
                    request.ask.counted(Some(INPUT)).unwrap();
                    self.gateways[gateway].lane.push_front(request);
                }
                Step::Refuse(refusal) => {
                    self.outcome.refused.push((refusal, request.natural));
                }
                Step::Reserved(reservation) => self.start(gateway, &request, reservation),
            }
            let waiting = self.gateways[gateway].lane.len();
            account.waiting.store(waiting, Ordering::Relaxed);
            self.give_back(gateway);
        }
    }

    fn start(&mut self, gateway: usize, request: &Request, reservation: Reservation) {
        if reservation.output < request.ask.full().2 {
            let others = self.gateways.iter().map(|gateway| gateway.running);
            assert_eq!(others.sum::<usize>(), 0, "lowered while others ran");
        }
        if reservation.output < request.natural {
            self.outcome.short.push(reservation.output);
        } else {
            self.outcome.full.push(request.natural);
        }
        self.outcome.waited += usize::from(self.now > request.since);
        self.gateways[gateway].running += 1;
        let natural = request.natural;
        let running = Running {
            reservation,
            natural,
        };
        self.after(self.think, gateway, Event::Settle(running));
    }

    fn settle(&mut self, i: usize, running: &Running) {
        let Reservation {
            mut lease,
            mut limit,
            output,
            ..
        } = running.reservation;
        let charged = price(running.natural.min(output));
        assert!(charged <= limit);
        // First it gives back a part, or moves, as running holds do.
        if self.random.up_to(1) == 0 {
            let by = self.random.up_to(limit - charged);
            self.gateways[i].account.lowered(lease, by);
            limit -= by;
        }
        let topping = Topping {
            lease,
            class: CLASS,
            key: &self.key,
            table: TableVersion(1),
            limit,
            least: limit,
            most: limit,
        };
        let (mut jobs, now) = (Vec::new(), self.instant());
        let account = self.gateways[i].account.clone();
        if self.random.up_to(3) == 0
            && let More::Got(to, moved) = account.renew(&topping, now, &mut jobs)
        {
            assert_eq!(moved, limit);
            account.left(lease, limit);
            lease = to;
        }
        self.perform(i, jobs);
        let gateway = &mut self.gateways[i];
        gateway.running -= 1;
        gateway.last_debit += 1;
        *gateway.charged.entry(lease).or_default() += charged;
        let debit = Some(DebitNumber(gateway.last_debit));
        gateway.account.released(lease, limit, charged, debit);
        gateway.unproven.push_back((lease, charged));
        self.soon(i, Event::Charge);
        self.give_back(i);
    }

    fn charge(&mut self, i: usize) {
        let next = self.gateways[i].unproven.pop_front();
        let (lease, charged) = next.expect("as many as were made");
        let at = self.open(i, lease).expect("returned before its debits");
        let open = &mut self.leaf.leases[at];
        let left = open.remaining().0.checked_sub(charged);
        let part = LeasePart {
            grant: GrantNumber(1),
            amount: Amount(left.expect("I3: charged above the lease")),
        };
        open.parts = List::new(vec![part]).unwrap();
        self.spent += charged;
        self.height += 1;
        self.gateways[i].proven += 1;
    }

    fn happen(&mut self, i: usize, event: Event) {
        let now = self.instant();
        match event {
            Event::Arrive(mut request) => {
                request.since = self.now;
                self.gateways[i].lane.push_back(*request);
            }
            Event::Settle(running) => self.settle(i, &running),
            Event::Charge => self.charge(i),
            Event::Lease { wanted, worst } => {
                let number = self.lease(i, wanted, worst);
                self.soon(i, Event::Proof { number, worst });
            }
            Event::Proof { number, worst } => {
                let account = self.gateways[i].account.clone();
                account.viewed(self.view(i), now);
                match self.open(i, number) {
                    None => account.not_granted(PAIR, NoGrant::Dry, now),
                    Some(at) => {
                        let amount = self.leaf.leases[at].remaining().0;
                        let granted = Granted {
                            number,
                            amount,
                            table: TableVersion(1),
                            height: Height(self.height),
                            until: now + Duration::from_millis(self.lease_time),
                        };
                        self.look(self.now + self.lease_time, i);
                        let short = if amount < worst {
                            Short::Balance
                        } else {
                            Short::No
                        };
                        account.granted(PAIR, granted, short, now);
                    }
                }
            }
            Event::Refresh => {
                let view = self.view(i);
                self.gateways[i].account.viewed(view, now);
                self.give_back(i);
            }
            Event::Return { lease, after } if self.gateways[i].proven < after.0 => {
                self.soon(i, Event::Return { lease, after });
            }
            Event::Return { lease, .. } => {
                let at = self.open(i, lease).expect("returned once");
                let open = self.leaf.leases.remove(at);
                self.outcome.transactions += 1;
                self.leaf.grants[0].free.0 += open.remaining().0;
                self.height += 1;
                self.soon(i, Event::Closed(lease));
            }
            Event::Closed(lease) => {
                let view = self.view(i);
                self.gateways[i].account.viewed(view, now);
                self.gateways[i].account.closed(lease);
            }
            Event::Look => self.give_back(i),
        }
    }

    /// Conservation, at the chain and per lease at each gateway.
    fn check(&self) {
        let leased: u64 = self.leaf.leases.iter().map(|l| l.remaining().0).sum();
        assert_eq!(
            self.leaf.grants[0].free.0 + leased + self.spent,
            self.balance
        );
        for gateway in &self.gateways {
            for lease in &gateway.account.inner().leases {
                let charged = gateway.charged.get(&lease.number).copied().unwrap_or(0);
                assert_eq!(lease.free + lease.held + charged, lease.granted);
            }
        }
    }

    /// Where everybody stands, for a failure's message.
    fn told(&self) -> String {
        let mut told = format!("a request waits for ever; {:#?}", self.leaf.leases);
        for gateway in &self.gateways {
            told += &format!("\n{} wait; {:#?}", gateway.lane.len(), gateway.account);
        }
        told
    }

    fn run(mut self) -> Outcome {
        let mut looked = 0;
        while let Some(((at, _), (gateway, event))) = self.events.pop_first() {
            self.now = at;
            self.happen(gateway, event);
            for i in 0..self.gateways.len() {
                self.turn(i);
            }
            self.check();
            let waits = self.gateways.iter().any(|gateway| !gateway.lane.is_empty());
            if waits && looked <= self.now {
                looked = self.now + 100;
                self.look(looked, 0);
            }
            assert!(self.outcome.longest <= WAIT, "{}", self.told());
        }
        assert!(self.gateways.iter().all(|gateway| gateway.running == 0));
        let charged: u64 = self.gateways.iter().flat_map(|g| g.charged.values()).sum();
        assert_eq!(charged, self.spent);
        self.outcome
    }
}

mod fixtures;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod tests;
