//! gRPC's mapping to HTTP/2: turns the fields of a request into a call, or refuses it. Codes and texts
//! are grpc-go's.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use keepd_gotext::parse_uint;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::messages::Encoding;
use crate::{errors, http2};

const GRPC: &[u8] = b"application/grpc";
/// A timeout from which on there is no deadline: no server runs that long.
const TIMEOUT_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The terms of a request: how and by when it is to be answered.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) encoding: Encoding,
    /// The content type of the answer, if it is not `application/grpc`.
    content_type: Option<HeaderValue>,
    /// The time at which its client gives up.
    pub(crate) deadline: Option<Instant>,
}

/// Whether a request claims to be a call, well formed or not.
pub(crate) fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(GRPC))
}

/// The path exactly as the client sent it, query included.
pub(crate) fn path<B>(request: &Request<B>) -> &str {
    if let Some(path) = request.headers().get(http2::PATH) {
        return std::str::from_utf8(path.as_bytes()).unwrap_or("\u{fffd}");
    }
    request.uri().path_and_query().map_or("", |path| path.as_str())
}

/// The terms of a request, or the answer to one that is no call.
pub(crate) fn terms<B>(request: &Request<B>) -> Result<Terms, Box<Response<Body>>> {
    let headers = request.headers();
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 {
        let authorities = usize::from(request.uri().authority().is_some());
        let text = format!(
            "num values of :authority: {authorities}, num values of host: {hosts}, both must only \
             have 1 value as per HTTP/2 spec"
        );
        return Err(Box::new(refuse(StatusCode::BAD_REQUEST, &Status::internal(text))));
    }
    let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let Some(subtype) = subtype(content_type) else {
        let shown = String::from_utf8_lossy(content_type);
        let text = format!("invalid gRPC request content-type {shown:?}");
        let status = Status::invalid_argument(text);
        return Err(Box::new(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, &status)));
    };
    let answered = |response: Response<Body>| Box::new(with_content_type(response, subtype));
    let malformed = |status: &Status| answered(refuse(StatusCode::BAD_REQUEST, status));
    let timeout = headers.get("grpc-timeout").map(timeout).transpose().map_err(|reason| {
        malformed(&Status::internal(format!("malformed grpc-timeout: {reason}")))
    })?;
    check_binary(headers).map_err(|status| malformed(&status))?;
    let method = match headers.get(http2::METHOD) {
        Some(method) => String::from_utf8_lossy(method.as_bytes()),
        None => request.method().as_str().into(),
    };
    if method != "POST" {
        let text = format!("Received a HEADERS frame with :method {method:?} which should be POST");
        return Err(answered(refuse(StatusCode::METHOD_NOT_ALLOWED, &Status::internal(text))));
    }
    if timeout.is_some_and(|timeout| timeout <= Duration::from_nanos(1)) {
        return Err(answered(errors::deadline_exceeded().into_http()));
    }
    let encoding = Encoding::of(headers).map_err(|status| answered(status.into_http()))?;
    let deadline = timeout.filter(|it| *it < TIMEOUT_MAX).map(|it| Instant::now() + it);
    Ok(Terms { encoding, content_type: content_type_of(subtype), deadline })
}

impl Terms {
    /// Gives an answer the content type of its request.
    pub(crate) fn apply(&self, mut response: Response<Body>) -> Response<Body> {
        if let Some(content_type) = &self.content_type {
            response.headers_mut().insert(CONTENT_TYPE, content_type.clone());
        }
        response
    }
}

/// An answer that refuses a request with an HTTP status and a gRPC status.
fn refuse(code: StatusCode, status: &Status) -> Response<Body> {
    let mut response = status.clone().into_http();
    *response.status_mut() = code;
    response
}

