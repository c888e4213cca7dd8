//! Parameters of the chain: set in the genesis, changed by admins. Nothing
//! that consensus depends on is in a node's own configuration.

use serde::{Deserialize, Serialize};

use crate::ids::Amount;

/// Governed numbers; every validator applies the same ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Admins that must sign together.
    pub threshold: u32,
    /// Most bytes of a block's body.
    pub max_block_bytes: u32,
    /// Most debits in a block.
    pub max_block_debits: u32,
    /// Longest lease, in ms.
    pub max_lease_ms: u32,
    /// Time between a lease's end and its close, in ms.
    pub lease_grace_ms: u32,
    /// Blocks that must also pass between a lease's end and its close.
    pub lease_grace_blocks: u32,
    /// A block is made at least this often, in ms.
    pub heartbeat_ms: u32,
    /// Largest clock error that operators vouch for, in ms.
    pub clock_error_ms: u32,
    /// Most one issuer may issue or revoke alone per clock day.
    pub issuer_day_limit: Amount,
    /// The same for one account.
    pub issuer_day_account_limit: Amount,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters {
            threshold: 2,
            max_block_bytes: 3 * 1024 * 1024,
            max_block_debits: 20_000,
            max_lease_ms: 600_000,
            lease_grace_ms: 3_600_000,
            lease_grace_blocks: 20,
            heartbeat_ms: 5_000,
            clock_error_ms: 900_000,
            issuer_day_limit: Amount(100_000 * 1_000_000),
            issuer_day_account_limit: Amount(1_000 * 1_000_000),
        }
    }
}

/// Why parameters cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParametersError {
    /// Outside its range.
    #[error("{name} must be between {min} and {max}")]
    OutOfRange {
        /// The parameter.
        name: &'static str,
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
}

impl Parameters {
    /// Checks every range.
    pub fn validate(&self) -> Result<(), ParametersError> {
        let ranges: [(&'static str, u64, u64, u64); 8] = [
            ("threshold", self.threshold.into(), 1, 16),
            (
                "max_block_bytes",
                self.max_block_bytes.into(),
                512 * 1024,
                4 * 1024 * 1024,
            ),
            ("max_block_debits", self.max_block_debits.into(), 1, 100_000),
            ("max_lease_ms", self.max_lease_ms.into(), 1_000, 86_400_000),
            (
                "lease_grace_ms",
                self.lease_grace_ms.into(),
                1_000,
                604_800_000,
            ),
            (
                "lease_grace_blocks",
                self.lease_grace_blocks.into(),
                1,
                10_000,
            ),
            ("heartbeat_ms", self.heartbeat_ms.into(), 100, 600_000),
            ("clock_error_ms", self.clock_error_ms.into(), 500, 3_600_000),
        ];
        match ranges
            .into_iter()
            .find(|(_, value, min, max)| value < min || value > max)
        {
            Some((name, _, min, max)) => Err(ParametersError::OutOfRange { name, min, max }),
            None => Ok(()),
        }
    }
}
