//! The member that a backup is taken from, over the client API: keepd's or etcd's.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use keepd_api::etcdserverpb as pb;
use keepd_archive::prove;
use keepd_archive::scratch::{Scratch, ScratchFile};
use keepd_archive::sidecar::{HashFacts, MemberFacts, StateFacts};
use pb::maintenance_client::MaintenanceClient;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::bar::Bar;
use crate::admin::{Cluster, id_of};

/// BOUND: time between two pieces of a snapshot.
const PIECE_MAX: Duration = Duration::from_secs(60);
/// BOUND: time for a hash over all records.
const HASH_MAX: Duration = Duration::from_secs(300);
/// BOUND: snapshots that are taken because a compaction came in between.
pub(super) const TRIES_MAX: usize = 3;

/// A member.
pub(super) struct Source {
    channel: Channel,
    pub(super) cluster_id: u64,
    pub(super) member: MemberFacts,
}

/// Finds the member: one that does not lead, if another one of the endpoints is healthy.
pub(super) async fn choose(cluster: &mut Cluster) -> anyhow::Result<Source> {
    let (cluster_id, members) = cluster.members().await.context("asking the cluster")?;
    let mut answers = cluster.at_endpoints().await;
    answers.retain(|(_, status)| status.leader != 0 && !status.is_learner);
    let leads = |status: &pb::StatusResponse| status.leader == id_of(status);
    // Stable: endpoints are taken in the order that they were given in.
    answers.sort_by_key(|(_, status)| (!status.errors.is_empty(), leads(status)));
    let (endpoint, status) = answers.into_iter().next().context(
        "no endpoint has a member that follows a leader: look at keepd ctl endpoint status",
    )?;
    let id = id_of(&status);
    let name = members.iter().find(|member| member.id == id).map(|member| member.name.clone());
    let channel = cluster.channel_to(&endpoint).await?;
    let member = MemberFacts { id: format!("{id:016x}"), name: name.unwrap_or_default() };
    Ok(Source { channel, cluster_id, member })
}

impl Source {
    /// Takes a snapshot into the scratch folder and asks for the hash of its state.
    pub(super) async fn snapshot(
        &self,
        scratch: &Scratch,
        bar: &Bar,
    ) -> anyhow::Result<(ScratchFile, StateFacts)> {
        for number in 0..TRIES_MAX {
            let file = self.stream(scratch, &format!("taken-{number}"), bar).await?;
            let status = prove::examine(&file, &mut |stage, done, all| bar.tell(stage, done, all))?;
            let revision = prove::of_state(&status);
            let Some(hash_kv) = self.hash(revision).await? else { continue };
            let state = prove::facts(&file, &status, hash_kv);
            return Ok((file, state));
        }
        anyhow::bail!(
            "{TRIES_MAX} times the cluster was compacted beyond the snapshot before its hash was asked \
             for: compact to older revisions, as kube-apiserver does, or take the backup nearer to the \
             cluster"
        )
    }

    async fn stream(
        &self,
        scratch: &Scratch,
        name: &str,
        bar: &Bar,
    ) -> anyhow::Result<ScratchFile> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        let asked = timeout(PIECE_MAX, client.snapshot(pb::SnapshotRequest {})).await;
        let answer = asked.ok().context("the member sends no snapshot")?;
        let mut pieces =
            answer.map_err(|status| refused("taking a snapshot", &status))?.into_inner();
        let mut file = scratch.create(name)?;
        loop {
            let piece = timeout(PIECE_MAX, pieces.message()).await;
            let piece = piece.ok().context("the member stopped sending its snapshot")?;
            let piece = piece.map_err(|status| refused("receiving the snapshot", &status))?;
            let Some(piece) = piece else { break };
            if file.is_empty() {
                scratch.check_space(piece.remaining_bytes)?;
            }
            file.write_all(&piece.blob).context("writing into the scratch folder")?;
            bar.show("receiving", file.len(), file.len() + piece.remaining_bytes);
        }
        file.finish().context("writing into the scratch folder")
    }

    /// The member's hash at a revision; none if that is compacted by now.
    async fn hash(&self, revision: i64) -> anyhow::Result<Option<HashFacts>> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        let asked = timeout(HASH_MAX, client.hash_kv(pb::HashKvRequest { revision })).await;
        let answer = match asked.ok().context("the member does not answer HashKV")? {
            Err(status) if status.message() == keepd_api::Error::Compacted.text() => {
                return Ok(None);
            }
            Err(status) => return Err(refused("asking for HashKV", &status)),
            Ok(answer) => answer.into_inner(),
        };
        // A server before etcd 3.6 does not tell the revision.
        let at = if answer.hash_revision == 0 { revision } else { answer.hash_revision };
        let (hash, compact_revision) = (answer.hash, answer.compact_revision.max(0));
        Ok(Some(HashFacts { hash, revision: at, compact_revision }))
    }
}

fn refused(what: &str, status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{what}: {}", status.message())
}
