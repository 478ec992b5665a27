//! One line for each message, entry and state, as etcd/raft prints them.

use keepd_raft::{
    Actions, Body, ConfChange, ConfState, Entry, EntryKind, HardState, LogPosition, Message,
    Progress, Role, Round, Status, Step, Transition,
};

/// Entries that a message is shown with; of more the first and the last.
const SHOWN_MAX: usize = 32;

/// Lines for the work that a core hands to its driver.
pub(crate) fn ready(actions: &Actions) -> Vec<String> {
    let mut lines = vec![format!("Ready MustSync={}:", actions.must_sync)];
    if let Some(state) = actions.hard_state {
        lines.push(hard_state(state));
    }
    if let Some(meta) = &actions.snapshot {
        let LogPosition { term, index } = meta.last;
        lines.push(format!("Snapshot {term}/{index} [{}]", conf_state(&meta.conf_state)));
    }
    let mut list = |title: &str, items: Vec<String>| {
        if !items.is_empty() {
            lines.push(format!("{title}:"));
            lines.extend(items);
        }
    };
    list("Entries", actions.entries.iter().map(entry).collect());
    list("Messages", actions.messages.iter().map(message).collect());
    list("Messages after the sync", actions.messages_after_sync.iter().map(message).collect());
    list("CommittedEntries", actions.committed.iter().map(entry).collect());
    let reads = actions.reads.iter();
    list("Reads", reads.map(|(read, index)| format!("read {read} at index {index}")).collect());
    let fetches = actions.fetches.iter();
    list("Fetches", fetches.map(|fetch| format!("{}..{}", fetch.low, fetch.high)).collect());
    lines
}

pub(crate) fn hard_state(state: HardState) -> String {
    format!("HardState Term:{} Vote:{} Commit:{}", state.term, state.vote, state.commit)
}

pub(crate) fn status(id: u64, status: Status) -> String {
    let Status { role, leader, term, commit, last_index, is_alone, transferee } = status;
    let role = match role {
        Role::Follower => "Follower",
        Role::Candidate => "Candidate",
        Role::Leader => "Leader",
    };
    let alone = if is_alone { " alone" } else { "" };
    let transfer = if transferee == 0 { String::new() } else { format!(" Transfer:{transferee}") };
    format!(
        "{id}: {role} Lead:{leader} Term:{term} Commit:{commit} Last:{last_index}{alone}{transfer}"
    )
}

pub(crate) fn conf_state(state: &ConfState) -> String {
    let mut line = format!("Voters:{:?}", state.voters);
    for (name, list) in [
        ("Outgoing", &state.voters_outgoing),
        ("Learners", &state.learners),
        ("LearnersNext", &state.learners_next),
    ] {
        if !list.is_empty() {
            line.push_str(&format!(" {name}:{list:?}"));
        }
    }
    if state.auto_leave {
        line.push_str(" AutoLeave");
    }
    line
}

/// The steps of a change, as scripts write them, and its context.
fn change(data: &[u8]) -> String {
    let Ok(change) = ConfChange::decode(&data.to_vec().into()) else { return "malformed".into() };
    let mut words: Vec<String> = change
        .steps
        .iter()
        .map(|step| match step {
            Step::AddVoter(id) => format!("v{id}"),
            Step::AddLearner(id) => format!("l{id}"),
            Step::Promote(id) => format!("p{id}"),
            Step::Remove(id) => format!("r{id}"),
            Step::Update(id) => format!("u{id}"),
        })
        .collect();
    if words.is_empty() {
        words.push("leave".to_owned());
    }
    match change.transition {
        Transition::Auto => {}
        Transition::Joint => words.push("transition=joint".to_owned()),
        Transition::JointUntilLeft => words.push("transition=until-left".to_owned()),
    }
    if !change.context.is_empty() {
        words.push(format!("context={}", String::from_utf8_lossy(&change.context)));
    }
    words.join(" ")
}

