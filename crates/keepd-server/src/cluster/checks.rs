//! Whether a change of the membership may be asked for: etcd's `--strict-reconfig-check`, and whether
//! a learner has come far enough to vote.
//!
//! A change that Raft could make may still be the last one that the cluster makes: with two members of
//! which one never started, nothing is committed any more. So a change is refused if those that have
//! started, or are connected, would be no quorum after it. These are guesses of one member about now,
//! asked before the change is proposed; what makes it right or wrong is judged when it is applied.

use std::time::Duration;

use keepd_api::Error as Api;
use keepd_machine::membership::Member;
use keepd_types::MemberId;

/// The time for which a member must have been connected to count as healthy.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);
/// A learner is in sync from this part of the leader's log on, in hundredths.
const IN_SYNC_PERCENT: u128 = 90;

/// The voters as one of them sees them.
pub(super) struct Voters<'a> {
    voters: Vec<&'a Member>,
    own: MemberId,
}

impl<'a> Voters<'a> {
    pub(super) fn of(members: &'a [Member], own: MemberId) -> Self {
        Self { voters: members.iter().filter(|member| !member.is_learner).collect(), own }
    }

    /// Members that have told their names, without this one.
    fn started(&self, without: Option<MemberId>) -> usize {
        let counts =
            |member: &&&Member| !member.name.is_empty() && Some(MemberId(member.id)) != without;
        self.voters.iter().filter(counts).count()
    }

    /// Members that have been connected for long enough; the one that looks is one of them.
    fn healthy(&self, connected_for: impl Fn(MemberId) -> Option<Duration>) -> usize {
        let is_healthy = |id: MemberId| {
            id == self.own || connected_for(id).is_some_and(|time| time >= HEALTHY_AFTER)
        };
        self.voters.iter().filter(|member| is_healthy(MemberId(member.id))).count()
    }

    /// Whether a voter or a learner may be added.
    pub(super) fn may_add(
        &self,
        is_learner: bool,
        connected_for: impl Fn(MemberId) -> Option<Duration>,
    ) -> Result<(), Api> {
        let (voters, started) = (self.voters.len(), self.started(None));
        let is_first_addition = voters == 1 && started == 1;
        if !is_learner && !is_first_addition && started < quorum(voters + 1) {
            return Err(Api::NotEnoughStartedMembers);
        }
        if voters > 1 && self.healthy(connected_for) < quorum(voters + 1) {
            return Err(Api::Unhealthy);
        }
        Ok(())
    }

    /// Whether a voter may be removed. Learners may always be.
    pub(super) fn may_remove(
        &self,
        id: MemberId,
        connected_for: impl Fn(MemberId) -> Option<Duration>,
    ) -> Result<(), Api> {
        let left = self.voters.iter().filter(|member| member.id != id.0).count();
        if self.started(Some(id)) < quorum(left) {
            return Err(Api::NotEnoughStartedMembers);
        }
        if id != self.own && connected_for(id).is_none() {
            // The quorum does without it already.
            return Ok(());
        }
        let voters = self.voters.len();
        if self.healthy(connected_for).saturating_sub(1) < quorum(voters.saturating_sub(1)) {
            return Err(Api::Unhealthy);
        }
        Ok(())
    }

    /// Whether one more may vote, which has started.
    pub(super) fn may_promote(&self) -> Result<(), Api> {
        let is_ready = self.started(None) + 1 >= quorum(self.voters.len() + 1);
        if is_ready { Ok(()) } else { Err(Api::NotEnoughStartedMembers) }
    }
}

const fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// Whether a learner's log is about as long as the longest, which is the leader's.
pub(super) fn in_sync(replicated: &[(MemberId, u64)], learner: MemberId) -> Result<(), Api> {
    let (_, own) =
        replicated.iter().find(|(member, _)| *member == learner).ok_or(Api::MemberNotFound)?;
    let longest = replicated.iter().map(|(_, index)| *index).max().unwrap_or(0);
    if u128::from(*own) * 100 < u128::from(longest) * IN_SYNC_PERCENT {
        return Err(Api::LearnerNotReady);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MemberId = MemberId(1);
    const LONG: Option<Duration> = Some(Duration::from_secs(5));

    /// Members 1, 2, ...; those of `unstarted` have no name yet.
    fn voters(count: u64, unstarted: &[u64]) -> Vec<Member> {
        let member = |id| {
            let name = if unstarted.contains(&id) { String::new() } else { format!("m{id}") };
            Member { id, name, ..Member::default() }
        };
        (1..=count).map(member).collect()
    }

    fn connected(ids: &[u64]) -> impl Fn(MemberId) -> Option<Duration> + '_ {
        |id| LONG.filter(|_| ids.contains(&id.0))
    }

    #[test]
    fn a_voter_is_added_if_those_that_started_are_a_quorum_then() {
        let alone = voters(1, &[]);
        assert_eq!(Voters::of(&alone, OWN).may_add(false, connected(&[])), Ok(()));
        let second_never_started = voters(2, &[2]);
        let seen = Voters::of(&second_never_started, OWN);
        assert_eq!(seen.may_add(false, connected(&[])), Err(Api::NotEnoughStartedMembers));
        assert_eq!(seen.may_add(true, connected(&[])), Err(Api::Unhealthy));
        let three = voters(3, &[]);
        let seen = Voters::of(&three, OWN);
        assert_eq!(seen.may_add(false, connected(&[2, 3])), Ok(()));
        assert_eq!(seen.may_add(false, connected(&[2])), Err(Api::Unhealthy));
        assert_eq!(seen.may_add(true, connected(&[2])), Err(Api::Unhealthy));
        let one_not_started = voters(3, &[3]);
        let seen = Voters::of(&one_not_started, OWN);
        assert_eq!(seen.may_add(false, connected(&[2])), Err(Api::NotEnoughStartedMembers));
    }

    #[test]
    fn a_member_counts_as_healthy_after_five_seconds() {
        let three = voters(3, &[]);
        let seen = Voters::of(&three, OWN);
        let since = |millis| move |_| Some(Duration::from_millis(millis));
        assert_eq!(seen.may_add(false, since(4_999)), Err(Api::Unhealthy));
        assert_eq!(seen.may_add(false, since(5_000)), Ok(()));
    }

    #[test]
    fn a_voter_is_removed_if_a_quorum_of_the_others_has_started_and_is_connected() {
        let alone = voters(1, &[]);
        let seen = Voters::of(&alone, OWN);
        assert_eq!(seen.may_remove(OWN, connected(&[])), Err(Api::NotEnoughStartedMembers));
        assert_eq!(seen.may_remove(MemberId(7), connected(&[])), Ok(()), "as it is not there");
        let three = voters(3, &[]);
        let seen = Voters::of(&three, OWN);
        assert_eq!(seen.may_remove(MemberId(2), connected(&[2, 3])), Ok(()));
        assert_eq!(seen.may_remove(MemberId(2), connected(&[3])), Ok(()), "it is down");
        assert_eq!(seen.may_remove(MemberId(2), connected(&[2])), Err(Api::Unhealthy));
        assert_eq!(seen.may_remove(OWN, connected(&[2])), Err(Api::Unhealthy));
        let two = voters(2, &[2]);
        let seen = Voters::of(&two, OWN);
        assert_eq!(seen.may_remove(OWN, connected(&[])), Err(Api::NotEnoughStartedMembers));
        assert_eq!(seen.may_remove(MemberId(2), connected(&[])), Ok(()), "it never started");
    }

    #[test]
    fn learners_count_for_nothing_but_being_promoted() {
        let mut members = voters(3, &[2]);
        members[2].is_learner = true;
        let seen = Voters::of(&members, OWN);
        assert_eq!(seen.may_promote(), Ok(()), "two of three");
        assert_eq!(seen.may_remove(OWN, connected(&[3])), Err(Api::NotEnoughStartedMembers));
        let unstarted = voters(3, &[2, 3]);
        let refused = Err(Api::NotEnoughStartedMembers);
        assert_eq!(Voters::of(&unstarted, OWN).may_promote(), refused);
    }

    #[test]
    fn a_learner_votes_from_nine_tenths_of_the_log_on() {
        let at = |index| [(OWN, 1000), (MemberId(2), index)];
        assert_eq!(in_sync(&at(900), MemberId(2)), Ok(()));
        assert_eq!(in_sync(&at(899), MemberId(2)), Err(Api::LearnerNotReady));
        assert_eq!(in_sync(&at(900), MemberId(3)), Err(Api::MemberNotFound));
        let most = [(OWN, u64::MAX), (MemberId(2), u64::MAX)];
        assert_eq!(in_sync(&most, MemberId(2)), Ok(()));
    }
}