fn with_content_type(mut response: Response<Body>, subtype: &[u8]) -> Response<Body> {
    if let Some(content_type) = content_type_of(subtype) {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response
}

fn content_type_of(subtype: &[u8]) -> Option<HeaderValue> {
    match subtype {
        b"" => None,
        b"proto" => Some(HeaderValue::from_static("application/grpc+proto")),
        other => HeaderValue::from_bytes(&[GRPC, b"+", other].concat()).ok(),
    }
}

/// The part of a content type after `application/grpc`; `None` if it is another one.
fn subtype(content_type: &[u8]) -> Option<&[u8]> {
    match content_type.strip_prefix(GRPC)? {
        [] => Some(&[]),
        [b'+' | b';', subtype @ ..] => Some(subtype),
        _ => None,
    }
}

/// The duration of `grpc-timeout`, or the reason for which it is malformed.
fn timeout(value: &HeaderValue) -> Result<Duration, String> {
    let shown = String::from_utf8_lossy(value.as_bytes());
    let [digits @ .., unit] = value.as_bytes() else {
        return Err(format!("transport: timeout string is too short: {shown:?}"));
    };
    if digits.is_empty() {
        return Err(format!("transport: timeout string is too short: {shown:?}"));
    }
    // BOUND: eight digits, as the protocol says.
    if digits.len() > 8 {
        return Err(format!("transport: timeout string is too long: {shown:?}"));
    }
    let unit = match unit {
        b'H' => Duration::from_secs(3600),
        b'M' => Duration::from_secs(60),
        b'S' => Duration::from_secs(1),
        b'm' => Duration::from_millis(1),
        b'u' => Duration::from_micros(1),
        b'n' => Duration::from_nanos(1),
        _ => return Err(format!("transport: timeout unit is not recognized: {shown:?}")),
    };
    let digits = String::from_utf8_lossy(digits);
    let count = parse_uint(&digits, 10, u32::MAX.into()).map_err(|error| error.to_string())?;
    let count = u32::try_from(count).expect("it was read as one");
    Ok(unit.saturating_mul(count))
}

/// Checks the fields that carry bytes in Base64.
fn check_binary(headers: &HeaderMap) -> Result<(), Status> {
    for (name, value) in headers {
        if !name.as_str().ends_with("-bin") {
            continue;
        }
        let bytes = value.as_bytes();
        let engine = if bytes.len() % 4 == 0 { STANDARD } else { STANDARD_NO_PAD };
        if let Err(error) = engine.decode(bytes) {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _)
                | base64::DecodeError::InvalidLastSymbol { offset: at, .. } => at,
                base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
                    bytes.len() / 4 * 4
                }
            };
            let value = String::from_utf8_lossy(bytes);
            return Err(Status::internal(format!(
                "malformed binary metadata {value:?} in header {:?}: illegal base64 data at input \
                 byte {at}",
                name.as_str()
            )));
        }
    }
    Ok(())
}

/// The answer to a path that is no method of `services`.
pub(crate) fn unknown_method(path: &str, is_service: impl Fn(&str) -> bool) -> Status {
    let parts = path.strip_prefix('/').and_then(|path| path.rsplit_once('/'));
    match parts {
        None => Status::unimplemented(format!("malformed method name: {path:?}")),
        Some((service, method)) if is_service(service) => {
            Status::unimplemented(format!("unknown method {method} for service {service}"))
        }
        Some((service, _)) => Status::unimplemented(format!("unknown service {service}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_go_does() {
        let read = |text: &str| timeout(&HeaderValue::from_str(text).unwrap());
        assert_eq!(read("1H"), Ok(Duration::from_secs(3600)));
        assert_eq!(read("2M"), Ok(Duration::from_secs(120)));
        assert_eq!(read("99999999S"), Ok(Duration::from_secs(99_999_999)));
        assert_eq!(read("5m"), Ok(Duration::from_millis(5)));
        assert_eq!(read("7u"), Ok(Duration::from_micros(7)));
        assert_eq!(read("0n"), Ok(Duration::ZERO));
        for (text, reason) in [
            ("", "transport: timeout string is too short: \"\""),
            ("S", "transport: timeout string is too short: \"S\""),
            ("123456789S", "transport: timeout string is too long: \"123456789S\""),
            ("1s", "transport: timeout unit is not recognized: \"1s\""),
            ("-1S", "strconv.ParseUint: parsing \"-1\": invalid syntax"),
            ("+1S", "strconv.ParseUint: parsing \"+1\": invalid syntax"),
        ] {
            assert_eq!(read(text), Err(reason.to_owned()));
        }
    }

    #[test]
    fn a_path_is_a_service_and_a_method() {
        let told = |path| unknown_method(path, |service| service == "a.B").message().to_owned();
        assert_eq!(told("/a.B/C"), "unknown method C for service a.B");
        assert_eq!(told("/a.B/C/D"), "unknown service a.B/C");
        assert_eq!(told("/x/C"), "unknown service x");
        assert_eq!(told("a.B/C"), "malformed method name: \"a.B/C\"");
    }
}
