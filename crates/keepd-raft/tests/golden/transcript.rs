//! One line for each message, entry and state, as etcd/raft prints them.

use keepd_raft::{
    Actions, ConfChange, ConfState, Entry, EntryKind, HardState, Role, Status, Step, Transition,
};
use raft::eraftpb::{self, EntryType, Message};

/// Lines for the work that a core hands to its driver.
pub(crate) fn ready(actions: &Actions) -> Vec<String> {
    let mut lines = vec![format!("Ready MustSync={}:", actions.must_sync)];
    if let Some(state) = actions.hard_state {
        lines.push(hard_state(state));
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
    lines
}

pub(crate) fn hard_state(state: HardState) -> String {
    format!("HardState Term:{} Vote:{} Commit:{}", state.term, state.vote, state.commit)
}

pub(crate) fn status(id: u64, status: Status) -> String {
    let Status { role, leader, term, commit, last_index, is_alone } = status;
    let role = match role {
        Role::Follower => "Follower",
        Role::Candidate => "Candidate",
        Role::Leader => "Leader",
    };
    let alone = if is_alone { " alone" } else { "" };
    format!("{id}: {role} Lead:{leader} Term:{term} Commit:{commit} Last:{last_index}{alone}")
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

fn sent_entry(entry: &eraftpb::Entry) -> String {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => "EntryNormal",
        EntryType::EntryConfChange => "EntryConfChange",
        EntryType::EntryConfChangeV2 => "EntryConfChangeV2",
    };
    if entry.get_entry_type() != EntryType::EntryNormal {
        return format!("{}/{} {kind} {}", entry.term, entry.index, change(&entry.context));
    }
    describe(entry.term, entry.index, kind, &entry.data)
}

fn describe(term: u64, index: u64, kind: &str, data: &[u8]) -> String {
    let data = String::from_utf8_lossy(read_context(data).as_deref().unwrap_or(data)).into_owned();
    if data.is_empty() {
        return format!("{term}/{index} {kind}");
    }
    format!("{term}/{index} {kind} {data}")
}

pub(crate) fn message(message: &Message) -> String {
    let Message { from, to, term, log_term, index, commit, .. } = *message;
    let mut line = format!("{from}->{to} {:?} Term:{term}", message.get_msg_type());
    if (log_term, index) != (0, 0) {
        line.push_str(&format!(" Log:{log_term}/{index}"));
    }
    if commit != 0 {
        line.push_str(&format!(" Commit:{commit}"));
    }
    if message.reject {
        line.push_str(&format!(" Rejected (Hint: {})", message.reject_hint));
    }
    if let Some(context) = read_context(&message.context) {
        line.push_str(&format!(" Context:[{}]", String::from_utf8_lossy(&context)));
    }
    if !message.entries.is_empty() {
        let entries: Vec<String> = message.entries.iter().map(sent_entry).collect();
        line.push_str(&format!(" Entries:[{}]", entries.join(", ")));
    }
    line
}

/// Names the read of a context: the member that asks and its number, without the boot id.
fn read_context(bytes: &[u8]) -> Option<Vec<u8>> {
    let (member, rest) = bytes.split_first_chunk::<8>()?;
    let (_boot, number) = rest.split_first_chunk::<8>()?;
    let number = u64::from_be_bytes(number.try_into().ok()?);
    Some(format!("read {number} of {}", u64::from_be_bytes(*member)).into_bytes())
}
