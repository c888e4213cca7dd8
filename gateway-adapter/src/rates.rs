//! Requests and LLM tokens per minute, for each API key, each account and
//! each class.
//!
//! A request takes one request and its likely tokens (the prompt's, and the
//! output that its hold may have) before its hold is made; when it is settled
//! the tokens that it used count instead, so an estimate never costs anybody
//! more than a moment. What is used beyond the estimate is owed. Whatever is
//! refused takes nothing. Numbers are this gateway's own, its [`limits`] a
//! share of the chain's; when they change, what was used stays used.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use http::{HeaderMap, HeaderValue};
use tally_ledger::{
    ids::{AccountNumber, ApiKeyNumber, ClassNumber},
    price::{Model, Usage},
};

use crate::{
    ask::{Ask, Need},
    chain::{fleet::Share, terms::Terms},
    clock::steady_ms,
    config::{Rate, Rates as Local},
    headers::{REQUESTS, RateNames, TOKENS},
    key::Key,
    refusal::Refusal,
    usage::{INPUT, OUTPUT},
};

pub mod bucket;
pub mod limits;

use bucket::Bucket;
use limits::{Chain, Limits};

/// Maps of buckets, each with its own lock.
const SHARDS: usize = 64;

/// What a limit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Scope {
    Key(ApiKeyNumber),
    Account(AccountNumber),
    /// All accounts together.
    Class(ClassNumber),
}

impl Scope {
    fn shard(self) -> usize {
        let number = match self {
            Scope::Key(key) => key.0,
            Scope::Account(account) => account.0,
            Scope::Class(class) => class.0.into(),
        };
        number as usize % SHARDS
    }
}

#[derive(Debug, Default)]
struct Buckets {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

impl Buckets {
    /// Lets time pass, at the rate that there is now.
    fn refill(&mut self, rate: Rate, now: u64) {
        let both = [
            (&mut self.requests, rate.requests),
            (&mut self.tokens, rate.tokens),
        ];
        for (bucket, most) in both {
            let Some(most) = most else {
                *bucket = None;
                continue;
            };
            let bucket = bucket.get_or_insert_with(|| Bucket::new(most, now));
            if bucket.most() != most {
                bucket.change(most, now);
            }
            bucket.refill(now);
        }
    }

    fn is_full(&self) -> bool {
        let both = [&self.requests, &self.tokens];
        both.into_iter()
            .flatten()
            .all(|bucket| bucket.reset_ms() == 0)
    }

    /// Takes a request and its tokens, or nothing.
    fn take(&mut self, tokens: u64) -> Result<(), Refusal> {
        let wait = |bucket: &Option<Bucket>, amount| bucket.map_or(0, |bucket| bucket.wait(amount));
        let waits = (wait(&self.requests, 1), wait(&self.tokens, tokens));
        if waits != (0, 0) {
            return Err(Refusal::RateLimited {
                retry_ms: u32::try_from(waits.0.max(waits.1)).unwrap_or(u32::MAX),
                tokens: waits.1 > waits.0,
            });
        }
        if let Some(requests) = &mut self.requests {
            requests.take(1);
        }
        if let Some(bucket) = &mut self.tokens {
            bucket.take(tokens);
        }
        Ok(())
    }
}

/// The limits of now, and what they are made of: each part is the newest,
/// whichever changes first.
#[derive(Debug)]
struct Now {
    local: Local,
    chain: Chain,
    limits: Arc<Limits>,
}

impl Now {
    fn new(local: Local, chain: Chain) -> Self {
        Now {
            limits: Arc::new(Limits::new(&local, &chain)),
            local,
            chain,
        }
    }
}

/// All limits, and what is left of them.
#[derive(Debug)]
pub struct Rates {
    now: RwLock<Now>,
    shards: Vec<Mutex<HashMap<Scope, Buckets>>>,
}

/// What a request has taken; dropped, its tokens are given back.
#[derive(Debug)]
pub struct Pass {
    rates: Arc<Rates>,
    limits: Arc<Limits>,
    scopes: Vec<Scope>,
    tokens: u64,
}

/// LLM tokens of a usage.
fn tokens(model: &Model, usage: &Usage) -> u64 {
    let of = |name| model.meter(name).map_or(0, |meter| usage.0[meter].into());
    of(INPUT) + of(OUTPUT)
}

/// The tokens that a request is likely to use: its prompt's, as far as they
/// are known, and all of its output, if it may have no more than `most`.
fn likely(ask: &Ask, most: u32) -> u64 {
    match ask.need {
        Need::Exact(usage) => tokens(ask.model(), &usage),
        Need::Tokens { input, output, .. } => {
            let prompt = ask.mark.map(|mark| tokens(ask.model(), &mark));
            prompt.unwrap_or(input.into()) + u64::from(output.min(most))
        }
    }
}

/// A key and its account.
fn scopes(key: &Key) -> [Scope; 2] {
    [Scope::Key(key.number), Scope::Account(key.account.number)]
}

impl Limits {
    fn of(&self, scope: Scope) -> Rate {
        match scope {
            Scope::Key(_) => self.key,
            Scope::Account(_) => self.account,
            Scope::Class(class) => self.class(class),
        }
    }
}

impl Rates {
    /// Limits of this configuration and of the chain.
    pub fn new(local: Local, terms: &Terms, share: Share) -> Arc<Self> {
        Self::of(Now::new(local, Chain::of(terms, share)))
    }

