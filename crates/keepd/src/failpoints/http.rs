//! gofail's protocol: `GET /` lists the places, `GET`, `PUT` and `DELETE` of a place tell, set and clear
//! its terms, `GET` of a place and `/count` tells how often they acted.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use keepd_env::failpoints::Place;

/// BOUND: bytes of a request that are read.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// BOUND: time for reading one and for writing its answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Listens, and serves on a thread of its own, one request after another.
pub(super) fn serve(address: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("GOFAIL_HTTP={address}: {error}");
    let listener = TcpListener::bind(address).map_err(failed)?;
    let serve = move || {
        for stream in listener.incoming().flatten() {
            // Whoever breaks off gets no answer.
            let _broken = answer(stream);
        }
    };
    std::thread::Builder::new().name("failpoints".to_owned()).spawn(serve).map_err(failed)?;
    Ok(())
}

fn answer(stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut reader = BufReader::new((&stream).take(REQUEST_BYTES_MAX));
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut len = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            len = value.trim().parse().unwrap_or_default();
        }
    }
    let mut body = String::new();
    reader.take(len).read_to_string(&mut body)?;
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, text) = respond(method, path, &body);
    // An answer without a body has no length.
    let length = if status == "204 No Content" {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", text.len())
    };
    let mut stream = &stream;
    write!(stream, "HTTP/1.1 {status}\r\n{length}Connection: close\r\n\r\n{text}")?;
    stream.flush()
}

/// Status and text of the answer to a request.
fn respond(method: &str, path: &str, body: &str) -> (&'static str, String) {
    const OK: &str = "200 OK";
    const DONE: &str = "204 No Content";
    const BAD: &str = "400 Bad Request";
    const MISSING: &str = "404 Not Found";
    let Some(key) = path.strip_prefix('/') else {
        return (BAD, "malformed request URI\n".to_owned());
    };
    match method {
        "PUT" => {
            let pairs = if key.eq_ignore_ascii_case("failpoints") {
                super::several(body)
            } else {
                Ok(vec![(key, body)])
            };
            let set = pairs.map_err(|error| format!("fail to parse failpoint: {error}\n"));
            let set = set.and_then(|pairs| {
                let mut each = pairs.into_iter();
                each.try_for_each(|(name, terms)| super::set(name, terms))
                    .map_err(|error| format!("fail to set failpoint: {error}\n"))
            });
            set.map_or_else(|error| (BAD, error), |()| (DONE, String::new()))
        }
        "GET" if key.is_empty() => (OK, list()),
        "GET" => {
            let (name, counts) = match key.strip_suffix("/count") {
                Some(name) => (name, true),
                None => (key, false),
            };
            match super::status(name) {
                Err(error) => (MISSING, format!("failed to GET: {error}\n")),
                Ok((_, count)) if counts => (OK, count.to_string()),
                Ok((terms, _)) => (OK, format!("{terms}\n")),
            }
        }
        "DELETE" => super::clear(key).map_or_else(
            |error| (BAD, format!("failed to delete failpoint {error}\n")),
            |()| (DONE, String::new()),
        ),
        _ => ("405 Method Not Allowed", "Method not allowed\n".to_owned()),
    }
}

fn list() -> String {
    let mut names: Vec<&str> = Place::ALL.iter().map(|place| place.name()).collect();
    names.sort_unstable();
    let terms = |name: &str| super::status(name).map(|(terms, _)| terms).unwrap_or_default();
    let lines: Vec<String> = names.iter().map(|name| format!("{name}={}", terms(name))).collect();
    format!("{}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_set_told_counted_and_cleared() {
        let name = "raftBeforeSave";
        assert_eq!(respond("PUT", "/raftBeforeSave", "1*off"), ("204 No Content", String::new()));
        assert_eq!(respond("GET", "/raftBeforeSave", ""), ("200 OK", "1*off\n".to_owned()));
        assert_eq!(respond("GET", "/raftBeforeSave/count", ""), ("200 OK", "0".to_owned()));
        super::super::decide(Place::RaftBeforeSave);
        super::super::decide(Place::RaftBeforeSave);
        assert_eq!(respond("GET", "/raftBeforeSave/count", "").1, "1");
        let listed = respond("GET", "/", "").1;
        assert_eq!(listed.lines().count(), Place::ALL.len());
        assert!(listed.contains(&format!("\n{name}=1*off\n")), "{listed}");
        assert_eq!(respond("DELETE", "/raftBeforeSave", "").0, "204 No Content");
        let (status, text) = respond("DELETE", "/raftBeforeSave", "");
        assert_eq!(status, "400 Bad Request");
        assert_eq!(text, "failed to delete failpoint failpoint: failpoint is disabled\n");
        let both = "walBeforeSync=off;walAfterSync=2*off";
        assert_eq!(respond("PUT", "/failpoints", both).0, "204 No Content");
        assert_eq!(respond("GET", "/walAfterSync", "").1, "2*off\n");
        for (method, path, body, status) in [
            ("PUT", "/nothing", "off", "400 Bad Request"),
            ("PUT", "/raftBeforeSave", "nonsense", "400 Bad Request"),
            ("PUT", "/failpoints", "a", "400 Bad Request"),
            ("GET", "/nothing", "", "404 Not Found"),
            ("GET", "/nothing/count", "", "404 Not Found"),
            ("POST", "/", "", "405 Method Not Allowed"),
        ] {
            assert_eq!(respond(method, path, body).0, status, "{method} {path}");
        }
    }
}
