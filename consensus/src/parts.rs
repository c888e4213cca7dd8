//! Putting streamed bodies together, within bounds that hold whatever peers
//! send. Pure: no clock, no disk.
//!
//! A stream is: sequence 0 with [`Part::First`], which says how long the body
//! is and has its first [`PART_BYTES`], then [`Part::More`] pieces of
//! [`PART_BYTES`], the last one shorter; so a small body is one message.
//! Nothing in it is signed; what it yields counts only if a signed proposal
//! names its id.
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
    context::{Init, Part},
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
    /// The part; an end by itself is no part of a stream here.
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
    init: Option<Init>,
    pieces: BTreeMap<u64, Bytes>,
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
        let stale = |stream: &Stream| {
            let height = stream.init.map(|init| Height::from(init.height));
            height.is_some_and(|height| height <= committed)
        };
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
            return Outcome::Incomplete(stream.init.map(|init| init.height.into()));
        }
        let stream = self.close(&key).expect("it is open");
        match stream.assemble(key.0) {
            Some(assembled) => Outcome::Complete(assembled),
            None => Outcome::Dropped("the pieces are not of the length that was said"),
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

/// Pieces of a body of `length` bytes.
fn count(length: usize) -> u64 {
    length.div_ceil(PART_BYTES).max(1) as u64
}

impl Stream {
    fn take(
        &mut self,
        piece: Piece,
        max_body: usize,
        committed: Height,
    ) -> Result<(), &'static str> {
        let Some(part) = piece.part else {
            return Err("an end by itself");
        };
        let most = self.init.map_or(max_body, |init| init.length as usize);
        if piece.sequence >= count(most) {
            return Err("the stream is too long");
        }
        match &part {
            Part::First(init, _) => self.begin(piece.sequence, *init, max_body, committed)?,
            Part::More(_) if piece.sequence == 0 => return Err("a piece out of form"),
            Part::More(_) => {}
        }
        if part.bytes().len() > PART_BYTES {
            return Err("a piece out of form");
        }
        let bytes = part.bytes().clone();
        match self.pieces.insert(piece.sequence, bytes.clone()) {
            Some(before) if before != bytes => Err("two pieces for one place"),
            _ => Ok(()),
        }
    }

    fn begin(
        &mut self,
        sequence: u64,
        init: Init,
        max_body: usize,
        committed: Height,
    ) -> Result<(), &'static str> {
        if sequence != 0 || self.init.is_some_and(|known| known != init) {
            return Err("a second beginning");
        }
        let height = Height::from(init.height);
        let ahead = committed.0.saturating_add(HEIGHTS_AHEAD);
        if height <= committed || height.0 > ahead {
            return Err("not a height of now");
        }
        let length = init.length as usize;
        let last = self.pieces.last_key_value().map_or(0, |piece| *piece.0);
        if length > max_body || last >= count(length) {
            return Err("the body is too large");
        }
        self.init = Some(init);
        Ok(())
    }

    fn complete(&self) -> bool {
        let pieces = self.init.map(|init| count(init.length as usize));
        pieces == Some(self.pieces.len() as u64)
    }

    /// The body; `None` if its pieces are not what the first one said.
    fn assemble(self, publisher: PeerId) -> Option<Assembled> {
        let init = self.init?;
        let length = init.length as usize;
        let mut pieces = self.pieces.into_values();
        let body = match length <= PART_BYTES {
            true => pieces.next()?,
            false => {
                let mut body = BytesMut::with_capacity(length);
                pieces.for_each(|piece| body.extend_from_slice(&piece));
                body.freeze()
            }
        };
        (body.len() == length).then_some(Assembled {
            publisher,
            height: init.height.into(),
            round: init.round,
            pol_round: init.pol_round,
            body,
        })
    }
}

