//! Leases: none ends before its time, none outlives it.
//!
//! The clocks of members drift, so each bound is taken by the slowest and the fastest one. A lease gets its
//! full time again when another member takes over, and ends late while nobody can commit.

use std::collections::BTreeMap;
use std::time::Duration;

use keepd_types::LeaseId;

use crate::history::{History, Moment, Outcome, Request, Response};
use crate::lease_key;
use crate::truth::{Fact, Truth};
use crate::verdict::{Verdict, verdict};

/// Time that a lease may live longer: what a new leader adds, the interval between two looks for ended
/// leases, and the way of the command.
const LATE_MAX: Duration = Duration::from_secs(4);
/// Time after which a client that was not answered has no request under way.
const UNDER_WAY_MAX: Duration = Duration::from_secs(10);

/// The circumstances by which the bounds are judged.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The highest and the lowest rate of a clock, in parts of a million.
    pub rates: (u32, u32),
    /// The times at which members took over, or something else was in the way of the end of a lease;
    /// `None` if nobody knows, and a late end proves nothing.
    pub disturbances: Option<&'a [Duration]>,
    /// The end of the run.
    pub end: Duration,
}

/// A lease of a client.
#[derive(Debug, Default)]
struct Lease {
    ttl: Duration,
    /// The calls of what gave it its full time.
    renewals: Vec<Duration>,
    /// The last time at which anything may have done so.
    renewed_until: Duration,
    /// Calls that may have ended it.
    revokes: Vec<Moment>,
    is_granted: bool,
}

/// Looks at a whole run.
///
/// # Errors
/// If a lease ended early or late.
pub fn conclude(history: &History, truth: &Truth, about: Circumstances<'_>) -> Verdict {
    verdict("lease_bounds", check(history, truth, about))
}

fn leases(history: &History) -> BTreeMap<LeaseId, Lease> {
    let mut leases: BTreeMap<LeaseId, Lease> = BTreeMap::new();
    for operation in history.operations() {
        let (call, end) = (operation.call, operation.end.map(|end| end.at));
        let until = match operation.outcome {
            Outcome::Unknown(_) => call.at + UNDER_WAY_MAX,
            _ => end.unwrap_or(call.at + UNDER_WAY_MAX),
        };
        match operation.request {
            Request::Grant { id, ttl } => {
                let is_granted = matches!(operation.outcome, Outcome::Ok(_));
                let ttl = Duration::from_secs(ttl.unsigned_abs());
                let renewals = vec![call.at];
                let lease =
                    Lease { ttl, renewals, renewed_until: until, revokes: vec![], is_granted };
                leases.insert(id, lease);
            }
            Request::Renew { id } => {
                let Some(lease) = leases.get_mut(&id) else { continue };
                match &operation.outcome {
                    Outcome::Ok(Response::Renewed) => lease.renewals.push(call.at),
                    Outcome::Unknown(_) => {}
                    _ => continue,
                }
                lease.renewed_until = lease.renewed_until.max(until);
            }
            Request::Revoke { id } => {
                if let Some(lease) = leases.get_mut(&id) {
                    lease.revokes.push(call);
                }
            }
            _ => {}
        }
    }
    leases
}

fn check(history: &History, truth: &Truth, about: Circumstances<'_>) -> Result<(), String> {
    for (id, lease) in leases(history) {
        let key = lease_key(id);
        let mut facts = truth.facts().iter().filter(|fact| fact.key == key);
        let Some(put) = facts.next() else { continue };
        let removal = facts.next();
        if let Some(again) = facts.next() {
            return Err(format!("lease {}: its key came again: {again:?}", id.0));
        }
        let found = check_one(&lease, put, removal, about);
        found.map_err(|what| format!("lease {} of {:?}: {what}", id.0, lease.ttl))?;
    }
    Ok(())
}

fn check_one(
    lease: &Lease,
    put: &Fact,
    removal: Option<&Fact>,
    about: Circumstances<'_>,
) -> Result<(), String> {
    let scaled = |time: Duration, rate: u32| time.mul_f64(1_000_000.0 / f64::from(rate));
    let (fastest, slowest) = about.rates;
    if let Some(removal) = removal {
        let is_revoked = lease.revokes.iter().any(|call| *call < removal.shown);
        let before = lease.renewals.iter().filter(|call| **call <= removal.shown.at);
        let shortest = before.max().map(|call| *call + scaled(lease.ttl, fastest));
        if !is_revoked && lease.is_granted && shortest.is_some_and(|end| removal.shown.at < end) {
            let (at, end) = (removal.shown.at, shortest);
            return Err(format!("it ended at {at:?}, and was to live until {end:?}"));
        }
    }
    let Some(disturbances) = about.disturbances else { return Ok(()) };
    let end = removal.map_or(about.end, |removal| removal.shown.at);
    let last = lease.renewed_until.max(put.shown.at);
    let disturbed = disturbances.iter().filter(|at| **at <= end).max();
    let from = disturbed.map_or(last, |disturbed| last.max(*disturbed));
    let latest = from + scaled(lease.ttl, slowest) + LATE_MAX;
    if end > latest {
        return Err(format!("it lived until {end:?}, and its time was over at {latest:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use keepd_types::Revision;

    use super::*;
    use crate::history::Pair;

    /// A lease of two seconds, granted at 1 s and renewed at 2 s, whose key goes at a time.
    fn run(removed: Option<f64>, disturbances: &[Duration]) -> Verdict {
        let (mut history, id) = (History::default(), LeaseId(1));
        let at = Duration::from_secs_f64;
        let grant = history.call((0, 0, 1), Request::Grant { id, ttl: 2 }, at(1.0));
        history.end(grant, Outcome::Ok(Response::Done { revision: 1 }), at(1.0));
        let mut facts = vec![Fact {
            revision: Revision::first(2),
            key: lease_key(id),
            pair: Some(Pair {
                key: lease_key(id),
                value: "v".into(),
                mod_revision: 2,
                create_revision: 2,
                version: 1,
                lease: id,
            }),
            shown: history.moment(at(1.0)),
        }];
        let renewal = history.call((0, 0, 1), Request::Renew { id }, at(2.0));
        history.end(renewal, Outcome::Ok(Response::Renewed), at(2.0));
        if let Some(removed) = removed {
            let (revision, shown) = (Revision::first(3), history.moment(at(removed)));
            facts.push(Fact { revision, key: lease_key(id), pair: None, shown });
        }
        let rates = (1_000_000, 1_000_000);
        let disturbances = Some(disturbances);
        let about = Circumstances { rates, disturbances, end: at(60.0) };
        conclude(&history, &Truth::with(facts), about)
    }

    #[test]
    fn leases_that_end_early_or_late_are_found() {
        run(Some(4.5), &[]).unwrap();
        assert!(run(Some(3.9), &[]).is_err(), "early");
        assert!(run(Some(9.0), &[]).is_err(), "late");
        assert!(run(None, &[]).is_err(), "never");
        run(Some(9.0), &[Duration::from_secs(5)]).unwrap();
    }
}
