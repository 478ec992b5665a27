//! gRPC: serves each kind of call. All RPCs are served here.
//!
//! A handler is a plain `async fn(&Arc<Context>, Call<Request>) -> Result<Answer, Status>`; where a
//! client may send many messages the request is [`Requests`], where it gets many the answer is a
//! stream. Everything common to all calls is here and nowhere else: counters, deadline, receipt of
//! the message, admission and authorization.

pub(crate) mod call;
pub(crate) mod deadline;
mod framing;
mod messages;
pub(crate) mod protocol;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;

use futures_util::Stream;
use http::Response;
use hyper::body::Incoming;
use keepd_api::Error as Api;
use prost::Message;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::{Code, Status};

use self::call::{Call, Metadata};
use self::deadline::in_time;
use self::messages::Messages;
pub(crate) use self::messages::{Kind, Requests};
use self::protocol::Terms;
use crate::authorization::{self, Authorized, Caller, Permission};
use crate::context::Context;
use crate::encoded_message::Answer;
use crate::leader_watch::LeaderLoss;
use crate::metrics::CallGuard;
use crate::shutdown;
use crate::slow_calls::SlowCall;
use crate::unfinished::Share;

/// An answer under way.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// A call whose messages have not been read.
pub(crate) struct Opened {
    pub(crate) context: Arc<Context>,
    pub(crate) body: Incoming,
    pub(crate) head: Head,
    pub(crate) connection: Arc<Share>,
    pub(crate) guard: CallGuard,
    /// Turns true when the server ends; given if that ends the call.
    pub(crate) stop: Option<watch::Receiver<bool>>,
}

/// The part of a call that is known before its messages are read.
pub(crate) struct Head {
    pub(crate) path: &'static str,
    pub(crate) permission: Permission,
    pub(crate) is_for_learners: bool,
    pub(crate) metadata: Metadata,
    pub(crate) terms: Terms,
}

impl Head {
    /// Whether the call asks about the member and the cluster, and not about keys or leases.
    fn is_for_operators(&self) -> bool {
        let services =
            ["/etcdserverpb.Maintenance/", "/etcdserverpb.Cluster/", "/grpc.health.v1.Health/"];
        services.iter().any(|service| self.path.starts_with(service))
    }

    /// Admits the call: it is refused if this member is a learner and learners do not answer it, if
    /// the member's data is not to be believed and the call is not an operator's, if it wants a leader and none is known, or if its caller may not call it.
    fn admit(&self, context: &Context, connection: &Share) -> Result<Authorized, Status> {
        if !self.is_for_learners && context.node.is_learner() {
            return Err(Api::NotSupportedForLearner.into());
        }
        if context.node.serves_nothing() && !self.is_for_operators() {
            return Err(Api::Corrupt.into());
        }
        if self.metadata.wants_leader && context.node.status().leader == 0 {
            return Err(Api::NoLeader.into());
        }
        let caller = Caller { peer: &connection.peer, token: self.metadata.token.as_ref() };
        let authorizer = context.authorizer.as_ref();
        authorization::authorize(authorizer, self.path, self.permission, caller)
    }

    /// Receives the message of a call that has one, and admits the call.
    async fn receive<R: Message + Default>(
        &self,
        context: &Context,
        body: &mut Incoming,
        kind: Kind,
        connection: Arc<Share>,
    ) -> Result<Call<R>, Status> {
        let limit = context.limits.receive_bytes_max();
        let share = Arc::clone(&connection);
        let request = Messages::new(body, kind, self.terms.encoding, limit, share).one().await?;
        let authorized = self.admit(context, &connection)?;
        Ok(Call::new(request, self.terms.deadline, connection, authorized))
    }
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

/// Serves a call with one message and one answer.
pub(crate) fn unary<H, R, A>(opened: Opened, handler: H) -> Answering
where
    H: for<'a> Handler<'a, R, Answer = A>,
    R: Message + Default + 'static,
    A: Answer,
{
    Box::pin(async move {
        let Opened { context, mut body, head, connection, guard, stop: _ } = opened;
        let (unread, terms) = (Arc::clone(&connection.unread), &head.terms);
        let remote = Arc::clone(&connection);
        let result = {
            let work = pin!(async {
                let call = head.receive(&context, &mut body, Kind::Unary, connection).await?;
                let answer = handler.run(&context, call).await?.encoded();
                framing::compressed(framing::sendable(answer)?, terms.encoding).await
            });
            in_time(terms.deadline, work).await
        };
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        let (took, expected) = (guard.elapsed(), context.limits.request_expected);
        if took > expected {
            let answer_bytes = result.as_ref().map_or(0, |answer| answer.len());
            let (path, remote) = (head.path, remote.peer.address.as_str());
            let call = SlowCall { path, remote, took, code, answer_bytes };
            context.slow_calls.tell(call, expected);
        }
        guard.finish(code);
        messages::wait_for_end(&mut body).await;
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
        let Opened { context, mut body, head, connection, guard, stop } = opened;
        let answers = {
            let work = pin!(async {
                let call =
                    head.receive(&context, &mut body, Kind::ServerStream, connection).await?;
                handler.run(&context, call).await
            });
            in_time(head.terms.deadline, work).await
        };
        messages::wait_for_end(&mut body).await;
        let leader = head.metadata.wants_leader.then(|| context.leader_loss());
        streamed(answers, &head.terms, guard, stop, leader)
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
        let Opened { context, body, head, connection, guard, stop } = opened;
        let terms = &head.terms;
        let answers = {
            let work = pin!(async {
                let authorized = head.admit(&context, &connection)?;
                let (limit, share) = (context.limits.receive_bytes_max(), Arc::clone(&connection));
                let messages = Messages::new(body, Kind::Bidi, terms.encoding, limit, share);
                let requests = Requests::new(messages);
                let call = Call::new(requests, terms.deadline, connection, authorized);
                handler.run(&context, call).await
            });
            in_time(terms.deadline, work).await
        };
        let leader = head.metadata.wants_leader.then(|| context.leader_loss());
        streamed(answers, terms, guard, stop, leader)
    })
}

/// A streamed answer, which ends at its client's deadline and, if `stop` is given, with the server; if
/// its client wants a leader, also when there is none for too long.
fn streamed<S, A>(
    answers: Result<S, Status>,
    terms: &Terms,
    guard: CallGuard,
    stop: Option<watch::Receiver<bool>>,
    leader: Option<LeaderLoss>,
) -> Response<Body>
where
    S: Stream<Item = Result<A, Status>> + Unpin + Send + 'static,
    A: Answer,
{
    let end = shutdown::end(terms.deadline, stop, leader);
    terms.apply(framing::answer_stream(answers, terms.encoding, guard, end))
}
