//! The client: one connection to whichever member answers, requests with deadlines and retries.
//!
//! Members are tried in turn until one can be connected to. A request that may be repeated goes on
//! to the next member when its answer is Unavailable; a write is never sent twice, because nobody
//! could tell whether the first one happened. Everything runs on one thread: a tool that makes one
//! request should have answered before a thread pool is up.

use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::fmt::{self, Write as _};
use std::future::Future;
use std::marker::PhantomData;
use std::time::Duration;

use http::uri::PathAndQuery;
use keepd_api::etcdserverpb::{
    AuthenticateRequest, AuthenticateResponse, MemberListRequest, MemberListResponse,
};
use keepd_env::Env;
use prost::Message;
use tokio::time::{sleep, timeout};
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::dial::{Dialing, Target};
use super::global::{Identity, Options};
use crate::engine::command::Call;
use crate::engine::exit::{BAD_CONNECTION, Exit, failed};
use crate::engine::json::Object;
use crate::engine::log;

/// Whether a request may be sent again when its result is not known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Repeat {
    /// It only reads.
    Allowed,
    /// It changes something.
    Never,
}

/// An RPC: its path and the types of its messages.
#[derive(Debug)]
pub(crate) struct Method<Q, A> {
    path: &'static str,
    repeat: Repeat,
    messages: PhantomData<fn(Q) -> A>,
}

impl<Q, A> Method<Q, A> {
    /// Names an RPC.
    pub(crate) const fn new(path: &'static str, repeat: Repeat) -> Self {
        Self { path, repeat, messages: PhantomData }
    }
}

const MEMBER_LIST: Method<MemberListRequest, MemberListResponse> =
    Method::new("/etcdserverpb.Cluster/MemberList", Repeat::Allowed);
const AUTHENTICATE: Method<AuthenticateRequest, AuthenticateResponse> =
    Method::new("/etcdserverpb.Auth/Authenticate", Repeat::Allowed);

/// A request's failure.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server said so.
    Status(Status),
    /// The deadline passed.
    DeadlineExceeded,
    /// There is no member to ask.
    NoEndpoints,
    /// It was refused before it was sent.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => f.write_str(&explain(status)),
            Self::DeadlineExceeded => f.write_str("context deadline exceeded"),
            Self::NoEndpoints => f.write_str("etcdclient: no available endpoints"),
            Self::Refused(text) => f.write_str(text),
        }
    }
}

/// An RPC error as Go clients print it: errors of the protocol by their text alone.
pub(crate) fn explain(status: &Status) -> String {
    if keepd_api::Error::from_text(status.message()).is_some() {
        return status.message().to_owned();
    }
    framed(status)
}

/// An RPC error with its code, as Go prints one it does not know.
pub(crate) fn framed(status: &Status) -> String {
    let code = match status.code() {
        Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    };
    format!("rpc error: code = {code} desc = {}", status.message())
}

/// An error of the connection rather than of the server: the member is unavailable, whatever the
/// library calls it.
fn unavailable_if_broken(status: Status) -> Status {
    let mut cause = status.source();
    if cause.is_none() {
        return status;
    }
    let mut text = format!("connection error: desc = \"{}", status.message());
    while let Some(error) = cause {
        write!(text, ": {error}").expect("a string takes everything");
        cause = error.source();
    }
    text.push('"');
    Status::unavailable(text)
}

/// Whether a stream that ended so may go on with another member.
pub(crate) fn may_go_on(status: Status) -> Result<(), Status> {
    let status = unavailable_if_broken(status);
    match status.code() {
        Code::Unavailable | Code::Internal => Ok(()),
        _ => Err(status),
    }
}

/// Connections and requests of one command.
pub(crate) struct Client {
    /// The options it was made from.
    pub(crate) options: Options,
    targets: Vec<Target>,
    connected: RefCell<Option<Channel>>,
    /// The target asked last; the next attempt begins after it.
    current: Cell<usize>,
    token: RefCell<Option<String>>,
}

/// Runs a command's work with a client, on a runtime of this thread.
pub(crate) fn with_client(
    mut call: Call<'_>,
    work: impl AsyncFnOnce(&Call<'_>, &Client) -> Result<(), Exit>,
) -> Result<(), Exit> {
    let options = Options::read(&mut call)?;
    run(async move {
        let client = Client::new(options).await?;
        work(&call, &client).await
    })
}

/// Runs work on a runtime of this thread.
pub(crate) fn run(work: impl Future<Output = Result<(), Exit>>) -> Result<(), Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed)?;
    let result = runtime.block_on(work);
    // Blocking readers of standard input must not keep a finished command alive.
    runtime.shutdown_background();
    result
}

