//! What the policy of leases costs a company: many accounts over eight
//! gateways for an hour, with a load balancer that keeps each account on one
//! gateway (sticky) and with one that does not (random). Accounts share
//! nothing, so each is a world of its own.
//!
//! `cargo test -p tally-gateway-adapter fleet -- --nocapture` prints the
//! table.

use super::*;

const GATEWAYS: u32 = 8;
const HOUR: u64 = 3_600_000;
/// Longest answer of the chain, two ways of it each half; ms.
const CHAIN: u64 = 60;
/// Longest answer of an engine, ms.
const ENGINE: u64 = 20_000;
/// Largest output that requests leave room for, and largest that comes.
const MOST: u32 = 4_096;
const NATURAL: u64 = 1_024;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Balancer {
    Sticky,
    Random,
}

/// Sums over accounts.
#[derive(Debug, Default)]
struct Fleet {
    requests: usize,
    waited: usize,
    refused: usize,
    lowered: usize,
    transactions: usize,
    longest: u64,
}

impl Fleet {
    fn waited_percent(&self) -> f64 {
        100.0 * self.waited as f64 / self.requests as f64
    }

    fn per_request(&self) -> f64 {
        self.transactions as f64 / self.requests as f64
    }
}

/// An hour of `accounts` that make `requests` each, all within balance.
fn hour(accounts: u64, requests: usize, balancer: Balancer) -> Fleet {
    let mut fleet = Fleet::default();
    for account in 0..accounts {
        // Three times what the longest answers would cost together.
        let balance = 3 * requests as u64 * price(MOST);
        let mut world = World::new(account, GATEWAYS, balance);
        world.delay = CHAIN;
        world.think = ENGINE;
        world.lease_time = 300_000;
        for _ in 0..requests {
            let gateway = match balancer {
                Balancer::Sticky => account % u64::from(GATEWAYS),
                Balancer::Random => world.random.up_to(u64::from(GATEWAYS) - 1),
            };
            let natural = 16 + world.random.up_to(NATURAL - 16) as u32;
            world.request(gateway as usize, HOUR, natural, MOST);
        }
        // `run` asserts I1 and I3 after each step.
        let outcome = world.run();
        fleet.requests += requests;
        fleet.waited += outcome.waited;
        fleet.refused += outcome.refused.len();
        fleet.lowered += outcome.short.len();
        fleet.transactions += outcome.transactions;
        fleet.longest = fleet.longest.max(outcome.longest);
    }
    fleet
}

#[test]
fn a_fleet_waits_rarely_and_is_refused_nothing_it_can_pay() {
    println!(
        "accounts  requests/h  balancer  waited  longest  refused  lowered  transactions/request"
    );
    for (accounts, requests, balancer) in [
        (500, 180, Balancer::Sticky),
        (500, 180, Balancer::Random),
        (5_000, 6, Balancer::Sticky),
        (5_000, 6, Balancer::Random),
    ] {
        let fleet = hour(accounts, requests, balancer);
        let (waited, each) = (fleet.waited_percent(), fleet.per_request());
        println!(
            "{accounts:8}  {requests:10}  {balancer:8?}  {waited:5.1}%  {:4} ms  {:7}  {:7}  {each:.3}",
            fleet.longest, fleet.refused, fleet.lowered,
        );
        assert_eq!((fleet.refused, fleet.lowered), (0, 0));
        if requests > 100 && balancer == Balancer::Sticky {
            assert!(waited < 5.0, "{waited}");
            assert!(each < 0.35, "{each}");
        }
    }
}
