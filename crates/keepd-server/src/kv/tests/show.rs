//! Commands and answers in words.

use std::fmt::Write as _;

use keepd_api::etcdserverpb::response_op::Response;
use keepd_api::etcdserverpb::{RangeResponse, ResponseOp, TxnResponse};
use keepd_api::mvccpb;
use keepd_machine::command::{Compare, Op, Txn};
use keepd_types::{KeyRange, RangeEnd, StoredValue};

/// An operation of a command, one line for each part.
pub(super) fn op(op: &Op) -> String {
    let mut out = String::new();
    write_op(&mut out, 0, "", op);
    out
}

/// The answer to a transaction.
pub(super) fn answer(answer: &TxnResponse) -> String {
    let mut out = String::new();
    let revision = answer.header.as_ref().map_or(0, |header| header.revision);
    line(&mut out, 0, &format!("revision {revision}, {}", taken(answer.succeeded)));
    write_responses(&mut out, 1, &answer.responses);
    out
}

fn taken(succeeded: bool) -> &'static str {
    if succeeded { "then" } else { "else" }
}

fn line(out: &mut String, depth: usize, text: &str) {
    let indent = depth * 2;
    writeln!(out, "{:indent$}{text}", "").expect("a string takes everything");
}

fn range(range: &KeyRange) -> String {
    let start = range.start.escape_ascii();
    match &range.end {
        RangeEnd::Point => start.to_string(),
        RangeEnd::Before(end) => format!("{start}..{}", end.escape_ascii()),
        RangeEnd::Open => format!("{start}.."),
    }
}

fn value(value: &StoredValue) -> String {
    match value.seal {
        Some(_) => "(sealed)".to_owned(),
        None => format!("\"{}\"", value.bytes.escape_ascii()),
    }
}

fn write_op(out: &mut String, depth: usize, branch: &str, op: &Op) {
    match op {
        Op::Range(it) => {
            let (range, revision, limit) = (range(&it.range), it.revision, it.fetch_limit);
            line(out, depth, &format!("{branch}get {range} revision {revision} fetch {limit}"));
        }
        Op::Put(it) => {
            let mut text = format!("{branch}put {} = {}", it.key.escape_ascii(), value(&it.value));
            if it.lease.0 != 0 {
                text.push_str(&format!(" lease {}", it.lease.0));
            }
            for (is_set, name) in [
                (it.prev_kv, " prev"),
                (it.ignore_value, " keep-value"),
                (it.ignore_lease, " keep-lease"),
            ] {
                text.push_str(if is_set { name } else { "" });
            }
            line(out, depth, &text);
        }
        Op::DeleteRange(it) => {
            let prev = if it.prev_kv { " prev" } else { "" };
            line(out, depth, &format!("{branch}del {}{prev}", range(&it.range)));
        }
        Op::Txn(it) => {
            line(out, depth, &format!("{branch}txn"));
            write_txn(out, depth + 1, it);
        }
    }
}

fn write_txn(out: &mut String, depth: usize, txn: &Txn) {
    for compare in &txn.compares {
        line(
            out,
            depth,
            &match compare {
                Compare::Number { range: keys, target, relation, operand } => {
                    format!("if {target:?} of {} {relation:?} {operand}", range(keys))
                }
                Compare::Resolved { range: keys, guard, result } => format!(
                    "if values of {}: {result}, of {} keys at revision {}",
                    range(keys),
                    guard.keys,
                    guard.revision
                ),
            },
        );
    }
    txn.success.iter().for_each(|op| write_op(out, depth, "then ", op));
    txn.failure.iter().for_each(|op| write_op(out, depth, "else ", op));
}

fn kv(kv: &mvccpb::KeyValue) -> String {
    let (key, value) = (kv.key.escape_ascii(), kv.value.escape_ascii());
    let (create, modified, version) = (kv.create_revision, kv.mod_revision, kv.version);
    let lease = if kv.lease == 0 { String::new() } else { format!(" lease {}", kv.lease) };
    format!("{key} = \"{value}\" created {create} modified {modified} version {version}{lease}")
}

fn write_range(out: &mut String, depth: usize, answer: &RangeResponse) {
    let more = if answer.more { ", more" } else { "" };
    line(out, depth, &format!("get: {} of {}{more}", answer.kvs.len(), answer.count));
    answer.kvs.iter().for_each(|it| line(out, depth + 1, &kv(it)));
}

fn write_responses(out: &mut String, depth: usize, responses: &[ResponseOp]) {
    for response in responses {
        match &response.response {
            Some(Response::ResponseRange(it)) => write_range(out, depth, it),
            Some(Response::ResponsePut(it)) => {
                line(out, depth, "put");
                it.prev_kv
                    .iter()
                    .for_each(|prev| line(out, depth + 1, &format!("before: {}", kv(prev))));
            }
            Some(Response::ResponseDeleteRange(it)) => {
                line(out, depth, &format!("del: {}", it.deleted));
                it.prev_kvs
                    .iter()
                    .for_each(|prev| line(out, depth + 1, &format!("before: {}", kv(prev))));
            }
            Some(Response::ResponseTxn(it)) => {
                line(out, depth, &format!("txn: {}", taken(it.succeeded)));
                write_responses(out, depth + 1, &it.responses);
            }
            None => line(out, depth, "no answer"),
        }
    }
}
