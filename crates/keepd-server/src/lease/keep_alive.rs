//! `LeaseKeepAlive`: one answer for each request, in their order.
//!
//! A client may send thousands of requests at once, and read the answers later. So a task of its own
//! reads the requests as long as there are places for their answers; they are renewed one by one.

use std::sync::Arc;

use futures_util::stream::{self, BoxStream, StreamExt};
use keepd_api::Error as Api;
use keepd_api::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use keepd_node::Renewal;
use keepd_types::LeaseId;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::answer_places::{ANSWERS_MAX, AnswerPlaces};
use crate::context::Context;
use crate::errors;
use crate::grpc::Requests;
use crate::grpc::call::Call;
use crate::stream_failures::{Api as Counted, Way};

/// The renewals of one stream.
struct Renewals {
    context: Arc<Context>,
    /// Leases to renew, or the error of a request that could not be read.
    asked: mpsc::Receiver<Result<i64, Status>>,
    places: Arc<AnswerPlaces>,
    _reader: AbortOnDropHandle<()>,
}

pub(crate) async fn keep_alive(
    context: &Arc<Context>,
    call: Call<Requests<LeaseKeepAliveRequest>>,
) -> Result<BoxStream<'static, Result<LeaseKeepAliveResponse, Status>>, Status> {
    let shared = Arc::clone(&context.answer_places);
    let places = Arc::new(AnswerPlaces::new(shared, call.connection));
    // One more for an error, which needs no place.
    let (ask, asked) = mpsc::channel(ANSWERS_MAX + 1);
    let reader = tokio::spawn(read(call.request, ask, Arc::clone(&places)));
    let reader = AbortOnDropHandle::new(reader);
    let renewals = Renewals { context: Arc::clone(context), asked, places, _reader: reader };
    let answers = stream::unfold(renewals, |mut renewals| async {
        let asked = renewals.asked.recv().await?;
        let answer = match asked {
            Ok(id) => renewals.renew(id).await,
            Err(unreadable) => {
                let failures = &renewals.context.stream_failures;
                failures.count(Counted::LeaseKeepAlive, Way::Receive, &unreadable);
                Err(unreadable)
            }
        };
        Some((answer, renewals))
    });
    Ok(answers.boxed())
}

/// Reads until the client half-closes or goes away, or a request cannot be read.
async fn read(
    mut requests: Requests<LeaseKeepAliveRequest>,
    ask: mpsc::Sender<Result<i64, Status>>,
    places: Arc<AnswerPlaces>,
) {
    while let Some(request) = requests.next().await.transpose() {
        let id = match request {
            Ok(request) => places.reserve().await.map(|()| request.id),
            Err(unreadable) => Err(unreadable),
        };
        let is_last = id.is_err();
        if ask.send(id).await.is_err() || is_last {
            return;
        }
    }
}

impl Renewals {
    async fn renew(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        self.places.free();
        // Sampled before the renewal, as etcd does.
        let header = Some(self.context.current_header());
        let renewal = match self.context.node.renew_lease(LeaseId(id)).await {
            // Other requests without a leader time out; this one says why.
            Err(keepd_node::Error::NoLeader) => return Err(Api::NoLeader.into()),
            renewal => renewal.map_err(errors::node)?,
        };
        match renewal {
            Renewal::Renewed { ttl } => Ok(LeaseKeepAliveResponse { header, id, ttl }),
            Renewal::Gone => Ok(LeaseKeepAliveResponse { header, id, ttl: 0 }),
            Renewal::NotPrimary => Err(Status::unknown("not a primary lessor")),
        }
    }
}
