//! The small HTTP endpoints: health, readiness, version, metrics.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use keepd_machine::command::{ALARM_CORRUPT, Alarm};
use keepd_types::KeyRange;
use tonic::body::Body;

use crate::access::{self, AccessControl};
use crate::context::Context;
use crate::encryption_status::{self, Refusal};
use crate::metrics::{self, RpcMetrics};
use crate::peer::{Peer, is_local};
use crate::versions;

/// The listener that a request came in on; not every one shows everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpScope {
    /// A client listener.
    Client,
    /// A metrics listener: no version.
    Metrics,
}

/// The member and the counters that the endpoints show.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) context: Arc<Context>,
    pub(crate) rpc_metrics: Arc<RpcMetrics>,
}

/// The log message for a request that names a host which is not allowed.
const REBINDING: &str = "rejecting HTTP request to prevent DNS rebinding attacks";

/// Answers one request of a client port that is not gRPC, as far as hosts and origins allow.
pub(crate) async fn answer_client<B>(
    server: &Served,
    access: &AccessControl,
    is_tls: bool,
    is_rpc: bool,
    peer: &Peer,
    request: &Request<B>,
) -> Response<Body> {
    if !is_tls && let Some(host) = access.refused_host(request) {
        tracing::warn!(host, "{REBINDING}");
        return nosniff(plain(StatusCode::MISDIRECTED_REQUEST, access::refusal(&host)));
    }
    // No page reaches a unix socket.
    if !is_tls
        && !is_local(peer)
        && is_own(request.uri().path())
        && let Some(host) = access.foreign_host(request)
    {
        tracing::warn!(host, "{REBINDING}");
        return nosniff(plain(StatusCode::MISDIRECTED_REQUEST, access::refusal_of_own_path(&host)));
    }
    let mut response = if request.method() == Method::OPTIONS {
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        response
    } else {
        answer(server, HttpScope::Client, request).await
    };
    // No page of another origin has any business with gRPC's paths, which it could use on a TLS port,
    // or with keepd's own.
    if !(is_own(request.uri().path()) || is_rpc) {
        access.allow_origin(request, &mut response);
    }
    response
}

/// Whether a path is keepd's own: etcd does not have it.
fn is_own(path: &str) -> bool {
    path.starts_with("/keepd/")
}

/// Answers one request that is not gRPC.
pub(crate) async fn answer<B>(
    server: &Served,
    scope: HttpScope,
    request: &Request<B>,
) -> Response<Body> {
    let path = request.uri().path();
    if let Some(clean) = cleaned(path) {
        return redirect(request, clean);
    }
    let query = Query(request.uri().query().unwrap_or_default());
    if !is_known(path, scope) {
        not_found()
    } else if request.method() == Method::GET || path == "/metrics" {
        get(server, path, query).await
    } else {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        nosniff(response)
    }
}

/// The shortest form of a path, if it is not given in it, as in Go's `ServeMux`.
fn cleaned(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if path.ends_with('/') && !parts.is_empty() {
        clean.push('/');
    }
    (clean != path).then_some(clean)
}

fn redirect<B>(request: &Request<B>, mut target: String) -> Response<Body> {
    if let Some(query) = request.uri().query() {
        target.push('?');
        target.push_str(query);
    }
    let mut response = if matches!(*request.method(), Method::GET | Method::HEAD) {
        let link = target.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let link = link.replace('"', "&#34;").replace('\'', "&#39;");
        let mut response =
            plain(StatusCode::OK, format!("<a href=\"{link}\">Temporary Redirect</a>.\n\n"));
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, html);
        response
    } else {
        Response::new(Body::empty())
    };
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let target = HeaderValue::try_from(target).expect("a request's path is no control characters");
    response.headers_mut().insert(LOCATION, target);
    response
}

fn is_known(path: &str, scope: HttpScope) -> bool {
    match path {
        "/health" | "/metrics" | "/livez" | "/readyz" => true,
        "/version" | "/keepd/encryption" => scope == HttpScope::Client,
        _ => check_name(path).is_some(),
    }
}

async fn get(server: &Served, path: &str, query: Query<'_>) -> Response<Body> {
    let context = &server.context;
    match path {
        "/health" => health(server, query).await,
        "/version" => version(context),
        "/keepd/encryption" => encryption(context, query).await,
        "/metrics" => {
            let mut response = plain(StatusCode::OK, metrics::render(context, &server.rpc_metrics));
            response.headers_mut().insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
            );
            response
        }
        "/livez" => checks(server, LIVEZ, query).await,
        "/readyz" => checks(server, READYZ, query).await,
        path => match check_name(path) {
            Some(check) => checks(server, std::slice::from_ref(check), query).await,
            None => not_found(),
        },
    }
}

