//! Nobody is forgotten in a queue, whatever happens to its engine meanwhile.

use std::time::Duration;

use tokio::task::JoinSet;

use tally_ledger::ids::Amount;

use super::*;

fn station(places: usize) -> Arc<Station> {
    let mut upstream = Upstream::for_tests(16);
    upstream.concurrency = Some(places);
    Arc::new(Station::new(1, upstream, &Metrics::shared()))
}

fn offer(account: u32) -> Offer {
    Offer {
        fee: Amount::ZERO,
        worth: steady_ms().into(),
        account: AccountNumber(account),
    }
}

/// Comes until it has had a place; the engine says `outcome`.
async fn visit(station: Arc<Station>, account: u32, outcome: Outcome) {
    loop {
        let mut place = match station.enter(offer(account)) {
            Some(Entered::Place(place)) => place,
            Some(Entered::Waiting(waiting)) => match waiting.turn().await {
                Some(place) => place,
                None => continue,
            },
            // Down, or full: comes again.
            None => {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
        };
        tokio::task::yield_now().await;
        place.began(outcome);
        return;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_joins_while_an_engine_goes_and_comes_is_served() {
    let station = station(2);
    let mut visits = JoinSet::new();
    for i in 0..400u32 {
        let outcome = match i % 100 {
            0 => Outcome::Away,
            1..10 => Outcome::Failed,
            _ => Outcome::Answered,
        };
        visits.spawn(visit(station.clone(), i % 7, outcome));
        if i % 16 == 0 {
            tokio::task::yield_now().await;
        }
        // Checks say so and so; a reload changes it and changes it back.
        if i % 50 == 25 {
            station.checked(i % 100 == 25, 1);
        }
        if i % 100 == 50 {
            let mut upstream = (*station.upstream()).clone();
            upstream.queue = 200 + i as usize;
            station.change(upstream).again();
        }
    }
    let all = async { while visits.join_next().await.is_some() {} };
    let served = tokio::time::timeout(Duration::from_secs(60), all).await;
    assert!(served.is_ok(), "somebody waits for ever: {station:?}");
    let inner = station.lock();
    assert_eq!((inner.queue.running(), inner.queue.waiting()), (0, 0));
}

#[tokio::test]
async fn a_closed_station_takes_nobody_and_sends_all_away() {
    let station = station(1);
    let Some(Entered::Place(place)) = station.enter(offer(0)) else {
        panic!("it is free");
    };
    let Some(Entered::Waiting(waiting)) = station.enter(offer(0)) else {
        panic!("it waits");
    };
    station.close().again();
    assert!(waiting.turn().await.is_none());
    assert!(station.enter(offer(0)).is_none());
    assert_eq!(station.standing(offer(0), 0), Standing::Down(1_000));
    // Who runs there ends as ever.
    drop(place);
    assert_eq!(station.lock().queue.running(), 0);
}
