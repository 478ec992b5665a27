//! Commands survive the log.

use std::collections::{BTreeMap, BTreeSet};

use keepd_types::{KeyId, PlainDigest};
use proptest::prelude::*;

use super::*;
use crate::claims::ClaimState;
use crate::codec::CommandError;
use crate::envelope::{Envelope, Origin};

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn key_range() -> impl Strategy<Value = KeyRange> {
    (bytes(), bytes()).prop_map(|(key, end)| KeyRange::from_request(key, end))
}

fn put() -> impl Strategy<Value = Put> {
    let seal = proptest::option::of(any::<(u64, u32, u32)>());
    (bytes(), bytes(), seal, any::<i64>(), any::<(bool, bool, bool)>()).prop_map(
        |(key, value, seal, lease, (prev_kv, ignore_value, ignore_lease))| Put {
            key,
            value: StoredValue {
                bytes: value,
                seal: seal.map(|(id, len, crc32c)| SealMark {
                    key_id: KeyId(id),
                    plain: PlainDigest { len, crc32c },
                }),
            },
            lease: LeaseId(lease),
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    prop_oneof![
        (key_range(), any::<i64>()).prop_map(|(range, operand)| Compare::Number {
            range,
            target: Target::Mod,
            relation: Relation::Less,
            operand
        }),
        (key_range(), any::<(u64, i64, bool)>()).prop_map(|(range, (keys, revision, result))| {
            Compare::Resolved { range, guard: Guard { keys, revision }, result }
        }),
    ]
}

fn txn() -> impl Strategy<Value = Txn> {
    let op = prop_oneof![
        put().prop_map(Op::Put),
        (key_range(), any::<bool>())
            .prop_map(|(range, prev_kv)| Op::DeleteRange(DeleteRange { range, prev_kv })),
        (key_range(), any::<i64>(), any::<u64>()).prop_map(|(range, revision, fetch_limit)| {
            Op::Range(Range { range, revision, fetch_limit })
        }),
    ];
    let list = |op| proptest::collection::vec(op, 0..3);
    let flat = (proptest::collection::vec(compare(), 0..3), list(op.clone()), list(op))
        .prop_map(|(compares, success, failure)| Txn { compares, success, failure })
        .boxed();
    (flat.clone(), flat).prop_map(|(mut outer, inner)| {
        outer.success.push(Op::Txn(Box::new(inner)));
        outer
    })
}

fn change() -> impl Strategy<Value = MembershipChange> {
    let id = || any::<u64>().prop_map(MemberId);
    prop_oneof![
        (id(), any::<(Vec<String>, bool, u32)>()).prop_map(
            |(id, (peer_urls, is_learner, max_learners))| MembershipChange::Add {
                id,
                peer_urls,
                is_learner,
                max_learners
            }
        ),
        id().prop_map(|id| MembershipChange::Promote { id }),
        id().prop_map(|id| MembershipChange::Remove { id }),
        (id(), any::<Vec<String>>())
            .prop_map(|(id, peer_urls)| MembershipChange::UpdatePeerUrls { id, peer_urls }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        put().prop_map(Command::Put),
        txn().prop_map(|txn| Command::Txn(Box::new(txn))),
        any::<i64>().prop_map(|revision| Command::Compact { revision }),
        any::<(i64, i64)>().prop_map(|(id, ttl)| Command::LeaseGrant { id: LeaseId(id), ttl }),
        any::<(i64, i64)>().prop_map(|(id, remaining_ttl)| Command::LeaseCheckpoint {
            id: LeaseId(id),
            remaining_ttl
        }),
        (any::<u64>(), any::<String>(), any::<Vec<String>>()).prop_map(
            |(id, name, client_urls)| Command::PublishMember {
                id: MemberId(id),
                name,
                client_urls
            }
        ),
        (any::<u64>(), any::<BTreeSet<u64>>()).prop_map(|(epoch, keys)| {
            let keys = keys.into_iter().map(KeyId).collect();
            Command::SetActiveKeys(ActiveKeys { epoch, keys })
        }),
        (any::<u64>(), bytes()).prop_map(|(id, fingerprint)| Command::SetSealing {
            member: MemberId(id),
            fingerprint
        }),
        any::<u64>().prop_map(|id| Command::AlarmActivate(Alarm { member: MemberId(id), kind: 1 })),
        change().prop_map(Command::ChangeMembership),
        any::<String>().prop_map(|version| Command::SetClusterVersion { version }),
        (any::<u64>(), any::<BTreeMap<u64, String>>()).prop_map(|(id, keys)| {
            let keys = keys.into_iter().map(|(key, name)| (KeyId(key), name)).collect();
            Command::SetReadableKeys { member: MemberId(id), keys: ReadableKeys(keys) }
        }),
        (any::<u32>(), any::<BTreeSet<u64>>()).prop_map(|(level, asked)| {
            let asked = asked.into_iter().map(MemberId).collect();
            Command::SetFeatureLevel { level, asked }
        }),
        any::<Option<String>>().prop_map(|target| Command::SetDowngrade { target }),
        any::<Option<(u64, Option<(u64, u64)>)>>().prop_map(|found| {
            let found = found.map(|(index, majority)| DigestFound { index, majority });
            Command::CheckDigest { found }
        }),
        (any::<bool>(), any::<(u64, i64, u32, u64)>(), 0..3_usize).prop_map(
            |(drills, (after, moment, attempt, member), state)| {
                let task = if drills { BackupTask::Drill } else { BackupTask::Take };
                let state = [ClaimState::Held, ClaimState::Done, ClaimState::Failed][state];
                let claim = BackupClaim { moment, attempt, member: MemberId(member), state };
                Command::ClaimBackup { task, after, claim }
            }
        ),
    ]
}

/// The tags that version 0.1 wrote for what have fields of their own now.
#[test]
fn untyped_commands_of_older_logs_are_read() {
    let encoded = |tag: u8, first: &[u8], second: &[u8]| {
        let mut bytes = vec![1, tag];
        bytes.extend_from_slice(first);
        bytes.push(u8::try_from(second.len()).unwrap());
        bytes.extend_from_slice(second);
        Envelope::decode(bytes.into()).map(|envelope| envelope.command)
    };
    let json = br#"{"id":7,"peerURLs":["http://p"],"name":"a","clientURLs":["http://c"]}"#;
    let member = MemberId(7);
    let published = Command::PublishMember {
        id: member,
        name: "a".to_owned(),
        client_urls: vec!["http://c".to_owned()],
    };
    assert_eq!(encoded(9, &[7], json), Ok(published));
    let keys = ActiveKeys { epoch: 3, keys: BTreeSet::from([KeyId(5)]) };
    assert_eq!(encoded(10, b"\x0aactiveKeys", &keys.encode()), Ok(Command::SetActiveKeys(keys)));
    let name = [&[24_u8][..], b"sealing/0000000000000007"].concat();
    let sealing = Command::SetSealing { member, fingerprint: Bytes::from_static(b"f") };
    assert_eq!(encoded(10, &name, b"f"), Ok(sealing));
    let fact = CommandError::Malformed("name of a fact");
    assert_eq!(encoded(10, b"\x05other", b"f"), Err(fact));
}

proptest! {
    #[test]
    fn commands_round_trip(command in command(), decided_in: Option<u16>) {
        let origin = Some(Origin { member: MemberId(1), boot: 2, sequence: 3 });
        let decided_in = decided_in.filter(|term| *term > 0).map(|term| Term(term.into()));
        let envelope = Envelope { origin, decided_in, command };
        prop_assert_eq!(Envelope::decode(envelope.encode()), Ok(envelope));
    }

    #[test]
    fn a_cut_command_is_refused(command in command(), cut in any::<prop::sample::Index>()) {
        let origin = Some(Origin { member: MemberId(1), boot: 2, sequence: 3 });
        let encoded = Envelope { origin, decided_in: None, command }.encode();
        let cut = cut.index(encoded.len());
        prop_assert!(Envelope::decode(encoded.slice(..cut)).is_err());
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Envelope::decode(bytes.into());
    }
}
