//! Tests of the filter: bytes that pass, blocks that are rewritten, and the library reading both.

use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::peer::Peer;
use crate::unfinished::Unfinished;

fn mended<S>(stream: S) -> Mended<S> {
    Mended::new(stream, Unfinished::new(1024).share(Peer::default()))
}

/// The output of a connection that was sent `pieces`.
async fn passed(pieces: impl Iterator<Item = &[u8]>) -> Vec<u8> {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let mut server = mended(server);
    let mut out = Vec::new();
    for piece in pieces {
        client.write_all(piece).await.unwrap();
        // Reads what is there, and learns of the rest with the next piece.
        let mut buffer = [0; 777];
        if let Some(read) = server.read(&mut buffer).now_or_never() {
            out.extend_from_slice(&buffer[..read.unwrap()]);
        }
    }
    drop(client);
    server.read_to_end(&mut out).await.unwrap();
    out
}

fn literal(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        hpack::write_literal(name.as_bytes(), value.as_bytes(), &mut block);
    }
    block
}

const CALL: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/a.B/C"), (":authority", "host:1")];

fn connection(blocks: &[&[(&str, &str)]]) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    for (stream, fields) in (1..).step_by(2).zip(blocks) {
        bytes.extend_from_slice(&write_frames(&literal(fields), stream, 0));
        bytes.extend_from_slice(&[
            0,
            0,
            3,
            0,
            END_STREAM,
            0,
            0,
            0,
            stream.to_le_bytes()[0],
            1,
            2,
            3,
        ]);
    }
    bytes
}

#[tokio::test]
async fn requests_that_the_library_accepts_pass_byte_for_byte_however_they_are_cut() {
    let large = "v".repeat(40_000);
    let bytes = connection(&[&CALL, &[&CALL[..], &[("token", large.as_str())]].concat(), &CALL]);
    for size in [1, 2, 7, 8, 9, 10, 100, 16_393, bytes.len()] {
        assert_eq!(passed(bytes.chunks(size)).await, bytes, "in pieces of {size}");
    }
    let http1 = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nPRI * HTTP/2.0".to_vec();
    for size in [1, 3, http1.len()] {
        assert_eq!(passed(http1.chunks(size)).await, http1);
    }
    // Neither a broken block nor one that ends with the connection is kept back.
    for end in [&b"\0\0\x01\x01\x04\0\0\0\x07\x80"[..], b"\0\0\x09\x01\x04\0\0\0\x07\x00", b"\0\0"]
    {
        let bytes = [&bytes, end].concat();
        assert_eq!(passed(bytes.chunks(11)).await, bytes);
    }
}

#[tokio::test]
async fn from_the_first_rewritten_block_on_all_are_rewritten() {
    let odd = [CALL[0], CALL[1], CALL[2], (":authority", "#initially=[https://host:2379]")];
    let bytes = connection(&[&CALL, &odd, &CALL]);
    let expected = connection(&[&CALL, &CALL[..3], &[CALL[0], CALL[1], CALL[3], CALL[2]]]);
    for size in [1, 9, 50, bytes.len()] {
        assert_eq!(passed(bytes.chunks(size)).await, expected, "in pieces of {size}");
    }
}

