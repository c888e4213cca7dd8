//! Consensus of Tally: the binding to the Malachite engine, and the gossip of
//! transactions.
//!
//! Nothing of the engine's types leaves this crate. The node implements
//! [`Application`], calls [`start`], or [`solo::start`] for one validator
//! alone, and holds a [`Handle`]. Block bodies and transactions are opaque
//! bytes here.

mod application;
#[doc(hidden)]
pub mod bare;
mod calls;
#[doc(hidden)]
pub mod codec;
mod config;
#[doc(hidden)]
pub mod context;
pub mod disk;
mod effort;
mod engine;
pub mod gossip;
#[doc(hidden)]
pub mod guard;
mod handle;
mod host;
mod origins;
mod pace;
mod parts;
mod relay;
mod signer;
pub mod solo;
mod undecided;
mod verifier;
mod wal;

pub use application::{
    Application, Candidate, Decision, Effort, Fatal, Pace, Slot, Source, Verdict, Wake,
};
pub use config::{Config, Keys, Timeouts, peer_id};
pub use engine::{metrics, start, start_on};
pub use guard::Guard;
pub use handle::{ConsensusError, Handle, Mode, Observing, SentVote, Status, Stop};
pub use libp2p::{Multiaddr, PeerId};