    fn of(now: Now) -> Arc<Self> {
        Arc::new(Rates {
            now: RwLock::new(now),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        })
    }

    /// The chain's limits, or this gateway's share of them, have changed.
    pub fn apply(&self, terms: &Terms, share: Share) {
        self.follow(Chain::of(terms, share));
    }

    fn follow(&self, chain: Chain) {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        *now = Now::new(now.local.clone(), chain);
    }

    /// This gateway's own limits have changed.
    pub fn change(&self, local: Local) {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        *now = Now::new(local, now.chain.clone());
    }

    fn limits(&self) -> Arc<Limits> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        now.limits.clone()
    }

    fn shard(&self, scope: Scope) -> MutexGuard<'_, HashMap<Scope, Buckets>> {
        let shard = &self.shards[scope.shard()];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a request in by its key and account.
    pub fn admit(self: &Arc<Self>, ask: &Ask) -> Result<Pass, Refusal> {
        let mut pass = Pass {
            rates: self.clone(),
            limits: self.limits(),
            scopes: Vec::new(),
            tokens: likely(ask, u32::MAX),
        };
        for scope in scopes(&ask.key) {
            pass.take(scope)?;
        }
        Ok(pass)
    }

    /// Writes what is left to a key: of its own limits and its account's the
    /// ones with less.
    pub fn tell(&self, key: &Key, headers: &mut HeaderMap) {
        let (now, limits) = (steady_ms(), self.limits());
        let (mut requests, mut tokens): (Vec<Bucket>, Vec<Bucket>) = Default::default();
        for scope in scopes(key) {
            let rate = limits.of(scope);
            if rate.is_none() {
                continue;
            }
            let mut shard = self.shard(scope);
            let mut of = shard.remove(&scope).unwrap_or_default();
            of.refill(rate, now);
            requests.extend(of.requests);
            tokens.extend(of.tokens);
            shard.insert(scope, of);
        }
        for (names, buckets) in [(REQUESTS, requests), (TOKENS, tokens)] {
            let least = buckets.iter().min_by_key(|bucket| bucket.remaining());
            if let Some(bucket) = least {
                write(names, bucket, headers);
            }
        }
    }

    /// Forgets whoever has used nothing for a minute.
    pub fn sweep(&self) {
        let (now, limits) = (steady_ms(), self.limits());
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|scope, buckets| {
                buckets.refill(limits.of(*scope), now);
                !buckets.is_full()
            });
        }
    }
}

