//! What the simulated gateways must come to, over many seeds.

use super::*;

fn spent(outcome: &Outcome) -> u64 {
    let outputs = outcome.full.iter().chain(&outcome.short);
    outputs.map(|output| price(*output)).sum()
}

#[test]
fn a_balance_for_a_hundred_serves_exactly_a_hundred() {
    for seed in 0..200 {
        for gateways in [1, 3] {
            let mut world = World::new(seed, gateways, 100 * price(10));
            for i in 0..300 {
                // The limit is the output, or what the engine would make.
                let most = if seed % 2 == 0 { 10 } else { 100 };
                world.request(i % gateways as usize, 2_000, 10, most);
            }
            let outcome = world.run();
            let counts = (outcome.full.len(), outcome.short.len());
            assert_eq!(counts, (100, 0), "seed {seed}, {gateways} gateways");
            let insufficient = |(refusal, _): &(Refusal, u32)| *refusal == Refusal::Insufficient;
            assert!(outcome.refused.iter().all(insufficient));
            assert_eq!(outcome.refused.len(), 200);
        }
    }
}

#[test]
fn outputs_of_all_lengths_leave_less_than_the_cheapest_refused() {
    for seed in 0..200 {
        for gateways in [1, 3] {
            let balance = 60 * price(500);
            let mut world = World::new(seed, gateways, balance);
            for i in 0..200 {
                let natural = 16 + world.random.up_to(1_008) as u32;
                let most = if i % 2 == 0 { natural } else { 1_024 };
                world.request(i % gateways as usize, 3_000, natural, most);
            }
            let outcome = world.run();
            let left = balance - spent(&outcome);
            // One token more could not be paid.
            assert!(left < price(1), "seed {seed}: {left} left");
            let refused = outcome.refused.len();
            assert_eq!(outcome.full.len() + outcome.short.len() + refused, 200);
        }
    }
}

#[test]
fn rests_of_idle_gateways_go_to_the_one_that_asks() {
    for seed in 0..200 {
        // Each gateway serves one request, and keeps a rest. Then one asks
        // for nearly all.
        let balance = 3 * price(10) + price(1_000);
        let mut world = World::new(seed, 3, balance);
        for i in 0..3 {
            world.request(i, 500, 10, 10);
        }
        world.now = 5_000;
        world.request(seed as usize % 3, 10, 1_000, 1_000);
        world.now = 0;
        let outcome = world.run();
        assert_eq!(outcome.full.len(), 4, "seed {seed}: {outcome:?}");
    }
}
