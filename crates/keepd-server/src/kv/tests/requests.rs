//! Requests in tokens.
//!
//! | request | |
//! |---|---|
//! | `get KEY [..END] [NAME=NUMBER]` | names: `limit`, `revision`, `order`, `target`, ... |
//! | `put KEY=VALUE [lease=N] [prev] [keep-value] [keep-lease]` | |
//! | `puts FROM..TO` | that number of puts of different keys |
//! | `del KEY [..END] [prev]` | |
//! | `nothing` | an operation without a request |
//! | `txn [if CONDITIONS] [then OPS] [else OPS] end` | between conditions and operations: `,` |
//!
//! A condition is `TARGET KEY [..END] RELATION OPERAND`; targets are `version`, `create`, `mod`,
//! `value`, `lease`; relations `=`, `!=`, `<`, `>`. A key or end `""` is empty, `\0` one zero byte.

use std::iter::Peekable;
use std::str::SplitWhitespace;

use bytes::Bytes;
use keepd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keepd_api::etcdserverpb::request_op::Request;
use keepd_api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

type Tokens<'a> = Peekable<SplitWhitespace<'a>>;

/// Reads one request, which takes all of `text`.
pub(super) fn request(text: &str) -> Request {
    let mut tokens = text.split_whitespace().peekable();
    let ops = ops(&mut tokens);
    assert!(tokens.next().is_none(), "`{text}` goes on");
    let [op] = <[RequestOp; 1]>::try_from(ops).expect("it is one request");
    op.request.expect("it is a request")
}

/// The transaction that a request is, or of which it is the only operation.
pub(super) fn txn_of(request: Request) -> TxnRequest {
    if let Request::RequestTxn(txn) = request {
        return txn;
    }
    let success = vec![RequestOp { request: Some(request) }];
    TxnRequest { success, ..TxnRequest::default() }
}

fn text(word: &str) -> Bytes {
    match word {
        "\"\"" => Bytes::new(),
        "\\0" => Bytes::from_static(&[0]),
        word => Bytes::copy_from_slice(word.as_bytes()),
    }
}

fn number(word: &str) -> i64 {
    word.parse().unwrap_or_else(|_| panic!("`{word}` is no number"))
}

/// The end of a range, if the next word is one.
fn range_end(tokens: &mut Tokens<'_>) -> Bytes {
    let end = tokens.next_if(|word| word.starts_with(".."));
    end.map_or_else(Bytes::new, |end| text(&end[2..]))
}

fn next<'a>(tokens: &mut Tokens<'a>) -> &'a str {
    tokens.next().expect("a word is missing")
}

/// The words up to the end of an operation.
fn options<'a>(tokens: &mut Tokens<'a>) -> Vec<(&'a str, &'a str)> {
    let is_end = |word: &&str| matches!(*word, "," | "then" | "else" | "end");
    let options = std::iter::from_fn(|| tokens.next_if(|word| !is_end(word)));
    options.map(|word| word.split_once('=').unwrap_or((word, ""))).collect()
}

fn ops(tokens: &mut Tokens<'_>) -> Vec<RequestOp> {
    let mut ops = Vec::new();
    loop {
        let request = match next(tokens) {
            "nothing" => None,
            "get" => Some(Request::RequestRange(range(tokens))),
            "put" => Some(Request::RequestPut(put(tokens))),
            "del" => Some(Request::RequestDeleteRange(delete(tokens))),
            "txn" => Some(Request::RequestTxn(txn(tokens))),
            "puts" => {
                let (from, to) = next(tokens).split_once("..").expect("FROM..TO");
                ops.extend((number(from)..number(to)).map(|number| {
                    let key = format!("key{number}").into();
                    let request = PutRequest { key, ..PutRequest::default() };
                    RequestOp { request: Some(Request::RequestPut(request)) }
                }));
                if tokens.next_if_eq(&",").is_none() {
                    return ops;
                }
                continue;
            }
            word => panic!("`{word}` is no operation"),
        };
        ops.push(RequestOp { request });
        if tokens.next_if_eq(&",").is_none() {
            return ops;
        }
    }
}

fn range(tokens: &mut Tokens<'_>) -> RangeRequest {
    let (key, range_end) = (text(next(tokens)), range_end(tokens));
    let mut request = RangeRequest { key, range_end, ..RangeRequest::default() };
    for (name, value) in options(tokens) {
        match name {
            "limit" => request.limit = number(value),
            "revision" => request.revision = number(value),
            "order" => request.sort_order = i32::try_from(number(value)).expect("it is small"),
            "target" => request.sort_target = i32::try_from(number(value)).expect("it is small"),
            "min-mod" => request.min_mod_revision = number(value),
            "keys" => request.keys_only = true,
            "count" => request.count_only = true,
            "serializable" => request.serializable = true,
            _ => panic!("`{name}` is no option of a range"),
        }
    }
    request
}

fn put(tokens: &mut Tokens<'_>) -> PutRequest {
    let word = next(tokens);
    let (key, value) = word.split_once('=').unwrap_or((word, "\"\""));
    let mut request = PutRequest { key: text(key), value: text(value), ..PutRequest::default() };
    for (name, value) in options(tokens) {
        match name {
            "lease" => request.lease = number(value),
            "prev" => request.prev_kv = true,
            "keep-value" => request.ignore_value = true,
            "keep-lease" => request.ignore_lease = true,
            _ => panic!("`{name}` is no option of a put"),
        }
    }
    request
}

fn delete(tokens: &mut Tokens<'_>) -> DeleteRangeRequest {
    let (key, range_end) = (text(next(tokens)), range_end(tokens));
    let prev_kv = options(tokens).iter().any(|(name, _)| *name == "prev");
    DeleteRangeRequest { key, range_end, prev_kv }
}

fn txn(tokens: &mut Tokens<'_>) -> TxnRequest {
    let mut request = TxnRequest::default();
    loop {
        match next(tokens) {
            "if" => loop {
                request.compare.push(compare(tokens));
                if tokens.next_if_eq(&",").is_none() {
                    break;
                }
            },
            "then" => request.success = ops(tokens),
            "else" => request.failure = ops(tokens),
            "end" => return request,
            word => panic!("`{word}` is no part of a transaction"),
        }
    }
}

fn compare(tokens: &mut Tokens<'_>) -> Compare {
    let target = next(tokens);
    let (key, range_end) = (text(next(tokens)), range_end(tokens));
    let result = match next(tokens) {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        "<" => CompareResult::Less,
        ">" => CompareResult::Greater,
        word => panic!("`{word}` is no relation"),
    };
    let operand = next(tokens);
    let (target, union) = match target {
        "version" => (CompareTarget::Version, TargetUnion::Version(number(operand))),
        "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(operand))),
        "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(operand))),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(operand))),
        "value" => (CompareTarget::Value, TargetUnion::Value(text(operand))),
        // The operand of another target.
        "value-by-version" => (CompareTarget::Value, TargetUnion::Version(number(operand))),
        "version-by-value" => (CompareTarget::Version, TargetUnion::Value(text(operand))),
        word => panic!("`{word}` is no target"),
    };
    let (result, target) = (result.into(), target.into());
    Compare { result, target, key, range_end, target_union: Some(union) }
}
