//! Acknowledged writes survive, writes that failed are not there, and no command is applied twice.
//!
//! Every change has a cause: a write that was acknowledged with its revision, or one whose outcome nobody
//! knows. Values are unique, so only deletions are searched for: among the unknown ones.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::history::{History, Operation, Outcome, Request, Response};
use crate::truth::{Fact, Replay, Truth};
use crate::verdict::{Verdict, verdict};

/// Looks at a whole run. Keys for which `is_ended_by_lease` holds go without a delete.
///
/// # Errors
/// If an operation and the changes contradict one another.
pub fn conclude(
    history: &History,
    truth: &Truth,
    is_ended_by_lease: impl Fn(&Bytes) -> bool,
) -> Verdict {
    let found = check_order(truth)
        .and_then(|()| check_writes(history, truth))
        .and_then(|()| check_answers(history, truth))
        .and_then(|()| check_removals(history, truth, is_ended_by_lease));
    verdict("acknowledged_writes", found)
}

/// Revisions follow one another without a gap.
fn check_order(truth: &Truth) -> Result<(), String> {
    let mut last = 1;
    for fact in truth.facts() {
        let main = fact.revision.main;
        if main != last && main != last + 1 {
            return Err(format!("revision {main} follows {last}"));
        }
        last = main;
    }
    Ok(())
}

fn check_writes(history: &History, truth: &Truth) -> Result<(), String> {
    let mut written: BTreeMap<&Bytes, &Fact> = BTreeMap::new();
    for fact in truth.facts() {
        let Some(pair) = &fact.pair else { continue };
        if let Some(first) = written.insert(&pair.value, fact) {
            let (first, again) = (first.revision.main, fact.revision.main);
            let value = &pair.value;
            return Err(format!("{value:?} was written at revision {first} and again at {again}"));
        }
    }
    for operation in history.operations() {
        let Some(value) = operation.request.value() else { continue };
        let fact = written.remove(value);
        check_write(operation, fact).map_err(|what| format!("{what}: {operation}"))?;
    }
    match written.first_key_value() {
        None => Ok(()),
        Some((value, fact)) => {
            Err(format!("nobody wrote {value:?}, which is revision {}", fact.revision.main))
        }
    }
}

fn check_write(operation: &Operation, fact: Option<&Fact>) -> Result<(), String> {
    let (key, lease) = match &operation.request {
        Request::Put { key, lease, .. } => (key, *lease),
        Request::Swap { key, .. } => (key, keepd_types::LeaseId::NONE),
        _ => return Ok(()),
    };
    if let Some(fact) = fact {
        if fact.shown < operation.call {
            return Err("it was there before it was asked for".to_owned());
        }
        let pair = fact.pair.as_ref().expect("it has a value");
        if fact.key != *key || pair.lease != lease {
            return Err(format!("{pair:?} was written instead"));
        }
    }
    let revision = fact.map(|fact| fact.revision.main);
    match &operation.outcome {
        Outcome::Ok(Response::Done { revision: told }) if revision != Some(*told) => {
            Err(format!("it was acknowledged, and is at revision {revision:?}"))
        }
        Outcome::Ok(Response::Swapped { revision: told, is_swapped: true })
            if revision != Some(*told) =>
        {
            Err(format!("it was acknowledged, and is at revision {revision:?}"))
        }
        Outcome::Ok(Response::Swapped { is_swapped: false, .. }) if revision.is_some() => {
            Err(format!("its comparison failed, and it is at revision {revision:?}"))
        }
        Outcome::Failed(_) if revision.is_some() => {
            Err(format!("it had failed for certain, and is at revision {revision:?}"))
        }
        _ => Ok(()),
    }
}

/// The answers to comparisons and deletions are what the keys were at their revision.
fn check_answers(history: &History, truth: &Truth) -> Result<(), String> {
    let revision = |operation: &Operation| match &operation.outcome {
        Outcome::Ok(response) => response.revision(),
        _ => None,
    };
    let mut answered: Vec<(i64, &Operation)> =
        history.operations().iter().filter_map(|it| Some((revision(it)?, it))).collect();
    answered.sort_by_key(|(revision, it)| {
        // What wrote a revision found the one before.
        revision - i64::from(is_write(it))
    });
    let mut replay = Replay::default();
    for (revision, operation) in answered {
        replay.go_to(truth, revision - i64::from(is_write(operation)));
        let fits = match (&operation.request, &operation.outcome) {
            (
                Request::Swap { key, expected, .. },
                Outcome::Ok(Response::Swapped { is_swapped, .. }),
            ) => {
                let mod_revision = replay.get(key).map_or(0, |pair| pair.mod_revision);
                (mod_revision == *expected) == *is_swapped
            }
            (Request::Delete { key }, Outcome::Ok(Response::Deleted { count, .. })) => {
                replay.get(key).is_some() == (*count == 1)
            }
            _ => true,
        };
        if !fits {
            return Err(format!("the keys were not so: {operation}"));
        }
    }
    Ok(())
}

fn is_write(operation: &Operation) -> bool {
    match &operation.outcome {
        Outcome::Ok(Response::Deleted { count, .. }) => *count > 0,
        Outcome::Ok(Response::Swapped { is_swapped, .. }) => *is_swapped,
        _ => false,
    }
}

