//! `--force-new-cluster`: going on alone with what this member has, after the others are lost.
//!
//! As in etcd the log says so: what is not committed is dropped, and changes of the configuration that
//! leave this member alone are appended as committed, though no quorum has them. They are applied as
//! every entry is, after whatever was committed before. One write and one sync make all of it durable,
//! before the member serves; so a crash leaves either nothing of it or everything, and to do it again
//! changes nothing more.

use std::collections::BTreeSet;

use keepd_env::Random;
use keepd_machine::membership::{self, ConfState, MembershipChange};
use keepd_machine::{Command, Envelope, Origin, tables};
use keepd_mvcc::Store;
use keepd_raft::{ConfChange, EntryKind, Step};
use keepd_types::{Entry, HardState, MemberId};
use keepd_wal::{Batch, Recovered, Wal};

use crate::error::BootError;

/// Ends the log of `own` with the changes that leave it alone.
pub(crate) fn go_on_alone(
    wal: &mut Wal,
    recovered: &mut Recovered,
    store: &Store,
    own: MemberId,
    random: &dyn Random,
) -> Result<(), BootError> {
    let is_removed = membership::is_removed(store.meta(tables::MEMBERS_REMOVED), own);
    let state = ConfState::stored(store.meta(tables::CONF_STATE))?;
    let Some(state) = state.filter(|state| state.is_member(own.0) && !is_removed) else {
        return Err(BootError::NotInCluster { member: own });
    };
    let HardState { term, vote, commit } = recovered.hard_state;
    // A commit index alone need not have been synced: what the store applied was committed.
    let commit = commit.max(store.applied().index).max(recovered.start.index);
    let dropped = recovered.entries.iter().filter(|entry| entry.index > commit).count();
    recovered.entries.retain(|entry| entry.index <= commit);
    let mut origin = Origin { member: own, boot: random.next_u64(), sequence: 0 };
    let mut changes = Vec::new();
    for step in steps(recovered, store, &state, own)? {
        changes.push(entry(step, origin));
        origin.sequence += 1;
    }
    if changes.is_empty() && dropped > 0 {
        // What replaces the dropped entries in the log.
        changes.push(Entry::default());
    }
    for (entry, index) in changes.iter_mut().zip(commit + 1..) {
        (entry.index, entry.term) = (index, term);
    }
    let Some(last) = changes.last() else { return Ok(()) };
    tracing::warn!(
        member = %own, commit, dropped, changes = changes.len(),
        "forcing restart member: it goes on alone, and what is not committed is dropped"
    );
    let hard_state = HardState { term, vote, commit: last.index };
    wal.append(&Batch { entries: &changes, hard_state: Some(hard_state) })?;
    wal.sync()?;
    recovered.hard_state = hard_state;
    recovered.entries.append(&mut changes);
    Ok(())
}

/// The steps that leave `own` alone, whichever of the committed changes before them are accepted: the
/// state machine refuses what then is done already, which changes nothing. `None` ends a joint change.
fn steps(
    recovered: &Recovered,
    store: &Store,
    state: &ConfState,
    own: MemberId,
) -> Result<Vec<Option<Step>>, BootError> {
    let mut others: BTreeSet<u64> = BTreeSet::new();
    for ids in [&state.voters, &state.learners, &state.voters_outgoing, &state.learners_next] {
        others.extend(ids);
    }
    let known = membership::members(store.meta(tables::MEMBERS))?;
    others.extend(known.iter().map(|member| member.id));
    let applied = store.applied().index;
    let unapplied = recovered.entries.iter().filter(|entry| entry.index > applied);
    for entry in unapplied.filter(|entry| entry.kind != EntryKind::Normal) {
        // The core refuses what cannot be read.
        let steps = ConfChange::decode(&entry.data).map(|change| change.steps).unwrap_or_default();
        others.extend(steps.into_iter().map(Step::member));
    }
    others.remove(&own.0);
    let mut steps = Vec::new();
    if !state.voters_outgoing.is_empty() {
        steps.push(None);
    }
    if !state.voters.contains(&own.0) {
        steps.push(Some(Step::Promote(own.0)));
    }
    steps.extend(others.into_iter().map(|id| Some(Step::Remove(id))));
    Ok(steps)
}

fn entry(step: Option<Step>, origin: Origin) -> Entry {
    let membership = match step {
        None => None,
        Some(Step::Promote(id)) => Some(MembershipChange::Promote { id: MemberId(id) }),
        Some(Step::Remove(id)) => Some(MembershipChange::Remove { id: MemberId(id) }),
        Some(other) => unreachable!("{other:?} leaves no member alone"),
    };
    conf_change(step, membership, origin)
}

fn conf_change(step: Option<Step>, change: Option<MembershipChange>, origin: Origin) -> Entry {
    let context = change
        .map(Command::ChangeMembership)
        .map(|command| Envelope { origin: Some(origin), decided_in: None, command }.encode());
    let steps = step.into_iter().collect();
    let change = ConfChange { steps, context: context.unwrap_or_default(), ..Default::default() };
    Entry { kind: EntryKind::ConfChangeV2, data: change.encode(), ..Entry::default() }
}

#[cfg(test)]
mod tests;
