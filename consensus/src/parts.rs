//! Putting streamed bodies together, within bounds that hold whatever peers
//! send. Pure: no clock, no disk.
//!
//! A stream is: sequence 0 with [`Part::Init`], then [`Part::Data`] pieces of
//! [`PART_BYTES`], the last one shorter, then the end. Nothing in it is
//! signed; what it yields counts only if a signed proposal names its id.
//!
//! A peer that delivers streams is charged for them: so many open at a time,
//! the oldest one giving way; so many bytes and pieces each. A stream that
//! breaks a rule is dropped whole, and forgotten.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use libp2p::PeerId;
use tally_ledger::ids::Height;

use crate::{
    codec::{PART_BYTES, STREAM_ID_BYTES},
    context::Part,
};

/// Streams that one peer may have open here.
const STREAMS_PER_PEER: usize = 4;
/// Heights above the committed one that are taken.
pub(crate) const HEIGHTS_AHEAD: u64 = 3;

/// One message of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    /// The neighbour that delivered it; it is charged.
    pub(crate) from: PeerId,
    /// The peer that made the stream.
    pub(crate) publisher: PeerId,
    /// The stream's name, unique per publisher.
    pub(crate) stream: Bytes,
    /// Place in the stream, from 0.
    pub(crate) sequence: u64,
    /// The part, or the end.
    pub(crate) part: Option<Part>,
}

/// A body, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assembled {
    /// Who made the stream.
    pub(crate) publisher: PeerId,
    /// Its height.
    pub(crate) height: Height,
    /// Its round.
    pub(crate) round: u32,
    /// The round of an earlier polka, if the stream says so.
    pub(crate) pol_round: Option<u32>,
    /// The bytes.
    pub(crate) body: Bytes,
}

/// What a message did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// More is needed; the height, if it is known already.
    Incomplete(Option<Height>),
    /// That was the last one.
    Complete(Assembled),
    /// The stream broke a rule and is gone.
    Dropped(&'static str),
}

#[derive(Debug, Default)]
struct Stream {
    init: Option<(Height, u32, Option<u32>)>,
    pieces: BTreeMap<u64, Bytes>,
    bytes: usize,
    end: Option<u64>,
}

type StreamKey = (PeerId, Bytes);

/// The open streams.
#[derive(Debug)]
pub(crate) struct Assembler {
    max_body: usize,
    committed: Height,
    streams: BTreeMap<StreamKey, Stream>,
    charged: BTreeMap<PeerId, VecDeque<StreamKey>>,
}

impl Assembler {
    /// For bodies of at most `max_body` bytes.
    pub(crate) fn new(max_body: usize, committed: Height) -> Self {
        Self {
            max_body,
            committed,
            streams: BTreeMap::new(),
            charged: BTreeMap::new(),
        }
    }

    /// Drops every stream of a height up to this one.
    pub(crate) fn commit(&mut self, committed: Height) {
        self.committed = committed;
        let stale = |stream: &Stream| stream.init.is_some_and(|init| init.0 <= committed);
        self.streams.retain(|_, stream| !stale(stream));
        for queue in self.charged.values_mut() {
            queue.retain(|key| self.streams.contains_key(key));
        }
        self.charged.retain(|_, queue| !queue.is_empty());
    }

    /// Takes one message.
    pub(crate) fn push(&mut self, piece: Piece) -> Outcome {
        if piece.stream.len() > STREAM_ID_BYTES {
            return Outcome::Dropped("the stream's name is too long");
        }
        let key = (piece.publisher, piece.stream.clone());
        if !self.streams.contains_key(&key) {
            self.open(piece.from, key.clone());
        }
        let (max_body, committed) = (self.max_body, self.committed);
        let stream = self.streams.get_mut(&key).expect("it was opened just now");
        if let Err(why) = stream.take(piece, max_body, committed) {
            self.close(&key);
            return Outcome::Dropped(why);
        }
        if !stream.complete() {
            return Outcome::Incomplete(stream.init.map(|init| init.0));
        }
        let stream = self.close(&key).expect("it is open");
        match stream.assemble(key.0) {
            Some(assembled) => Outcome::Complete(assembled),
            None => Outcome::Dropped("the stream has no beginning"),
        }
    }

    fn open(&mut self, from: PeerId, key: StreamKey) {
        let queue = self.charged.entry(from).or_default();
        if queue.len() >= STREAMS_PER_PEER
            && let Some(oldest) = queue.pop_front()
        {
            self.streams.remove(&oldest);
        }
        queue.push_back(key.clone());
        self.streams.insert(key, Stream::default());
    }

