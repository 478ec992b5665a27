//! Commands of the log (`docs/formats/command.md`).

use bytes::Bytes;
use keepd_machine::command::{
    Alarm, Command, Compare, DeleteRange, Guard, Op, Put, Range, Relation, Target, Txn,
};
use keepd_machine::tables::ActiveKeys;
use keepd_types::{
    KeyId, KeyRange, LeaseId, MemberId, PlainDigest, RangeEnd, SealMark, StoredValue,
};

/// Reads a command; what was read is written and read again as the same.
pub fn command(bytes: &[u8]) {
    let command = match Command::decode(Bytes::copy_from_slice(bytes)) {
        Ok(command) => command,
        Err(error) => {
            let _told = error.to_string();
            return;
        }
    };
    let _counted = command.seal_overhead();
    command.for_each_seal(&mut |_| {});
    let again = Command::decode(command.encode());
    assert!(again.as_ref() == Ok(&command), "{command:?} became {again:?}");
}

/// One command of each kind.
pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    let range =
        |start: &'static [u8], end: RangeEnd| KeyRange { start: Bytes::from_static(start), end };
    let put = Put {
        key: Bytes::from_static(b"key"),
        value: StoredValue::plain(Bytes::from_static(b"value")),
        lease: LeaseId(7),
        prev_kv: true,
        ..Put::default()
    };
    let plain = PlainDigest { len: 9, crc32c: 8 };
    let seal = Some(SealMark { key_id: KeyId(7), plain });
    let sealed = StoredValue { bytes: Bytes::from_static(b"k8s:enc:"), seal };
    let delete = DeleteRange {
        range: range(b"a", RangeEnd::Before(Bytes::from_static(b"b"))),
        prev_kv: false,
    };
    let read = Range { range: range(b"a", RangeEnd::Open), revision: 5, fetch_limit: 10 };
    let number = Compare::Number {
        range: range(b"a", RangeEnd::Point),
        target: Target::Mod,
        relation: Relation::NotEqual,
        operand: -1,
    };
    let resolved = Compare::Resolved {
        range: range(b"v", RangeEnd::Point),
        guard: Guard { keys: 1, revision: 9 },
        result: true,
    };
    let inner =
        Txn { compares: vec![resolved], success: Vec::new(), failure: vec![Op::Range(read)] };
    let txn = Txn {
        compares: vec![number],
        success: vec![Op::Put(put.clone()), Op::DeleteRange(delete.clone())],
        failure: vec![Op::Txn(Box::new(inner))],
    };
    let alarm = Alarm { member: MemberId(9), kind: 1 };
    let commands = [
        Command::Put(put.clone()),
        Command::Put(Put { value: sealed, ..put }),
        Command::DeleteRange(delete),
        Command::Txn(Box::new(txn)),
        Command::Compact { revision: 100 },
        Command::LeaseGrant { id: LeaseId(-5), ttl: 60 },
        Command::LeaseRevoke { id: LeaseId(77) },
        Command::LeaseCheckpoint { id: LeaseId(77), remaining_ttl: 5 },
        Command::AlarmActivate(alarm),
        Command::AlarmDeactivate(alarm),
        Command::PublishMember {
            id: MemberId(9),
            name: "m".to_owned(),
            client_urls: vec!["http://m:2379".to_owned()],
        },
        Command::SetActiveKeys(ActiveKeys { epoch: 3, keys: [KeyId(1), KeyId(2)].into() }),
        Command::SetSealing { member: MemberId(9), fingerprint: Bytes::from_static(b"print") },
    ];
    // As 0.1 wrote them.
    let json =
        br#"{"id":9,"peerURLs":["http://m:2380"],"name":"m","clientURLs":["http://m:2379"]}"#;
    let published = [&[1, 9, 9, u8::try_from(json.len()).expect("short")][..], json].concat();
    let active = [&[1, 10, 10][..], b"activeKeys", &[16], &[0; 16]].concat();
    commands.iter().map(|command| command.encode().to_vec()).chain([published, active]).collect()
}
