//! Members that are replaced: one goes, in order or with its disk, and a new one comes with an empty disk
//! and an id of its own, as a voter or as a learner that is promoted; before the old one goes or after.
//!
//! One replacement is under way at a time. Each of its changes is asked for until it has been made.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use keepd_machine::{ApplyError, MembershipChange};
use keepd_node::Receiver;
use keepd_types::MemberId;

use super::Simulation;
use crate::invariants::Verdict;
use crate::workload::{Host, PATIENCE};

/// Time between two attempts to change the membership.
const PAUSE: Duration = Duration::from_millis(300);
/// Time that a removed member has to stop by itself; one that is cut off does not learn of it.
const LEAVE_TIME: Duration = Duration::from_secs(4);
/// The id of the first new member; no id is used again.
const NEW: u64 = 1000;
/// Learners that a cluster may have: one that is not there beside one that comes.
const LEARNERS_MAX: u32 = 2;

/// A step of a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Remove,
    Leave,
    Add,
    Promote,
}

/// The outcome of a change, and the membership after it as who made it tells it.
type Answer = Rc<RefCell<Option<(Result<(), ApplyError>, Bytes)>>>;

/// The way in which a member is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manner {
    /// Its disk is gone at once.
    pub(crate) is_lost: bool,
    /// The new one comes before the old one goes.
    pub(crate) comes_first: bool,
    /// The new one comes as a learner.
    pub(crate) is_learner: bool,
}

/// A replacement under way.
#[derive(Debug)]
pub(super) struct Replacement {
    old: usize,
    id: MemberId,
    is_learner: bool,
    stages: VecDeque<Stage>,
    /// The change that was asked for, until it is answered or given up.
    asked: Option<(Duration, Answer)>,
    /// The next attempt; of a member that leaves, the last moment.
    due: Duration,
    new: Option<usize>,
}

impl Replacement {
    /// Whether the old member has to go from now on, or has gone.
    pub(super) fn ends(&self, member: usize) -> bool {
        self.old == member && !self.stages.contains(&Stage::Remove)
    }

    /// Whether it is this member that goes.
    pub(super) const fn is_of(&self, member: usize) -> bool {
        self.old == member
    }
}

impl Simulation {
    /// Begins to replace a member, if no other replacement is under way.
    pub(super) fn begin_replacement(&mut self, old: usize, manner: Manner) -> Verdict {
        if self.replacement.is_some() || !self.present.contains(&old) {
            return Ok(());
        }
        let Manner { is_lost, comes_first, is_learner } = manner;
        if is_lost {
            self.observe_log(old)?;
            self.observe_disk(old)?;
            self.report.crashes += u64::from(self.cluster.is_running(old));
            self.lose(old);
        }
        let mut stages = VecDeque::from([Stage::Add]);
        stages.extend(is_learner.then_some(Stage::Promote));
        let going = [Stage::Remove, Stage::Leave];
        if comes_first && !is_lost {
            stages.extend(going);
        } else {
            going.into_iter().rev().for_each(|stage| stages.push_front(stage));
        }
        self.report.replaced += 1;
        let id = MemberId(NEW + self.report.replaced);
        let (asked, due) = (None, self.now());
        let replacement = Replacement { old, id, is_learner, stages, asked, due, new: None };
        self.world.note(format_args!("m{old} is to be replaced by {id}: {manner:?}"));
        self.replacement = Some(replacement);
        Ok(())
    }

    /// A member and its disk are gone for good.
    pub(super) fn lose(&mut self, member: usize) {
        self.world.note(format_args!("m{member} is gone with its disk"));
        self.cluster.take_away(member);
        self.pending.forget(member);
        self.checks.forget(member);
        let host = &mut self.world.hosts.borrow_mut()[member];
        (host.handle, host.is_paused) = (None, false);
    }

    /// Goes on with the replacement that is under way.
    pub(super) fn replace(&mut self) -> Verdict {
        if self.replacement.is_none() {
            if let Some(old) = self.found.pop_front() {
                let is_learner = self.world.draw(2) == 0;
                let manner = Manner { is_lost: true, comes_first: false, is_learner };
                return self.begin_replacement(old, manner);
            }
            return Ok(());
        }
        let Some(mut replacement) = self.replacement.take() else { return Ok(()) };
        let goes_on = self.advance(&mut replacement)?;
        if goes_on {
            self.replacement = Some(replacement);
        } else {
            self.world.note(format_args!("m{} is replaced", replacement.old));
            for of in [&mut self.damaged, &mut self.forgetful] {
                of.remove(&replacement.old);
            }
        }
        Ok(())
    }

