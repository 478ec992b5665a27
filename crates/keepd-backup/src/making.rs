//! Steps of making a new cluster's store, whatever it is made from.

use bytes::Bytes;
use keepd_machine::membership::{ConfState, Member};
use keepd_machine::tables;
use keepd_member::InitialCluster;
use keepd_mvcc::{JobRequest, Store};
use keepd_types::limits::REVISION_MAX;
use keepd_types::version::CLUSTER_VERSION;

use crate::Error;

/// Puts a new cluster's members into the tables.
pub(crate) fn begin_membership(store: &mut Store, cluster: &InitialCluster) {
    for member in &cluster.members {
        let (peer_urls, name) = (member.peer_urls.clone(), member.name.clone());
        Member { id: member.id.0, peer_urls, name, ..Member::default() }.store(store);
    }
    ConfState::of_voters(cluster.members.iter().map(|member| member.id)).store(store);
    store.meta_put(
        tables::CLUSTER,
        Bytes::from_static(tables::CLUSTER_VERSION_KEY),
        Bytes::from_static(CLUSTER_VERSION.as_bytes()),
    );
}

/// Raises the revision; everything before is compacted then. 0 keeps both. The revision then.
pub(crate) fn raise_revision(store: &mut Store, bump: u64) -> Result<i64, Error> {
    let revision = store.revision();
    if bump == 0 {
        return Ok(revision);
    }
    let raised = i64::try_from(bump).ok().and_then(|bump| revision.checked_add(bump));
    let raised = raised.filter(|raised| *raised <= REVISION_MAX);
    let raised = raised.ok_or(Error::RevisionOverflow { revision, bump })?;
    store.import_revisions(raised, store.compact_revision());
    store.compact(raised).map_err(keepd_mvcc::Error::from)?;
    Ok(raised)
}

/// Flushes the records that are in memory.
pub(crate) fn flush(store: &mut Store) -> Result<(), Error> {
    while store.run(JobRequest::Flush)? {}
    Ok(())
}

/// Leaves of the source's cluster what a restore of its snapshot alone would leave.
pub(crate) fn replace_membership(store: &mut Store, cluster: &InitialCluster) {
    for table in [tables::MEMBERS, tables::MEMBERS_REMOVED, tables::CLUSTER, tables::CONF_STATE] {
        let keys: Vec<Bytes> = store.meta(table).keys().cloned().collect();
        for key in keys {
            store.meta_delete(table, &key);
        }
    }
    begin_membership(store, cluster);
}
