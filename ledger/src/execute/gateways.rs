//! Gateways: register, key and caps, journals, suspension.

use super::{Call, Draft};
use crate::{
    account::Recall,
    action::{OpenJournal, RegisterGateway, SetGatewayKey},
    crypto::PublicKey,
    entry::Event,
    hash::Hash,
    ids::{DebitNumber, GatewayNumber},
    reason::Reason,
    state::new_gateway,
};

impl Draft<'_> {
    /// No two gateways have the same key.
    fn gateway_key_is_free(
        &self,
        key: &PublicKey,
        owner: Option<GatewayNumber>,
    ) -> Result<(), Reason> {
        let mut gateways = (0..).map(GatewayNumber).zip(self.gateways.iter());
        if gateways.any(|(number, gateway)| gateway.key == *key && Some(number) != owner) {
            return Err(Reason::KeyTaken);
        }
        Ok(())
    }

    pub(super) fn register_gateway(
        &mut self,
        call: &Call<'_>,
        action: &RegisterGateway,
    ) -> Result<(), Reason> {
        self.admins(call)?;
        self.gateway_key_is_free(&action.key, None)?;
        let number = self.gateways.push(new_gateway(action.key, action.caps));
        self.log(Event::GatewayRegistered {
            transaction: call.id,
            gateway: GatewayNumber(number),
        });
        Ok(())
    }

    pub(super) fn set_gateway_key(
        &mut self,
        call: &Call<'_>,
        action: &SetGatewayKey,
    ) -> Result<(), Reason> {
        self.admins(call)?;
        self.gateway(action.gateway)?;
        self.gateway_key_is_free(&action.key, Some(action.gateway))?;
        let gateway = self.gateway_mut(action.gateway);
        gateway.key = action.key;
        gateway.caps = action.caps;
        self.log(Event::GatewayKeySet {
            transaction: call.id,
            gateway: action.gateway,
        });
        Ok(())
    }

    pub(super) fn suspend_gateway(
        &mut self,
        call: &Call<'_>,
        number: GatewayNumber,
    ) -> Result<(), Reason> {
        self.admin(call)?;
        if self.gateway(number)?.suspended {
            return Err(Reason::AlreadySuspended);
        }
        self.gateway_mut(number).suspended = true;
        self.recall_gateway(number, Recall::Suspended);
        self.log(Event::GatewaySuspended {
            transaction: call.id,
            gateway: number,
        });
        Ok(())
    }

    pub(super) fn open_journal(
        &mut self,
        call: &Call<'_>,
        action: &OpenJournal,
    ) -> Result<(), Reason> {
        let OpenJournal {
            journal,
            previous_intact,
        } = *action;
        let number = self.author_gateway(call)?;
        let gateway = *self.gateway(number)?;
        if Some(journal.0) != gateway.journal.0.checked_add(1) {
            return Err(Reason::JournalNotNext);
        }
        if journal.0 == 1 && !previous_intact {
            return Err(Reason::PreviousJournalIntact);
        }
        let reason = if previous_intact {
            Recall::NewJournal
        } else {
            Recall::JournalLost
        };
        self.recall_gateway(number, reason);
        let opened = self.gateway_mut(number);
        opened.journal = journal;
        opened.last_debit = DebitNumber(0);
        opened.journal_hash = Hash::ZERO;
        self.log(Event::JournalOpened {
            transaction: call.id,
            gateway: number,
            journal,
            previous_intact,
            closed_last: gateway.last_debit,
            closed_hash: gateway.journal_hash,
        });
        Ok(())
    }
}
