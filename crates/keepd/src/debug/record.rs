//! Records of the log as JSON objects, and as lines for people.

use keepd_machine::Envelope;
use keepd_member::Identity;
use keepd_raft::{ConfChange, Step, Transition};
use keepd_types::{Entry, EntryKind, HardState};
use keepd_wal::{DumpedFrame, Error, LogStart, Record, SegmentHeader, TornTail};
use serde_json::{Map, Value, json};

use super::command::{self, Values};

/// Identifiers are told as etcd's tools tell them.
fn hex(id: u64) -> String {
    format!("{id:x}")
}

/// The objects of a frame; entries only if they are wanted.
pub(super) fn of_frame(
    frame: &DumpedFrame,
    values: Values<'_>,
    is_wanted: impl Fn(u64) -> bool,
) -> Vec<Value> {
    let mut lines = Vec::new();
    match &frame.record {
        Record::Head(head) => {
            lines.push(segment(frame, head));
            lines.push(placed(frame, hard_state(head.hard_state)));
        }
        Record::Batch(batch) => {
            lines.extend(batch.hard_state.map(|state| placed(frame, hard_state(state))));
            let entries = batch.entries.iter().filter(|entry| is_wanted(entry.index));
            lines.extend(entries.map(|entry| placed(frame, of_entry(entry, values))));
        }
        Record::Start(record) => lines.push(placed(
            frame,
            json!({"type": "start", "start": start(record.start), "next_index": record.next_index}),
        )),
        Record::Closed(_) => lines.push(placed(frame, json!({"type": "closed"}))),
    }
    lines
}

/// A cut-off write at the end of a segment.
pub(super) fn torn(torn: &TornTail) -> Value {
    json!({
        "type": "torn",
        "file": torn.path.display().to_string(),
        "frame": torn.frame,
        "offset": torn.offset,
    })
}

/// The rest of a segment, or all of it, that cannot be read.
pub(super) fn damage(error: &Error) -> Value {
    json!({"type": "damage", "error": error.to_string()})
}

fn placed(frame: &DumpedFrame, mut line: Value) -> Value {
    for (name, number) in
        [("segment", frame.sequence), ("frame", frame.frame), ("offset", frame.offset)]
    {
        line[name] = number.into();
    }
    line
}

fn start(start: LogStart) -> Value {
    json!({"index": start.index, "term": start.term})
}

fn segment(frame: &DumpedFrame, head: &SegmentHeader) -> Value {
    let identity = Identity::decode(&head.metadata);
    let previous = head.previous.map(|previous| {
        let end = previous.end;
        json!({"segment": previous.sequence, "frames": end.frames, "end": end.offset})
    });
    json!({
        "type": "segment",
        "file": frame.path.display().to_string(),
        "segment": frame.sequence,
        "data_key": (frame.data_key != 0).then_some(frame.data_key),
        "first_index": head.first_index,
        "start": start(head.start),
        "previous": previous,
        "member": identity.map(|identity| identity.member.to_string()),
        "cluster": identity.map(|identity| identity.cluster.to_string()),
    })
}

fn hard_state(state: HardState) -> Value {
    json!({
        "type": "hard_state",
        "term": state.term,
        "vote": hex(state.vote),
        "commit": state.commit,
    })
}

fn of_entry(entry: &Entry, values: Values<'_>) -> Value {
    let kind = match entry.kind {
        EntryKind::Normal => "normal",
        EntryKind::ConfChange => "conf_change",
        EntryKind::ConfChangeV2 => "conf_change_v2",
    };
    let mut line = json!({
        "type": "entry",
        "index": entry.index,
        "term": entry.term,
        "kind": kind,
        "bytes": entry.data.len(),
    });
    match entry.kind {
        // A new leader's first entry.
        EntryKind::Normal if entry.data.is_empty() => {}
        EntryKind::Normal => describe(&mut line, Envelope::decode(entry.data.clone()), values),
        EntryKind::ConfChange | EntryKind::ConfChangeV2 => match ConfChange::decode(&entry.data) {
            Err(error) => line["unreadable"] = error.to_string().into(),
            Ok(change) => {
                line["change"] = conf_change(&change);
                if !change.context.is_empty() {
                    describe(&mut line, Envelope::decode(change.context), values);
                }
            }
        },
    }
    line
}

