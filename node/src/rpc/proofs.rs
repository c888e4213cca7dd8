//! Proofs under the last certified header, and the proof that a correction
//! carries.

use tally_ledger::{
    action::Action,
    block::{Certificate, Header},
    certified::CertifiedHeader,
    codec::List,
    correction::CorrectionProof,
    state::State,
    state_file::StateFile,
    transaction::{Body, Transaction},
    tree::Table,
};
use tally_proto::{Local, v1};
use tonic::Status;

use super::unreadable;
use crate::view::View;

/// The last header with its certificate; there is none before block 1.
pub(super) fn last_certified<'a>(
    state: &'a State,
    certificate: Option<&'a Certificate>,
) -> Result<(&'a Header, &'a Certificate), Status> {
    match (state.header(), certificate) {
        (Some(header), Some(certificate)) => Ok((header, certificate)),
        _ => Err(Local::NotFound.status("there is no certified block yet; the first comes soon")),
    }
}

/// A header and its certificate, as files carry them.
pub(super) fn certified(header: &Header, certificate: &Certificate) -> CertifiedHeader {
    CertifiedHeader {
        header: *header,
        certificate: certificate.clone(),
        set_changes: List::default(),
    }
}

/// The proof of what the state says about a number of a table.
pub(super) fn state_proof(
    state: &State,
    certificate: Option<&Certificate>,
    table: Table,
    number: u32,
) -> Result<v1::StateProof, Status> {
    let (header, certificate) = last_certified(state, certificate)?;
    let proof = state.prove(table, number);
    let encoded = proof.encode();
    let leaf = proof.leaf.as_ref().map(|leaf| leaf.to_vec().into());
    let certified = certified(header, certificate);
    Ok(v1::StateProof {
        header: Some(v1::CertifiedHeader::new(header, certificate)),
        table: table.id().into(),
        number,
        leaf,
        proof: encoded.into(),
        file: StateFile { certified, proof }.encode().into(),
    })
}

/// Fills in the payload of a Correct that comes without one.
pub(super) fn complete_correction<V: View>(
    view: &V,
    mut transaction: Transaction,
) -> Result<Transaction, Status> {
    if !transaction.payload.is_empty() {
        return Ok(transaction);
    }
    let Ok(Body {
        action: Action::Correct(correct),
        ..
    }) = Body::decode(&transaction.body)
    else {
        return Ok(transaction);
    };
    if let Some(proof) = correction_proof(view, correct.entry)? {
        transaction.payload = proof.encode();
    }
    Ok(transaction)
}

/// The leaf at `index` and its path under the last log root.
fn correction_proof<V: View>(view: &V, index: u64) -> Result<Option<CorrectionProof>, Status> {
    let size = view.with_state(|state, _| state.log().size());
    let entries = view
        .entries(index..index.saturating_add(1))
        .map_err(unreadable)?;
    let path = view.inclusion(index, size).map_err(unreadable)?;
    let (Some(entry), Some(path)) = (entries.first(), path) else {
        return Ok(None);
    };
    let leaf = List::new(entry.leaf());
    Ok(match (leaf, List::new(path)) {
        (Ok(leaf), Ok(path)) => Some(CorrectionProof { leaf, path }),
        _ => None,
    })
}
