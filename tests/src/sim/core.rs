//! The engine's core as a node starts it: the real one, with the engine's own
//! limits.

use malachitebft_app_channel::app::consensus::State as Core;
use malachitebft_core_types::HeightParams;
use tally_consensus::context::{Address, Engine as Ctx, Height};

/// The core of a first height.
pub fn core(height: Height, params: &HeightParams<Ctx>, address: Address) -> Core<Ctx> {
    use malachitebft_app_channel::app::consensus::Params;
    use malachitebft_core_types::ValuePayload;
    let parameters = Params {
        address,
        threshold_params: Default::default(),
        value_payload: ValuePayload::ProposalAndParts,
        enabled: true,
    };
    let config = malachitebft_app_channel::app::config::ConsensusConfig::default();
    Core::new(
        Ctx,
        height,
        params.validator_set.clone(),
        parameters,
        config.queue_capacity,
        config.queue_per_height_capacity,
    )
}
