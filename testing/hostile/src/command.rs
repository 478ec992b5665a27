//! Entries of the log: commands in their envelopes (`docs/formats/command.md`).

use bytes::Bytes;
use keepd_machine::claims::{BackupClaim, BackupTask, ClaimState};
use keepd_machine::command::{
    Alarm, Command, Compare, DeleteRange, DigestFound, Guard, Op, Put, Range, Relation, Target, Txn,
};
use keepd_machine::tables::{ActiveKeys, ReadableKeys};
use keepd_machine::{Envelope, MembershipChange, Origin};
use keepd_types::{
    KeyId, KeyRange, LeaseId, MemberId, PlainDigest, RangeEnd, SealMark, StoredValue, Term,
};

const ORIGIN: Origin = Origin { member: MemberId(9), boot: 1 << 40, sequence: 300 };

/// Reads a command; what was read is written and read again as the same.
pub fn command(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let peeked = Origin::peek(&bytes);
    let envelope = match Envelope::decode(bytes) {
        Ok(envelope) => envelope,
        Err(error) => {
            let _told = error.to_string();
            return;
        }
    };
    assert_eq!(peeked, envelope.origin, "the origin alone reads as with the rest");
    let _counted = envelope.command.seal_overhead();
    envelope.command.for_each_seal(&mut |_| {});
    // Entries of 0.1 have no origin and are written no more.
    let written = Envelope { origin: envelope.origin.or(Some(ORIGIN)), ..envelope };
    let again = Envelope::decode(written.encode());
    assert!(again.as_ref() == Ok(&written), "{written:?} became {again:?}");
}

/// The commands that say something of the whole cluster.
fn of_cluster() -> [Command; 4] {
    let found = DigestFound { index: 300, majority: Some((1, u64::MAX)) };
    let (attempt, member, state) = (2, MemberId(9), ClaimState::Failed);
    let claim = BackupClaim { moment: 1_795_000_000_000, attempt, member, state };
    [
        Command::SetFeatureLevel { level: 3, asked: [MemberId(7), MemberId(9)].into() },
        Command::SetDowngrade { target: Some("3.6.0".to_owned()) },
        Command::CheckDigest { found: Some(found) },
        Command::ClaimBackup { task: BackupTask::Drill, after: 300, claim },
    ]
}

/// One change of the membership of each kind.
fn changes() -> [MembershipChange; 4] {
    let (id, peer_urls) = (MemberId(10), || vec!["http://n:2380".to_owned()]);
    [
        MembershipChange::Add { id, peer_urls: peer_urls(), is_learner: true, max_learners: 1 },
        MembershipChange::Promote { id },
        MembershipChange::Remove { id },
        MembershipChange::UpdatePeerUrls { id, peer_urls: peer_urls() },
    ]
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
        Command::LeaseExpire { id: LeaseId(77) },
        Command::LeaseCheckpoint { id: LeaseId(77), remaining_ttl: 5 },
        Command::AlarmActivate(alarm),
        Command::AlarmDeactivate(alarm),
        Command::PublishMember {
            id: MemberId(9),
            name: "m".to_owned(),
            client_urls: vec!["http://m:2379".to_owned()],
        },
        Command::SetReadableKeys {
            member: MemberId(7),
            keys: ReadableKeys([(KeyId(1), "aesgcm:a".to_owned())].into()),
        },
        Command::SetActiveKeys(ActiveKeys { epoch: 3, keys: [KeyId(1), KeyId(2)].into() }),
        Command::SetSealing { member: MemberId(9), fingerprint: Bytes::from_static(b"print") },
        Command::SetClusterVersion { version: "3.7.0".to_owned() },
    ];
    let commands = commands.into_iter().chain(of_cluster());
    let commands = commands.chain(changes().into_iter().map(Command::ChangeMembership));
    // As 0.1 wrote them.
    let json =
        br#"{"id":9,"peerURLs":["http://m:2380"],"name":"m","clientURLs":["http://m:2379"]}"#;
    let published = [&[1, 9, 9, u8::try_from(json.len()).expect("short")][..], json].concat();
    let active = [&[1, 10, 10][..], b"activeKeys", &[16], &[0; 16]].concat();
    let entry = |command| Envelope { origin: Some(ORIGIN), decided_in: Some(Term(4)), command };
    let commands = commands.map(|command| entry(command).encode().to_vec());
    commands.chain([published, active]).collect()
}
