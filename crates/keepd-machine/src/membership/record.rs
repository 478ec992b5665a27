//! The record of the membership that a member gives to one that joins: who belongs to the cluster,
//! and who never again.
//!
//! `docs/formats/membership.md` has the layout.

use bytes::Bytes;
use keepd_mvcc::MetaTable;
use keepd_types::{ClusterId, MemberId};

use super::members;
use crate::codec::{CommandError, Reader, Writer};
use crate::member::Member;
use crate::outcome::Halt;
use crate::tables;

/// The format that is written.
const FORMAT_VERSION: u8 = 1;

/// The membership of a cluster as one member knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its members, by id.
    pub members: Vec<Member>,
    /// Ids that must never join again, ascending.
    pub removed: Vec<MemberId>,
    /// The version that all members agree on; `None` before the first leader has decided it.
    pub cluster_version: Option<String>,
}

impl Membership {
    /// Reads the membership from the meta tables of a store or a view.
    ///
    /// # Errors
    /// If an entry is malformed.
    pub fn of<'a>(cluster: ClusterId, meta: impl Fn(u8) -> &'a MetaTable) -> Result<Self, Halt> {
        let removed = removed(meta(tables::MEMBERS_REMOVED))?;
        let cluster_version = super::cluster_version(meta(tables::CLUSTER))?;
        Ok(Self { cluster, members: members(meta(tables::MEMBERS))?, removed, cluster_version })
    }

    /// The encoding that travels between members.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        w.u8(FORMAT_VERSION);
        w.u64_fixed(self.cluster.0);
        w.u64(self.members.len() as u64);
        for member in &self.members {
            w.u64(member.id);
            w.u8(u8::from(member.is_learner));
            w.bytes(member.name.as_bytes());
            w.texts(&member.peer_urls);
            w.texts(&member.client_urls);
        }
        w.u64(self.removed.len() as u64);
        for id in &self.removed {
            w.u64(id.0);
        }
        w.bytes(self.cluster_version.as_deref().unwrap_or_default().as_bytes());
        w.finish()
    }

    /// Reads it back; `None` if the bytes are no membership that this version knows.
    #[must_use]
    pub fn decode(bytes: Bytes) -> Option<Self> {
        let membership = Self::read(&mut Reader::new(bytes)).ok()?;
        let ids = membership.members.iter().map(|member| member.id);
        let is_ascending =
            ids.is_sorted_by(|a, b| a < b) && membership.removed.is_sorted_by(|a, b| a < b);
        is_ascending.then_some(membership)
    }

    fn read(r: &mut Reader) -> Result<Self, CommandError> {
        match r.u8()? {
            FORMAT_VERSION => {}
            value => return Err(CommandError::Unknown { what: "format version", value }),
        }
        let cluster = ClusterId(r.u64_fixed()?);
        let members = (0..r.count()?).map(|_| read_member(r)).collect::<Result<_, _>>()?;
        let removed = (0..r.count()?).map(|_| r.u64().map(MemberId)).collect::<Result<_, _>>()?;
        let cluster_version = Some(r.text()?).filter(|version| !version.is_empty());
        r.finish()?;
        Ok(Self { cluster, members, removed, cluster_version })
    }
}

fn read_member(r: &mut Reader) -> Result<Member, CommandError> {
    Ok(Member {
        id: r.u64()?,
        is_learner: r.flag("learner flag")?,
        name: r.text()?,
        peer_urls: r.texts()?,
        client_urls: r.texts()?,
    })
}

fn removed(table: &MetaTable) -> Result<Vec<MemberId>, Halt> {
    let id = |key: &Bytes| {
        tables::read_u64(key).map(MemberId).ok_or(Halt::Meta { table: tables::MEMBERS_REMOVED })
    };
    table.keys().map(id).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn membership() -> Membership {
        let peer_urls = vec!["http://a:2380".to_owned(), "http://b:2380".to_owned()];
        let started = Member {
            id: 7,
            name: "a".to_owned(),
            client_urls: vec!["http://a:2379".to_owned()],
            peer_urls: peer_urls.clone(),
            is_learner: false,
        };
        let joined = Member { id: u64::MAX, is_learner: true, peer_urls, ..Member::default() };
        Membership {
            cluster: ClusterId(1 << 60),
            members: vec![started, joined],
            removed: vec![MemberId(1), MemberId(9)],
            cluster_version: Some("3.7.0".to_owned()),
        }
    }

    #[test]
    fn a_membership_is_read_as_it_was_written() {
        let told = membership();
        let young = Membership { cluster_version: None, removed: Vec::new(), ..membership() };
        for membership in [told, young] {
            let encoded = membership.encode();
            for cut in 0..encoded.len() {
                assert_eq!(Membership::decode(encoded.slice(..cut)), None);
            }
            assert_eq!(Membership::decode(encoded), Some(membership));
        }
    }

    #[test]
    fn a_membership_that_names_one_twice_or_is_of_a_later_format_is_refused() {
        let mut twice = membership();
        twice.removed[1] = MemberId(1);
        assert_eq!(Membership::decode(twice.encode()), None);
        let mut twice = membership();
        twice.members[1].id = 7;
        assert_eq!(Membership::decode(twice.encode()), None);
        let mut later = membership().encode().to_vec();
        later[0] = 2;
        assert_eq!(Membership::decode(later.into()), None);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            bytes.insert(0, FORMAT_VERSION);
            let _ = Membership::decode(bytes.into());
        }
    }
}
