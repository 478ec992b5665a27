//! Becoming a member: one of the first of a new cluster, or one that joins a cluster.
//!
//! The first members of a cluster make the same state, each on its own: the initial membership, which
//! is applied at [`BOOTSTRAP_INDEX`] and is no entry of the log. INVARIANT: what is in their stores at
//! that index depends on the names, the URLs and the token alone.
//!
//! A member that joins makes nothing: its log is empty, its store holds but where the others are, and
//! since no leader's log reaches back to the initial membership, the leader sends it the state first.

use std::path::Path;

use bytes::Bytes;
use keepd_crypto::{Encryption, EncryptionConfig};
use keepd_env::Env;
use keepd_machine::facts::begin_feature_level;
use keepd_machine::membership::{ConfState, Member};
use keepd_machine::tables;
use keepd_member::{
    BOOTSTRAP_INDEX, BOOTSTRAP_TERM, Identity, InitialCluster, create_joining_log, create_log,
};
use keepd_mvcc::{Applied, JobRequest, Store};
use keepd_types::version::CLUSTER_VERSION;

use crate::error::BootError;
use crate::open_store::open_store;

/// The way in which a member without a data directory comes to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// One of the first members of a cluster.
    New(InitialCluster),
    /// A member of a cluster that has been told of it; see [`crate::join()`].
    Join {
        /// The member, as the cluster knows it.
        identity: Identity,
        /// The members as the cluster told them. They are asked for nothing, but answered.
        members: Vec<Member>,
    },
}

impl Bootstrap {
    /// Fills the directory of a new member.
    pub(crate) fn fill(
        &self,
        env: &Env,
        dir: &Path,
        config: Option<EncryptionConfig>,
        feature_level: u32,
    ) -> Result<(), BootError> {
        let encryption = Encryption::create(env, dir, config)?;
        let mut store = open_store(env, dir, encryption.files())?;
        match self {
            Self::New(cluster) => {
                first_state(&mut store, cluster, feature_level);
                store.run(JobRequest::Flush)?;
                drop(store);
                create_log(env, dir, encryption.files(), cluster.identity())?;
            }
            Self::Join { identity, members } => {
                members.iter().for_each(|member| member.store(&mut store));
                store.publish(Applied::default());
                store.run(JobRequest::Flush)?;
                drop(store);
                create_joining_log(env, dir, encryption.files(), *identity)?;
            }
        }
        Ok(())
    }
}

fn first_state(store: &mut Store, cluster: &InitialCluster, feature_level: u32) {
    begin_membership(store, cluster, feature_level);
    store.publish(Applied { index: BOOTSTRAP_INDEX, term: BOOTSTRAP_TERM });
}

/// Puts a new cluster's members into the tables, with the version that these members have, and a lone
/// member's feature level.
pub(crate) fn begin_membership(store: &mut Store, cluster: &InitialCluster, feature_level: u32) {
    for member in &cluster.members {
        let (peer_urls, name) = (member.peer_urls.clone(), member.name.clone());
        Member { id: member.id.0, peer_urls, name, ..Member::default() }.store(store);
    }
    ConfState::of_voters(cluster.members.iter().map(|member| member.id)).store(store);
    let version = Bytes::from_static(CLUSTER_VERSION.as_bytes());
    store.meta_put(tables::CLUSTER, Bytes::from_static(tables::CLUSTER_VERSION_KEY), version);
    if cluster.members.len() == 1 {
        // Nobody else has to read what it writes. In others the leader asks first.
        begin_feature_level(store, feature_level);
    }
}

#[cfg(test)]
mod tests;