    fn close(&mut self, key: &StreamKey) -> Option<Stream> {
        for queue in self.charged.values_mut() {
            queue.retain(|open| open != key);
        }
        self.charged.retain(|_, queue| !queue.is_empty());
        self.streams.remove(key)
    }
}

impl Stream {
    fn take(
        &mut self,
        piece: Piece,
        max_body: usize,
        committed: Height,
    ) -> Result<(), &'static str> {
        // The beginning, full pieces, the end.
        let last = max_body.div_ceil(PART_BYTES) as u64 + 1;
        if piece.sequence > last || self.end.is_some_and(|end| piece.sequence > end) {
            return Err("the stream is too long");
        }
        match piece.part {
            Some(Part::Init {
                height,
                round,
                pol_round,
            }) => {
                let height = Height::from(height);
                let init = (height, round, pol_round);
                if piece.sequence != 0 || self.init.is_some_and(|known| known != init) {
                    return Err("a second beginning");
                }
                let ahead = committed.0.saturating_add(HEIGHTS_AHEAD);
                if height <= committed || height.0 > ahead {
                    return Err("not a height of now");
                }
                self.init = Some(init);
            }
            Some(Part::Data(bytes)) => {
                if piece.sequence == 0 || bytes.is_empty() || bytes.len() > PART_BYTES {
                    return Err("a piece out of form");
                }
                if self.pieces.contains_key(&piece.sequence) {
                    return Ok(());
                }
                self.bytes += bytes.len();
                if self.bytes > max_body {
                    return Err("the body is too large");
                }
                self.pieces.insert(piece.sequence, bytes);
            }
            None => {
                let beyond = self
                    .pieces
                    .last_key_value()
                    .is_some_and(|p| *p.0 >= piece.sequence);
                if piece.sequence == 0 || beyond || self.end.is_some_and(|e| e != piece.sequence) {
                    return Err("a second end");
                }
                self.end = Some(piece.sequence);
            }
        }
        Ok(())
    }

    fn complete(&self) -> bool {
        self.init.is_some()
            && self
                .end
                .is_some_and(|end| self.pieces.len() as u64 + 1 == end)
    }

    fn assemble(self, publisher: PeerId) -> Option<Assembled> {
        let (height, round, pol_round) = self.init?;
        let mut body = BytesMut::with_capacity(self.bytes);
        self.pieces
            .values()
            .for_each(|piece| body.extend_from_slice(piece));
        Some(Assembled {
            publisher,
            height,
            round,
            pol_round,
            body: body.freeze(),
        })
    }
}

