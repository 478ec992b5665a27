//! Facts about the cluster as a whole, as [`tables::CLUSTER`] has them: the version that its members
//! agree on, the downgrade that is under way, and the feature level.
//!
//! The feature level says which commands and records may be written (rule 9.22). It only rises, and
//! only in the name of members that have all said that they read the new level, learners included; who
//! joins later is refused if it does not. So a binary of an older level meets nothing that it cannot
//! read, and one that is put in the place of a newer one is told so before it reads anything.

use std::collections::BTreeSet;

use bytes::Bytes;
use keepd_mvcc::{MetaTable, Store};
use keepd_types::MemberId;

use crate::outcome::Halt;
use crate::{levels, membership, tables};

/// The facts, as of an applied index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFacts {
    /// The cluster version, as `3.7.0`; `None` before a leader has decided it.
    pub version: Option<String>,
    /// The version that the cluster is being downgraded to.
    pub downgrade: Option<String>,
    /// The newest level of commands and records that may be written.
    pub feature_level: u32,
}

impl Default for ClusterFacts {
    fn default() -> Self {
        Self { version: None, downgrade: None, feature_level: levels::FIRST }
    }
}

impl ClusterFacts {
    /// Reads them.
    ///
    /// # Errors
    /// If one is malformed.
    pub fn of(cluster: &MetaTable) -> Result<Self, Halt> {
        let malformed = || Halt::Meta { table: tables::CLUSTER };
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).map_err(|_other| malformed());
        Ok(Self {
            version: membership::cluster_version(cluster)?,
            downgrade: cluster.get(tables::DOWNGRADE_KEY).map(text).transpose()?,
            feature_level: feature_level(cluster)?,
        })
    }

    /// Whether a version that reads levels up to `known` reads what this cluster writes.
    ///
    /// # Errors
    /// If it does not: it must not go on.
    pub const fn check_level(&self, known: u32) -> Result<(), Halt> {
        if self.feature_level > known {
            return Err(Halt::FeatureLevel { level: self.feature_level, known });
        }
        Ok(())
    }
}

pub(crate) fn feature_level(cluster: &MetaTable) -> Result<u32, Halt> {
    let Some(bytes) = cluster.get(tables::FEATURE_LEVEL_KEY) else {
        return Ok(levels::FIRST);
    };
    let bytes = <[u8; 4]>::try_from(bytes.as_ref());
    bytes.map(u32::from_be_bytes).map_err(|_other| Halt::Meta { table: tables::CLUSTER })
}

/// Raises the feature level, if every member is among those that were asked: one that was added since
/// has not said what it reads.
pub(crate) fn raise_feature_level(
    store: &mut Store,
    level: u32,
    asked: &BTreeSet<MemberId>,
) -> Result<(), Halt> {
    let members = membership::members(store.meta(tables::MEMBERS))?;
    let is_known = members.iter().all(|member| asked.contains(&MemberId(member.id)));
    if is_known && level > feature_level(store.meta(tables::CLUSTER))? {
        begin_feature_level(store, level);
    }
    Ok(())
}

/// Records the feature level of a cluster that has one member, which reads it.
pub fn begin_feature_level(store: &mut Store, level: u32) {
    let value = Bytes::copy_from_slice(&level.to_be_bytes());
    store.meta_put(tables::CLUSTER, Bytes::from_static(tables::FEATURE_LEVEL_KEY), value);
}

/// Records the cluster version.
pub(crate) fn set_version(store: &mut Store, version: &str) {
    let value = Bytes::copy_from_slice(version.as_bytes());
    store.meta_put(tables::CLUSTER, Bytes::from_static(tables::CLUSTER_VERSION_KEY), value);
}

/// Records the version that the cluster is being downgraded to, or that it no longer is.
pub(crate) fn set_downgrade(store: &mut Store, target: Option<&str>) {
    match target {
        Some(target) => {
            let value = Bytes::copy_from_slice(target.as_bytes());
            store.meta_put(tables::CLUSTER, Bytes::from_static(tables::DOWNGRADE_KEY), value);
        }
        None => store.meta_delete(tables::CLUSTER, tables::DOWNGRADE_KEY),
    }
}
