//! Reads, linearizable and serializable: each shows exactly what the keys were at the revision that it
//! tells. How new that revision must be is in `real_time.rs`.

use crate::history::{History, Operation, Outcome, Pair, Request, Response};
use crate::truth::{Replay, Truth};
use crate::verdict::{Verdict, verdict};

/// Looks at a whole run.
///
/// # Errors
/// If a read shows what never was.
pub fn conclude(history: &History, truth: &Truth) -> Verdict {
    verdict("reads", check(history, truth))
}

fn check(history: &History, truth: &Truth) -> Result<(), String> {
    let answer = |operation: &Operation| -> Option<(i64, Vec<Pair>)> {
        let Request::Read { at, .. } = operation.request else { return None };
        let Outcome::Ok(Response::Read { revision, pairs }) = &operation.outcome else {
            return None;
        };
        Some((if at > 0 { at } else { *revision }, pairs.clone()))
    };
    let mut reads: Vec<_> = history
        .operations()
        .iter()
        .filter_map(|operation| answer(operation).map(|(at, pairs)| (at, pairs, operation)))
        .collect();
    reads.sort_by_key(|(at, _, _)| *at);
    let mut replay = Replay::default();
    for (at, pairs, operation) in reads {
        if at > truth.revision() {
            return Err(format!("no member came to revision {at}: {operation}"));
        }
        replay.go_to(truth, at);
        let Request::Read { range, .. } = &operation.request else { continue };
        let expected = replay.range(range);
        if expected != pairs {
            return Err(format!(
                "at {at} there were {expected:?}, it shows {pairs:?}: {operation}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keepd_types::{KeyRange, LeaseId, Revision};

    use super::*;
    use crate::truth::Fact;

    fn pair(value: &'static str, revision: i64) -> Pair {
        Pair {
            key: "k".into(),
            value: value.into(),
            mod_revision: revision,
            create_revision: 2,
            version: revision - 1,
            lease: LeaseId::NONE,
        }
    }

    #[test]
    fn a_read_of_what_never_was_is_found() {
        let run = |at, revision, pairs: Vec<Pair>| {
            let mut history = History::default();
            let shown = history.moment(Duration::ZERO);
            let fact = |value, main| Fact {
                revision: Revision::first(main),
                key: "k".into(),
                pair: Some(pair(value, main)),
                shown,
            };
            let truth = Truth::with(vec![fact("a", 2), fact("b", 3)]);
            let request = Request::Read { range: KeyRange::all(), at, is_serializable: true };
            let read = history.call((0, 0, 1), request, Duration::ZERO);
            let answer = Outcome::Ok(Response::Read { revision, pairs });
            history.end(read, answer, Duration::ZERO);
            conclude(&history, &truth)
        };
        run(0, 3, vec![pair("b", 3)]).unwrap();
        run(0, 2, vec![pair("a", 2)]).unwrap();
        run(2, 3, vec![pair("a", 2)]).unwrap();
        assert!(run(0, 3, vec![pair("a", 2)]).is_err(), "old keys under a new revision");
        assert!(run(0, 3, vec![]).is_err());
        assert!(run(0, 4, vec![pair("b", 3)]).is_err(), "nobody came to that revision");
    }
}
