//! One HTTP GET from a member's client port, over TLS if the endpoint says so.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::header::HOST;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use keepd_env::Env;
use keepd_tls::{ClientTls, ClientTlsOptions};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// The default port for clients.
const DEFAULT_PORT: u16 = 2379;
/// Timeout of a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Timeout of the answer: counting values reads a whole store.
const ANSWER_MAX: Duration = Duration::from_secs(600);
/// The longest answer.
const BODY_MAX: usize = 16 << 20;

/// Fetches `path` from `endpoint`.
pub(crate) async fn get(
    endpoint: &str,
    path: &str,
    tls: ClientTlsOptions,
) -> anyhow::Result<Vec<u8>> {
    let place = Place::parse(endpoint)?;
    let connecting = tokio::time::timeout(CONNECT_MAX, place.connect());
    let stream = connecting
        .await
        .map_err(|_elapsed| anyhow::anyhow!("no answer within {CONNECT_MAX:?}"))
        .and_then(|connected| Ok(connected?))
        .with_context(|| format!("cannot connect to {endpoint}"))?;
    let request = Request::get(path).header(HOST, &place.host).body(Empty::<bytes::Bytes>::new())?;
    let asking = async {
        if place.is_tls {
            let tls = ClientTls::new(tls, &Env::real())?;
            let name = ServerName::try_from(place.host.clone())?;
            let connector = tokio_rustls::TlsConnector::from(tls.config());
            let stream = connector.connect(name, stream).await.map_err(|error| {
                anyhow::anyhow!(
                    "authentication handshake failed: {}",
                    keepd_tls::explain_io(&error)
                )
            })?;
            ask(stream, request).await
        } else {
            ask(stream, request).await.map_err(name_tls)
        }
    };
    tokio::time::timeout(ANSWER_MAX, asking)
        .await
        .map_err(|_elapsed| anyhow::anyhow!("no answer within {ANSWER_MAX:?}"))?
        .with_context(|| format!("asking {endpoint}"))
}

/// A server of TLS answers plain HTTP with an alert, which is no HTTP at all.
fn name_tls(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<hyper::Error>() {
        Some(cause) if cause.is_parse() => anyhow::anyhow!(
            "the server does not speak plain HTTP, probably TLS: give --endpoint https://... \
             --cacert FILE, and --cert FILE --key FILE if it asks for a client certificate"
        ),
        _ => error,
    }
}

/// The address of a server.
struct Place {
    host: String,
    port: u16,
    /// A socket in the file system, instead of host and port.
    socket: Option<PathBuf>,
    is_tls: bool,
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

impl Place {
    fn parse(endpoint: &str) -> anyhow::Result<Self> {
        for (scheme, is_tls) in [("unixs:", true), ("unix:", false)] {
            if let Some(path) = endpoint.strip_prefix(scheme) {
                let socket = Some(PathBuf::from(path.strip_prefix("//").unwrap_or(path)));
                return Ok(Self { host: "localhost".to_owned(), port: 0, socket, is_tls });
            }
        }
        let named = || format!("--endpoint {endpoint:?}");
        let uri: Uri = endpoint.parse().with_context(named)?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => bail!("{}: it begins with http:// or https://", named()),
        };
        let host = uri.host().with_context(|| format!("{} names no host", named()))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: uri.port_u16().unwrap_or(DEFAULT_PORT), socket: None, is_tls })
    }

    async fn connect(&self) -> std::io::Result<Box<dyn Socket>> {
        Ok(match &self.socket {
            Some(path) => Box::new(UnixStream::connect(path).await?),
            None => Box::new(TcpStream::connect((self.host.as_str(), self.port)).await?),
        })
    }
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<bytes::Bytes>>,
) -> anyhow::Result<Vec<u8>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?.to_bytes();
    driving.abort();
    match status {
        StatusCode::OK => Ok(body.to_vec()),
        StatusCode::NOT_FOUND => bail!("the server has no such page; is it keepd's client port?"),
        _ => bail!("{status}: {}", String::from_utf8_lossy(&body).trim()),
    }
}