/// Term, index, data; of a new leader's first entry nothing but those.
pub(crate) fn entry(entry: &Entry) -> String {
    let kind = match entry.kind {
        EntryKind::Normal => "EntryNormal",
        EntryKind::ConfChange => "EntryConfChange",
        EntryKind::ConfChangeV2 => "EntryConfChangeV2",
    };
    if entry.kind != EntryKind::Normal {
        return format!("{}/{} {kind} {}", entry.term, entry.index, change(&entry.data));
    }
    describe(entry.term, entry.index, kind, &entry.data)
}

fn describe(term: u64, index: u64, kind: &str, data: &[u8]) -> String {
    let data = String::from_utf8_lossy(data);
    if data.is_empty() {
        return format!("{term}/{index} {kind}");
    }
    format!("{term}/{index} {kind} {data}")
}

pub(crate) fn progress(progress: Progress) -> String {
    let Progress { id, matched, next, replication, pending_snapshot, is_active, is_learner } =
        progress;
    let mut line = format!("{id}: {replication:?} Match:{matched} Next:{next}");
    if pending_snapshot != 0 {
        line.push_str(&format!(" Snapshot:{pending_snapshot}"));
    }
    for (word, holds) in [(" inactive", !is_active), (" learner", is_learner)] {
        if holds {
            line.push_str(word);
        }
    }
    line
}

pub(crate) fn message(message: &Message) -> String {
    let Message { from, to, term, body } = message;
    let line = format!("{from}->{to} {} Term:{term}", body.name());
    let log = |at: LogPosition| match at {
        LogPosition { term: 0, index: 0 } => String::new(),
        LogPosition { term, index } => format!(" Log:{term}/{index}"),
    };
    let commit_index = |commit: u64| match commit {
        0 => String::new(),
        commit => format!(" Commit:{commit}"),
    };
    let rest = match body {
        Body::Append { previous, commit, entries } => {
            let mut rest = log(*previous) + &commit_index(*commit);
            match entries.as_slice() {
                [] => {}
                [first, .., last] if entries.len() > SHOWN_MAX => {
                    let ends = [first, last].map(|entry| format!("{}/{}", entry.term, entry.index));
                    rest.push_str(&format!(
                        " Entries:[{} in {}]",
                        ends.join(" .. "),
                        entries.len()
                    ));
                }
                entries => {
                    let entries: Vec<String> = entries.iter().map(entry).collect();
                    rest.push_str(&format!(" Entries:[{}]", entries.join(", ")));
                }
            }
            rest
        }
        Body::Appended { index, commit } => {
            log(LogPosition { term: 0, index: *index }) + &commit_index(*commit)
        }
        Body::AppendRejected { index, commit, hint } => {
            log(LogPosition { term: hint.term, index: *index })
                + &commit_index(*commit)
                + &format!(" Rejected (Hint: {})", hint.index)
        }
        Body::Heartbeat { commit, round } | Body::HeartbeatResponse { commit, round } => {
            let round = round.map(|Round { term, number }| format!(" Round:{term}/{number}"));
            commit_index(*commit) + &round.unwrap_or_default()
        }
        Body::Vote { is_handover, last, commit, .. } => {
            let handover = if *is_handover { " Handover" } else { "" };
            log(*last) + &commit_index(commit.index) + handover
        }
        Body::VoteResponse { is_granted: true, .. } => String::new(),
        Body::VoteResponse { commit, .. } => commit_index(commit.index) + " Rejected (Hint: 0)",
        Body::Snapshot(meta) => log(meta.last) + &format!(" [{}]", conf_state(&meta.conf_state)),
        Body::TimeoutNow => String::new(),
        Body::ReadIndex(request) => format!(" Read:{}", request.number),
        Body::ReadIndexResponse { request, index } => {
            log(LogPosition { term: 0, index: *index }) + &format!(" Read:{}", request.number)
        }
        Body::Started(started) => format!(" Log:{}/{}", started.term, started.last),
        Body::Known(known) => match known.needed {
            Some((term, index)) => format!(" Needed:{term}/{index}"),
            None => log(known.last),
        },
    };
    line + &rest
}
