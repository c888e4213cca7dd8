//! That a validator signed twice: kept in its leaf and in the log.

use super::{Call, Draft, SignatureCheck};
use crate::{
    entry::Event,
    evidence::{Evidence, MAX_EVIDENCE_PER_BLOCK, Offence},
    reason::Reason,
};

impl Draft<'_> {
    /// Whether the chain does not have this yet.
    fn is_new(&self, offence: &Offence) -> bool {
        let marks = self.marks.get(offence.place.validator.into());
        // One that does not exist fails when signatures are checked.
        marks.is_none_or(|marks| marks.are_open_for(offence.place.height))
    }

    /// What evidence proves. What can be said without a signature comes
    /// first: most evidence is known already.
    pub(super) fn proven(
        &self,
        evidence: &Evidence,
        signatures: &dyn SignatureCheck,
    ) -> Result<Vec<Offence>, Reason> {
        if evidence.height() >= self.height {
            return Err(Reason::EvidenceHeight);
        }
        if !evidence
            .offences()
            .iter()
            .any(|offence| self.is_new(offence))
        {
            return Err(Reason::EvidenceKnown);
        }
        // The set does not change in this version of the rules.
        let (chain, validators) = (self.base.chain(), self.base.validators());
        let proven = evidence.verify_by(chain, validators, signatures);
        proven.map_err(|_| Reason::EvidenceUnproven)
    }

    pub(super) fn keep_evidence(
        &mut self,
        call: &Call<'_>,
        evidence: &Evidence,
    ) -> Result<(), Reason> {
        if self.evidence >= MAX_EVIDENCE_PER_BLOCK {
            return Err(Reason::EvidencePerBlock);
        }
        let hash = evidence.hash();
        for offence in &call.offences {
            if !self.is_new(offence) {
                continue;
            }
            let marks = self.marks.get_mut(offence.place.validator.into());
            let marks = marks.expect("a proven offence is a validator's");
            marks.add(offence.place.height);
            self.log(Event::SignedTwice {
                transaction: call.id,
                place: offence.place,
                signed: offence.kind,
                evidence: hash,
            });
        }
        self.evidence += 1;
        Ok(())
    }
}
