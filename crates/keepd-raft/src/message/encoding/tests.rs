//! Each kind of message, written and read.

use super::*;

fn samples() -> Vec<Message> {
    let at = LogPosition { term: 3, index: 9 };
    let entry = |index, kind, data: &'static [u8]| Entry {
        index,
        term: 3,
        kind,
        data: Bytes::from_static(data),
    };
    let entries = vec![
        entry(10, EntryKind::Normal, b"command"),
        entry(11, EntryKind::ConfChangeV2, &[1, 0, 1, 2, 9]),
    ];
    let request = ReadRequest { boot: u64::MAX, number: 4 };
    let round = Some(Round { term: 5, number: 7 });
    let conf_state = ConfState { voters: vec![1, 2], learners: vec![3], ..ConfState::default() };
    let bodies = [
        Body::Append { previous: at, commit: 8, entries },
        Body::Appended { index: 11, commit: 8 },
        Body::AppendRejected { index: 9, commit: 2, hint: at },
        Body::Heartbeat { commit: 8, round },
        Body::Heartbeat { commit: 8, round: None },
        Body::HeartbeatResponse { commit: 8, round },
        Body::Vote { is_pre: true, is_handover: false, last: at, commit: at },
        Body::Vote { is_pre: false, is_handover: true, last: at, commit: at },
        Body::VoteResponse { is_pre: true, is_granted: true, commit: LogPosition::default() },
        Body::VoteResponse { is_pre: false, is_granted: false, commit: at },
        Body::Snapshot(SnapshotMeta { last: at, conf_state }),
        Body::TimeoutNow,
        Body::ReadIndex(request),
        Body::ReadIndexResponse { request, index: 11 },
        Body::Started(Started { boot: 7, term: 4, vote: 3, last: 11 }),
        Body::Known(Known {
            boot: 7,
            needed: Some((4, 12)),
            last: at,
            applied: 8,
            voters: vec![1, 2, 9],
        }),
        Body::Known(Known {
            boot: u64::MAX,
            needed: None,
            last: LogPosition::default(),
            applied: 0,
            voters: Vec::new(),
        }),
    ];
    bodies.into_iter().map(|body| Message { from: 1, to: 2, term: 5, body }).collect()
}

#[test]
fn each_message_is_read_as_it_was_written() {
    for message in samples() {
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes), Ok(message));
    }
}

#[test]
fn no_part_of_a_message_is_one() {
    for message in samples() {
        let bytes = message.encode();
        for len in 0..bytes.len() {
            assert!(Message::decode(&bytes.slice(..len)).is_err(), "{message:?} cut at {len}");
        }
        let longer = Bytes::from([&bytes[..], &[0]].concat());
        assert!(Message::decode(&longer).is_err(), "{message:?} with a byte more");
    }
}

#[test]
fn fields_that_no_member_sends_are_refused() {
    let good = samples().remove(0);
    let Body::Append { previous, commit, entries } = good.body.clone() else { unreachable!() };
    let mut bad = vec![
        Message { from: 2, ..good.clone() },
        Message { to: 0, ..good.clone() },
        Message { term: 0, ..good.clone() },
        Message { term: u64::MAX, ..good.clone() },
    ];
    let gap = entries[1..].to_vec();
    let of_the_future = vec![Entry { term: 6, ..entries[0].clone() }];
    let of_the_past = vec![Entry { term: 2, ..entries[0].clone() }];
    let unreadable = vec![Entry { kind: EntryKind::ConfChangeV2, ..entries[0].clone() }];
    let old_kind = vec![Entry { kind: EntryKind::ConfChange, ..entries[0].clone() }];
    for entries in [gap, of_the_future, of_the_past, unreadable, old_kind] {
        bad.push(Message { body: Body::Append { previous, commit, entries }, ..good.clone() });
    }
    let beyond_the_log = LogPosition { term: 0, index: 9 };
    let body = Body::Append { previous: beyond_the_log, commit, entries: Vec::new() };
    bad.push(Message { body, ..good });
    let body = Body::Heartbeat { commit: 0, round: Some(Round { term: 6, number: 1 }) };
    bad.push(Message { from: 1, to: 2, term: 5, body });
    let body = Body::Started(Started { boot: 1, term: 6, vote: 0, last: 0 });
    bad.push(Message { from: 1, to: 2, term: 5, body });
    for message in bad {
        assert!(message.check().is_err(), "{message:?}");
    }
}
