//! etcd's corruption checks: at the start, at intervals, and of what compactions left. What differs is
//! accused by the alarm CORRUPT.
//!
//! They compare hashes of whole stores, so they find what the comparison of digests, which members do
//! by themselves, cannot see: files that were changed under the member.

use std::sync::Arc;
use std::time::Duration;

use keepd_machine::Command;
use keepd_machine::command::{ALARM_CORRUPT, Alarm};
use keepd_mvcc::HashKv;
use keepd_node::{Handle, HashVerdict};
use keepd_types::MemberId;

use crate::context::Context;

/// Interval at which a start looks whether the other members are connected.
const CONNECTED_POLL: Duration = Duration::from_millis(50);

/// The checks that a member makes while it leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CorruptionChecks {
    /// Interval between two comparisons of everything: `--corrupt-check-time`.
    pub everything: Option<Duration>,
    /// Interval between two comparisons of what compactions left: `--compact-hash-check-time`.
    pub compacted: Option<Duration>,
}

/// Checks for as long as it is polled.
pub(crate) async fn run(context: &Arc<Context>, checks: CorruptionChecks) {
    tokio::join!(
        check_everything_every(context, checks.everything),
        check_compacted_every(context, checks.compacted),
    );
}

async fn check_everything_every(context: &Arc<Context>, interval: Option<Duration>) {
    let Some(interval) = interval else { return };
    loop {
        tokio::time::sleep(interval).await;
        if context.node.leads()
            && let Err(error) = check_everything(context).await
        {
            tracing::warn!(error, "failed to check hash KV");
        }
    }
}

async fn check_compacted_every(context: &Arc<Context>, interval: Option<Duration>) {
    let Some(interval) = interval else { return };
    let mut checked = 0;
    loop {
        tokio::time::sleep(interval).await;
        if !context.node.leads() {
            continue;
        }
        match check_compacted(context, checked).await {
            Ok(revision) => checked = revision,
            Err(error) => tracing::warn!(%error, "failed to check the hashes of compactions"),
        }
    }
}

async fn check_everything(context: &Arc<Context>) -> Result<(), String> {
    let view = context.node.view();
    let hash = context.admission.hashes.run(move || view.hash_kv(0)).await;
    let hash = hash.map_err(|status| status.message().to_owned())?;
    let hash = hash.map_err(|error| error.to_string())?;
    let verdict = context.node.compare_hashes(hash).await.map_err(|error| error.to_string())?;
    if let HashVerdict::Same { compared, .. } = verdict {
        tracing::info!(number_of_peers_checked = compared, "finished peer corruption check");
    }
    accuse(context, hash, &verdict).await;
    Ok(())
}

/// Compares the newest compactions behind `checked`, until one is compared on all members; the revision
/// of that one.
async fn check_compacted(context: &Arc<Context>, checked: i64) -> Result<i64, keepd_node::Error> {
    let mut hashes = context.node.compaction_hashes();
    hashes.retain(|hash| hash.revision > checked);
    while let Some(hash) = hashes.pop() {
        match context.node.compare_hashes(hash).await? {
            HashVerdict::Same { is_complete: true, compared } => {
                tracing::info!(
                    number_of_peers_checked = compared,
                    revision = hash.revision,
                    "successfully checked hash on whole cluster"
                );
                return Ok(hash.revision);
            }
            HashVerdict::Same { .. } => {}
            verdict @ (HashVerdict::Minority(_)
            | HashVerdict::NoMajority
            | HashVerdict::Undecided) => {
                accuse(context, hash, &verdict).await;
                return Ok(checked);
            }
        }
    }
    Ok(checked)
}

/// Raises the alarm for the members that differ; for the whole cluster if nobody knows which these are.
async fn accuse(context: &Arc<Context>, hash: HashKv, verdict: &HashVerdict) {
    let accused = match verdict {
        HashVerdict::Same { .. } => return,
        HashVerdict::Minority(members) => members.clone(),
        HashVerdict::NoMajority => vec![MemberId(0)],
        HashVerdict::Undecided => Vec::new(),
    };
    tracing::error!(
        revision = hash.revision,
        compact_revision = hash.compact_revision,
        hash = hash.hash,
        ?verdict,
        "found hash mismatch"
    );
    for member in accused {
        let alarm = Alarm { member, kind: ALARM_CORRUPT };
        if let Err(status) = context.propose(Command::AlarmActivate(alarm)).await {
            let error = status.message();
            tracing::warn!(%member, error, "the alarm is raised with the next check");
        }
    }
}

/// Compares a member that starts with the others, as far as these can be reached within a request
/// timeout, before it serves anybody.
///
/// # Errors
/// If it is not to start: its data differs from the majority's, or cannot be read.
pub async fn check_initially(node: &Handle) -> Result<(), String> {
    let member = node.identity().member;
    tracing::info!(local_member_id = %member, "starting initial corruption check");
    let view = node.view();
    let hash = tokio::task::spawn_blocking(move || view.hash_kv(0)).await;
    let hash = hash.map_err(|error| error.to_string())?;
    let hash = hash.map_err(|error| format!("{member} failed to fetch hash ({error})"))?;
    let connected = async {
        while !node.others().iter().all(|other| node.is_announced(*other)) {
            tokio::time::sleep(CONNECTED_POLL).await;
        }
    };
    // Who is not there is not compared, as in etcd.
    let _all_there = tokio::time::timeout(node.options().request_timeout(), connected).await;
    match node.compare_hashes(hash).await {
        Ok(HashVerdict::Minority(members)) if !members.contains(&member) => {
            tracing::warn!(?members, "found different hash values from remote peers");
        }
        Ok(HashVerdict::Same { .. }) => {
            tracing::info!("initial corruption checking passed; no corruption");
        }
        Ok(HashVerdict::Minority(_) | HashVerdict::NoMajority | HashVerdict::Undecided) => {
            return Err(format!("{member} found data inconsistency with peers"));
        }
        // Without a leader nobody can be compared.
        Err(error) => tracing::warn!(%error, "the initial corruption check is given up"),
    }
    Ok(())
}
