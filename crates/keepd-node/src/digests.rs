//! The comparison of the members by their running digests (rule 9.4), so that one that has diverged
//! finds it out by itself.
//!
//! ```text
//!  leader: CheckDigest -----> all: note the digest at this entry -----> leader: who has which?
//!  leader: CheckDigest { what the majority had there } -----> all: is that what I noted?
//! ```
//!
//! The leader names a value only after a majority of the voters reported it; so a leader that diverged
//! makes no healthy member doubt itself. It sees that the majority differs from itself, and another one
//! leads. Where no value can have a majority any more, the cluster stops serving: nobody knows whom to
//! believe. Digests that began at different indexes say nothing about one another.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keepd_machine::command::{ALARM_CORRUPT, Alarm, DigestFound};
use keepd_machine::{Command, levels, membership};
use keepd_mvcc::{Digest, MetaTable};
use keepd_types::{MemberId, Term};

use crate::peer_message::PeerMessage;
use crate::shared::Shared;
use crate::transport::Lane;

/// Interval between two looks of the leader: what is found at one entry goes into the next. An idle
/// cluster writes nothing for it.
const INTERVAL: Duration = Duration::from_secs(5);
/// BOUND: digests that a member keeps noted: far more than the leader has under way.
const NOTED_MAX: usize = 64;

/// The comparison that this member leads.
#[derive(Debug)]
struct Comparison {
    index: u64,
    /// Digests of the voters that have reported, this one included.
    reports: BTreeMap<MemberId, Digest>,
}

/// The result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agreement {
    /// Too few have reported.
    Open,
    /// A majority has this.
    Majority(Digest),
    /// Whoever reports yet, there will be no majority.
    NoMajority,
}

#[derive(Debug)]
pub(crate) struct DigestKeeper {
    shared: Arc<Shared>,
    due: Duration,
    /// Something but comparisons was applied since the last one.
    is_news: bool,
    /// Digests behind the entries at which members are compared, ascending.
    noted: VecDeque<Digest>,
    comparison: Option<Comparison>,
}

impl DigestKeeper {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            due: Duration::ZERO,
            is_news: false,
            noted: VecDeque::new(),
            comparison: None,
        }
    }

    /// A command is applied in an entry of `term`, and `digest` has it.
    pub(crate) fn applied(&mut self, command: &Command, term: Term, is_void: bool, digest: Digest) {
        let Command::CheckDigest { found } = command else {
            self.is_news = true;
            return;
        };
        if is_void {
            return;
        }
        if let Some(DigestFound { index, majority: Some((since, value)) }) = *found {
            self.compare(Digest { since, index, value });
        }
        if self.noted.len() == NOTED_MAX {
            self.noted.pop_front();
        }
        self.noted.push_back(digest);
        let is_news = std::mem::take(&mut self.is_news);
        let (own, progress) = (self.shared.identity.member, &self.shared.progress);
        if progress.leadership.term() == Some(term) {
            if is_news {
                let reports = BTreeMap::from([(own, digest)]);
                self.comparison = Some(Comparison { index: digest.index, reports });
            }
            return;
        }
        self.comparison = None;
        let leader = MemberId(progress.leader.load(Ordering::Acquire));
        if leader.0 != 0 && leader != own {
            // One that gets lost is made up for by the next.
            self.shared.network.send(leader, Lane::Control, &PeerMessage::Digest(digest));
        }
    }

    /// This member has the leader's state now, and what it noted before says nothing about it.
    pub(crate) fn installed(&mut self) {
        self.noted.clear();
        self.comparison = None;
        self.shared.corruption.is_replaced();
    }

    /// A member tells its digest.
    pub(crate) fn report(&mut self, from: MemberId, digest: Digest) {
        if let Some(comparison) = &mut self.comparison
            && comparison.index == digest.index
        {
            comparison.reports.insert(from, digest);
        }
    }

    /// Compares what the majority had with what this member noted there.
    fn compare(&self, majority: Digest) {
        let Some(own) = self.noted.iter().find(|noted| noted.index == majority.index) else {
            return;
        };
        if own.since != majority.since {
            tracing::debug!(?own, ?majority, "digests that began elsewhere cannot be compared");
        } else if own.value != majority.value {
            self.differs(*own, majority);
        }
    }

    fn differs(&self, own: Digest, majority: Digest) {
        if self.shared.corruption.differs() {
            tracing::error!(
                index = own.index,
                own = own.value,
                majority = majority.value,
                "found data inconsistency with peers: this member has applied something else than the \
                 majority of the cluster; it serves nothing from now on. Remove it, empty its data \
                 directory and add it again"
            );
        }
    }

    /// The leader's turn; and whoever differs raises the alarm, until it stands.
    pub(crate) fn turn(&mut self, members: &MetaTable, alarms: &[Alarm], now: Duration) {
        if now < self.due {
            return;
        }
        self.due = now + INTERVAL;
        self.raise_alarm(alarms, now);
        let Some(term) = self.shared.progress.leadership.term() else { return };
        if !self.shared.may_write(levels::DIGEST_CHECK) {
            return;
        }
        // A malformed table ends the member's start, and nothing malformed is ever written into it.
        let Ok(members) = membership::members(members) else { return };
        if members.len() < 2 {
            return;
        }
        let voters = members.iter().filter(|member| !member.is_learner);
        let voters: Vec<MemberId> = voters.map(|member| MemberId(member.id)).collect();
        let result = self.comparison.as_ref().map(|it| (it.index, it.result(&voters)));
        let found = match result {
            Some((index, Agreement::Majority(majority))) => {
                self.compare(majority);
                self.comparison = None;
                if self.shared.corruption.is_different() {
                    // It is not for this member to tell the others: another one will lead.
                    return;
                }
                Some(DigestFound { index, majority: Some((majority.since, majority.value)) })
            }
            Some((index, Agreement::NoMajority)) => {
                tracing::error!(index, "the members' digests differ, and no majority agrees");
                self.comparison = None;
                Some(DigestFound { index, majority: None })
            }
            Some((_, Agreement::Open)) | None if self.is_news => None,
            Some((_, Agreement::Open)) | None => return,
        };
        self.shared.propose_own(Command::CheckDigest { found }, Some(term), now);
    }

    fn raise_alarm(&self, alarms: &[Alarm], now: Duration) {
        let alarm = Alarm { member: self.shared.identity.member, kind: ALARM_CORRUPT };
        if self.shared.corruption.is_different() && !alarms.contains(&alarm) {
            self.shared.propose_own(Command::AlarmActivate(alarm), None, now);
        }
    }
}