/// The parts of a body, in order.
///
/// # Panics
/// If the body has 4 GiB or more; blocks are far smaller.
pub(crate) fn cut(
    height: Height,
    round: u32,
    pol_round: Option<u32>,
    body: &Bytes,
) -> impl Iterator<Item = Part> {
    let init = Init {
        height: height.into(),
        round,
        pol_round,
        length: u32::try_from(body.len()).expect("a block has less than 4 GiB"),
    };
    let first = body.slice(..body.len().min(PART_BYTES));
    let body = body.clone();
    let offsets = (PART_BYTES..body.len()).step_by(PART_BYTES);
    let more = offsets.map(move |at| Part::More(body.slice(at..body.len().min(at + PART_BYTES))));
    std::iter::once(Part::First(init, first)).chain(more)
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
        let parts = cut(Height(height), 2, Some(1), body).map(Some);
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
        let [_, more] = &pieces(peer(1), 2, 1, &body(PART_BYTES + 1))[..] else {
            panic!("two pieces")
        };
        let with = |sequence, part| Piece {
            sequence,
            part,
            ..more.clone()
        };
        for bad in [
            with(4, more.part.clone()),
            with(u64::MAX, more.part.clone()),
            with(1, Some(Part::More(body(PART_BYTES + 1)))),
            with(0, more.part.clone()),
            with(1, None),
        ] {
            assert!(matches!(assembler.push(bad), Outcome::Dropped(_)));
        }
    }

    #[test]
    fn a_length_that_the_pieces_do_not_have_is_dropped() {
        for length in [0, 1, 2 * PART_BYTES - 1, 2 * PART_BYTES + 1] {
            let mut pieces = pieces(peer(1), 1, 1, &body(2 * PART_BYTES));
            let Some(Part::First(init, _)) = &mut pieces[0].part else {
                panic!("the first piece")
            };
            init.length = length as u32;
            let mut assembler = Assembler::new(MAX, Height(0));
            let outcomes: Vec<_> = pieces.into_iter().map(|p| assembler.push(p)).collect();
            let complete = |outcome: &Outcome| matches!(outcome, Outcome::Complete(_));
            assert!(!outcomes.iter().any(complete), "{length}");
        }
    }

    #[test]
    fn pieces_that_contradict_are_dropped() {
        let good = pieces(peer(1), 1, 1, &body(3 * PART_BYTES));
        let contradict = |first: &Piece, second: &Piece| {
            let mut assembler = Assembler::new(MAX, Height(0));
            assembler.push(first.clone());
            let outcome = assembler.push(second.clone());
            assert!(matches!(outcome, Outcome::Dropped(_)), "{second:?}");
            assert!(assembler.streams.is_empty() && assembler.charged.is_empty());
        };
        let at = |sequence, piece: &Piece| Piece {
            sequence,
            ..piece.clone()
        };
        let other = pieces(peer(1), 1, 2, &body(3 * PART_BYTES));
        let short = pieces(peer(1), 1, 1, &body(PART_BYTES));
        contradict(&good[0], &other[0]);
        contradict(&good[0], &at(1, &good[0]));
        contradict(&good[0], &at(3, &good[2]));
        contradict(&good[1], &at(1, &good[2]));
        contradict(&good[2], &short[0]);
    }

    #[test]
    fn only_heights_of_now_are_taken_and_a_commit_drops_the_rest() {
        let mut assembler = Assembler::new(MAX, Height(10));
        for height in [0, 10, 11 + HEIGHTS_AHEAD, u64::MAX] {
            let first = pieces(peer(1), height, height, &body(MAX)).remove(0);
            assert!(
                matches!(assembler.push(first), Outcome::Dropped(_)),
                "height {height}"
            );
        }
        let first = pieces(peer(1), 1, 11, &body(MAX)).remove(0);
        assert_eq!(assembler.push(first), Outcome::Incomplete(Some(Height(11))));
        assembler.commit(Height(11));
        assert!(assembler.streams.is_empty() && assembler.charged.is_empty());
    }

    #[test]
    fn a_peer_that_opens_many_streams_crowds_out_only_its_own() {
        let mut assembler = Assembler::new(MAX, Height(0));
        let honest = pieces(peer(2), 1, 1, &body(2 * PART_BYTES));
        assembler.push(honest[0].clone());
        for name in 0..1000 {
            let mut piece = pieces(peer(1), name, 1, &body(2 * PART_BYTES)).remove(1);
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