impl Pass {
    fn take(&mut self, scope: Scope) -> Result<(), Refusal> {
        let rate = self.limits.of(scope);
        if rate.is_none() {
            return Ok(());
        }
        let taken = {
            let mut shard = self.rates.shard(scope);
            let buckets = shard.entry(scope).or_default();
            buckets.refill(rate, steady_ms());
            buckets.take(self.tokens)
        };
        match taken {
            Ok(()) => self.scopes.push(scope),
            Err(refusal) => {
                // Nothing was served: not even the request counts.
                self.give(1, self.tokens);
                self.scopes.clear();
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// The request has a hold of this class that pays for so much output: if
    /// it was lowered, or the prompt was counted, that is likely from now on.
    pub fn with_class(
        &mut self,
        ask: &Ask,
        class: ClassNumber,
        output: u32,
    ) -> Result<(), Refusal> {
        let before = std::mem::replace(&mut self.tokens, likely(ask, output));
        self.give(0, before.saturating_sub(self.tokens));
        self.owe(self.tokens.saturating_sub(before));
        self.take(Scope::Class(class))
    }

    /// Takes more tokens, whether they are there or not.
    fn owe(&self, tokens: u64) {
        if tokens == 0 {
            return;
        }
        for scope in &self.scopes {
            let mut shard = self.rates.shard(*scope);
            // Whose bucket was full meanwhile was forgotten, but owes this.
            let buckets = shard.entry(*scope).or_default();
            buckets.refill(self.limits.of(*scope), steady_ms());
            let of_tokens = &mut buckets.tokens;
            of_tokens.iter_mut().for_each(|bucket| bucket.take(tokens));
        }
    }

    fn give(&self, requests: u64, tokens: u64) {
        for scope in &self.scopes {
            if let Some(buckets) = self.rates.shard(*scope).get_mut(scope) {
                let (of_requests, of_tokens) = (&mut buckets.requests, &mut buckets.tokens);
                of_requests
                    .iter_mut()
                    .for_each(|bucket| bucket.give(requests));
                of_tokens.iter_mut().for_each(|bucket| bucket.give(tokens));
            }
        }
    }

    /// The request has used this: it counts instead of what was likely.
    pub fn settle(&mut self, model: &Model, usage: &Usage) {
        let used = tokens(model, usage);
        self.give(0, self.tokens.saturating_sub(used));
        self.owe(used.saturating_sub(self.tokens));
        self.scopes.clear();
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.give(0, self.tokens);
    }
}

fn write(names: RateNames, bucket: &Bucket, headers: &mut HeaderMap) {
    let values = [
        bucket.most().to_string(),
        bucket.remaining().to_string(),
        duration(bucket.reset_ms()),
    ];
    for (name, value) in names.into_iter().zip(values) {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

/// A time as Go writes it: `6m0s`, `1.5s`, `120ms`.
fn duration(ms: u64) -> String {
    if ms > 0 && ms < 1_000 {
        return format!("{ms}ms");
    }
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    let fraction = match ms % 1_000 {
        0 => String::new(),
        rest => format!(".{rest:03}").trim_end_matches('0').to_owned(),
    };
    let seconds = format!("{}{fraction}s", ms / 1_000 % 60);
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(requests: u32) -> Local {
        let account = Rate {
            requests: Some(requests),
            tokens: None,
        };
        Local {
            account,
            ..Local::default()
        }
    }

    #[test]
    fn a_debt_counts_after_its_bucket_was_forgotten() {
        let rates = Rates::of(Now::new(own(10), Chain::for_tests(100)));
        let scope = Scope::Account(AccountNumber(3));
        let pass = Pass {
            limits: rates.limits(),
            scopes: vec![scope],
            tokens: 0,
            rates: rates.clone(),
        };
        rates.sweep();
        assert!(rates.shard(scope).is_empty());
        pass.owe(250);
        rates.sweep();
        let tokens = rates.shard(scope)[&scope].tokens.unwrap();
        assert_eq!(tokens.remaining(), 0);
        // Two and a half minutes' worth were taken of one; time passes.
        assert!(tokens.reset_ms() > 140_000, "{}", tokens.reset_ms());
    }

    #[test]
    fn the_newest_of_either_part_is_in_force_whichever_changes_first() {
        for chain_first in [true, false] {
            let rates = Rates::of(Now::new(own(10), Chain::for_tests(100)));
            if chain_first {
                rates.follow(Chain::for_tests(70));
                rates.change(own(20));
            } else {
                rates.change(own(20));
                rates.follow(Chain::for_tests(70));
            }
            let account = rates.limits().account;
            assert_eq!((account.requests, account.tokens), (Some(20), Some(70)));
        }
    }

    #[test]
    fn durations_are_written_as_go_does() {
        for (ms, text) in [
            (0, "0s"),
            (120, "120ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (12_034, "12.034s"),
            (360_000, "6m0s"),
            (3_600_000, "1h0m0s"),
            (3_725_100, "1h2m5.1s"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }
}