impl Client {
    /// Makes a client; a user's password is exchanged for a token here.
    pub(crate) async fn new(options: Options) -> Result<Self, Exit> {
        let targets: Result<Vec<_>, _> =
            options.endpoints.iter().map(|endpoint| Target::new(endpoint, &options)).collect();
        let client = Self {
            targets: targets?,
            options,
            connected: RefCell::new(None),
            current: Cell::new(0),
            token: RefCell::new(None),
        };
        if client.targets.is_empty() {
            return Err(Exit::new(BAD_CONNECTION, Failure::NoEndpoints));
        }
        client.authenticate().await.map_err(|failure| Exit::new(BAD_CONNECTION, failure))?;
        Ok(client)
    }

    async fn authenticate(&self) -> Result<(), Failure> {
        let token = match self.options.identity.clone() {
            None => return Ok(()),
            Some(Identity::Token(token)) => token,
            Some(Identity::User { name, password }) => {
                let request = AuthenticateRequest { name, password };
                let waited = self.options.dial_timeout.max(Duration::from_secs(5));
                match self.within(waited, self.call(&AUTHENTICATE, request)).await {
                    Ok(answer) => answer.token,
                    // A cluster without auth lets everyone in, with or without a password.
                    Err(Failure::Status(status))
                        if status.message() == keepd_api::Error::AuthNotEnabled.text() =>
                    {
                        return Ok(());
                    }
                    Err(failure) => return Err(failure),
                }
            }
        };
        *self.token.borrow_mut() = Some(token);
        Ok(())
    }

    /// Makes a request with the command's deadline.
    pub(crate) async fn ask<Q, A>(&self, method: &Method<Q, A>, request: Q) -> Result<A, Failure>
    where
        Q: Message + Clone + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.within(self.options.command_timeout, self.call(method, request)).await
    }

    /// Bounds some requests by a deadline.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        // The timer is coarser than a quick answer.
        if limit.is_zero() {
            return Err(Failure::DeadlineExceeded);
        }
        timeout(limit, work).await.unwrap_or(Err(Failure::DeadlineExceeded))
    }

    /// Makes a request, repeating it where that is safe.
    pub(crate) async fn call<Q, A>(&self, method: &Method<Q, A>, request: Q) -> Result<A, Failure>
    where
        Q: Message + Clone + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.check_size(&request)?;
        let mut reported = String::new();
        for attempt in 0.. {
            let mut grpc = self.connection(method.path, method.repeat).await?;
            let path = PathAndQuery::from_static(method.path);
            let asked = self.with_metadata(Request::new(request.clone()));
            let answer = grpc.unary(asked, path, ProstCodec::<Q, A>::default()).await;
            let status = match answer {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => unavailable_if_broken(status),
            };
            let error = framed(&status);
            if error != reported {
                self.report(method.path, attempt, &error);
                reported = error;
            }
            let again = method.repeat == Repeat::Allowed && status.code() == Code::Unavailable;
            if !again || attempt + 1 == ATTEMPTS_MAX {
                return Err(Failure::Status(status));
            }
            self.turn();
            sleep(BACKOFF).await;
        }
        unreachable!("the loop ends with its last attempt")
    }

    /// Makes a request answered by a stream.
    pub(crate) async fn stream<Q, A>(
        &self,
        method: &Method<Q, A>,
        request: Q,
    ) -> Result<Streaming<A>, Failure>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.connection(method.path, method.repeat).await?;
        let path = PathAndQuery::from_static(method.path);
        let asked = self.with_metadata(Request::new(request));
        let answer = grpc.server_streaming(asked, path, ProstCodec::<Q, A>::default()).await;
        Ok(answer.map_err(Failure::Status)?.into_inner())
    }

    /// Opens a stream both ways. `needs_leader` has it broken off when there is no leader.
    pub(crate) async fn duplex<Q, A>(
        &self,
        method: &Method<Q, A>,
        requests: impl tokio_stream::Stream<Item = Q> + Send + 'static,
        needs_leader: bool,
    ) -> Result<Streaming<A>, Failure>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.connection(method.path, method.repeat).await?;
        let path = PathAndQuery::from_static(method.path);
        let mut asked = self.with_metadata(Request::new(requests));
        if needs_leader {
            asked.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        }
        let answer = grpc.streaming(asked, path, ProstCodec::<Q, A>::default()).await;
        Ok(answer.map_err(Failure::Status)?.into_inner())
    }

    /// The client URLs of all members, for `--cluster`.
    pub(crate) async fn cluster_endpoints(&self) -> Result<Vec<String>, Exit> {
        let list = self.ask(&MEMBER_LIST, MemberListRequest { linearizable: true }).await;
        let list = list.map_err(|failure| {
            failed(format_args!(
                "failed to fetch endpoints from etcd cluster member list: {failure}"
            ))
        })?;
        Ok(list.members.into_iter().flat_map(|member| member.client_ur_ls).collect())
    }

    fn check_size(&self, request: &impl Message) -> Result<(), Failure> {
        let (len, max) = (request.encoded_len(), self.options.request_bytes_max);
        if len <= max {
            return Ok(());
        }
        Err(Failure::Refused(format!(
            "rpc error: code = ResourceExhausted desc = \
             trying to send message larger than max ({len} vs. {max})"
        )))
    }

    fn with_metadata<T>(&self, mut request: Request<T>) -> Request<T> {
        let metadata = request.metadata_mut();
        let version = MetadataValue::from_static(keepd_api::API_VERSION);
        metadata.insert("client-api-version", version);
        if let Some(token) = self.token.borrow().as_ref().and_then(|token| token.parse().ok()) {
            metadata.insert("token", token);
        }
        request
    }

    /// Forgets the connection; the next request goes to another member.
    pub(crate) fn turn(&self) {
        *self.connected.borrow_mut() = None;
        self.current.set((self.current.get() + 1) % self.targets.len());
    }

    fn report(&self, path: &str, attempt: u32, error: &str) {
        let fields = Object::new()
            .text("target", &self.targets[self.current.get()].name)
            .text("method", path)
            .always("attempt", &attempt.to_string())
            .text("error", error);
        log::write("warn", "etcd-client", "retrying of unary invoker failed", &fields);
    }

    /// The connection there is, or one to the first member that can be connected to.
    async fn connection(&self, path: &str, repeat: Repeat) -> Result<Grpc<Channel>, Failure> {
        let existing = self.connected.borrow().clone();
        let channel = match existing {
            Some(channel) => channel,
            None => self.connect(path).await?,
        };
        let mut grpc = Grpc::new(channel)
            .max_decoding_message_size(self.options.response_bytes_max)
            .max_encoding_message_size(usize::MAX);
        if let Err(error) = grpc.ready().await {
            // The connection broke while idle; nothing was sent over it.
            self.turn();
            let status = Status::unavailable(error.to_string());
            self.report(path, 0, &framed(&status));
            if repeat == Repeat::Never {
                return Err(Failure::Status(status));
            }
            let channel = self.connect(path).await?;
            return Ok(Grpc::new(channel)
                .max_decoding_message_size(self.options.response_bytes_max)
                .max_encoding_message_size(usize::MAX));
        }
        Ok(grpc)
    }

    async fn connect(&self, path: &str) -> Result<Channel, Failure> {
        let mut reported = Vec::new();
        let mut last_error = String::new();
        let (clock, random) = (Env::real().clock, Env::real().random);
        let started = clock.monotonic();
        for round in 0_u32.. {
            let mut is_refused = true;
            for _ in 0..self.targets.len() {
                let target = &self.targets[self.current.get()];
                match target.connect(Dialing::of(&self.options)).await {
                    Ok(channel) => {
                        *self.connected.borrow_mut() = Some(channel.clone());
                        return Ok(channel);
                    }
                    Err(error) => {
                        is_refused &= error.is_refusal;
                        last_error = format!("connection error: desc = \"{}\"", error.text);
                    }
                }
                if !reported.contains(&last_error) {
                    self.report(path, 0, &framed(&Status::unavailable(last_error.clone())));
                    reported.push(last_error.clone());
                }
                self.turn();
            }
            let pause = pause(round, is_refused, random.next_u64());
            if clock.monotonic().saturating_sub(started) + pause > CONNECTING_MAX {
                break;
            }
            sleep(pause).await;
        }
        Err(Failure::Status(Status::unavailable(last_error)))
    }
}

