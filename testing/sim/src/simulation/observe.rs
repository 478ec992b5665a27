//! The invariants of a run: observed at every step, and concluded at its end.

use std::time::Duration;

use histories::is_leased;
use histories::truth::Truth;
use keepd_types::KeyRange;

use super::Simulation;
use crate::faults;
use crate::invariants::durable_logs::DurableLogs;
use crate::invariants::election_safety::ElectionSafety;
use crate::invariants::equal_members::Final;
use crate::invariants::leader_completeness::LeaderCompleteness;
use crate::invariants::lease_bounds::Circumstances;
use crate::invariants::log_matching::LogMatching;
use crate::invariants::nonces::Nonces;
use crate::invariants::state_machine_safety::StateMachineSafety;
use crate::invariants::watch_events::WatchEvents;
use crate::invariants::{
    Verdict, acknowledged_writes, equal_members, lease_bounds, reads, real_time, verdict,
};
use crate::logs::Log;
use crate::truth;
use crate::workload::World;

/// The reason of a member that has lost what it confirmed.
const FORGOTTEN: &str = "its disk lost what it had synced, or an older copy was put back";

/// The reason of a member that was removed.
const REMOVED: &str = "the member has been permanently removed from the cluster";

/// A member at a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Glance {
    start: u64,
    term: u64,
    leader: u64,
    applied: u64,
}

/// The invariants that are observed while a run goes on.
#[derive(Debug)]
pub(super) struct Checks {
    truth: Truth,
    elections: ElectionSafety,
    logs: LogMatching,
    completeness: LeaderCompleteness,
    durable: DurableLogs,
    states: StateMachineSafety,
    watches: WatchEvents,
    nonces: Nonces,
    glances: Vec<Glance>,
    /// The times at which something was in the way of the end of leases.
    disturbances: Vec<Duration>,
}

impl Checks {
    pub(super) fn new(members: usize) -> Self {
        Self {
            truth: Truth::new(),
            elections: ElectionSafety::default(),
            logs: LogMatching::default(),
            completeness: LeaderCompleteness::default(),
            durable: DurableLogs::default(),
            states: StateMachineSafety::default(),
            watches: WatchEvents::default(),
            nonces: Nonces::default(),
            glances: vec![Glance::default(); members],
            disturbances: Vec::new(),
        }
    }

    /// A member comes.
    pub(super) fn add_member(&mut self) {
        self.glances.push(Glance::default());
    }

    /// A member's disk is gone, or has forgotten something.
    pub(super) fn forget(&mut self, member: usize) {
        self.durable.forget(member);
    }

    pub(super) fn watches_are_up_to_date(&self, world: &World) -> bool {
        self.watches.are_up_to_date(&world.watches.borrow(), &self.truth)
    }

    /// Something is in the way of the end of leases.
    pub(super) fn disturb(&mut self, now: Duration) {
        self.disturbances.push(now);
    }

    pub(super) fn events(&self) -> u64 {
        self.watches.events()
    }

    pub(super) fn elections(&self) -> u64 {
        self.elections.elections() as u64
    }
}

impl Simulation {
    /// Looks at all members and at what watches were told.
    pub(super) fn observe(&mut self) -> Verdict {
        for member in self.present.clone() {
            if self.cluster.is_running(member) {
                self.observe_member(member)?;
            } else {
                self.notice_end(member)?;
            }
        }
        let is_damaged = !self.damaged.is_empty();
        let mut watches = self.world.watches.borrow_mut();
        self.checks.watches.observe(&mut watches, &self.checks.truth, is_damaged)
    }

    fn observe_member(&mut self, member: usize) -> Verdict {
        let handle = self.cluster.handle(member);
        let status = handle.status();
        let glance = Glance {
            start: self.world.hosts.borrow()[member].start,
            term: status.term,
            leader: status.leader,
            applied: status.applied_index,
        };
        let before = std::mem::replace(&mut self.checks.glances[member], glance);
        if before == glance {
            return Ok(());
        }
        let id = self.cluster.id(member);
        self.checks.durable.serve(member, glance.term)?;
        if (before.term, before.leader) != (glance.term, glance.leader) {
            self.checks.elections.observe(id, glance.term, glance.leader)?;
            if glance.leader == id.0 && (before.term, before.leader) != (glance.term, id.0) {
                self.world.note(format_args!("m{member} leads in term {}", glance.term));
                self.observe_leader(member, glance.term)?;
            }
        }
        let is_new_term = before.term != glance.term && before.start == glance.start;
        if is_new_term && self.pending.kills_voters && self.world.is_unsafe() {
            return self.kill_voter(member);
        }
        if before.applied != glance.applied || before.start != glance.start {
            let view = handle.view();
            self.checks.states.observe(id, &view)?;
            if view.revision() > self.checks.truth.revision()
                || view.compact_revision() > self.checks.truth.compacted()
            {
                let sealer = handle.encryption().sealer();
                let (world, now) = (&self.world, self.world.now());
                let moment = || world.history.borrow_mut().moment(now);
                let learned = truth::learn(&mut self.checks.truth, &view, &sealer, moment);
                let is_damaged = self.damaged.contains(&member);
                verdict(
                    "truth",
                    learned.or_else(|what| if is_damaged { Ok(()) } else { Err(what) }),
                )?;
            }
        }
        Ok(())
    }

