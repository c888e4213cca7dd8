//! Receipts from the nodes, each with the file that proves it.

use tally_ledger::{
    certified::Trust,
    ids::GatewayNumber,
    receipt::{ReceiptFile, VerifiedReceipt},
};

use super::{
    ChainError,
    light::Light,
    nodes::{is_absent, unreachable},
};
use crate::journal::HoldId;

impl Light {
    /// The receipt of a hold, verified against the genesis, and its file;
    /// `None` if all nodes that answer know none, two at least where there
    /// are two.
    pub async fn receipt(
        &self,
        gateway: GatewayNumber,
        hold: HoldId,
    ) -> Result<Option<(Vec<u8>, VerifiedReceipt)>, ChainError> {
        let mut denials = 0;
        let mut last = ChainError::Unreachable("no node".into());
        for (_, node) in self.nodes.in_order() {
            let file = match node.receipt(gateway, hold).await {
                Ok(file) => file,
                Err(status) if is_absent(&status) => {
                    denials += 1;
                    continue;
                }
                Err(status) => {
                    last = unreachable(node, &status);
                    continue;
                }
            };
            match self.verified(&file, gateway, hold) {
                Ok(verified) => return Ok(Some((file.to_vec(), verified))),
                Err(error) => {
                    tracing::error!(node = %node.address, %error, "a node's receipt does not hold");
                    last = error;
                }
            }
        }
        if denials >= self.nodes.all().len().min(2) {
            return Ok(None);
        }
        Err(last)
    }

    /// What a file proves, if it is the receipt of this hold.
    fn verified(
        &self,
        file: &[u8],
        gateway: GatewayNumber,
        hold: HoldId,
    ) -> Result<VerifiedReceipt, ChainError> {
        let unproven = |why: String| ChainError::Unproven(why);
        let file = ReceiptFile::decode(file).map_err(|e| unproven(e.to_string()))?;
        let mut trust = Trust::new(self.genesis()).map_err(|e| unproven(e.to_string()))?;
        let verified = file
            .verify_with(&mut trust)
            .map_err(|e| unproven(e.to_string()))?;
        // A node that has lost the detail cannot show whose hold it was.
        let detail = verified.detail.filter(|detail| {
            let named = (detail.hold_journal, detail.hold) == (hold.journal, hold.number);
            named && verified.receipt.position.gateway == gateway
        });
        detail.ok_or_else(|| unproven("a receipt of another hold".into()))?;
        Ok(verified)
    }
}