impl Comparison {
    fn result(&self, voters: &[MemberId]) -> Agreement {
        let quorum = voters.len() / 2 + 1;
        let reports: Vec<Digest> =
            voters.iter().filter_map(|voter| self.reports.get(voter).copied()).collect();
        let votes = |digest: &Digest| reports.iter().filter(|other| *other == digest).count();
        let Some(first) = reports.iter().max_by_key(|digest| votes(digest)) else {
            return Agreement::Open;
        };
        if votes(first) >= quorum {
            return Agreement::Majority(*first);
        }
        let missing = voters.len() - reports.len();
        let is_comparable = reports.iter().all(|digest| digest.since == first.since);
        if is_comparable && votes(first) + missing < quorum {
            return Agreement::NoMajority;
        }
        Agreement::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(voters: u64, reports: &[(u64, u64, u64)]) -> Agreement {
        let voters: Vec<MemberId> = (1..=voters).map(MemberId).collect();
        let digest = |since, value| Digest { since, index: 9, value };
        let reports =
            reports.iter().map(|(id, since, value)| (MemberId(*id), digest(*since, *value)));
        Comparison { index: 9, reports: reports.collect() }.result(&voters)
    }

    #[test]
    fn a_value_counts_once_a_majority_of_the_voters_has_it() {
        let seven = Agreement::Majority(Digest { since: 1, index: 9, value: 7 });
        assert_eq!(result(3, &[]), Agreement::Open);
        assert_eq!(result(3, &[(1, 1, 7)]), Agreement::Open);
        assert_eq!(result(3, &[(1, 1, 8), (2, 1, 7)]), Agreement::Open);
        assert_eq!(result(3, &[(1, 1, 8), (2, 1, 7), (3, 1, 7)]), seven);
        assert_eq!(result(3, &[(2, 1, 7), (3, 1, 7)]), seven);
        assert_eq!(result(3, &[(2, 1, 7), (8, 1, 7), (9, 1, 7)]), Agreement::Open, "strangers");
        assert_eq!(result(5, &[(1, 1, 7), (2, 1, 7), (3, 1, 8), (4, 1, 8)]), Agreement::Open);
    }

    #[test]
    fn where_no_value_can_have_a_majority_there_is_none() {
        assert_eq!(result(2, &[(1, 1, 7), (2, 1, 8)]), Agreement::NoMajority);
        assert_eq!(result(3, &[(1, 1, 7), (2, 1, 8), (3, 1, 9)]), Agreement::NoMajority);
        assert_eq!(
            result(5, &[(1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 1, 4)]),
            Agreement::NoMajority,
            "whatever the fifth says"
        );
        let elsewhere = [(1, 1, 7), (2, 5, 8), (3, 6, 9)];
        assert_eq!(result(3, &elsewhere), Agreement::Open, "they began elsewhere");
    }
}
