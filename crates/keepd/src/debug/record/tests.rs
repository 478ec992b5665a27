//! Records as they are printed.

use bytes::Bytes;
use keepd_crypto::ValueSealer;
use keepd_machine::command::{
    Command, Compare, DeleteRange, Guard, Op, Put, Relation, Target, Txn,
};
use keepd_machine::{MembershipChange, Origin};
use keepd_types::{KeyRange, LeaseId, MemberId, StoredValue, Term};
use keepd_wal::BatchRecord;

use super::*;

fn entry(command: Command) -> Entry {
    let origin = Origin { member: MemberId(0xab), boot: 0xcd, sequence: 7 };
    let envelope = Envelope { origin: Some(origin), decided_in: None, command };
    Entry { index: 5, term: 2, kind: EntryKind::Normal, data: envelope.encode() }
}

fn put(key: &'static [u8]) -> Put {
    Put {
        key: Bytes::from_static(key),
        value: StoredValue::plain(Bytes::from_static(b"sesame")),
        lease: LeaseId(0x10),
        ..Put::default()
    }
}

#[test]
fn a_value_is_told_by_its_length_unless_it_is_asked_for() {
    let entry = entry(Command::Put(put(b"/a/b")));
    let hidden = of_entry(&entry, Values::Hidden);
    let expected = json!({
        "type": "entry",
        "index": 5,
        "term": 2,
        "kind": "normal",
        "bytes": entry.data.len(),
        "origin": {"member": "ab", "boot": "cd", "sequence": 7},
        "command": {
            "command": "put",
            "key": "/a/b",
            "value_bytes": 6,
            "sealed_under": null,
            "lease": "10",
        },
    });
    assert_eq!(hidden, expected);
    assert!(!for_people(&hidden).contains("sesame"));
    let sealer = ValueSealer::none();
    let shown = of_entry(&entry, Values::Shown(&sealer));
    assert_eq!(shown["command"]["value"], "sesame");
    assert!(for_people(&shown).contains("put key=\"/a/b\""), "{}", for_people(&shown));
}

#[test]
fn commands_that_members_agree_on_are_told_by_their_text() {
    let version = Command::SetClusterVersion { version: "3.7.0".to_owned() };
    let line = of_entry(&entry(version), Values::Hidden);
    assert_eq!(line["command"]["command"], "set_cluster_version");
    assert!(line["command"]["text"].as_str().unwrap().contains("3.7.0"));
}

#[test]
fn keys_that_are_no_text_are_base64() {
    let line = of_entry(&entry(Command::Put(put(b"\xff\0"))), Values::Hidden);
    assert_eq!(line["command"]["key_base64"], "/wA=");
    assert_eq!(line["command"]["key"], Value::Null);
    let delete = DeleteRange { range: KeyRange::all(), prev_kv: true };
    let line = of_entry(&entry(Command::DeleteRange(delete)), Values::Hidden);
    let expected =
        json!({"command": "delete_range", "key": "", "range_end": "\0", "prev_kv": true});
    assert_eq!(line["command"], expected);
}

#[test]
fn transactions_are_told_with_all_their_branches() {
    let range = KeyRange::point(Bytes::from_static(b"k"));
    let number = Compare::Number {
        range: range.clone(),
        target: Target::Mod,
        relation: Relation::Equal,
        operand: 4,
    };
    let guard = Guard { keys: 1, revision: 9 };
    let resolved = Compare::Resolved { range, guard, result: true };
    let nested = Txn { failure: vec![Op::Put(put(b"n"))], ..Txn::default() };
    let txn = Txn {
        compares: vec![number, resolved],
        success: vec![Op::Txn(Box::new(nested))],
        failure: vec![],
    };
    let line = of_entry(&entry(Command::Txn(Box::new(txn))), Values::Hidden);
    let command = &line["command"];
    assert_eq!(
        command["compares"],
        json!([
            {"key": "k", "target": "mod_revision", "relation": "=", "operand": 4},
            {"key": "k", "target": "value", "result": true, "guard": {"keys": 1, "revision": 9}},
        ])
    );
    assert_eq!(command["success"][0]["failure"][0]["key"], "n");
    assert!(!line.to_string().contains("sesame"));
}

#[test]
fn changes_of_the_configuration_have_their_steps_and_their_command() {
    let change = MembershipChange::Add {
        id: MemberId(0xee),
        peer_urls: vec!["http://h:1".to_owned()],
        is_learner: true,
        max_learners: 1,
    };
    let change = ConfChange {
        steps: vec![Step::AddLearner(0xee)],
        context: entry(Command::ChangeMembership(change)).data,
        ..ConfChange::default()
    };
    let entry = Entry { kind: EntryKind::ConfChangeV2, data: change.encode(), ..Entry::default() };
    let line = of_entry(&entry, Values::Hidden);
    let steps = json!([{"step": "add_learner", "member": "ee"}]);
    assert_eq!(line["change"]["steps"], steps);
    assert_eq!(line["command"]["change"], "add");
    assert_eq!(line["command"]["member"], "ee");
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_goes_on() {
    let bad = Entry { data: Bytes::from_static(b"\x09junk"), ..Entry::default() };
    let good = entry(Command::Compact { revision: 3 });
    let batch = BatchRecord {
        watermark: keepd_wal::Watermark::default(),
        hard_state: Some(HardState { term: 2, vote: 0xab, commit: 4 }),
        entries: vec![bad, Entry::default(), good],
    };
    let frame = DumpedFrame {
        path: "f".into(),
        sequence: 1,
        data_key: 0,
        frame: 2,
        offset: 300,
        record: Record::Batch(batch),
    };
    let lines = of_frame(&frame, Values::Hidden, |_| true);
    assert_eq!((lines[0]["vote"].as_str(), lines[0]["offset"].as_u64()), (Some("ab"), Some(300)));
    assert!(for_people(&lines[1]).contains("UNREADABLE: "), "{}", for_people(&lines[1]));
    assert!(for_people(&lines[2]).contains("a leader's first entry"));
    assert_eq!(lines[3]["command"]["revision"], 3);
    assert_eq!(of_frame(&frame, Values::Hidden, |index| index == 5).len(), 2);
    let decided = Envelope { decided_in: Some(Term(4)), ..Envelope::decode(good_data()).unwrap() };
    let entry = Entry { data: decided.encode(), ..Entry::default() };
    assert_eq!(of_entry(&entry, Values::Hidden)["decided_in"], 4);
}

fn good_data() -> Bytes {
    entry(Command::Compact { revision: 3 }).data
}
