//! A client of `MeteringService`.

use tally_proto::v1::{self, metering_service_client::MeteringServiceClient};
use tonic::transport::Channel;

use super::{Running, chain};

/// A client of a gateway.
pub(crate) async fn metering(gateway: &Running) -> MeteringServiceClient<Channel> {
    let address = format!("http://{}", gateway.grpc);
    MeteringServiceClient::connect(address).await.unwrap()
}

/// `input` and `output` tokens on account 0's key.
pub(crate) fn wish(input: u32, output: u32) -> v1::AuthorizeRequest {
    v1::AuthorizeRequest {
        key: Some(v1::authorize_request::Key::Bearer(chain::api_key_text(0))),
        model: "m".into(),
        input,
        max_output: output,
        ..Default::default()
    }
}

/// A settlement with these counts, as an engine reports them.
pub(crate) fn used(hold: Option<v1::HoldId>, input: u32, output: u32) -> v1::SettleRequest {
    let count = |meter: &str, count| v1::MeterCount {
        meter: meter.into(),
        count,
    };
    v1::SettleRequest {
        hold,
        usage: vec![count("input", input), count("output", output)],
        known: v1::Known::Reported.into(),
        duration_ms: 1,
    }
}
