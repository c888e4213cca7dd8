//! `MeteringService` on the wire: one call per request, or all on one stream.
//!
//! The stream's requests run side by side and are answered as they become
//! durable; what was asked is carried out even if the client is gone before
//! the answer. Beyond [`MAX_UNDER_WAY`] nothing is read, so a client that
//! sends faster than it is served waits, and costs no memory.

use std::sync::Arc;

use futures::StreamExt;
use tally_proto::{
    Local, Problem,
    v1::{
        self, meter_request::Ask, meter_response::Answer, metering_service_server::MeteringService,
    },
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Metering;

/// Requests of one stream that are under way at once.
const MAX_UNDER_WAY: usize = 4_096;
/// Answers that wait for the client.
const ANSWERS: usize = 256;

/// The service.
#[derive(Debug, Clone)]
pub struct MeteringRpc(pub Arc<Metering>);

#[tonic::async_trait]
impl MeteringService for MeteringRpc {
    type MeterStream = ReceiverStream<Result<v1::MeterResponse, Status>>;

    async fn authorize(
        &self,
        request: Request<v1::AuthorizeRequest>,
    ) -> Result<Response<v1::AuthorizeResponse>, Status> {
        let (metering, request) = (self.0.clone(), request.into_inner());
        apart(async move { metering.authorize(request).await }).await
    }

    async fn settle(
        &self,
        request: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::SettleResponse>, Status> {
        let (metering, request) = (self.0.clone(), request.into_inner());
        apart(async move { metering.settle(request).await }).await
    }

    async fn void(
        &self,
        request: Request<v1::VoidRequest>,
    ) -> Result<Response<v1::VoidResponse>, Status> {
        let (metering, request) = (self.0.clone(), request.into_inner());
        apart(async move { metering.void(request).await }).await
    }

    async fn submit_debits(
        &self,
        request: Request<v1::SubmitDebitsRequest>,
    ) -> Result<Response<v1::SubmitDebitsResponse>, Status> {
        // Who gives up waiting hands the same bytes in again.
        let answer = self.0.submit_debits(request.into_inner()).await;
        answer.map(Response::new)
    }

    async fn meter(
        &self,
        request: Request<Streaming<v1::MeterRequest>>,
    ) -> Result<Response<Self::MeterStream>, Status> {
        let (answers, stream) = mpsc::channel(ANSWERS);
        tokio::spawn(run(self.0.clone(), request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Does a call in a task of its own: a client that gives up waiting does not
/// leave half of it.
async fn apart<T: Send + 'static>(
    call: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<Response<T>, Status> {
    let done = tokio::spawn(call).await;
    let lost = |_| Err(Status::internal("the call broke off"));
    done.unwrap_or_else(lost).map(Response::new)
}

/// Serves a stream until its client ends it and all is answered. Each request
/// has a task: one that waits for a client to read holds up no account.
async fn run(
    metering: Arc<Metering>,
    mut requests: Streaming<v1::MeterRequest>,
    answers: mpsc::Sender<Result<v1::MeterResponse, Status>>,
) {
    let mut under_way = JoinSet::new();
    let mut open = true;
    while open || !under_way.is_empty() {
        tokio::select! {
            request = requests.next(), if open && under_way.len() < MAX_UNDER_WAY => match request {
                Some(Ok(request)) => {
                    under_way.spawn(answer(metering.clone(), request));
                }
                // Gone, or its bytes mean nothing: tonic ends the call.
                Some(Err(_)) | None => open = false,
            },
            Some(Ok(answer)) = under_way.join_next() => {
                // A client that is gone needs no answer; the rest goes on.
                let _ = answers.send(Ok(answer)).await;
            }
        }
    }
}

async fn answer(metering: Arc<Metering>, request: v1::MeterRequest) -> v1::MeterResponse {
    let answer = match request.ask {
        Some(Ask::Authorize(ask)) => metering.authorize(ask).await.map(Answer::Authorized),
        Some(Ask::Settle(ask)) => metering.settle(ask).await.map(Answer::Settled),
        Some(Ask::Void(ask)) => metering.void(ask).await.map(Answer::Voided),
        None => Err(Local::BadRequest.status("nothing is asked")),
    };
    v1::MeterResponse {
        id: request.id,
        answer: Some(answer.unwrap_or_else(|status| Answer::Refused(refused(&status)))),
    }
}

fn refused(status: &Status) -> v1::MeterRefusal {
    let problem = Problem::of(status);
    let (name, retry) = problem.map_or_else(Default::default, |p| (p.name, p.retry));
    v1::MeterRefusal {
        code: status.code() as u32,
        name,
        retry,
        message: status.message().to_owned(),
    }
}
