//! The leader's look at the versions of the members: it moves the cluster version, ends a downgrade
//! that is done, and raises the feature level, each by a command that holds for its term only.
//!
//! A member says its version and level when it connects. One that is not connected counts as unknown:
//! it may come back as another version. The rules for the cluster version are those of etcd's monitor.

use std::sync::Arc;
use std::time::Duration;

use keepd_machine::{ClusterFacts, Command, levels, membership};
use keepd_mvcc::MetaTable;
use keepd_types::version::{SERVER_VERSION, Version};
use keepd_types::{MemberId, Term};

use crate::shared::Shared;
use crate::shared::network::Announcement;

/// Interval between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time that members have to connect before a new cluster gets etcd's lowest version, and that a
/// proposal has before it is made again.
const PATIENCE: Duration = Duration::from_secs(5);
/// The version of a cluster whose members are not all known, as in etcd.
const VERSION_MIN: Version = Version { major: 3, minor: 0 };

#[derive(Debug)]
pub(crate) struct VersionKeeper {
    shared: Arc<Shared>,
    due: Duration,
    /// The term that this member leads in, and since when.
    leads: Option<(Term, Duration)>,
    /// The facts that are to change by what was proposed, and until when that is waited for.
    awaited: Option<(ClusterFacts, Duration)>,
}

impl VersionKeeper {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, due: Duration::ZERO, leads: None, awaited: None }
    }

    /// Proposes what the versions of the members ask for, if this member leads.
    pub(crate) fn turn(&mut self, members: &MetaTable, now: Duration) {
        if now < self.due {
            return;
        }
        self.due = now + INTERVAL;
        let Some(term) = self.shared.progress.leadership.term() else {
            (self.leads, self.awaited) = (None, None);
            return;
        };
        let (_, since) = *self.leads.get_or_insert((term, now));
        if self.leads.is_some_and(|(known, _)| known != term) {
            (self.leads, self.awaited) = (Some((term, now)), None);
            return;
        }
        let facts = self.shared.facts.load_full();
        if self.awaited.as_ref().is_some_and(|(old, until)| *old == *facts && now < *until) {
            return;
        }
        // A malformed table ends the member's start, and nothing malformed is ever written into it.
        let Ok(members) = membership::members(members) else { return };
        let announced: Vec<_> =
            members.iter().map(|it| (MemberId(it.id), self.announced(MemberId(it.id)))).collect();
        if let Some(command) = decide(&facts, &announced, now >= since + PATIENCE) {
            tracing::info!(?command, "the members' versions ask for a change");
            self.shared.propose_own(command, Some(term), now);
            self.awaited = Some((ClusterFacts::clone(&facts), now + PATIENCE));
        }
    }

    /// The version of a member and the level that it reads; `None` if it is not connected.
    fn announced(&self, member: MemberId) -> Option<Announcement> {
        if member == self.shared.identity.member {
            let version = SERVER_VERSION.to_owned();
            let feature_level = self.shared.options.feature_level;
            return Some(Announcement { version, feature_level });
        }
        self.shared.network.announced(member)
    }
}

/// The change that is due; of several the most urgent.
fn decide(
    facts: &ClusterFacts,
    announced: &[(MemberId, Option<Announcement>)],
    is_late: bool,
) -> Option<Command> {
    let versions: Option<Vec<Version>> = announced
        .iter()
        .map(|(_, announced)| Version::parse(&announced.as_ref()?.version))
        .collect();
    if let Some(version) = next_version(facts, versions.as_deref(), is_late) {
        return Some(Command::SetClusterVersion { version: version.to_string() });
    }
    if let Some(target) = facts.downgrade.as_deref().and_then(Version::parse)
        && versions.is_some_and(|versions| versions.iter().all(|version| *version == target))
    {
        tracing::info!(cluster_version = %target, "the cluster has been downgraded");
        return Some(Command::SetDowngrade { target: None });
    }
    let level = announced
        .iter()
        .map(|(_, announced)| announced.as_ref().map(|it| it.feature_level))
        .min()
        .flatten()?
        .min(levels::NEWEST);
    (level > facts.feature_level).then(|| {
        let asked = announced.iter().map(|(member, _)| *member).collect();
        Command::SetFeatureLevel { level, asked }
    })
}

