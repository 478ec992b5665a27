//! The decision of a recovery: which survivor goes on, and what is known to be lost with the others.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use keepd_machine::membership::Member;
use keepd_node::{BootError, Survivor};
use keepd_types::{ClusterId, MemberId};

/// A directory that was given.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) data_dir: PathBuf,
    /// The member; or the damage.
    pub(super) survivor: Result<Survivor, BootError>,
}

/// A decision.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) found: Vec<Found>,
    pub(super) cluster: ClusterId,
    chosen: usize,
    /// The members as the newest store has them.
    pub(super) members: Vec<Member>,
    /// The possible losses, and all else that whoever agrees has to know.
    pub(super) warnings: Vec<String>,
}

impl Found {
    /// The reason why it is not taken unless it is named.
    pub(super) fn fault(&self) -> Option<String> {
        let survivor = match &self.survivor {
            Ok(survivor) => survivor,
            Err(damage) => return Some(format!("damaged: {damage}")),
        };
        match &survivor.store {
            Err(damage) => Some(format!("damaged: {damage}")),
            Ok(store) if store.is_removed => Some("removed from the cluster".to_owned()),
            Ok(store) if store.voters.is_empty() => {
                Some("has received nothing of the cluster yet".to_owned())
            }
            Ok(store) if store.is_corrupt => {
                Some("CORRUPT: its data differs from the majority's".to_owned())
            }
            Ok(_) => None,
        }
    }
}

impl Plan {
    /// The survivor that goes on.
    pub(super) fn chosen(&self) -> &Survivor {
        self.found[self.chosen].survivor.as_ref().expect("a damaged one is not chosen")
    }

    /// Its member, as the cluster has it.
    pub(super) fn own(&self) -> Option<&Member> {
        let own = self.chosen().identity.member;
        self.members.iter().find(|member| member.id == own.0)
    }

    /// The name of a member, or its id.
    pub(super) fn name_of(&self, id: MemberId) -> String {
        name_of(&self.members, id)
    }
}

fn name_of(members: &[Member], id: MemberId) -> String {
    let member = members.iter().find(|member| member.id == id.0);
    let name = member.map(|member| member.name.clone()).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| id.to_string())
}

/// Decides; `from` overrules the rule.
pub(super) fn make(found: Vec<Found>, from: Option<&Path>) -> anyhow::Result<Plan> {
    let cluster = one_cluster(&found)?;
    let chosen = choose(&found, from)?;
    let members = newest_members(&found);
    let mut plan = Plan { found, cluster, chosen, members, warnings: Vec::new() };
    plan.warnings = warnings(&plan);
    Ok(plan)
}

/// The cluster of all of them; refuses two clusters and two copies of one member.
fn one_cluster(found: &[Found]) -> anyhow::Result<ClusterId> {
    let whole = || found.iter().filter_map(|it| it.survivor.as_ref().ok());
    let Some(first) = whole().next() else {
        let reasons: Vec<String> = found
            .iter()
            .map(|it| format!("  {}: {}", it.data_dir.display(), it.fault().unwrap_or_default()))
            .collect();
        anyhow::bail!(
            "no directory is whole enough to go on from:\n{}\nbring files back from a copy of a \
             disk, or restore the newest snapshot",
            reasons.join("\n")
        );
    };
    for other in whole() {
        anyhow::ensure!(
            other.identity.cluster == first.identity.cluster,
            "{} is of cluster {}, {} of cluster {}: give the directories of one cluster",
            first.data_dir.display(),
            first.identity.cluster,
            other.data_dir.display(),
            other.identity.cluster
        );
        anyhow::ensure!(
            other.data_dir == first.data_dir || other.identity.member != first.identity.member,
            "{} and {} are both of member {}: give the newer one only",
            first.data_dir.display(),
            other.data_dir.display(),
            other.identity.member
        );
    }
    Ok(first.identity.cluster)
}

