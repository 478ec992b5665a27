//! Messages between members (`docs/formats/raft-message.md`).

use bytes::Bytes;
use keepd_raft::{
    Body, ConfChange, ConfState, Entry, EntryKind, LogPosition, Message, ReadRequest, Round,
    SnapshotMeta, Step,
};

/// Reads a message; what was read is written and read again as the same.
pub fn messages(bytes: &[u8]) {
    let message = match Message::decode(&Bytes::copy_from_slice(bytes)) {
        Ok(message) => message,
        Err(error) => {
            let _told = error.to_string();
            return;
        }
    };
    let again = Message::decode(&message.encode());
    assert!(again.as_ref() == Ok(&message), "{message:?} became {again:?}");
}

/// One message of each kind.
pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    let at = LogPosition { term: 3, index: 9 };
    let change = ConfChange { steps: vec![Step::AddLearner(9)], ..ConfChange::default() };
    let entry = |index, kind, data| Entry { index, term: 3, kind, data };
    let entries = vec![
        entry(10, EntryKind::Normal, Bytes::from_static(b"command")),
        entry(11, EntryKind::ConfChangeV2, change.encode()),
    ];
    let request = ReadRequest { boot: u64::MAX, number: 4 };
    let round = Some(Round { term: 5, number: 7 });
    let conf_state = ConfState { voters: vec![1, 2], learners: vec![3], ..ConfState::default() };
    let bodies = [
        Body::Append { previous: at, commit: 8, entries },
        Body::Appended { index: 11, commit: 8 },
        Body::AppendRejected { index: 9, commit: 2, hint: at },
        Body::Heartbeat { commit: 8, round },
        Body::HeartbeatResponse { commit: 8, round: None },
        Body::Vote { is_pre: false, is_handover: true, last: at, commit: at },
        Body::VoteResponse { is_pre: true, is_granted: true, commit: at },
        Body::Snapshot(SnapshotMeta { last: at, conf_state }),
        Body::TimeoutNow,
        Body::ReadIndex(request),
        Body::ReadIndexResponse { request, index: 11 },
    ];
    let message = |body| Message { from: 1, to: 2, term: 5, body }.encode().to_vec();
    bodies.into_iter().map(message).collect()
}
