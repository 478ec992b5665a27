//! The last steps of a member that is added: it catches up, and is promoted.

use std::time::Duration;

use keepd_api::etcdserverpb as pb;

use crate::admin::{self, AskError, Cluster};

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Promotes a learner once it has caught up, and tells how far it is. There is no limit to the wait:
/// whoever is tired of it ends the process, and the learner stays one.
pub(crate) async fn wait(cluster: &mut Cluster, id: u64, name: &str) -> anyhow::Result<()> {
    let mut told = String::new();
    loop {
        let members = match cluster.members().await {
            Ok((_, members)) => members,
            Err(error) => {
                tell(&mut told, &format!("{name}: waiting for the cluster: {error}"));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let member = members.iter().find(|member| member.id == id);
        let Some(member) = member else {
            anyhow::bail!("{name} ({id:x}) was removed from the cluster meanwhile");
        };
        if !member.is_learner {
            tell(&mut told, &format!("{name} votes"));
            return Ok(());
        }
        match cluster.promote(id).await {
            Ok(()) => continue,
            Err(error) if error.is(keepd_api::Error::MemberNotLearner) => continue,
            Err(error @ AskError::Refused(_)) if !is_passing(&error) => {
                anyhow::bail!("{name} is not promoted: {error}")
            }
            Err(_not_yet) => {}
        }
        let statuses = cluster.statuses(&members).await;
        tell(&mut told, &format!("{name}: {}", progress(&statuses, id)));
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether a refusal to promote is one of a learner that is on its way.
fn is_passing(error: &AskError) -> bool {
    error.is(keepd_api::Error::LearnerNotReady) || error.may_pass()
}

/// The way that a member has come, in entries of the log.
fn progress(statuses: &[pb::StatusResponse], id: u64) -> String {
    let last = statuses.iter().map(|status| status.raft_index).max().unwrap_or_default();
    match statuses.iter().find(|status| admin::id_of(status) == id) {
        None => "waiting for its server to start".to_owned(),
        Some(status) if status.raft_applied_index == 0 => "receives the state".to_owned(),
        Some(status) => format!("has {} of {last} entries", status.raft_applied_index),
    }
}

/// Tells it if it is news.
fn tell(told: &mut String, text: &str) {
    if text != told {
        crate::complain(text);
        text.clone_into(told);
    }
}
