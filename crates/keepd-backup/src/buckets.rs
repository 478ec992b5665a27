//! Converts keepd's meta tables to etcd's small buckets: all but the records.

use bytes::Bytes;
use keepd_machine::membership::ConfState;
use keepd_machine::tables;
use keepd_mvcc::View;
use keepd_types::version::{CLUSTER_VERSION, STORAGE_VERSION};
use keepd_types::{MemberId, Revision};

use crate::Error;
use crate::format::{self, LogPosition, encode_alarm, record_key};

/// Items of one bucket, in order.
pub(crate) type Items = Vec<(Bytes, Bytes)>;

/// Every bucket but those of records, in order of their names.
pub(crate) fn small_buckets(view: &View) -> Result<Vec<(&'static [u8], Items)>, Error> {
    Ok(vec![
        (format::ALARM, alarms(view)?),
        (format::AUTH, foreign(view, format::AUTH)),
        (format::AUTH_ROLES, foreign(view, format::AUTH_ROLES)),
        (format::AUTH_USERS, foreign(view, format::AUTH_USERS)),
        (format::CLUSTER, cluster(view)),
        (format::LEASE, owned(view, tables::LEASES)),
        (format::MEMBERS, by_hex_id(view, tables::MEMBERS, None)?),
        (
            format::MEMBERS_REMOVED,
            by_hex_id(view, tables::MEMBERS_REMOVED, Some(Bytes::from_static(b"removed")))?,
        ),
        (format::META, meta(view)?),
    ])
}

fn owned(view: &View, table: u8) -> Items {
    view.meta(table).iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn alarms(view: &View) -> Result<Items, Error> {
    let mut items = Items::new();
    for key in view.meta(tables::ALARMS).keys() {
        let alarm = tables::read_u64(key).zip(key.get(8));
        let (member, kind) = alarm.ok_or(Error::MetaTable { table: tables::ALARMS })?;
        items.push((encode_alarm(MemberId(member), *kind), Bytes::new()));
    }
    // Varints do not sort as the numbers do.
    items.sort_unstable();
    Ok(items)
}

fn cluster(view: &View) -> Items {
    let version = view
        .meta(tables::CLUSTER)
        .get(tables::CLUSTER_VERSION_KEY)
        .cloned()
        .unwrap_or_else(|| Bytes::from_static(CLUSTER_VERSION.as_bytes()));
    let downgrade = Bytes::from_static(br#"{"target-version":"","enabled":false}"#);
    vec![
        (Bytes::from_static(format::CLUSTER_VERSION), version),
        (Bytes::from_static(format::DOWNGRADE), downgrade),
    ]
}

/// Members in the order of the bucket, that of the hexadecimal text of their ids.
fn by_hex_id(view: &View, table: u8, value: Option<Bytes>) -> Result<Items, Error> {
    let mut items = Items::new();
    for (key, stored) in view.meta(table) {
        let id = tables::read_u64(key).ok_or(Error::MetaTable { table })?;
        let value = value.clone().unwrap_or_else(|| stored.clone());
        items.push((Bytes::from(format!("{id:x}")), value));
    }
    items.sort_unstable();
    Ok(items)
}

/// The entries of a bucket that was imported and is kept.
fn foreign(view: &View, bucket: &[u8]) -> Items {
    let prefix = foreign_key(bucket, &[]);
    view.meta(tables::FOREIGN)
        .range(prefix.clone()..)
        .take_while(|(key, _)| key.starts_with(&prefix))
        .map(|(key, value)| (key.slice(prefix.len()..), value.clone()))
        .collect()
}

/// The key in the table of foreign entries.
pub(crate) fn foreign_key(bucket: &[u8], key: &[u8]) -> Bytes {
    [bucket, &[0], key].concat().into()
}

/// keepd's own state: the place in the log, and the facts about the cluster that the log's entries are
/// judged by. In the order of the names.
pub(crate) fn state(view: &View) -> Items {
    let facts = view.meta(tables::CLUSTER).iter();
    let mut items: Items = facts
        .map(|(name, value)| ([format::CLUSTER_FACT, name].concat().into(), value.clone()))
        .collect();
    items.push((Bytes::from_static(format::POSITION), LogPosition::of(view).encode()));
    items
}

fn meta(view: &View) -> Result<Items, Error> {
    let table = tables::CONF_STATE;
    let conf_state = ConfState::stored(view.meta(table))
        .map_err(|_malformed| Error::MetaTable { table })?
        .unwrap_or_default()
        .encode();
    let applied = view.applied();
    let number = |number: u64| Bytes::copy_from_slice(&number.to_be_bytes());
    let mut items = vec![
        (Bytes::from_static(format::CONF_STATE), conf_state),
        (Bytes::from_static(format::CONSISTENT_INDEX), number(applied.index)),
    ];
    let compacted = view.compact_revision();
    if compacted > 0 {
        let revision = record_key(Revision::first(compacted), false);
        items.push((Bytes::from_static(format::FINISHED_COMPACTION), revision.clone()));
        items.push((Bytes::from_static(format::SCHEDULED_COMPACTION), revision));
    }
    items.push((
        Bytes::from_static(format::STORAGE_VERSION),
        Bytes::from_static(STORAGE_VERSION.as_bytes()),
    ));
    items.push((Bytes::from_static(format::TERM), number(applied.term)));
    Ok(items)
}
