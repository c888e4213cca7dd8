//! Who signed twice: shown by an auditor's commands, and handed in by a client
//! that met a fork.

use serde_json::Value;
use tally_ledger::{
    block::{Header, proposal_bytes, vote_bytes},
    certified::CertifiedHeader,
    codec::List,
    consistency_file::ConsistencyFile,
    crypto::Domain,
    evidence::{Evidence, EvidenceFile, Place, SignedProposal},
    hash::Hash,
    ids::Height,
};

use crate::cli_common::{LIMIT, Net, run, wait_for};

/// The validator at home `i` proposed two blocks at height 1.
fn proposed_twice(net: &Net, i: usize) -> (u16, EvidenceFile) {
    let genesis = net.home(i).genesis().unwrap();
    let (chain, key) = (genesis.chain(), net.home(i).keys().unwrap().consensus);
    let place = Place {
        validator: genesis.validators.index_of(&key.public()).unwrap(),
        height: Height(1),
        round: 2,
    };
    let pair = [1, 2].map(|byte| {
        let (block, pol_round) = (Hash([byte; 32]), -1);
        let bytes = proposal_bytes(place.height, place.round, &block, pol_round);
        SignedProposal {
            block,
            pol_round,
            signature: key.sign(Domain::Proposal, &chain, &bytes),
        }
    });
    let evidence = Evidence::of_proposals(place, pair).unwrap();
    (place.validator, EvidenceFile { chain, evidence })
}

/// What one validator saw before it was killed, all have on the chain, and an
/// auditor reads it from any of them without believing it.
#[test]
fn who_signed_twice_is_on_the_chain_for_all_to_see() {
    let mut net = Net::start(4);
    let folder = net.folder.path().to_owned();
    let (liar, seen) = proposed_twice(&net, 3);
    net.kill(0);
    let waits = net.home(0).data().join("evidence");
    std::fs::create_dir_all(&waits).unwrap();
    let file = waits.join("1.evidence");
    std::fs::write(&file, seen.encode()).unwrap();
    net.start_node(0);
    let rows = |net: &Net, i: usize| {
        let list = net.run(i, "evidence list GENESIS").json();
        list["evidence"].as_array().unwrap().clone()
    };
    for i in 0..4 {
        wait_for("evidence on the chain", LIMIT, || {
            (net.run(i, "status").code == 0 && !rows(&net, i).is_empty()).then_some(())
        });
        let rows = rows(&net, i);
        assert_eq!(rows.len(), 1, "told once: {rows:?}");
        assert_eq!(rows[0]["validator"], liar);
        assert_eq!(rows[0]["signed twice"], "proposals");
        assert_eq!(net.status(i)["evidence"], 1);
    }
    assert_eq!(
        net.run(1, "evidence list --validator 9 GENESIS").json()["evidence"],
        Value::Array(vec![])
    );
    wait_for("an empty folder", LIMIT, || {
        let left = std::fs::read_dir(&waits).unwrap();
        left.flatten().next().is_none().then_some(())
    });
    let entry = rows(&net, 2)[0]["entry"].as_u64().unwrap();
    let shown = net.run(
        2,
        &format!("evidence show {entry} --out shown.evidence GENESIS"),
    );
    let shown = shown.json();
    assert_eq!(shown["messages"].as_array().unwrap().len(), 2);
    assert_eq!(
        std::fs::read(folder.join("shown.evidence")).unwrap(),
        seen.encode()
    );
    net.run(2, "evidence show 0 GENESIS").fails(2);
    let verify = |name: &str| {
        let line = format!("--format json evidence verify {name} --genesis net/genesis.json");
        run(&folder, &line)
    };
    let verified = verify("shown.evidence").json();
    let against = verified["proven against"].as_str().unwrap();
    assert!(
        against.starts_with(&format!("validator {liar} (person:")),
        "{against}"
    );
    let mut bytes = seen.encode();
    bytes[60] ^= 1;
    std::fs::write(folder.join("altered.evidence"), bytes).unwrap();
    verify("altered.evidence").fails(7);
    forks(&net);
}

/// A header of a height at which the chain has another one, signed by all.
fn lie(net: &Net, truth: &CertifiedHeader) -> CertifiedHeader {
    let genesis = net.home(0).genesis().unwrap();
    let header = Header {
        state_root: Hash([9; 32]),
        ..truth.header
    };
    let round = truth.certificate.round;
    let bytes = vote_bytes(header.height, round, Some(&header.id()));
    let mut precommits: Vec<_> = (0..4)
        .map(|i| {
            let key = net.home(i).keys().unwrap().consensus;
            let index = genesis.validators.index_of(&key.public()).unwrap();
            (index, key.sign(Domain::Precommit, &genesis.chain(), &bytes))
        })
        .collect();
    precommits.sort_unstable_by_key(|(index, _)| *index);
    let mut certified = truth.clone();
    certified.header = header;
    certified.certificate.precommits = List::new(precommits).unwrap();
    certified
}

/// A client that was given two headers of one height can prove it, and hand it
/// in.
fn forks(net: &Net) {
    let folder = net.folder.path();
    let get = "consistency get --old 2 --out truth.consistency GENESIS";
    net.run(1, get).ok();
    let bytes = std::fs::read(folder.join("truth.consistency")).unwrap();
    let truth = ConsistencyFile::decode(&bytes).unwrap().old;
    let lie = lie(net, &truth);
    let file = ConsistencyFile {
        old: lie.clone(),
        new: lie,
        path: List::default(),
    };
    std::fs::write(folder.join("lie.consistency"), file.encode()).unwrap();
    // Each is good alone; both together are not, and the client keeps proof.
    let local = |line: &str| {
        run(
            folder,
            &format!("--format json {line} --genesis net/genesis.json"),
        )
    };
    local("consistency verify lie.consistency").ok();
    let both = local("consistency verify truth.consistency lie.consistency");
    assert_eq!(both.code, 7);
    let said = both.out;
    let from = said.find("fork-2-").unwrap_or_else(|| panic!("{said}"));
    let length = said[from..].find(".evidence").unwrap();
    let kept = &said[from..from + length + ".evidence".len()];
    let verified = local(&format!("evidence verify {kept}")).json();
    assert_eq!(verified["signed twice"], "two certified blocks");
    let make = "evidence make --certified truth.consistency --certified lie.consistency";
    let made = local(&format!("{make} --out fork.evidence")).json();
    assert_eq!(made["can be handed in"], true);
    let (one, other) = (folder.join(kept), folder.join("fork.evidence"));
    assert_eq!(std::fs::read(one).unwrap(), std::fs::read(other).unwrap());
    let none = "evidence make --certified truth.consistency --certified truth.consistency";
    local(&format!("{none} --out none.evidence")).fails(7);
    // Those who are in both certificates are marked, each once.
    let submit = "evidence submit fork.evidence GENESIS --key KEYS/issuer-0.key";
    let done = net.run(2, submit).json();
    let told = done["entries"].as_array().unwrap().len();
    assert_eq!(told, truth.certificate.precommits.len());
    let again = net.run(3, submit);
    assert!(again.err.contains("EvidenceKnown (88)"), "{}", again.err);
    let all = net.run(3, "evidence list GENESIS").json();
    assert_eq!(all["evidence"].as_array().unwrap().len(), 1 + told);
}
