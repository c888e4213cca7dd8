//! The gateway between a chain and an engine, both in this process: what each
//! request is charged, whatever happens to it. One program for all, so that
//! it is linked once.
#![allow(clippy::unwrap_used)]

mod support;

mod balance;
mod budget;
mod chain;
mod dialects;
mod drain;
mod encoding;
mod endings;
mod envoy;
mod free;
mod held_up;
mod listener;
mod logs;
mod meter;
mod metrics;
mod overload;
mod queue;
mod rates;
mod reload;
mod repeats;
mod restart;
mod routes;
mod running;
mod starts;
mod submit_debits;
mod surface;
mod upstreams;
