//! `txn`: reads conditions and requests from standard input and sends them as one transaction.
//!
//! Three blocks of lines, each ended by an empty line: conditions, requests for when all of them
//! hold, requests for when they do not. A request is a command line of `put`, `get` or `del`,
//! parsed by the same tables.

use std::ffi::OsString;
use std::io::{self, BufRead};
use std::os::unix::ffi::OsStringExt as _;

use bytes::Bytes;
use keepd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keepd_api::etcdserverpb::request_op::Request;
use keepd_api::etcdserverpb::response_op::Response;
use keepd_api::etcdserverpb::{Compare, RequestOp, ResponseOp, TxnRequest, TxnResponse};
use keepd_gotext::{parse_int, quote, unquote_prefix};
use prost::Message as _;

use super::client::{Method, Repeat, with_client};
use super::{GROUP_KV, del, get, put, shell_words};
use crate::engine::answer::{self, Answer, Style, field_header, line, print};
use crate::engine::command::{self, Call, Command, Flag, Parsed, Program};
use crate::engine::exit::{Exit, INVALID_INPUT, bad_arguments, failed};
use crate::engine::json::{self, Object};

/// Commits a transaction.
pub(super) const TXN: Method<TxnRequest, TxnResponse> =
    Method::new("/etcdserverpb.KV/Txn", Repeat::Never);

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "txn [options]",
    short: "Txn processes all the requests in one transaction",
    long: "Txn reads multiple etcd requests from standard input and applies them as a single \
           atomic transaction.

A transaction consists of three components:
1) a list of conditions,
2) a list of requests to apply if all the conditions are true,
3) a list of requests to apply if any condition is false.

Example interactive stdin usage:

---
etcdctl txn -i
# compares:
mod(\"key1\") > \"0\"

# success requests (get, put, delete):
put key1 \"overwrote-key1\"

# failure requests (get, put, delete):
put key1 \"created-key1\"
put key2 \"some extra key\"
---

Refer to https://github.com/etcd-io/etcd/blob/main/etcdctl/README.md#txn-options.",
    group: GROUP_KV,
    flags: &[Flag::bool("interactive", "Input transaction in interactive mode").or('i')],
    run: Some(run),
    ..Command::NONE
};

/// The commands a request line may be.
static LINES: Program = Program {
    root: &Command { commands: &[&put::COMMAND, &get::COMMAND, &del::COMMAND], ..Command::NONE },
    groups: &[],
    describes: false,
    hides_global_flags: false,
    help_hint: "",
    repeats_mistakes: false,
};

fn run(call: Call<'_>) -> Result<(), Exit> {
    if !call.arguments.is_empty() {
        return Err(bad_arguments("txn command does not accept argument"));
    }
    with_client(call, async |call, client| {
        let mut input = io::stdin().lock();
        let prompt = |text: &str| {
            if call.flag("interactive") {
                print(format!("{text}\n").as_bytes());
            }
        };
        prompt("compares:");
        let compare = block(&mut input, parse_compare)?;
        prompt("success requests (get, put, del):");
        let success = block(&mut input, parse_request)?;
        prompt("failure requests (get, put, del):");
        let failure = block(&mut input, parse_request)?;
        let request = TxnRequest { compare, success, failure };
        let answer = client.call(&TXN, request).await.map_err(failed)?;
        answer::show(&answer, client.options.style)
    })
}

fn invalid(text: impl std::fmt::Display) -> Exit {
    Exit::new(INVALID_INPUT, text)
}

/// Reads lines up to an empty one.
fn block<T>(
    input: &mut impl BufRead,
    parse: impl Fn(&[u8]) -> Result<T, Exit>,
) -> Result<Vec<T>, Exit> {
    let mut parsed = Vec::new();
    loop {
        let mut line = Vec::new();
        input.read_until(b'\n', &mut line).map_err(invalid)?;
        if line.last() != Some(&b'\n') {
            return Err(invalid("EOF"));
        }
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(parsed);
        }
        parsed.push(parse(line)?);
    }
}

/// Reads `target("key") op "value"`.
fn parse_compare(line: &[u8]) -> Result<Compare, Exit> {
    let text = String::from_utf8_lossy(line);
    let paren = line.iter().position(|byte| *byte == b'(');
    let paren = paren.ok_or_else(|| invalid(format_args!("malformed comparison: {text}")))?;
    let target = String::from_utf8_lossy(&line[..paren]);
    let parts = Parts::read(&line[paren + 1..]);
    let (Some(key), Some(op), Some(value)) = (&parts.key, &parts.op, &parts.value) else {
        return Err(invalid(format_args!(
            "malformed comparison: {text}; got {target}({}) {} {}",
            quote(parts.key.as_deref().unwrap_or_default()),
            parts.op.as_deref().unwrap_or_default(),
            quote(b""),
        )));
    };
    let value_text = String::from_utf8_lossy(value);
    let number = |base| {
        parse_int(&value_text, base)
            .map_err(|_why| invalid(format_args!("invalid txn compare request: {text}")))
    };
    let (target, union) = match target.as_ref() {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.clone().into())),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        _ => {
            return Err(invalid(format_args!(
                "malformed comparison: {text} (unknown target {target})"
            )));
        }
    };
    let result = match op.as_str() {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        _ => {
            return Err(invalid(format_args!(
                "malformed comparison: {text} (unknown operator {op})"
            )));
        }
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.clone().into(),
        range_end: Bytes::new(),
        target_union: Some(union),
    })
}

/// As much of `"key") op "value"` as could be read.
#[derive(Default)]
struct Parts {
    key: Option<Vec<u8>>,
    op: Option<String>,
    value: Option<Vec<u8>>,
}

