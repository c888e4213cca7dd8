//! Notices: what validators tell each other now and then beside consensus,
//! such as signatures of checkpoints. Small, rare, and repeated by whoever
//! sends them: one that is lost is not missed.

use bytes::Bytes;
use libp2p::StreamProtocol;

use super::{Direct, Incoming, inbound::Rate};

pub(super) const PROTOCOL: StreamProtocol = StreamProtocol::new("/tally/notices/1");
/// Most bytes of a notice.
pub const MAX_NOTICE_BYTES: usize = 1 << 10;
/// Most bytes that wait for one peer.
pub(super) const ROOM: usize = 64 << 10;
/// What is read of one peer; each notice may cost its reader a signature.
pub(super) const RATE: Rate = Rate {
    frames: 50,
    bytes: 64 << 10,
};

/// The streams for notices to all peers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notices(pub(super) Direct);

impl Notices {
    /// Sends a notice to all peers that are reached. `false`: it is too large.
    pub fn send(&self, notice: &Bytes) -> bool {
        if notice.len() > MAX_NOTICE_BYTES {
            return false;
        }
        self.0.send(notice);
        true
    }

    /// What comes from now on; whoever received before gets no more.
    pub fn receive(&self) -> Incoming {
        self.0.receive()
    }
}
