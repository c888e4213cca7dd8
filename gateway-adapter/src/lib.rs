//! A metering gateway in front of an inference engine: asks the ledger for
//! leases, holds inside them for each request, journals what was served, and
//! submits signed debits. See the folder's README for what it guarantees.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod account;
pub mod ask;
pub mod chain;
pub mod clock;
pub mod config;
pub mod cores;
pub mod envoy;
pub mod error;
pub mod gateway;
pub mod headers;
pub mod holds;
pub mod job;
pub mod journal;
pub mod key;
pub mod lease;
pub mod live;
pub mod metering;
pub mod metrics;
pub mod pool;
pub mod proxy;
pub mod rates;
pub mod refusal;
pub mod repeats;
pub mod routing;
pub mod serving;
pub mod usage;
pub mod view;

pub use config::GatewayConfig;
pub use error::GatewayError;
pub use gateway::{Gateway, run_gateway};