fn choose(found: &[Found], from: Option<&Path>) -> anyhow::Result<usize> {
    if let Some(from) = from {
        let from = std::path::absolute(from)?;
        let position = found.iter().position(|it| it.data_dir == from);
        let position = position.ok_or_else(|| {
            anyhow::anyhow!("--from {} is none of the directories", from.display())
        })?;
        anyhow::ensure!(
            found[position].survivor.is_ok(),
            "{}: {}",
            from.display(),
            found[position].fault().unwrap_or_default()
        );
        return Ok(position);
    }
    let fit = found.iter().enumerate().filter(|(_, it)| it.fault().is_none());
    let ranked =
        fit.filter_map(|(position, it)| Some((it.survivor.as_ref().ok()?.log.rank(), position)));
    // Of equal logs the first that was given.
    let best = ranked.max_by_key(|(rank, position)| (*rank, std::cmp::Reverse(*position)));
    let Some((_, position)) = best else {
        let reasons: Vec<String> = found
            .iter()
            .filter_map(|it| Some(format!("  {}: {}", it.data_dir.display(), it.fault()?)))
            .collect();
        anyhow::bail!(
            "no directory is fit to go on from:\n{}\n--from DIR takes one all the same, as far as it \
             can be read; or restore the newest snapshot",
            reasons.join("\n")
        );
    };
    Ok(position)
}

/// The members as the store that applied most has them.
fn newest_members(found: &[Found]) -> Vec<Member> {
    let stores = found.iter().filter_map(|it| it.survivor.as_ref().ok()?.store.as_ref().ok());
    let newest = stores.max_by_key(|store| store.applied);
    newest.map(|store| store.members.clone()).unwrap_or_default()
}

fn warnings(plan: &Plan) -> Vec<String> {
    let mut warnings = Vec::new();
    warnings.extend(of_the_missing(plan));
    let chosen = plan.chosen();
    let (commit, last) = (chosen.log.commit, chosen.log.last.index);
    if last > commit {
        warnings.push(format!(
            "Entries {}..{last} of the log are not known to be committed. All of them become \
             committed: writes whose clients were told that they failed or timed out may appear.",
            commit + 1
        ));
    }
    for (position, found) in plan.found.iter().enumerate() {
        if position != plan.chosen {
            warnings.extend(of_another(plan, found));
        } else if let Some(fault) = found.fault() {
            warnings.push(format!("{} was named with --from: {fault}.", found.data_dir.display()));
        }
    }
    warnings
}

/// The loss with members that are not here.
fn of_the_missing(plan: &Plan) -> Option<String> {
    let whole = || plan.found.iter().filter_map(|it| it.survivor.as_ref().ok());
    let store = plan.chosen().store.as_ref().ok()?;
    let here: BTreeSet<MemberId> = whole().map(|survivor| survivor.identity.member).collect();
    let missing: Vec<MemberId> = store.voters.difference(&here).copied().collect();
    let (voters, quorum) = (store.voters.len(), store.voters.len() / 2 + 1);
    let names: Vec<String> = missing.iter().map(|id| plan.name_of(*id)).collect();
    let names = names.join(", ");
    Some(if voters - missing.len() >= quorum {
        format!(
            "{} of {voters} voting members are here, which is a majority: if their machines can run \
             them, start them, and the cluster goes on without this.",
            voters - missing.len()
        )
    } else if missing.len() >= quorum {
        format!(
            "Not here: {names}, {} of {voters} voting members. What they committed without the ones \
             that are here is lost, although it was acknowledged: everything after entry {} of the \
             log. How much that is cannot be told from here.",
            missing.len(),
            plan.chosen().log.last.index
        )
    } else {
        format!(
            "Not here: {names}, {} of {voters} voting members: too few to have committed anything \
             that those who are here lack.",
            missing.len()
        )
    })
}

/// The difference of another directory from the chosen one.
fn of_another(plan: &Plan, found: &Found) -> Option<String> {
    let dir = found.data_dir.display();
    let fault = found.fault();
    let Ok(survivor) = &found.survivor else {
        return Some(format!(
            "{dir} is not used, {}. What only it had is lost.",
            fault.unwrap_or_default()
        ));
    };
    let chosen = plan.chosen();
    let Some(beyond) = survivor.log.beyond(&chosen.log) else {
        return fault.map(|fault| {
            format!(
                "{dir} is not used, {fault}. Nothing is lost with it: its log is in the chosen one."
            )
        });
    };
    let (first, last) = (beyond.start(), beyond.end());
    if survivor.log.rank() > chosen.log.rank() {
        let why = fault.unwrap_or_else(|| "another one was named with --from".to_owned());
        return Some(format!(
            "{dir} is not used, {why}. Entries {first}..{last} of its log are lost, and may have been \
             acknowledged."
        ));
    }
    Some(format!(
        "Entries {first}..{last} of {dir} are dropped. They were never committed: a leader of a later \
         term had others there."
    ))
}

#[cfg(test)]
mod tests;
