//! Giving leases back: those that are over, and those from before a restart.
//! A lease goes back only when its debits are proven on the chain.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tally_ledger::{
    action::Action,
    ids::{Height, LeaseNumber},
    reason::Reason,
};

use super::{
    ChainError,
    leases::{Before, Leases},
    nodes::Submitted,
};
use crate::{
    account::Account,
    journal::{LeaseSent, Record, Urgency},
    pool,
};

/// Longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(2);

impl Leases {
    /// Returns a lease whose debits are proven; sends on until it is closed.
    pub(super) async fn give_back(&self, account: &Arc<Account>, lease: LeaseNumber) {
        match self.close(lease).await {
            Ok(height) => {
                if let Ok((header, leaf)) =
                    pool::account_leaf(&self.light, account.number, height).await
                {
                    account.viewed(self.view(&header, &leaf), Instant::now());
                } else {
                    account.stale();
                }
                account.closed(lease);
            }
            Err(error) => {
                tracing::warn!(%error, %lease, "a lease is not returned");
                account.not_closed(lease);
            }
        }
    }

    /// Closes a lease on the chain, if it is not closed; gives the height at
    /// which it is.
    pub(super) async fn close(&self, lease: LeaseNumber) -> Result<Height, ChainError> {
        let transaction = self.signer.action(Action::ReturnLease(lease));
        let mut pause = Duration::from_millis(10);
        loop {
            let height = match self.light.nodes.submit(&transaction).await {
                Ok(Submitted::Final(finality)) => Some(Height(finality.height)),
                Ok(Submitted::Refused(Reason::LeaseNotOpen)) => Some(Height(0)),
                Ok(Submitted::Refused(reason)) => {
                    return Err(ChainError::Unreachable(reason.to_string()));
                }
                Err(error) if error.is_fatal() => return Err(error),
                Err(_) => None,
            };
            if let Some(height) = height {
                self.journal
                    .append(&Record::LeaseClosed(lease), Urgency::Soon);
                return Ok(height);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Gives back the leases from before a restart, once their debits are
    /// proven.
    pub async fn return_old(self: Arc<Self>, before: Before) {
        let Before {
            leases: mut old,
            debits,
        } = before;
        let mut proven = self.proven.clone();
        if proven.wait_for(|proven| *proven >= debits).await.is_err() {
            return;
        }
        while !old.is_empty() {
            let mut left = Vec::new();
            for lease in old {
                match self.return_one(&lease).await {
                    Ok(true) => {
                        tracing::info!(lease = %lease.number, "a lease from before the start is closed");
                    }
                    Ok(false) => left.push(lease),
                    Err(error) => {
                        tracing::warn!(%error, lease = %lease.number, "a lease from before the start is not returned yet");
                        left.push(lease);
                    }
                }
            }
            old = left;
            if !old.is_empty() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Whether the lease is closed now; not if it may still be granted.
    async fn return_one(&self, lease: &LeaseSent) -> Result<bool, ChainError> {
        let (header, gateway) = self.light.gateway(self.signer.gateway, Height(0)).await?;
        if gateway.last_lease < lease.number {
            return Ok(false);
        }
        let (_, leaf) = pool::account_leaf(&self.light, lease.account, header.height).await?;
        let ours = (self.signer.gateway, lease.number);
        if leaf
            .leases
            .iter()
            .any(|open| (open.gateway, open.number) == ours)
        {
            self.close(lease.number).await?;
        } else {
            self.journal
                .append(&Record::LeaseClosed(lease.number), Urgency::Soon);
        }
        Ok(true)
    }
}
