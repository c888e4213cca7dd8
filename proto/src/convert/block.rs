//! Headers and certificates.

use bytes::Bytes;
use tally_ledger::{
    block::{Certificate, Header, MAX_VALIDATORS, Validator},
    crypto::{ChainId, Signature},
    ids::{Height, Time},
};

use super::{FieldError, bytes_of, collect, fixed, hash, key_bytes, u16_of};
use crate::v1;

impl From<&Header> for v1::Header {
    fn from(from: &Header) -> Self {
        v1::Header {
            version: from.version.into(),
            chain: bytes_of(&from.chain.0),
            height: from.height.0,
            time: from.time.0,
            previous: bytes_of(&from.previous),
            proposer: from.proposer.into(),
            transactions_root: bytes_of(&from.transactions_root),
            log_size: from.log_size,
            log_root: bytes_of(&from.log_root),
            state_root: bytes_of(&from.state_root),
            next_validators: bytes_of(&from.next_validators),
        }
    }
}

impl TryFrom<&v1::Header> for Header {
    type Error = FieldError;

    fn try_from(from: &v1::Header) -> Result<Self, FieldError> {
        let version = u8::try_from(from.version)
            .map_err(|_| FieldError::new("header.version", "is above 255"))?;
        Ok(Header {
            version,
            chain: ChainId(hash("header.chain", &from.chain)?),
            height: Height(from.height),
            time: Time(from.time),
            previous: hash("header.previous", &from.previous)?,
            proposer: u16_of("header.proposer", from.proposer)?,
            transactions_root: hash("header.transactions_root", &from.transactions_root)?,
            log_size: from.log_size,
            log_root: hash("header.log_root", &from.log_root)?,
            state_root: hash("header.state_root", &from.state_root)?,
            next_validators: hash("header.next_validators", &from.next_validators)?,
        })
    }
}

impl From<&Certificate> for v1::Certificate {
    fn from(from: &Certificate) -> Self {
        let precommits = from
            .precommits
            .iter()
            .map(|(validator, signature)| v1::Precommit {
                validator: (*validator).into(),
                signature: Bytes::copy_from_slice(&signature.0),
            });
        v1::Certificate {
            round: from.round,
            precommits: precommits.collect(),
        }
    }
}

impl TryFrom<&v1::Certificate> for Certificate {
    type Error = FieldError;

    fn try_from(from: &v1::Certificate) -> Result<Self, FieldError> {
        let precommit = |from: &v1::Precommit| {
            let validator = u16_of("precommit.validator", from.validator)?;
            Ok((
                validator,
                Signature(fixed("precommit.signature", &from.signature)?),
            ))
        };
        Ok(Certificate {
            round: from.round,
            precommits: collect::<_, _, MAX_VALIDATORS>(
                "certificate.precommits",
                &from.precommits,
                precommit,
            )?,
        })
    }
}

impl v1::CertifiedHeader {
    /// A header with its certificate.
    pub fn new(header: &Header, certificate: &Certificate) -> Self {
        let encoded = header.encode();
        v1::CertifiedHeader {
            header: Some(header.into()),
            id: bytes_of(&header.id()),
            encoded: encoded.into(),
            certificate: Some(certificate.into()),
        }
    }

    /// Header and certificate, read from the canonical bytes. Neither is
    /// verified: that needs the validators of its height.
    pub fn parts(&self) -> Result<(Header, Certificate), FieldError> {
        let header = Header::decode(&self.encoded)
            .map_err(|error| FieldError::new("header.encoded", error.to_string()))?;
        let certificate = self.certificate.as_ref();
        let certificate = certificate.ok_or(FieldError::missing("header.certificate"))?;
        Ok((header, certificate.try_into()?))
    }
}

impl From<&Validator> for v1::ValidatorInfo {
    fn from(from: &Validator) -> Self {
        v1::ValidatorInfo {
            consensus_key: key_bytes(&from.consensus_key),
            checkpoint_key: key_bytes(&from.checkpoint_key),
            network_key: key_bytes(&from.network_key),
            owner: from.owner.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use tally_ledger::{block::BLOCK_VERSION, codec::List, hash::Hash};

    use super::*;

    #[test]
    fn a_certified_header_comes_back() {
        let header = Header {
            version: BLOCK_VERSION,
            chain: ChainId(Hash([1; 32])),
            height: Height(2),
            time: Time(3),
            previous: Hash([4; 32]),
            proposer: 5,
            transactions_root: Hash([6; 32]),
            log_size: 7,
            log_root: Hash([8; 32]),
            state_root: Hash([9; 32]),
            next_validators: Hash([10; 32]),
        };
        let precommits = List::new(vec![(0, Signature([1; 64])), (3, Signature([2; 64]))]).unwrap();
        let certificate = Certificate {
            round: 1,
            precommits,
        };
        let proto = v1::CertifiedHeader::new(&header, &certificate);
        assert_eq!(Header::try_from(proto.header.as_ref().unwrap()), Ok(header));
        assert_eq!(proto.parts(), Ok((header, certificate)));
        let missing = v1::CertifiedHeader {
            certificate: None,
            ..proto
        };
        assert_eq!(missing.parts().unwrap_err().field, "header.certificate");
    }
}
