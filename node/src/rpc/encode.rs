//! Encode: the exact bytes to sign, so that any language can sign.

use tally_ledger::{
    crypto::ChainId,
    transaction::{Body, MAX_BODY_BYTES, signing_domain, transaction_id},
};
use tally_proto::{Local, convert::bytes_of, v1};
use tonic::Status;

/// Encodes a body, and says what each of its signers signs.
pub(super) fn encode(
    chain: &ChainId,
    request: v1::EncodeRequest,
) -> Result<v1::EncodeResponse, Status> {
    let body = request
        .body
        .ok_or_else(|| Local::BadRequest.status("body: is missing"))?;
    let body = Body::try_from(body)?;
    let bytes = body.encode();
    if bytes.len() > MAX_BODY_BYTES {
        let why = format!("body: {} bytes, at most {MAX_BODY_BYTES}", bytes.len());
        return Err(Local::BadRequest.status(why));
    }
    let message = |signer: &tally_ledger::transaction::Author| v1::SigningMessage {
        signer: Some((*signer).into()),
        message: signing_domain(*signer, &body).message(chain, &bytes).into(),
    };
    Ok(v1::EncodeResponse {
        id: bytes_of(&transaction_id(&bytes)),
        messages: body.signers.iter().map(message).collect(),
        body: bytes.into(),
    })
}