    /// Whether there is more to do.
    fn advance(
        &mut self,
        replacement: &mut Replacement,
    ) -> Result<bool, crate::invariants::Broken> {
        let now = self.now();
        let Some(stage) = replacement.stages.front().copied() else { return Ok(false) };
        if stage == Stage::Leave {
            if !self.cluster.is_running(replacement.old) || now >= replacement.due {
                self.lose(replacement.old);
                self.present.retain(|member| *member != replacement.old);
                replacement.stages.pop_front();
            }
            return Ok(true);
        }
        if let Some((until, answer)) = &replacement.asked {
            let told = answer.borrow_mut().take();
            if told.is_none() && now < *until {
                return Ok(true);
            }
            replacement.asked = None;
            replacement.due = now + PAUSE;
            if let Some((result, told)) = told {
                self.world.note(format_args!("{stage:?} of {}: {result:?}", replacement.id));
                if is_made(stage, &result) {
                    self.end_stage(replacement, stage, told)?;
                }
            }
            return Ok(true);
        }
        if now >= replacement.due
            && self.cluster.leader().is_some()
            && self.is_caught_up(replacement)
        {
            let answer = self.ask_change(replacement, stage);
            replacement.asked = Some((now + PATIENCE, answer));
        }
        Ok(true)
    }

    fn end_stage(&mut self, replacement: &mut Replacement, stage: Stage, told: Bytes) -> Verdict {
        replacement.stages.pop_front();
        match stage {
            Stage::Add => self.add_member(replacement, told)?,
            Stage::Remove => replacement.due = self.now() + LEAVE_TIME,
            Stage::Promote | Stage::Leave => {}
        }
        Ok(())
    }

    fn add_member(&mut self, replacement: &mut Replacement, told: Bytes) -> Verdict {
        let host = self.cluster.add_host(replacement.id, told);
        let config = self.cluster.host(self.present[0]).config().clone();
        self.cluster.host_mut(host).set_config(config);
        self.world.hosts.borrow_mut().push(Host::default());
        self.checks.add_member();
        replacement.new = Some(host);
        self.present.push(host);
        self.start(host)
    }

    /// A learner is promoted once it has the state.
    fn is_caught_up(&self, replacement: &Replacement) -> bool {
        let Some(new) = replacement.new else { return true };
        if replacement.stages.front() != Some(&Stage::Promote) {
            return true;
        }
        self.cluster.is_running(new) && self.cluster.handle(new).status().applied_index > 0
    }

    fn ask_change(&mut self, replacement: &Replacement, stage: Stage) -> Answer {
        let (id, old) = (replacement.id, self.cluster.id(replacement.old));
        let change = match stage {
            Stage::Remove | Stage::Leave => MembershipChange::Remove { id: old },
            Stage::Promote => MembershipChange::Promote { id },
            Stage::Add => MembershipChange::Add {
                id,
                peer_urls: vec![format!("http://{id}:2380")],
                is_learner: replacement.is_learner,
                max_learners: LEARNERS_MAX,
            },
        };
        let answer = Answer::default();
        let told = Rc::clone(&answer);
        self.at_leader(async move |leader| {
            if let Ok(done) = leader.change_membership(change).await {
                let result = done.outcome.result.map(drop);
                *told.borrow_mut() = Some((result, leader.membership()));
            }
        });
        answer
    }
}

/// Whether a change was made, by this attempt or by one whose answer was lost.
fn is_made(stage: Stage, result: &Result<(), ApplyError>) -> bool {
    matches!(
        (stage, result),
        (_, Ok(()))
            | (Stage::Remove, Err(ApplyError::MemberRemoved | ApplyError::MemberNotFound))
            | (Stage::Add, Err(ApplyError::MemberExists))
            | (Stage::Promote, Err(ApplyError::MemberNotLearner))
    )
}
