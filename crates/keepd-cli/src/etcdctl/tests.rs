//! Golden tests of what needs no server: help, mistakes on the command line, and every answer in
//! every format. The files were compared with what etcd's own tools print.
//!
//! `BLESS=1` rewrites the files, for review.

use std::ffi::OsString;
use std::fmt::Write as _;

use keepd_api::etcdserverpb::response_op::Response;
use keepd_api::etcdserverpb::{
    AlarmMember, AlarmResponse, AlarmType, DeleteRangeResponse, LeaseGrantResponse,
    LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseStatus, Member, MemberListResponse,
    PutResponse, RangeResponse, ResponseHeader, ResponseOp, TxnResponse, WatchResponse,
};
use keepd_api::mvccpb::event::EventType;
use keepd_api::mvccpb::{Event, KeyValue};
use testkit::golden;

use crate::engine::answer::{Answer, Format, Style, render};
use crate::engine::command::{Command, Parsed, Program, parse};
use crate::engine::help::help;
use crate::etcdutl;

fn helps(program: &Program, path: &mut Vec<&'static Command>, out: &mut String) {
    let names: Vec<&str> = path.iter().map(|command| command.name()).collect();
    writeln!(out, "> {} --help\n{}", names.join(" "), help(program, path)).unwrap();
    let commands = path.last().unwrap().commands;
    for command in commands {
        path.push(command);
        helps(program, path, out);
        path.pop();
    }
}

#[test]
fn help_is_laid_out_as_before() {
    for (name, program) in [("etcdctl", &super::PROGRAM), ("etcdutl", &etcdutl::PROGRAM)] {
        let mut out = String::new();
        helps(program, &mut vec![program.root], &mut out);
        golden::compare(format!("tests/golden/{name}-help.txt"), &out);
    }
}

#[test]
fn mistakes_are_answered_in_cobras_words() {
    golden::check("tests/golden/mistakes.txt", || {
        |command: &golden::Command| {
            let words = command.rest().split(' ').map(OsString::from).collect();
            let exit = parse(&super::PROGRAM, words).unwrap_err();
            let text = exit.text.unwrap_or_default();
            let after = exit.after.lines().next().unwrap_or_default();
            format!("{}: {text}\n{after}\n", exit.code)
        }
    });
}

#[test]
fn commands_are_found_by_unique_prefixes_and_flags_stand_anywhere() {
    let words = ["-w", "json", "me", "--hex", "list", "--consistency=s"].map(OsString::from);
    let Ok(Parsed::Call(call)) = parse(&super::PROGRAM, words.to_vec()) else {
        panic!("a call of member list");
    };
    assert_eq!(call.command().name(), "list");
    assert_eq!(call.string("write-out"), "json");
    assert_eq!(call.string("consistency"), "s");
    assert!(call.flag("hex") && !call.is_given("endpoints"));
    assert_eq!(call.list("endpoints"), ["127.0.0.1:2379"]);
    for group in ["member bogus", "lease"] {
        let words = group.split(' ').map(OsString::from).collect();
        assert!(matches!(parse(&super::PROGRAM, words), Ok(Parsed::Help(_))), "{group}");
    }
}

const HEADER: Option<ResponseHeader> =
    Some(ResponseHeader { cluster_id: 0xcdf8, member_id: 0x8e9e, revision: 8, raft_term: 2 });

fn pair(key: &str, value: &[u8], lease: i64) -> KeyValue {
    KeyValue {
        key: key.as_bytes().to_vec().into(),
        create_revision: 2,
        mod_revision: 8,
        version: 6,
        value: value.to_vec().into(),
        lease,
    }
}

fn answers() -> Vec<(&'static str, Box<dyn Answer>)> {
    let range = RangeResponse {
        header: HEADER,
        kvs: vec![pair("foo", b"bar\n\xff", 0), pair("<a>", b"", -5)],
        more: true,
        count: 7,
    };
    let put = PutResponse { header: HEADER, prev_kv: Some(pair("foo", b"old", 0x7777)) };
    let delete = DeleteRangeResponse { header: HEADER, deleted: 1, prev_kvs: vec![] };
    let response = |response| ResponseOp { response: Some(response) };
    let txn = TxnResponse {
        header: HEADER,
        succeeded: true,
        responses: vec![
            response(Response::ResponseRange(RangeResponse { header: None, ..range.clone() })),
            response(Response::ResponsePut(PutResponse::default())),
            response(Response::ResponseDeleteRange(delete.clone())),
        ],
    };
    let event = |kind: EventType, kv, prev_kv| Event { r#type: kind.into(), kv: Some(kv), prev_kv };
    let deleted = KeyValue { mod_revision: 9, key: "foo".into(), ..KeyValue::default() };
    let watch = WatchResponse {
        header: HEADER,
        events: vec![
            event(EventType::Put, pair("foo", b"new", 0), Some(pair("foo", b"old", 0))),
            event(EventType::Delete, deleted, None),
        ],
        ..WatchResponse::default()
    };
    let grant = LeaseGrantResponse { header: HEADER, id: 0x7777, ttl: 300, error: String::new() };
    let kept = LeaseKeepAliveResponse { header: HEADER, id: -9, ttl: 300 };
    let leases = LeaseLeasesResponse { header: HEADER, leases: vec![LeaseStatus { id: 0x7777 }] };
    let raised = AlarmMember { member_id: 7, alarm: AlarmType::Nospace.into() };
    let member = |id, name: &str, is_learner| Member {
        id,
        name: name.to_owned(),
        peer_ur_ls: vec!["http://10.0.0.1:2380".to_owned()],
        client_ur_ls: Vec::new(),
        is_learner,
    };
    let members = MemberListResponse {
        header: HEADER,
        members: vec![member(0x8e9e, "m1", false), member(0x52e0_65a9, "", true)],
    };
    vec![
        ("range", Box::new(range)),
        ("put", Box::new(put)),
        ("delete", Box::new(delete)),
        ("txn", Box::new(txn)),
        ("watch", Box::new(watch)),
        ("progress", Box::new(WatchResponse { header: HEADER, ..WatchResponse::default() })),
        ("lease grant", Box::new(grant)),
        ("lease keep-alive", Box::new(kept)),
        ("lease list", Box::new(leases)),
        ("alarm list", Box::new(AlarmResponse { header: HEADER, alarms: vec![raised] })),
        ("member list", Box::new(members)),
    ]
}

#[test]
fn every_answer_looks_as_before_in_every_format() {
    let formats = [Format::Simple, Format::Fields, Format::Json, Format::Protobuf, Format::Table];
    let mut out = String::new();
    for (name, answer) in answers() {
        for format in formats {
            for hex in [false, true] {
                let style = Style { format, hex, values_only: false };
                let hex = if hex { " --hex" } else { "" };
                writeln!(out, "> {name} {format:?}{hex}").unwrap();
                match render(&*answer, style) {
                    Ok(bytes) if format == Format::Protobuf => {
                        writeln!(out, "{}", bytes.escape_ascii()).unwrap();
                    }
                    Ok(bytes) => out.push_str(&String::from_utf8_lossy(&bytes)),
                    Err(exit) => writeln!(out, "{}: {}", exit.code, exit.text.unwrap()).unwrap(),
                }
            }
        }
    }
    golden::compare("tests/golden/answers.txt", &out);
}