fn describe(
    line: &mut Value,
    envelope: Result<Envelope, keepd_machine::CommandError>,
    values: Values<'_>,
) {
    match envelope {
        Err(error) => line["unreadable"] = error.to_string().into(),
        Ok(envelope) => {
            if let Some(origin) = envelope.origin {
                line["origin"] = json!({
                    "member": origin.member.to_string(),
                    "boot": hex(origin.boot),
                    "sequence": origin.sequence,
                });
            }
            if let Some(term) = envelope.decided_in {
                line["decided_in"] = term.0.into();
            }
            line["command"] = command::described(&envelope.command, values);
        }
    }
}

fn conf_change(change: &ConfChange) -> Value {
    let steps: Vec<Value> = change.steps.iter().map(step).collect();
    let transition = match change.transition {
        Transition::Auto => "auto",
        Transition::Joint => "joint",
        Transition::JointUntilLeft => "joint_until_left",
    };
    json!({"transition": transition, "steps": steps})
}

fn step(step: &Step) -> Value {
    let name = match step {
        Step::AddVoter(_) => "add_voter",
        Step::AddLearner(_) => "add_learner",
        Step::Promote(_) => "promote",
        Step::Remove(_) => "remove",
        Step::Update(_) => "update",
    };
    json!({"step": name, "member": hex(step.member())})
}

/// A record as a line for people.
pub(super) fn for_people(line: &Value) -> String {
    let text = |name: &str| line[name].as_str().unwrap_or_default();
    match text("type") {
        "segment" => {
            let key = match line["data_key"].as_u64() {
                Some(key) => format!("sealed under data key {key}"),
                None => "PLAIN".to_owned(),
            };
            let start = &line["start"];
            format!(
                "segment {} {key}, first index {}, log starts after {} (term {}), member {} of {}",
                text("file"),
                line["first_index"],
                start["index"],
                start["term"],
                text("member"),
                text("cluster")
            )
        }
        "hard_state" => format!(
            "  {:>10}  hard state: term {}, vote {}, commit {}",
            "",
            line["term"],
            text("vote"),
            line["commit"]
        ),
        "entry" => {
            let index = line["index"].as_u64().unwrap_or_default();
            format!("  {index:>10}  term {}  {}", line["term"], of_people(line))
        }
        "start" => {
            let start = &line["start"];
            let (index, term) = (&start["index"], &start["term"]);
            format!("  {:>10}  the log starts after {index} (term {term})", "")
        }
        "closed" => format!("  {:>10}  closed in order", ""),
        "torn" => format!(
            "  {:>10}  a write that was cut off, or is under way, at byte {} of {}",
            "",
            line["offset"],
            text("file")
        ),
        "damage" => format!("  DAMAGED: {}", text("error")),
        _ => format!(
            "{} segments, {} entries, {} cut-off writes, {} damaged segments",
            line["segments"], line["entries"], line["torn"], line["damaged"]
        ),
    }
}

/// The content of an entry.
fn of_people(line: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(change) = line.get("change") {
        parts.push(format!("configuration {change}"));
    }
    if let Some(command) = line.get("command").and_then(Value::as_object) {
        parts.push(command_for_people(command));
    }
    if let Some(error) = line["unreadable"].as_str() {
        parts.push(format!("UNREADABLE: {error}"));
    }
    if parts.is_empty() { "nothing: a leader's first entry".to_owned() } else { parts.join("  ") }
}

fn command_for_people(command: &Map<String, Value>) -> String {
    let mut text = command.get("command").and_then(Value::as_str).unwrap_or_default().to_owned();
    let fields = command.iter().filter(|(name, value)| *name != "command" && !value.is_null());
    for (name, value) in fields {
        text.push_str(&format!(" {name}={value}"));
    }
    text
}

#[cfg(test)]
mod tests;