/// Every removal has a delete of its own.
fn check_removals(
    history: &History,
    truth: &Truth,
    is_ended_by_lease: impl Fn(&Bytes) -> bool,
) -> Result<(), String> {
    let mut acknowledged: BTreeMap<i64, &Operation> = BTreeMap::new();
    let mut unknown: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
    for operation in history.operations() {
        let Request::Delete { key } = &operation.request else { continue };
        match &operation.outcome {
            Outcome::Ok(Response::Deleted { revision, count }) if *count > 0 => {
                let before = acknowledged.insert(*revision, operation);
                if before.is_some() {
                    return Err(format!("another delete had this revision: {operation}"));
                }
            }
            Outcome::Unknown(_) => unknown.entry(key).or_default().push(operation),
            _ => {}
        }
    }
    let mut unexplained: BTreeMap<&Bytes, Vec<&Fact>> = BTreeMap::new();
    let removals = truth.facts().iter().filter(|fact| fact.pair.is_none());
    for fact in removals.filter(|fact| !is_ended_by_lease(&fact.key)) {
        let deleted = acknowledged.remove(&fact.revision.main);
        let fits =
            deleted.map(|it| matches!(&it.request, Request::Delete { key } if *key == fact.key));
        match fits {
            Some(true) => {}
            Some(false) => return Err(format!("another key was deleted at {:?}", fact.revision)),
            None => unexplained.entry(&fact.key).or_default().push(fact),
        }
    }
    if let Some((revision, operation)) = acknowledged.first_key_value() {
        return Err(format!("nothing was removed at revision {revision}: {operation}"));
    }
    for (key, facts) in unexplained {
        let deletes = unknown.remove(key).unwrap_or_default();
        if let Some(fact) = without_cause(&facts, &deletes) {
            let (main, unknown) = (fact.revision.main, deletes.len());
            return Err(format!(
                "{key:?} was removed at revision {main}, for which none of {unknown} deletes of \
                 unknown outcome is left"
            ));
        }
    }
    Ok(())
}

/// A removal that finds no delete when each has one of its own: both are in order of time, and a
/// delete has its effect at any time after its call, so each takes the earliest one that is left.
fn without_cause<'a>(removals: &[&'a Fact], deletes: &[&Operation]) -> Option<&'a Fact> {
    let mut left = deletes.iter();
    removals.iter().copied().find(|removal| left.next().is_none_or(|it| it.call > removal.shown))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keepd_types::{LeaseId, Revision};

    use super::*;
    use crate::history::Pair;

    fn put(value: &'static str) -> Request {
        Request::Put { key: "k".into(), value: value.into(), lease: LeaseId::NONE }
    }

    fn run(operations: &[(Request, Outcome)], facts: &[(i64, Option<&'static str>)]) -> Verdict {
        let mut history = History::default();
        for (request, outcome) in operations {
            let call = history.call((0, 0, 1), request.clone(), Duration::ZERO);
            history.end(call, outcome.clone(), Duration::ZERO);
        }
        let shown = history.moment(Duration::ZERO);
        let fact = |(main, value): &(i64, Option<&'static str>)| Fact {
            revision: Revision::first(*main),
            key: "k".into(),
            pair: value.map(|value| Pair {
                key: "k".into(),
                value: value.into(),
                mod_revision: *main,
                create_revision: *main,
                version: 1,
                lease: LeaseId::NONE,
            }),
            shown,
        };
        let truth = Truth::with(facts.iter().map(fact).collect());
        conclude(&history, &truth, |_| false)
    }

    fn done(revision: i64) -> Outcome {
        Outcome::Ok(Response::Done { revision })
    }

    fn unknown() -> Outcome {
        Outcome::Unknown(String::new())
    }

    fn delete() -> Request {
        Request::Delete { key: "k".into() }
    }

    #[test]
    fn writes_that_are_lost_doubled_or_denied_are_found() {
        run(&[(put("a"), done(2)), (put("b"), unknown())], &[(2, Some("a"))]).unwrap();
        run(&[(put("a"), done(2)), (put("b"), unknown())], &[(2, Some("a")), (3, Some("b"))])
            .unwrap();
        assert!(run(&[(put("a"), done(2))], &[]).is_err(), "lost");
        assert!(run(&[(put("a"), unknown())], &[(2, Some("a")), (3, Some("a"))]).is_err(), "twice");
        let failed = Outcome::Failed(String::new());
        assert!(run(&[(put("a"), failed)], &[(2, Some("a"))]).is_err(), "it had failed");
        assert!(run(&[], &[(2, Some("a"))]).is_err(), "nobody wrote it");
    }

    #[test]
    fn each_removal_needs_a_delete_of_its_own() {
        let facts = [(2, Some("a")), (3, None), (4, Some("b")), (5, None)];
        let writes = [(put("a"), done(2)), (put("b"), done(4))];
        let with = |deletes: &[(Request, Outcome)]| run(&[&writes[..], deletes].concat(), &facts);
        let deleted = |revision| Outcome::Ok(Response::Deleted { revision, count: 1 });
        with(&[(delete(), deleted(3)), (delete(), deleted(5))]).unwrap();
        with(&[(delete(), unknown()), (delete(), deleted(5))]).unwrap();
        with(&[(delete(), unknown()), (delete(), unknown()), (delete(), unknown())]).unwrap();
        assert!(with(&[(delete(), unknown())]).is_err(), "one delete, two removals");
        assert!(with(&[(delete(), deleted(3)), (delete(), deleted(4))]).is_err());
    }
}