    /// A member that has ended by itself is started again after a while.
    fn notice_end(&mut self, member: usize) -> Verdict {
        let Some(handle) = self.world.hosts.borrow_mut()[member].handle.take() else {
            return Ok(());
        };
        let reason = handle.halted().borrow().clone();
        let reason = reason.map_or_else(|| "without a reason".to_owned(), |reason| reason.0);
        self.world.note(format_args!("m{member} stops: {reason}"));
        // Who removed it may not have been told yet.
        let goes = self.replacement.as_ref().is_some_and(|it| it.is_of(member));
        if self.is_ending(member) || (goes && reason == REMOVED) {
            self.cluster.kill(member);
            return Ok(());
        }
        if self.forgetful.contains(&member) && reason.contains(FORGOTTEN) {
            self.cluster.kill(member);
            self.report.found += 1;
            self.found.push_back(member);
            return Ok(());
        }
        let is_excused = self.damaged.contains(&member) || self.pending.has_disk_fault(member);
        if !is_excused {
            return verdict("stops", Err(format!("m{member} stops: {reason}")));
        }
        self.report.crashes += 1;
        self.pending.disk_faults.remove(&member);
        self.checks.durable.die(member, None);
        self.cluster.kill(member);
        self.pending.restarts.push((self.now() + super::START_PAUSE, member));
        Ok(())
    }

    /// The log of a member; `None` if its disk is damaged.
    fn log(&self, member: usize) -> Result<Option<Log>, crate::invariants::Broken> {
        let host = self.cluster.host(member);
        match Log::read(host.disk(), host.data_dir(), host.config().clone()) {
            Ok(log) => Ok(Some(log)),
            Err(_) if self.damaged.contains(&member) || self.pending.has_disk_fault(member) => {
                Ok(None)
            }
            Err(error) => {
                let what = format!("the log of m{member} cannot be read: {error}");
                verdict("log_matching", Err(what)).map(|()| None)
            }
        }
    }

    /// Takes in the log of a member.
    pub(super) fn observe_log(&mut self, member: usize) -> Verdict {
        if !self.cluster.is_running(member) {
            return Ok(());
        }
        let Some(log) = self.log(member)? else { return Ok(()) };
        let id = self.cluster.id(member);
        self.checks.logs.observe(id, &log)?;
        self.checks.completeness.commit(id, &log)?;
        let host = self.cluster.host(member);
        self.checks.nonces.observe(id, host.disk(), host.data_dir(), host.config().clone())
    }

    /// Takes in what a member that is about to die has synced: all of its log, unless a call of its disk
    /// has failed.
    pub(super) fn observe_death(&mut self, member: usize) -> Verdict {
        if !self.cluster.is_running(member) {
            // It died before, and nothing was written since.
            return Ok(());
        }
        let is_known = !self.pending.has_disk_fault(member);
        let log = if is_known { self.log(member)? } else { None };
        self.checks.durable.die(member, log);
        Ok(())
    }

    /// Looks at the log of a member that has just started.
    pub(super) fn observe_start(&mut self, member: usize) -> Verdict {
        match self.log(member)? {
            Some(log) => self.checks.durable.start(member, &log),
            None => Ok(()),
        }
    }

    fn observe_leader(&mut self, leader: usize, term: u64) -> Verdict {
        self.checks.disturbances.push(self.cluster.now());
        for member in self.present.clone() {
            self.observe_log(member)?;
        }
        let Some(log) = self.log(leader)? else { return Ok(()) };
        self.checks.completeness.lead(self.cluster.id(leader), &log, term)
    }

    /// Judges the whole run.
    pub(super) fn conclude(&mut self) -> Verdict {
        for member in self.present.clone() {
            self.observe_log(member)?;
            self.observe_disk(member)?;
        }
        let members = self.present.iter().map(|member| -> Result<Final, String> {
            let member = *member;
            let handle = self.cluster.handle(member);
            let (view, sealer) = (handle.view(), handle.encryption().sealer());
            let refs = view.range(&KeyRange::all(), 0, 0).map_err(|error| error.to_string())?;
            let revisions: Vec<_> = refs.keys.iter().map(|(_, revision)| *revision).collect();
            let records = view.load_many(&revisions).map_err(|error| error.to_string())?;
            let pairs = records.iter().map(|record| truth::pair(record, &sealer));
            let pairs = pairs.collect::<Result<_, _>>()?;
            Ok(Final { member: self.cluster.id(member), view, pairs })
        });
        let members: Result<Vec<Final>, String> = members.collect();
        let members =
            members.or_else(|what| verdict("equal_members", Err(what)).map(|()| vec![]))?;
        let (history, truth) = (self.world.history.borrow(), &self.checks.truth);
        equal_members::conclude(&members, truth)?;
        acknowledged_writes::conclude(&history, truth, is_leased)?;
        real_time::conclude(&history, truth)?;
        reads::conclude(&history, truth)?;
        let about = Circumstances {
            rates: (faults::RATES.1, faults::RATES.0),
            disturbances: Some(&self.checks.disturbances),
            end: self.now(),
        };
        lease_bounds::conclude(&history, truth, about)
    }
}
