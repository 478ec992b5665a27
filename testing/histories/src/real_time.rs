//! Revisions grow with time: whoever calls after another was answered is answered with what that one had
//! seen, or more. With the revisions as the order of all writes, this is what makes the history of writes
//! and linearizable reads linearizable.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::history::{History, Operation, Outcome, Request, Response};
use crate::truth::Truth;
use crate::verdict::{Verdict, verdict};

/// Looks at a whole run.
///
/// # Errors
/// If an answer shows less than was known before its call.
pub fn conclude(history: &History, truth: &Truth) -> Verdict {
    verdict("real_time", check(history, truth))
}

/// A moment at which an operation began or ended.
enum Event<'a> {
    Call(&'a Operation),
    End(&'a Operation),
}

fn check(history: &History, truth: &Truth) -> Result<(), String> {
    let written: BTreeMap<&Bytes, i64> = truth
        .facts()
        .iter()
        .filter_map(|fact| Some((&fact.pair.as_ref()?.value, fact.revision.main)))
        .collect();
    let mut events: Vec<(u64, Event<'_>)> = Vec::new();
    for operation in history.operations() {
        events.push((operation.call.number, Event::Call(operation)));
        events.extend(operation.end.map(|end| (end.number, Event::End(operation))));
    }
    events.sort_by_key(|(number, _)| *number);
    // What everyone has seen by now, and what was seen at one start of a member.
    let mut seen = 1;
    let mut seen_at: BTreeMap<(usize, u64), i64> = BTreeMap::new();
    for (_, event) in events {
        match event {
            Event::Call(operation) => {
                let at = *seen_at.get(&(operation.member, operation.start)).unwrap_or(&1);
                check_one(operation, seen, at, &written)?;
            }
            Event::End(operation) => {
                if let Outcome::Ok(response) = &operation.outcome {
                    let revision = response.revision().unwrap_or(1);
                    seen = seen.max(revision);
                    let at = seen_at.entry((operation.member, operation.start)).or_insert(1);
                    *at = (*at).max(revision);
                }
            }
        }
    }
    Ok(())
}

/// An operation that was called when `seen` was the highest revision that anyone had been answered with,
/// and `at` the highest that this member had answered with.
fn check_one(
    operation: &Operation,
    seen: i64,
    at: i64,
    written: &BTreeMap<&Bytes, i64>,
) -> Result<(), String> {
    let value = operation.request.value();
    if let Some(revision) = value.and_then(|value| written.get(value))
        && *revision <= seen
    {
        return Err(format!(
            "it is revision {revision}, and {seen} was known before its call: {operation}"
        ));
    }
    let Outcome::Ok(response) = &operation.outcome else { return Ok(()) };
    let Some(revision) = response.revision() else { return Ok(()) };
    let is_removal = matches!(response, Response::Deleted { count, .. } if *count > 0);
    let floor = match &operation.request {
        Request::Read { is_serializable: true, .. } => at,
        _ if is_removal => seen + 1,
        _ => seen,
    };
    if revision < floor {
        return Err(format!("it shows less than revision {floor}: {operation}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keepd_types::{KeyRange, LeaseId};

    use super::*;

    fn read(is_serializable: bool) -> Request {
        Request::Read { range: KeyRange::all(), at: 0, is_serializable }
    }

    fn answer(revision: i64) -> Outcome {
        Outcome::Ok(Response::Read { revision, pairs: Vec::new() })
    }

    #[test]
    fn a_stale_read_is_found_and_a_serializable_one_may_be_stale() {
        let run = |second: Request, member, revision| {
            let mut history = History::default();
            let put = Request::Put { key: "k".into(), value: "v".into(), lease: LeaseId::NONE };
            let write = history.call((0, 0, 1), put, Duration::ZERO);
            history.end(write, Outcome::Ok(Response::Done { revision: 7 }), Duration::ZERO);
            let read = history.call((1, member, 1), second, Duration::ZERO);
            history.end(read, answer(revision), Duration::ZERO);
            conclude(&history, &Truth::new())
        };
        run(read(false), 1, 7).unwrap();
        assert!(run(read(false), 1, 6).is_err());
        run(read(true), 1, 6).unwrap();
        assert!(run(read(true), 0, 6).is_err(), "the member has shown 7");
    }

    #[test]
    fn who_calls_before_the_answer_may_see_the_old_state() {
        let mut history = History::default();
        let put = Request::Put { key: "k".into(), value: "v".into(), lease: LeaseId::NONE };
        let write = history.call((0, 0, 1), put, Duration::ZERO);
        let early = history.call((1, 1, 1), read(false), Duration::ZERO);
        history.end(write, Outcome::Ok(Response::Done { revision: 7 }), Duration::ZERO);
        history.end(early, answer(6), Duration::ZERO);
        conclude(&history, &Truth::new()).unwrap();
    }
}