/// The parts of a body, in order; the end follows them.
pub(crate) fn cut(
    height: Height,
    round: u32,
    pol_round: Option<u32>,
    body: &Bytes,
) -> impl Iterator<Item = Part> {
    let init = Part::Init {
        height: height.into(),
        round,
        pol_round,
    };
    let body = body.clone();
    let offsets = (0..body.len()).step_by(PART_BYTES);
    let pieces = offsets.map(move |at| Part::Data(body.slice(at..body.len().min(at + PART_BYTES))));
    std::iter::once(init).chain(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 3 * PART_BYTES + 17;

    fn peer(n: u8) -> PeerId {
        let key = libp2p::identity::Keypair::ed25519_from_bytes([n; 32]).unwrap();
        key.public().to_peer_id()
    }

    fn pieces(from: PeerId, name: u64, height: u64, body: &Bytes) -> Vec<Piece> {
        let parts = cut(Height(height), 2, Some(1), body)
            .map(Some)
            .chain([None]);
        let stream = Bytes::copy_from_slice(&name.to_be_bytes());
        let piece = |(sequence, part)| Piece {
            from,
            publisher: from,
            stream: stream.clone(),
            sequence: sequence as u64,
            part,
        };
        parts.enumerate().map(piece).collect()
    }

    fn body(length: usize) -> Bytes {
        (0..length).map(|i| (i * 31 % 251) as u8).collect()
    }

    /// Pushes all; what came of the last, and whether only that completed.
    fn push_all(assembler: &mut Assembler, pieces: Vec<Piece>) -> Outcome {
        let mut outcome = Outcome::Incomplete(None);
        for piece in pieces {
            assert!(
                !matches!(outcome, Outcome::Complete(_)),
                "complete before the last"
            );
            outcome = assembler.push(piece);
        }
        outcome
    }

    #[test]
    fn bodies_of_every_shape_come_together_in_any_order() {
        for length in [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, MAX] {
            let body = body(length);
            let forward = pieces(peer(1), 1, 1, &body);
            let backward: Vec<_> = forward.iter().rev().cloned().collect();
            let doubled: Vec<_> = forward[..forward.len() - 1]
                .iter()
                .chain(&forward[..forward.len() - 1])
                .chain(forward.last())
                .cloned()
                .collect();
            for order in [forward, backward, doubled] {
                let mut assembler = Assembler::new(MAX, Height(0));
                let Outcome::Complete(assembled) = push_all(&mut assembler, order) else {
                    panic!("a body of {length} bytes did not come together")
                };
                assert_eq!(assembled.body, body);
                assert_eq!((assembled.height, assembled.round), (Height(1), 2));
                assert_eq!(assembled.pol_round, Some(1));
                assert!(assembler.streams.is_empty() && assembler.charged.is_empty());
            }
        }
    }

    #[test]
    fn bodies_and_streams_that_are_too_large_are_dropped() {
        let mut assembler = Assembler::new(MAX, Height(0));
        let outcome = pieces(peer(1), 1, 1, &body(MAX + 1))
            .into_iter()
            .map(|piece| assembler.push(piece))
            .find(|outcome| matches!(outcome, Outcome::Dropped(_)));
        assert!(outcome.is_some());
        for sequence in [6, u64::MAX] {
            let part = Some(Part::Data(body(1)));
            let piece = Piece {
                sequence,
                part,
                ..pieces(peer(1), 2, 1, &body(1))[1].clone()
            };
            assert!(matches!(assembler.push(piece), Outcome::Dropped(_)));
        }
        let pieces = pieces(peer(1), 3, 1, &body(PART_BYTES));
        let part = Some(Part::Data(body(PART_BYTES + 1)));
        let large = Piece {
            part,
            ..pieces[1].clone()
        };
        assert!(matches!(assembler.push(large), Outcome::Dropped(_)));
        let empty = Piece {
            part: Some(Part::Data(Bytes::new())),
            ..pieces[1].clone()
        };
        assert!(matches!(assembler.push(empty), Outcome::Dropped(_)));
    }

    #[test]
    fn beginnings_and_ends_that_contradict_are_dropped() {
        let good = pieces(peer(1), 1, 1, &body(2 * PART_BYTES));
        let contradict = |first: &Piece, second: &Piece| {
            let mut assembler = Assembler::new(MAX, Height(0));
            assembler.push(first.clone());
            assert!(matches!(
                assembler.push(second.clone()),
                Outcome::Dropped(_)
            ));
            assert!(assembler.streams.is_empty() && assembler.charged.is_empty());
        };
        let other = pieces(peer(1), 1, 2, &body(2 * PART_BYTES));
        contradict(&good[0], &other[0]);
        contradict(
            &good[3],
            &Piece {
                sequence: 4,
                ..good[3].clone()
            },
        );
        contradict(
            &good[3],
            &Piece {
                sequence: 4,
                ..good[2].clone()
            },
        );
        contradict(
            &good[2],
            &Piece {
                sequence: 1,
                ..good[3].clone()
            },
        );
        contradict(
            &good[1],
            &Piece {
                sequence: 1,
                ..good[0].clone()
            },
        );
        contradict(
            &good[1],
            &Piece {
                sequence: 0,
                ..good[2].clone()
            },
        );
    }

    #[test]
    fn only_heights_of_now_are_taken_and_a_commit_drops_the_rest() {
        let mut assembler = Assembler::new(MAX, Height(10));
        for height in [0, 10, 11 + HEIGHTS_AHEAD, u64::MAX] {
            let first = pieces(peer(1), height, height, &body(1)).remove(0);
            assert!(
                matches!(assembler.push(first), Outcome::Dropped(_)),
                "height {height}"
            );
        }
        let first = pieces(peer(1), 1, 11, &body(1)).remove(0);
        assert_eq!(assembler.push(first), Outcome::Incomplete(Some(Height(11))));
        assembler.commit(Height(11));
        assert!(assembler.streams.is_empty() && assembler.charged.is_empty());
    }

    #[test]
    fn a_peer_that_opens_many_streams_crowds_out_only_its_own() {
        let mut assembler = Assembler::new(MAX, Height(0));
        let honest = pieces(peer(2), 1, 1, &body(PART_BYTES));
        assembler.push(honest[0].clone());
        for name in 0..1000 {
            let mut piece = pieces(peer(1), name, 1, &body(PART_BYTES)).remove(1);
            piece.publisher = peer((name % 200) as u8);
            assembler.push(piece);
        }
        assert_eq!(assembler.streams.len(), 1 + STREAMS_PER_PEER);
        assert!(matches!(
            push_all(&mut assembler, honest[1..].to_vec()),
            Outcome::Complete(_)
        ));
    }
}