fn version(context: &Context) -> Response<Body> {
    let facts = context.node.cluster_facts();
    let body = format!(
        r#"{{"etcdserver":"{}","etcdcluster":"{}","storage":"{}","keepd":"{}"}}"#,
        keepd_api::SERVER_VERSION,
        facts.version.as_deref().unwrap_or("not_decided"),
        versions::storage(&facts),
        env!("CARGO_PKG_VERSION"),
    );
    let mut response = plain(StatusCode::OK, body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn encryption(context: &Context, query: Query<'_>) -> Response<Body> {
    match encryption_status::status(context, query.has("values")).await {
        Ok(status) => {
            let mut response = plain(StatusCode::OK, format!("{status}\n"));
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(Refusal::Busy) => plain(
            StatusCode::TOO_MANY_REQUESTS,
            "the values are being counted for another request; try again later\n".to_owned(),
        ),
        Err(Refusal::Unreadable(error)) => {
            tracing::error!(error, "the stored values could not be counted");
            let text = "the store could not be read; see the server's log\n".to_owned();
            plain(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    }
}

async fn health(server: &Served, query: Query<'_>) -> Response<Body> {
    let metrics = &server.rpc_metrics;
    match health_reason(&server.context, query).await {
        None => {
            metrics.health_success.fetch_add(1, Ordering::Relaxed);
            plain(StatusCode::OK, r#"{"health":"true","reason":""}"#.to_owned())
        }
        Some(reason) => {
            metrics.health_failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(reason, "serving /health false");
            let reason = serde_json::Value::from(reason);
            let body = format!("{{\"health\":\"false\",\"reason\":{reason}}}\n");
            plain(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

/// Alarms, then the leader, then a read: the first that fails is the reason.
async fn health_reason(context: &Arc<Context>, query: Query<'_>) -> Option<String> {
    for alarm in context.node.alarms().iter().filter(|alarm| concerns(context, **alarm)) {
        let name = alarm.name();
        if !query.values("exclude").any(|excluded| excluded == name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if context.node.serves_nothing() {
        return Some("ALARM CORRUPT".to_owned());
    }
    let serializable = query.values("serializable").any(|value| value == "true");
    if !serializable && context.node.status().leader == 0 {
        return Some("RAFT NO LEADER".to_owned());
    }
    let read = if serializable { read_local(context) } else { read_linearizable(context).await };
    read.err().map(|error| format!("RANGE ERROR:{error}"))
}

/// Whether an alarm says something of this member: CORRUPT of another one does not.
fn concerns(context: &Context, alarm: Alarm) -> bool {
    let node = &context.node;
    let is_others = alarm.member != node.identity().member && alarm.member.0 != 0;
    alarm.kind != ALARM_CORRUPT || !is_others || node.is_alone()
}

/// One readiness or liveness check.
struct Check {
    path: &'static str,
    kind: CheckKind,
}

#[derive(Clone, Copy)]
enum CheckKind {
    DataCorruption,
    LiveRead,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl CheckKind {
    const fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::LiveRead | Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, context: &Arc<Context>) -> Result<(), String> {
        match self {
            Self::DataCorruption => {
                let alarms = context.node.alarms();
                let mut own = alarms.iter().filter(|alarm| concerns(context, **alarm));
                let corrupt =
                    own.any(|alarm| alarm.kind == ALARM_CORRUPT) || context.node.serves_nothing();
                if corrupt { Err("alarm activated: CORRUPT".to_owned()) } else { Ok(()) }
            }
            Self::LiveRead => read_alive(context),
            Self::SerializableRead => read_local(context),
            Self::LinearizableRead => read_linearizable(context).await,
            Self::NonLearner if context.node.is_learner() => {
                Err("not supported for learner".to_owned())
            }
            Self::NonLearner => Ok(()),
        }
    }
}

const LIVEZ: &[Check] = &[Check { path: "/livez/serializable_read", kind: CheckKind::LiveRead }];
const READYZ: &[Check] = &[
    Check { path: "/readyz/data_corruption", kind: CheckKind::DataCorruption },
    Check { path: "/readyz/serializable_read", kind: CheckKind::SerializableRead },
    Check { path: "/readyz/linearizable_read", kind: CheckKind::LinearizableRead },
    Check { path: "/readyz/non_learner", kind: CheckKind::NonLearner },
];

fn check_name(path: &str) -> Option<&'static Check> {
    LIVEZ.iter().chain(READYZ).find(|check| check.path == path)
}

async fn checks(server: &Served, checks: &[Check], query: Query<'_>) -> Response<Body> {
    let context = &server.context;
    let (mut lines, mut healthy) = (String::new(), true);
    for check in checks {
        let name = check.kind.name();
        if query.values("exclude").any(|excluded| excluded == name) {
            continue;
        }
        let result = check.kind.run(context).await;
        let of = if check.path.starts_with("/livez") { "/livez" } else { "/readyz" };
        server.rpc_metrics.checked(of, name, result.is_ok());
        match result {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(error) => {
                healthy = false;
                lines.push_str(&format!("[-]{name} failed: {error}\n"));
            }
        }
    }
    if !healthy {
        return nosniff(plain(StatusCode::SERVICE_UNAVAILABLE, lines + "\n"));
    }
    if query.has("verbose") {
        // Not a failure: everything else is served.
        for damage in context.node.damages().list() {
            lines.push_str(&format!("[!]damaged_file {damage}\n"));
        }
    } else {
        lines.clear();
    }
    nosniff(plain(StatusCode::OK, lines + "ok\n"))
}

fn read_local(context: &Arc<Context>) -> Result<(), String> {
    let view = context.node.view();
    view.range(&KeyRange::all(), 0, 1).map(drop).map_err(|error| error.to_string())
}

async fn read_linearizable(context: &Arc<Context>) -> Result<(), String> {
    // A member that is alone can always read, and one that follows would wait for its own disk; but
    // while it is stalled it acknowledges nothing.
    context.node.stall().map_or(Ok(()), Err)?;
    context.view(false).await.map_err(|status| status.message().to_owned())?;
    context.node.stall().map_or(Ok(()), Err)
}

/// A member that hangs is not alive. One whose disk is full is: it waits for space, and a restart would
/// give it none.
fn read_alive(context: &Arc<Context>) -> Result<(), String> {
    read_local(context)?;
    let stall = context.node.stall().filter(|_| !context.node.space().is_disk_full);
    stall.map_or(Ok(()), Err)
}

/// A query string. Escapes are not decoded: no value here needs them.
#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn values(self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.0.split('&').filter_map(move |pair| match pair.split_once('=') {
            Some((key, value)) => (key == name).then_some(value),
            None => (pair == name).then_some(""),
        })
    }

    fn has(self, name: &'static str) -> bool {
        self.values(name).next().is_some()
    }
}

fn plain(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

pub(crate) fn not_found() -> Response<Body> {
    nosniff(plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()))
}

fn nosniff(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keepd_api::etcdserverpb::StatusRequest;
    use keepd_env::SimDisk;
    use keepd_machine::Command;
    use keepd_machine::command::Put;
    use keepd_types::StoredValue;

    use super::*;
    use crate::context::Limits;
    use crate::dispatch::Dispatch;
    use crate::{maintenance, testing};

    /// The status and the text of an answer.
    async fn asked(server: &Served, path: &str) -> (u16, String) {
        let request = Request::builder().uri(path).body(()).unwrap();
        let response = answer(server, HttpScope::Client, &request).await;
        let status = response.status().as_u16();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        (status, String::from_utf8(body.to_bytes().to_vec()).unwrap())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_member_whose_log_waits_says_so_everywhere_and_is_alive_while_it_waits_for_space() {
        let disk = SimDisk::new();
        let mut options = keepd_node::Options::new("/data".into());
        options.ballast_bytes = 0;
        let node = sim::fixture::started(&disk, 1, options, None).await;
        let encryption = Arc::clone(node.handle().encryption());
        let context = Context::new(node.handle(), encryption, Limits::default());
        let rpc_metrics = Arc::new(Dispatch::metrics(false));
        let server = Served { context: Arc::clone(&context), rpc_metrics };
        for path in ["/health", "/livez", "/readyz"] {
            assert_eq!(asked(&server, path).await.0, 200, "{path}");
        }
        disk.set_capacity(Some(disk.used_bytes()));
        let writer = node.handle();
        let writing = tokio::spawn(async move {
            // More than what is reserved for the log.
            for _ in 0..16 {
                let value = StoredValue::plain(vec![7; 1024 * 1024].into());
                let put = Put { key: "k".into(), value, ..Put::default() };
                // Those that come while the log waits time out.
                let _done = writer.propose(Command::Put(put)).await;
            }
        });
        let now = || context.node.env().clock.monotonic();
        let limit = now() + Duration::from_secs(60);
        while context.node.stall().is_none() {
            assert!(now() < limit, "the log does not wait");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let says_so = |text: &str| text.contains("has not become durable for");
        for path in ["/health?exclude=NOSPACE", "/readyz", "/readyz/linearizable_read"] {
            let (status, text) = asked(&server, path).await;
            assert!(status == 503 && says_so(&text), "{path}: {status} {text}");
        }
        let status = maintenance::status(&context, testing::call(&context, StatusRequest {}));
        let errors = status.await.unwrap().errors;
        assert!(errors.iter().any(|error| says_so(error)), "{errors:?}");
        assert!(context.node.space().is_disk_full);
        assert_eq!(asked(&server, "/livez").await.0, 200, "a restart gives no space");
        disk.set_capacity(None);
        writing.await.unwrap();
        while context.node.stall().is_some() {
            assert!(now() < limit, "it goes on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(asked(&server, "/health?exclude=NOSPACE").await.0, 200);
        tokio::task::spawn_blocking(move || node.stop()).await.unwrap();
    }

    #[test]
    fn paths_are_cleaned_as_in_go() {
        for (path, clean) in [
            ("//health", Some("/health")),
            ("/./health", Some("/health")),
            ("/x/../health", Some("/health")),
            ("/health//x/", Some("/health/x/")),
            ("/../..", Some("/")),
            ("//", Some("/")),
            ("/health/", None),
            ("/health", None),
            ("/", None),
        ] {
            assert_eq!(cleaned(path).as_deref(), clean, "{path}");
        }
    }
}
