//! Level `roots`: headers and certificates.

use tally_ledger::{
    block::{Certificate, HEADER_BYTES, Header},
    ids::Height,
};

use crate::{history::History, made::*};

/// A stored body's header, whatever the rest is.
fn header_of(body: &[u8]) -> Header {
    Header::decode(&body[..HEADER_BYTES]).unwrap()
}

type HeaderChange = fn(&mut Header);

#[test]
fn a_header_that_does_not_follow_is_named() {
    let history = History::of(everything());
    let at = history.blocks.len() - 1;
    let of = |change: &dyn Fn(&mut Header)| {
        let mut other = history.clone();
        let mut header = header_of(&other.blocks[at].1);
        change(&mut header);
        // Signed by all validators: only the header itself is wrong.
        let certificate = other.world.certify(&header);
        other.blocks[at].1[..HEADER_BYTES].copy_from_slice(&header.encode());
        other.blocks[at].0 = certificate;
        let wrong = other.roots().unwrap_err();
        assert_eq!(wrong.height.0, at as u64 + 1);
        wrong.field.to_string()
    };
    let changes: [(&str, HeaderChange); 10] = [
        ("version", |h| h.version = 2),
        ("chain", |h| h.chain.0.0[0] ^= 1),
        ("height", |h| h.height.0 += 1),
        ("previous block", |h| h.previous.0[31] ^= 1),
        ("next validators", |h| h.next_validators.0[5] ^= 1),
        ("time", |h| h.time.0 -= 1000),
        ("proposer", |h| h.proposer = 3),
        ("log size", |h| h.log_size -= 1),
        // The block has no entries, so its log is the one before.
        ("log root", |h| h.log_root.0[0] ^= 1),
        ("height", |h| h.height.0 = 1),
    ];
    for (field, change) in changes {
        assert_eq!(of(&change), field);
    }
}

#[test]
fn a_certificate_that_is_none_is_named() {
    let history = History::of(everything());
    let of = |change: &dyn Fn(&mut Certificate)| {
        let mut other = history.clone();
        change(&mut other.blocks[3].0);
        let wrong = other.roots().unwrap_err();
        assert_eq!(
            (wrong.height, wrong.field.to_string()),
            (Height(4), "certificate".into())
        );
        wrong.found
    };
    assert_eq!(
        of(&|c| c.precommits.retain(|(i, _)| *i > 0)),
        "2 precommits, 3 needed"
    );
    assert_eq!(
        of(&|c| c.round = 1),
        "bad precommit signature of validator 0"
    );
    let other = history.blocks[4].0.precommits[1];
    let foreign = |c: &mut Certificate| c.precommits[1] = other;
    assert_eq!(of(&foreign), "bad precommit signature of validator 1");
    assert_eq!(
        of(&|c| c.precommits.swap(0, 1)),
        "precommits are not in ascending order of validator"
    );
    // A missing block is a header that does not follow.
    let mut gap = history.clone();
    gap.blocks.remove(3);
    let wrong = gap.roots().unwrap_err();
    assert_eq!(
        (wrong.height, wrong.field.to_string()),
        (Height(4), "height".into())
    );
}
