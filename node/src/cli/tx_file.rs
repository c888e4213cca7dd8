//! Transaction files: a body, the signatures collected so far and the
//! payload, for everything that several people sign. JSON, so that it can be
//! mailed and looked at; what is signed are the body's canonical bytes, and
//! what is shown is decoded from exactly those bytes, here.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use tally_ledger::{
    codec::List,
    crypto::{ChainId, Signature},
    transaction::{Author, Body, Transaction, signing_domain},
};

use super::{
    keys::{KeyFile, write_new_file},
    kind::{self, Kind},
};

/// A transaction on its way to its signers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TxFile {
    /// The chain it is for.
    pub(crate) chain: ChainId,
    /// Canonical body, hex.
    body: String,
    /// Signatures so far, by signer.
    signatures: BTreeMap<String, Signature>,
    /// Payload, hex; mostly empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    payload: String,
}

/// `person:3`.
pub(crate) fn show_author(author: Author) -> String {
    author.to_string()
}

/// Reads what [`show_author`] prints.
pub(crate) fn parse_author(text: &str) -> Result<Author, String> {
    text.parse().map_err(|error| format!("`{text}` {error}"))
}

impl TxFile {
    /// A file without signatures.
    pub(crate) fn new(chain: ChainId, body: &Body, payload: &[u8]) -> Self {
        TxFile {
            chain,
            body: hex::encode(body.encode()),
            signatures: BTreeMap::new(),
            payload: hex::encode(payload),
        }
    }

    /// Reads a file; the body must decode.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let at = || format!("transaction file {}", path.display());
        let text = kind::text(path, Kind::Transaction)?;
        let file: TxFile = serde_json::from_str(&text)
            .map_err(|e| kind::misread(path, text.as_bytes(), Kind::Transaction, e))?;
        file.body().with_context(at)?;
        Ok(file)
    }

    /// Writes a file that must not exist yet.
    pub(crate) fn write_new(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        write_new_file(path, text.as_bytes(), 0o644)
    }

    /// Replaces a file, atomically.
    pub(crate) fn replace(&self, path: &Path) -> anyhow::Result<()> {
        let temporary = path.with_extension("new");
        let _ = fs::remove_file(&temporary);
        self.write_new(&temporary)?;
        fs::rename(&temporary, path).with_context(|| format!("renaming to {}", path.display()))
    }

    /// The canonical body.
    pub(crate) fn body_bytes(&self) -> anyhow::Result<Vec<u8>> {
        hex::decode(&self.body).context("`body` is not hex")
    }

    /// The body, decoded from the bytes that are signed.
    pub(crate) fn body(&self) -> anyhow::Result<Body> {
        Ok(Body::decode(&self.body_bytes()?)?)
    }

    /// Adds the signature of `key`, which must be one of the body's signers.
    pub(crate) fn sign(&mut self, key: &KeyFile) -> anyhow::Result<Author> {
        let body = self.body()?;
        let kind = key.kind.author_kind();
        let named = |signer: &&Author| {
            key.author()
                .map_or(Some(signer.kind) == kind, |me| **signer == me)
        };
        let candidates: Vec<&Author> = body.signers.iter().filter(named).collect();
        let signer = match candidates[..] {
            [signer] => *signer,
            [] => bail!("this key is none of the signers {}", show_signers(&body)),
            _ => bail!("the key file has no `number`, so it is not clear which signer it is"),
        };
        let domain = signing_domain(signer, &body);
        let signature = key.secret()?.sign(domain, &self.chain, &self.body_bytes()?);
        self.signatures.insert(show_author(signer), signature);
        Ok(signer)
    }

    /// Signers that have not signed yet.
    pub(crate) fn missing(&self) -> anyhow::Result<Vec<Author>> {
        let body = self.body()?;
        let unsigned = |signer: &&Author| !self.signatures.contains_key(&show_author(**signer));
        Ok(body.signers.iter().filter(unsigned).copied().collect())
    }

    /// Those who have signed, as they are named in the file.
    pub(crate) fn signed(&self) -> Vec<String> {
        self.signatures.keys().cloned().collect()
    }

    /// The transaction, once everybody has signed.
    pub(crate) fn transaction(&self) -> anyhow::Result<Transaction> {
        let body = self.body()?;
        let missing: Vec<String> = self.missing()?.into_iter().map(show_author).collect();
        ensure!(
            missing.is_empty(),
            "still to be signed by {}; run: tally tx sign FILE --key KEY",
            missing.join(", ")
        );
        let known = self.signatures.len() == body.signers.len();
        ensure!(
            known,
            "the file holds a signature of somebody who is no signer"
        );
        let signatures = body
            .signers
            .iter()
            .map(|signer| self.signatures[&show_author(*signer)]);
        let signatures = List::new(signatures.collect()).unwrap_or_default();
        let payload = hex::decode(&self.payload).context("`payload` is not hex")?;
        Ok(Transaction {
            body: self.body_bytes()?,
            signatures,
            payload,
        })
    }
}

/// The signers of a body, for messages.
pub(crate) fn show_signers(body: &Body) -> String {
    let names: Vec<String> = body
        .signers
        .iter()
        .map(|signer| show_author(*signer))
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use tally_ledger::{action::Action, crypto::Domain, ids::AccountNumber};

    use super::*;
    use crate::cli::keys::KeyKind;

    fn person(number: u32) -> KeyFile {
        let mut key = KeyFile::from_seed(KeyKind::Person, &[number as u8 + 1; 32]);
        key.number = Some(number);
        key
    }

    fn unfreeze() -> TxFile {
        let signer = |number| person(number).author().unwrap();
        let action = Action::Unfreeze(AccountNumber(7));
        let body = Body::new(signer(3), &[signer(1)], [9; 16], 500_000, action);
        TxFile::new(ChainId::default(), &body, b"")
    }

    #[test]
    fn signatures_are_collected_in_the_bodys_order() {
        let mut file = unfreeze();
        assert!(
            file.transaction()
                .unwrap_err()
                .to_string()
                .contains("person:3, person:1")
        );
        file.sign(&person(1)).unwrap();
        file.sign(&person(3)).unwrap();
        let transaction = file.transaction().unwrap();
        let body = &transaction.body;
        for (i, number) in [3, 1].into_iter().enumerate() {
            let signature = &transaction.signatures[i];
            let public = person(number).public;
            assert!(public.verify(Domain::Transaction, &file.chain, body, signature));
        }
    }

    #[test]
    fn strangers_cannot_sign() {
        let mut file = unfreeze();
        assert!(file.sign(&person(2)).is_err());
        let mut nameless = person(1);
        nameless.number = None;
        assert!(
            file.sign(&nameless)
                .unwrap_err()
                .to_string()
                .contains("not clear")
        );
        assert!(file.sign(&KeyFile::generate(KeyKind::Gateway)).is_err());
    }

    #[test]
    fn files_read_back_and_a_broken_body_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let mut file = unfreeze();
        file.write_new(&path).unwrap();
        file.sign(&person(1)).unwrap();
        file.replace(&path).unwrap();
        assert_eq!(TxFile::read(&path).unwrap(), file);
        file.body.push_str("00");
        file.replace(&path).unwrap();
        assert!(TxFile::read(&path).is_err());
    }

    #[test]
    fn authors_print_and_parse() {
        for text in ["person:3", "gateway:0", "account:7", "api-key:2"] {
            assert_eq!(show_author(parse_author(text).unwrap()), text);
        }
        assert!(parse_author("person").is_err() && parse_author("robot:1").is_err());
    }
}