impl Parts {
    fn read(text: &[u8]) -> Self {
        let mut parts = Self::default();
        let Some((key, rest)) = unquote_prefix(text.trim_ascii_start()) else {
            return parts;
        };
        parts.key = Some(key);
        let Some(rest) = rest.strip_prefix(b")") else { return parts };
        let rest = rest.trim_ascii_start();
        let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
        let (op, rest) = rest.split_at(end);
        if op.is_empty() {
            return parts;
        }
        parts.op = Some(String::from_utf8_lossy(op).into_owned());
        parts.value = unquote_prefix(rest.trim_ascii_start()).map(|(value, _)| value);
        parts
    }
}

/// Reads a command line of `put`, `get` or `del`.
fn parse_request(line: &[u8]) -> Result<RequestOp, Exit> {
    let text = String::from_utf8_lossy(line);
    let words = shell_words::split(line)?;
    if words.len() < 2 {
        return Err(invalid(format_args!("invalid txn compare request: {text}")));
    }
    let words: Vec<OsString> =
        words.into_iter().map(|word| OsString::from_vec(word.into())).collect();
    let Ok(Parsed::Call(call)) = command::parse(&LINES, words) else {
        return Err(invalid(format_args!("invalid txn request: {text}")));
    };
    let request = match call.command().name() {
        // Standard input is this transaction, so no value can come from there.
        "put" => Request::RequestPut(put::request(&call, || None)?),
        "get" => Request::RequestRange(get::request(&call)?),
        _ => Request::RequestDeleteRange(del::request(&call)?),
    };
    Ok(RequestOp { request: Some(request) })
}

fn object(answer: &TxnResponse) -> Object {
    Object::new()
        .object("header", answer.header.as_ref(), json::header)
        .bool("succeeded", answer.succeeded)
        .list("responses", &answer.responses, |response| {
            Object::new().always("Response", &response_object(response).end()).end()
        })
}

fn response_object(response: &ResponseOp) -> Object {
    let object = Object::new();
    match &response.response {
        Some(Response::ResponseRange(answer)) => {
            object.always("response_range", &get::object(answer).end())
        }
        Some(Response::ResponsePut(answer)) => {
            object.always("response_put", &put::object(answer).end())
        }
        Some(Response::ResponseDeleteRange(answer)) => {
            object.always("response_delete_range", &del::object(answer).end())
        }
        Some(Response::ResponseTxn(answer)) => {
            object.always("response_txn", &self::object(answer).end())
        }
        None => object,
    }
}

impl Answer for TxnResponse {
    fn simple(&self, style: Style, out: &mut Vec<u8>) {
        line!(out, "{}", if self.succeeded { "SUCCESS" } else { "FAILURE" });
        for response in &self.responses {
            line!(out, "");
            match &response.response {
                Some(Response::ResponseRange(answer)) => answer.simple(style, out),
                Some(Response::ResponsePut(answer)) => answer.simple(style, out),
                Some(Response::ResponseDeleteRange(answer)) => answer.simple(style, out),
                // Lines cannot ask for a nested txn, so no answer to one comes.
                Some(Response::ResponseTxn(_)) | None => {}
            }
        }
    }

    fn json(&self, _style: Style) -> String {
        object(self).end()
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        field_header(self.header.as_ref(), style, out);
        line!(out, "\"Succeeded\" : {}", self.succeeded);
        for response in &self.responses {
            match &response.response {
                Some(Response::ResponseRange(answer)) => answer.fields(style, out)?,
                Some(Response::ResponsePut(answer)) => answer.fields(style, out)?,
                Some(Response::ResponseDeleteRange(answer)) => answer.fields(style, out)?,
                Some(Response::ResponseTxn(_)) | None => {}
            }
        }
        Ok(())
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.encode_to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare_error(line: &str) -> String {
        parse_compare(line.as_bytes()).unwrap_err().text.unwrap()
    }

    #[test]
    fn conditions_are_read_with_their_quotes() {
        let compare = parse_compare(b"mod(\"a)b\") > \"0\"").unwrap();
        assert_eq!(compare.key, "a)b");
        assert_eq!(compare.result(), CompareResult::Greater);
        assert_eq!(compare.target_union, Some(TargetUnion::ModRevision(0)));
        let compare = parse_compare(b"val(\"k\") = \"x y\"").unwrap();
        assert_eq!(compare.target_union, Some(TargetUnion::Value("x y".into())));
    }

    #[test]
    fn broken_conditions_are_named() {
        for (line, error) in [
            ("bad", "malformed comparison: bad"),
            ("foo(\"k\") = \"1\"", "malformed comparison: foo(\"k\") = \"1\" (unknown target foo)"),
            ("mod(\"k\") = \"abc\"", "invalid txn compare request: mod(\"k\") = \"abc\""),
            ("mod(k) = 1", "malformed comparison: mod(k) = 1; got mod(\"\")  \"\""),
            ("mod(\"k\") = 1", "malformed comparison: mod(\"k\") = 1; got mod(\"k\") = \"\""),
        ] {
            assert_eq!(compare_error(line), error);
        }
    }

    #[test]
    fn requests_are_command_lines() {
        let put = parse_request(b"put 'a b' \"c\\td\" --prev-kv").unwrap();
        let Some(Request::RequestPut(put)) = put.request else { panic!("a put") };
        assert_eq!((&put.key[..], &put.value[..], put.prev_kv), (&b"a b"[..], &b"c\td"[..], true));
        let error = parse_request(b"foo bar").unwrap_err();
        assert_eq!(error.text.as_deref(), Some("invalid txn request: foo bar"));
        let error = parse_request(b"get").unwrap_err();
        assert_eq!(error.text.as_deref(), Some("invalid txn compare request: get"));
    }
}