#[test]
fn each_field_is_judged() {
    let judge = |changes: &[(&str, &str)]| {
        let mut fields = CALL.to_vec();
        for change in changes {
            match fields.iter_mut().find(|field| field.0 == change.0) {
                Some(field) => *field = *change,
                None => fields.push(*change),
            }
        }
        let mut list = FieldList::default();
        Decoder::default().decode(&literal(&fields), &mut list).unwrap();
        fields::judge(&list, true)
    };
    assert_eq!(judge(&[]), Verdict::Pass);
    for authority in ["[::1]:2379", "a,b", "user@host", "localhost", "host:port"] {
        assert_eq!(judge(&[(":authority", authority)]), Verdict::Pass, "{authority}");
    }
    for authority in ["", " ", "a b", "/run/a.sock", "%2Frun%2Fa.sock", "::1", "\u{fc}"] {
        assert_eq!(judge(&[(":authority", authority)]), Verdict::Mend, "{authority}");
    }
    for (name, value, verdict) in [
        (":method", "CONNECT", Verdict::Mend),
        (":method", "", Verdict::Mend),
        (":method", "GET", Verdict::Pass),
        (":scheme", "", Verdict::Mend),
        (":path", "", Verdict::Mend),
        (":path", "/a#b", Verdict::Mend),
        (":path", "/a?b", Verdict::Pass),
        (":path", "/a b", Verdict::Mend),
        (":path", "a", Verdict::Mend),
        (":unknown", "x", Verdict::Refuse),
        ("te", "trailers", Verdict::Pass),
        ("te", "gzip", Verdict::Mend),
        ("content-length", "12", Verdict::Mend),
        ("keep-alive", "x", Verdict::Mend),
        ("keepd-path", "/x", Verdict::Mend),
        ("X-Upper", "x", Verdict::Refuse),
        ("a b", "x", Verdict::Refuse),
        ("", "x", Verdict::Refuse),
        ("a", "x\ny", Verdict::Refuse),
        ("connection", "close", Verdict::Pass),
    ] {
        assert_eq!(judge(&[(name, value)]), verdict, "{name}: {value}");
    }
}

#[test]
fn the_order_of_fields_is_judged() {
    let judge = |fields: &[(&str, &str)], is_request| {
        let mut list = FieldList::default();
        Decoder::default().decode(&literal(fields), &mut list).unwrap();
        fields::judge(&list, is_request)
    };
    assert_eq!(judge(&CALL[..1], true), Verdict::Mend, "fields are missing");
    assert_eq!(judge(&[], false), Verdict::Pass);
    assert_eq!(judge(&[("a", "b")], false), Verdict::Pass);
    assert_eq!(judge(&[&CALL[..], &CALL[..1]].concat(), true), Verdict::Refuse, "one comes twice");
    let late = [&CALL[..3], &[("a", "b")], &CALL[3..]].concat();
    assert_eq!(judge(&late, true), Verdict::Refuse, "one comes after the rest");
}

/// The library's own client, whose blocks use Huffman codes and the table, against its server, with
/// the filter in between: all fields arrive, also after blocks are rewritten.
#[tokio::test]
async fn the_library_reads_what_another_one_wrote() {
    for begins_odd in [false, true] {
        let (client, server) = tokio::io::duplex(1 << 16);
        let server = tokio::spawn(serve(mended(server)));
        let (mut client, connection) = h2::client::handshake(client).await.unwrap();
        tokio::spawn(async move { connection.await.unwrap() });
        for number in 0..200_u64 {
            let mut request = Request::post("http://localhost:2379/a.B/C").version(Version::HTTP_2);
            let headers = request.headers_mut().unwrap();
            *headers = fields_of(number);
            if begins_odd && number == 0 {
                headers.insert("keepd-path", HeaderValue::from_static("/x"));
            }
            client = client.ready().await.unwrap();
            let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
            assert_eq!(answer.await.unwrap().headers(), &fields_of(number), "request {number}");
        }
        drop(client);
        server.await.unwrap();
    }
}

/// Fields that come again, grow, and push each other out of the table.
fn fields_of(number: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for at in 0..number % 7 {
        let name = format!("x-field-{}", (number * 31 + at * 17) % 23);
        let len = usize::try_from((number * at * 13) % 900).unwrap();
        let value = format!("{}~\u{e9}{}", number % 5, "Value ".repeat(len / 6));
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        headers.append(HeaderName::try_from(name).unwrap(), value);
    }
    headers
}

/// Answers each request with its own fields.
async fn serve(stream: Mended<DuplexStream>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted.unwrap();
        assert_eq!(request.method(), Method::POST);
        let mut response = http::Response::new(());
        *response.headers_mut() = request.headers().clone();
        respond.send_response(response, true).unwrap();
    }
}
