//! Changes of the membership: what may be done to the members, and in which order etcd asks.
//!
//! A change is judged when its entry is applied, on every member with the same result, against the
//! members' table and against Raft's configuration, which must be able to follow.

use std::collections::BTreeSet;

use bytes::Bytes;
use keepd_mvcc::{MetaTable, Store, View};
use keepd_types::MemberId;

use super::{ConfState, is_removed, member, members};
use crate::keys;
use crate::member::{Member, MembershipChange};
use crate::outcome::{ApplyError, Failure};
use crate::tables;

impl MembershipChange {
    /// Says why the change cannot be made: etcd's checks in etcd's order, then Raft's.
    ///
    /// # Errors
    /// The refusal, or the reason to stop.
    pub(crate) fn judge<'a>(
        &self,
        meta: impl Fn(u8) -> &'a MetaTable,
        raft: &ConfState,
    ) -> Result<(), Failure> {
        let id = self.member();
        if is_removed(meta(tables::MEMBERS_REMOVED), id) {
            return Err(ApplyError::MemberRemoved.into());
        }
        let known = members(meta(tables::MEMBERS))?;
        let current = known.iter().find(|member| member.id == id.0);
        match self {
            Self::Add { peer_urls, is_learner, max_learners, .. } => {
                if current.is_some() {
                    return Err(ApplyError::MemberExists.into());
                }
                refuse_used_urls(peer_urls, &known, id)?;
                let learners = known.iter().filter(|member| member.is_learner).count();
                if *is_learner && u32::try_from(learners).is_ok_and(|count| count >= *max_learners)
                {
                    return Err(ApplyError::TooManyLearners.into());
                }
            }
            Self::Promote { .. } => {
                if !current.ok_or(ApplyError::MemberNotFound)?.is_learner {
                    return Err(ApplyError::MemberNotLearner.into());
                }
            }
            Self::Remove { .. } => {
                current.ok_or(ApplyError::MemberNotFound)?;
            }
            Self::UpdatePeerUrls { peer_urls, .. } => {
                current.ok_or(ApplyError::MemberNotFound)?;
                refuse_used_urls(peer_urls, &known, id)?;
            }
        }
        if self.fits(raft) { Ok(()) } else { Err(ApplyError::ChangeDoesNotFit.into()) }
    }

    /// Says why the change cannot be made in the state that a view shows: Raft would not append it.
    ///
    /// # Errors
    /// The refusal.
    pub fn check(&self, view: &View) -> Result<(), ApplyError> {
        let meta = |table| view.meta(table);
        // A malformed table ends the member's start, and nothing malformed is ever written into it.
        let raft = ConfState::load(meta(tables::CONF_STATE)).unwrap_or_default();
        match self.judge(meta, &raft) {
            Err(Failure::Refused(refusal)) => Err(refusal),
            Ok(()) | Err(Failure::Halt(_)) => Ok(()),
        }
    }

    /// Whether Raft can make the change in a configuration.
    fn fits(&self, raft: &ConfState) -> bool {
        let id = self.member().0;
        raft.voters_outgoing.is_empty()
            && id != 0
            && match self {
                Self::Add { .. } => !raft.is_member(id),
                Self::Promote { .. } => raft.learners.contains(&id),
                Self::Remove { .. } => raft.is_member(id) && raft.voters != [id],
                Self::UpdatePeerUrls { .. } => raft.is_member(id),
            }
    }

    /// Whether a configuration is one after the change.
    pub(crate) fn is_made_in(&self, raft: &ConfState) -> bool {
        let id = self.member().0;
        match self {
            Self::Add { is_learner: true, .. } => raft.learners.contains(&id),
            Self::Add { .. } | Self::Promote { .. } => raft.voters.contains(&id),
            Self::Remove { .. } => !raft.is_member(id),
            Self::UpdatePeerUrls { .. } => raft.is_member(id),
        }
    }

    /// Makes a change that was not refused.
    pub(crate) fn make(&self, store: &mut Store) -> Result<(), Failure> {
        let id = self.member();
        let current = member(store.meta(tables::MEMBERS), id)?.unwrap_or_default();
        let changed = match self {
            Self::Add { peer_urls, is_learner, .. } => Member {
                id: id.0,
                peer_urls: peer_urls.clone(),
                is_learner: *is_learner,
                ..Member::default()
            },
            Self::Promote { .. } => Member { is_learner: false, ..current },
            Self::UpdatePeerUrls { peer_urls, .. } => {
                Member { peer_urls: peer_urls.clone(), ..current }
            }
            Self::Remove { .. } => {
                store.meta_delete(tables::MEMBERS, &tables::member_key(id));
                keys::forget(store, id);
                store.meta_put(tables::MEMBERS_REMOVED, tables::member_key(id), Bytes::new());
                return Ok(());
            }
        };
        assert_eq!(changed.id, id.0, "a change that is made has its member");
        changed.store(store);
        Ok(())
    }
}

fn refuse_used_urls(urls: &[String], members: &[Member], own: MemberId) -> Result<(), ApplyError> {
    let others = members.iter().filter(|member| member.id != own.0);
    let used: BTreeSet<&String> = others.flat_map(|member| &member.peer_urls).collect();
    let is_used = urls.iter().any(|url| used.contains(url));
    if is_used { Err(ApplyError::PeerUrlExists) } else { Ok(()) }
}
