//! gRPC: finds a request's RPC and serves its kind of call. All RPCs are served here.
//!
//! A handler is a plain `async fn(&Arc<Context>, Call<Request>) -> Result<Answer, Status>`; where a
//! client may send many messages the request is [`Requests`], where it gets many the answer is a
//! stream. What belongs to every call stands here and nowhere else: its counters, its deadline, the
//! receipt of its message, its admission.

pub(crate) mod call;
mod framing;
mod messages;
mod protocol;

use std::future::{Future, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;

use futures_util::Stream;
use http::{Request, Response};
use hyper::body::Incoming;
use keepd_api::Error as Api;
use prost::Message;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::{Code, Status};

use self::call::{Call, Metadata};
pub(crate) use self::framing::trailers;
use self::messages::Messages;
pub(crate) use self::messages::Requests;
use self::protocol::Terms;
pub(crate) use self::protocol::deadline_exceeded;
use crate::context::Context;
use crate::encoded_message::Answer;
use crate::metrics::CallGuard;
use crate::rpc::{self, Kind};
use crate::shutdown;
use crate::unfinished::Share;

/// An answer under way.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// The gRPC side of a client port.
#[derive(Clone, Debug)]
pub(crate) struct Grpc {
    context: Arc<Context>,
    /// Turns true when the server ends.
    stop: watch::Receiver<bool>,
}

/// A call whose messages have not been read.
pub(crate) struct Opened {
    context: Arc<Context>,
    body: Incoming,
    metadata: Metadata,
    terms: Terms,
    connection: Arc<Share>,
    guard: CallGuard,
}

/// A function that answers an RPC.
pub(crate) trait Handler<'a, R>: Copy + Send + Sync + 'static {
    type Answer: Send;
    type Work: Future<Output = Result<Self::Answer, Status>> + Send + 'a;

    fn run(self, context: &'a Arc<Context>, call: Call<R>) -> Self::Work;
}

impl<'a, F, R, A, W> Handler<'a, R> for F
where
    F: Fn(&'a Arc<Context>, Call<R>) -> W + Copy + Send + Sync + 'static,
    W: Future<Output = Result<A, Status>> + Send + 'a,
    A: Send,
{
    type Answer = A;
    type Work = W;

    fn run(self, context: &'a Arc<Context>, call: Call<R>) -> W {
        self(context, call)
    }
}

impl Grpc {
    pub(crate) const fn new(context: Arc<Context>, stop: watch::Receiver<bool>) -> Self {
        Self { context, stop }
    }

    /// Whether a request is to be answered as a call, well formed or not.
    pub(crate) fn serves<B>(&self, request: &Request<B>) -> bool {
        protocol::is_grpc(request) || self.context.rpc_metrics.is_rpc(request.uri().path())
    }

    /// Answers one request. Each RPC's future is boxed by itself, so that a put does not carry the
    /// size of a snapshot.
    pub(crate) fn call(&self, request: Request<Incoming>, connection: Arc<Share>) -> Answering {
        let terms = match protocol::terms(&request) {
            Ok(terms) => terms,
            Err(refused) => return Box::pin(ready(*refused)),
        };
        let path = protocol::path(&request);
        let Some(counters) = self.context.rpc_metrics.of(path) else {
            let status = protocol::unknown_method(path, is_service);
            return Box::pin(ready(terms.apply(status.into_http())));
        };
        let rpc = counters.rpc;
        let context = Arc::clone(&self.context);
        let metadata = Metadata::of(request.headers());
        // What a client sends beside its messages is not kept while they are awaited.
        let (body, guard) = (request.into_body(), CallGuard::start(counters));
        let answering = rpc.serve(Opened { context, body, metadata, terms, connection, guard });
        if !rpc.ends_at_shutdown {
            return answering;
        }
        let stop = self.stop.clone();
        Box::pin(async move { shutdown::end_on_shutdown(answering.await, stop) })
    }
}

/// Services that etcd has, with methods or without.
fn is_service(name: &str) -> bool {
    let unbuilt = ["v3lockpb.Lock", "v3electionpb.Election"];
    unbuilt.contains(&name) || rpc::is_served(name)
}

/// Refuses a call that wants a leader when none is known.
fn admit<R>(context: &Context, call: &Call<R>) -> Result<(), Status> {
    if call.metadata.wants_leader && context.node.status().leader == 0 {
        return Err(Api::NoLeader.into());
    }
    Ok(())
}

/// Receives the message of a call that has one, and admits the call.
async fn receive<R: Message + Default>(
    context: &Context,
    body: Incoming,
    kind: Kind,
    terms: &Terms,
    metadata: Metadata,
    connection: Arc<Share>,
) -> Result<Call<R>, Status> {
    let limit = context.limits.receive_bytes_max();
    let messages = Messages::new(body, kind, terms.encoding, limit, Arc::clone(&connection));
    let request = messages.one().await?;
    let call = Call { request, metadata, deadline: terms.deadline, connection };
    admit(context, &call)?;
    Ok(call)
}

/// Serves a call with one message and one answer.
pub(crate) fn unary<H, R, A>(opened: Opened, handler: H) -> Answering
where
    H: for<'a> Handler<'a, R, Answer = A>,
    R: Message + Default + 'static,
    A: Answer,
{
    Box::pin(async move {
        let Opened { context, body, metadata, terms, connection, guard } = opened;
        let unread = Arc::clone(&connection.unread);
        let result = {
            let work = pin!(async {
                let call =
                    receive(&context, body, Kind::Unary, &terms, metadata, connection).await?;
                let answer = handler.run(&context, call).await?.encoded();
                framing::compressed(framing::sendable(answer)?, terms.encoding).await
            });
            terms.in_time(work).await
        };
        guard.finish(result.as_ref().err().map_or(Code::Ok, Status::code));
        terms.apply(framing::answer(result, terms.encoding, &unread))
    })
}

/// Serves a call with one message and a stream of answers.
pub(crate) fn server_stream<H, R, S, A>(opened: Opened, handler: H) -> Answering
where
    H: for<'a> Handler<'a, R, Answer = S>,
    R: Message + Default + 'static,
    S: Stream<Item = Result<A, Status>> + Unpin + Send + 'static,
    A: Answer,
{
    Box::pin(async move {
        let Opened { context, body, metadata, terms, connection, guard } = opened;
        let answers = {
            let work = pin!(async {
                let kind = Kind::ServerStream;
                let call = receive(&context, body, kind, &terms, metadata, connection).await?;
                handler.run(&context, call).await
            });
            terms.in_time(work).await
        };
        streamed(answers, &terms, guard)
    })
}

/// Serves a call with a stream of messages and one of answers.
pub(crate) fn bidi<H, R, S, A>(opened: Opened, handler: H) -> Answering
where
    H: for<'a> Handler<'a, Requests<R>, Answer = S>,
    R: Message + Default + 'static,
    S: Stream<Item = Result<A, Status>> + Unpin + Send + 'static,
    A: Answer,
{
    Box::pin(async move {
        let Opened { context, body, metadata, terms, connection, guard } = opened;
        let answers = {
            let work = pin!(async {
                let (limit, share) = (context.limits.receive_bytes_max(), Arc::clone(&connection));
                let messages = Messages::new(body, Kind::Bidi, terms.encoding, limit, share);
                let (request, deadline) = (Requests::new(messages), terms.deadline);
                let call = Call { request, metadata, deadline, connection };
                admit(&context, &call)?;
                handler.run(&context, call).await
            });
            terms.in_time(work).await
        };
        streamed(answers, &terms, guard)
    })
}

/// A streamed answer, which ends when its client has given up.
fn streamed<S, A>(answers: Result<S, Status>, terms: &Terms, guard: CallGuard) -> Response<Body>
where
    S: Stream<Item = Result<A, Status>> + Unpin + Send + 'static,
    A: Answer,
{
    let response = framing::answer_stream(answers, terms.encoding, guard);
    let response = terms.apply(response);
    match terms.deadline {
        Some(deadline) => shutdown::end_at_deadline(response, deadline),
        None => response,
    }
}