/// The pause before another round of connecting: it grows by 1.6, and differs by up to a fifth, so
/// that clients of a restarted server do not come at once. Whom TLS refused waits as gRPC
/// prescribes, from one second on; a server that was not there may come back at any moment.
fn pause(round: u32, is_refused: bool, random: u64) -> Duration {
    let (first, most) = if is_refused { (1000, 8000) } else { (100, 500) };
    let exponent = i32::try_from(round.min(16)).unwrap_or(16);
    let pause = Duration::from_millis(first).mul_f64(1.6_f64.powi(exponent));
    let per_mille = u32::try_from(random % 401).unwrap_or(200) + 800;
    pause.min(Duration::from_millis(most)) * per_mille / 1000
}

/// BOUND: how long a command without a deadline tries to connect.
const CONNECTING_MAX: Duration = Duration::from_secs(10);
/// BOUND: answers of a command without a deadline that say to try again.
const ATTEMPTS_MAX: u32 = 100;
const BACKOFF: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refused_wait_as_grpc_says_and_a_server_that_comes_back_is_found_soon() {
        for (round, is_refused, middle) in [
            (0, true, 1000),
            (1, true, 1600),
            (2, true, 2560),
            (9, true, 8000),
            (0, false, 100),
            (1, false, 160),
            (4, false, 500),
            (9, false, 500),
        ] {
            for (random, per_mille) in [(0, 800), (200, 1000), (400, 1200)] {
                let millis = pause(round, is_refused, random).as_millis();
                assert!(millis.abs_diff(middle * per_mille / 1000) <= 1, "{round}: {millis}");
            }
        }
    }
}