/// The cluster version that is to be set; `versions` if all are known.
fn next_version(
    facts: &ClusterFacts,
    versions: Option<&[Version]>,
    is_late: bool,
) -> Option<Version> {
    let least = versions.and_then(|versions| versions.iter().min().copied());
    let Some(current) = facts.version.as_deref().and_then(Version::parse) else {
        return least.or_else(|| is_late.then_some(VERSION_MIN));
    };
    let least = least?;
    if let Some(target) = facts.downgrade.as_deref().and_then(Version::parse) {
        if target == current {
            return None;
        }
        if current.below() != Some(target) || least.below() != Some(target) {
            tracing::error!(
                downgrade_target = %target, cluster_version = %current, minimal_server_version = %least,
                "cannot downgrade to the target: cancel the downgrade"
            );
            return None;
        }
        return Some(target);
    }
    (current < least && current.major == least.major).then_some(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(of: &[Option<(&str, u32)>]) -> Vec<(MemberId, Option<Announcement>)> {
        let announcement = |(version, feature_level): (&str, u32)| Announcement {
            version: version.to_owned(),
            feature_level,
        };
        let members = (1..).map(MemberId).zip(of);
        members.map(|(id, it)| (id, it.map(announcement))).collect()
    }

    fn facts(version: Option<&str>, downgrade: Option<&str>, feature_level: u32) -> ClusterFacts {
        let text = |it: Option<&str>| it.map(str::to_owned);
        ClusterFacts { version: text(version), downgrade: text(downgrade), feature_level }
    }

    fn version(text: &str) -> Option<Command> {
        Some(Command::SetClusterVersion { version: text.to_owned() })
    }

    #[test]
    fn the_cluster_version_is_the_least_of_all_members() {
        let new = Some(("3.7.1", 1));
        let fresh = facts(None, None, 1);
        assert_eq!(
            decide(&fresh, &members(&[new, Some(("3.8.0-rc.1", 1))]), false),
            version("3.7.0")
        );
        // As in etcd a cluster whose members are not all there gets the lowest, but not at once.
        assert_eq!(decide(&fresh, &members(&[new, None]), false), None);
        assert_eq!(decide(&fresh, &members(&[new, None]), true), version("3.0.0"));
        let lowest = facts(Some("3.0.0"), None, 1);
        assert_eq!(decide(&lowest, &members(&[new, None]), true), None);
        assert_eq!(decide(&lowest, &members(&[new, new]), true), version("3.7.0"));
        assert_eq!(decide(&facts(Some("3.7.0"), None, 1), &members(&[new, new]), true), None);
        let older = facts(Some("3.8.0"), None, 1);
        assert_eq!(decide(&older, &members(&[new, new]), true), None, "it never falls by itself");
        let garbled = members(&[new, Some(("three", 1))]);
        assert_eq!(decide(&lowest, &garbled, true), None, "an unknown version");
    }

    #[test]
    fn a_downgrade_lowers_the_version_and_ends_when_all_members_run_it() {
        let (new, old) = (Some(("3.7.1", 1)), Some(("3.6.9", 1)));
        let asked = facts(Some("3.7.0"), Some("3.6.0"), 1);
        assert_eq!(decide(&asked, &members(&[new, new]), true), version("3.6.0"));
        assert_eq!(decide(&asked, &members(&[new, None]), true), None);
        let under_way = facts(Some("3.6.0"), Some("3.6.0"), 1);
        assert_eq!(decide(&under_way, &members(&[new, old]), true), None);
        let end = Some(Command::SetDowngrade { target: None });
        assert_eq!(decide(&under_way, &members(&[old, old]), true), end);
        let cancelled = facts(Some("3.6.0"), None, 1);
        assert_eq!(decide(&cancelled, &members(&[new, new]), true), version("3.7.0"));
        let too_far = facts(Some("3.7.0"), Some("3.5.0"), 1);
        assert_eq!(decide(&too_far, &members(&[new, new]), true), None);
    }

    #[test]
    fn the_feature_level_rises_when_all_members_have_announced_it() {
        let facts = facts(Some("3.7.0"), None, 1);
        let (new, old) = (Some(("3.7.1", levels::NEWEST)), Some(("3.7.1", 1)));
        assert_eq!(decide(&facts, &members(&[new, old]), true), None);
        assert_eq!(decide(&facts, &members(&[new, None]), true), None);
        let later = Some(("3.7.1", levels::NEWEST + 1));
        let asked = [MemberId(1), MemberId(2)].into();
        let raised = Some(Command::SetFeatureLevel { level: levels::NEWEST, asked });
        assert_eq!(decide(&facts, &members(&[new, later]), true), raised);
    }
}
