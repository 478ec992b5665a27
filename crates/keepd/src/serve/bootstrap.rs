//! Decision about a member without a data directory: made before there is one, and by asking the
//! members that the flags name. Rules and texts are etcd's.

use std::time::Duration;

use keepd_machine::membership::Member;
use keepd_member::InitialCluster;
use keepd_node::Bootstrap;
use keepd_types::ClusterId;
use thiserror::Error;

use crate::flags::{ClusterState, ServerOptions};

/// Time for the answer of a cluster that is to be joined, as in etcd.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to find out that a cluster that seems new has been there before, as in etcd.
const NEW_TIMEOUT: Duration = Duration::from_secs(1);

/// A running cluster, as one of its members knows it.
pub(super) struct RunningCluster {
    /// Its id.
    pub(super) id: ClusterId,
    /// Its members.
    pub(super) members: Vec<Member>,
}

/// The start is refused before there is a data directory; etcd's fatal `discovery failed`.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct Refused(pub(super) String);

/// Decides what the member becomes. `fetch` asks the members at some peer URLs, one after another, for
/// their cluster, each for so long at most.
pub(super) async fn decide(
    options: &ServerOptions,
    fetch: impl AsyncFn(Vec<String>, Duration) -> anyhow::Result<RunningCluster>,
) -> Result<Bootstrap, Refused> {
    let refused = |error: &dyn ToString| Refused(error.to_string());
    let flags = options.members().map_err(|error| refused(&error))?;
    match options.initial_cluster_state {
        ClusterState::New => {
            refuse_to_start_over(&flags, fetch).await?;
            // Each member has other names for what DNS lists.
            let are_named = options.discovery_srv.is_empty();
            Ok(Bootstrap::New(if are_named { flags } else { flags.without_names() }))
        }
        ClusterState::Existing => {
            let running = fetch(flags.remote_urls(), JOIN_TIMEOUT).await.map_err(|error| {
                tracing::warn!(%error, "failed to get cluster response");
                refused(
                    &"cannot fetch cluster info from peer urls: could not retrieve cluster \
                      information from the given URLs",
                )
            })?;
            let RunningCluster { id, members } = running;
            let identity = keepd_node::join(&flags, id, &members, options.learners_max);
            let identity = identity.map_err(|error| refused(&error))?;
            Ok(Bootstrap::Join { identity, members })
        }
    }
}

/// A member that lost its data directory must not vote again as if it were new.
async fn refuse_to_start_over(
    flags: &InitialCluster,
    fetch: impl AsyncFn(Vec<String>, Duration) -> anyhow::Result<RunningCluster>,
) -> Result<(), Refused> {
    let urls = flags.remote_urls();
    if urls.is_empty() {
        return Ok(());
    }
    match fetch(urls, NEW_TIMEOUT).await {
        Ok(running) if keepd_node::has_started(flags, &running.members) => {
            Err(Refused(format!("member {} has already been bootstrapped", flags.local)))
        }
        // Nobody answers where nobody has started yet.
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
