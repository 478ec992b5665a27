//! The member as the network sees it: first words, messages, questions.

use std::sync::Arc;

use bytes::Bytes;
use keepd_machine::{Membership, membership, tables};
use keepd_mvcc::MetaTable;
use keepd_raft::{Body, ConfChange, Progress};
use keepd_types::{KeyId, MemberId, version};

use crate::handle::Handle;
use crate::mailbox::Refused;
use crate::messages::{ApplyEvent, Forward, RaftEvent, Reply};
use crate::peer_message::{Malformed, PeerMessage, PeerRequest, PeerResponse, RequestName};
use crate::shared::Shared;
use crate::shared::network::Announcement;
use crate::state_transfer;
use crate::transport::{
    Hello, Lane, NotReceived, PeerAddress, Receiver, Refusal, StateSink, Transport,
};

/// Bytes that a message counts beside its own.
const MESSAGE_BYTES: usize = 256;

impl Handle {
    /// Begins to talk to the other members over a network.
    pub fn connect(&self, transport: Arc<dyn Transport>) {
        self.shared.network.connect(transport);
    }

    fn take(&self, from: MemberId, message: Bytes) -> Result<(), NotReceived> {
        let len = message.len() + MESSAGE_BYTES;
        let message = PeerMessage::decode(message).map_err(malformed)?;
        if message.level() > self.shared.options.feature_level {
            return Err(malformed(Malformed::Unknown));
        }
        match message {
            PeerMessage::Raft(message)
                if message.from != from.0 || matches!(message.body, Body::Snapshot(_)) =>
            {
                Err(malformed(Malformed::Sender))
            }
            PeerMessage::Raft(message) => {
                let bytes = self.shared.network.take_in(len).ok_or(NotReceived::Full)?;
                self.tell(RaftEvent::Peer(message, bytes))
            }
            PeerMessage::Forward(forward) => {
                check_origins(from, &forward)?;
                let bytes = self.shared.network.take_in(len).ok_or(NotReceived::Full)?;
                self.tell(RaftEvent::Forward(from, forward, bytes))
            }
            PeerMessage::Refused { boot, sequences } if boot == self.shared.boot() => {
                self.tell(RaftEvent::Refused(sequences))
            }
            PeerMessage::Request(name, request) => self.take_request(from, name, request),
            PeerMessage::Response(name, response) if name.boot == self.shared.boot() => {
                self.shared.network.answer(name, response);
                Ok(())
            }
            PeerMessage::Digest(digest) => {
                let event = ApplyEvent::Digest(from, digest);
                match self.shared.mailboxes.apply.try_push(event, 1) {
                    // The next comparison makes up for one that finds no room.
                    Ok(()) | Err(Refused::Full) => Ok(()),
                    Err(Refused::Closed) => Err(NotReceived::Stopped),
                }
            }
            // Meant for an earlier start of this member.
            PeerMessage::Refused { .. } | PeerMessage::Response(..) => Ok(()),
        }
    }

    /// Has the Raft part react here: it never blocks.
    pub(crate) fn tell(&self, event: RaftEvent) -> Result<(), NotReceived> {
        if !self.shared.mailboxes.raft.push_quietly(event) {
            return Err(NotReceived::Stopped);
        }
        self.raft.react();
        Ok(())
    }

    fn take_request(
        &self,
        to: MemberId,
        name: RequestName,
        request: PeerRequest,
    ) -> Result<(), NotReceived> {
        let shared = Arc::clone(&self.shared);
        let event = match request {
            PeerRequest::Replicated => {
                let reply = reply_to(shared, to, name, |progress| {
                    PeerResponse::Replicated(matched(progress))
                });
                return self.tell(RaftEvent::Progress(reply));
            }
            PeerRequest::Renew(id) => {
                ApplyEvent::Renew(id, reply_to(shared, to, name, PeerResponse::Renewal))
            }
            PeerRequest::HashKv(revision) => {
                ApplyEvent::HashKv(revision, reply_to(shared, to, name, PeerResponse::HashKv))
            }
            PeerRequest::TimeToLive(id, keys_after) => {
                let reply = reply_to(shared, to, name, PeerResponse::TimeToLive);
                ApplyEvent::TimeToLive { id, keys_after, reply }
            }
        };
        match self.shared.mailboxes.apply.try_push(event, 1) {
            Ok(()) => Ok(()),
            Err(Refused::Full) => Err(NotReceived::Full),
            Err(Refused::Closed) => Err(NotReceived::Stopped),
        }
    }
}

impl Receiver for Handle {
    fn hello(&self) -> Hello {
        let identity = self.shared.identity;
        let view = self.view();
        let own = membership::member(view.meta(tables::MEMBERS), identity.member).ok().flatten();
        Hello {
            cluster: identity.cluster,
            member: identity.member,
            version: version::SERVER_VERSION.to_owned(),
            feature_level: self.shared.options.feature_level,
            urls: own.map(|own| own.peer_urls).unwrap_or_default(),
            keys: self.shared.encryption.readable().iter().map(check_value).collect(),
        }
    }

    fn meet(&self, hello: &Hello) -> Result<(), Refusal> {
        let view = self.view();
        if membership::is_removed(view.meta(tables::MEMBERS_REMOVED), hello.member) {
            let reason = format!(
                "member {} was removed from cluster {}; its data directory is of no use any more: \
                 empty it and add a new member with `member add`",
                hello.member, hello.cluster
            );
            return Err(Refusal { reason, is_removed: true });
        }
        let active = tables::active_keys(view.meta(tables::CLUSTER)).unwrap_or_default();
        let lacks = |key: &&KeyId| !hello.keys.contains(&check_value(key));
        let lacking: Vec<String> =
            active.keys.iter().filter(lacks).map(|key| format!("{:016x}", key.0)).collect();
        if !lacking.is_empty() {
            let keys = lacking.join(", ");
            tracing::warn!(peer = %hello.member, keys, "a member's encryption configuration lacks active keys");
        }
        let level = self.shared.facts.load().feature_level;
        if hello.feature_level < level {
            let reason = format!(
                "member {} reads records of feature level {} at most, and cluster {} writes level \
                 {level}: replace its binary by one of the version of the others",
                hello.member, hello.feature_level, hello.cluster
            );
            return Err(Refusal { reason, is_removed: false });
        }
        // Who came to the cluster after this member joined, or while it was away, leads it perhaps.
        let (id, urls) = (hello.member, hello.urls.clone());
        self.shared.network.add_stranger(PeerAddress { id, urls });
        let (version, feature_level) = (hello.version.clone(), hello.feature_level);
        self.shared.network.announce(hello.member, Announcement { version, feature_level });
        Ok(())
    }

    fn receive(&self, from: MemberId, message: Bytes) -> Result<(), NotReceived> {
        self.take(from, message)
    }

    fn begin_state(&self, from: MemberId, head: Bytes) -> Result<Box<dyn StateSink>, String> {
        state_transfer::begin(self, from, head)
    }

    fn lost(&self, to: MemberId) {
        // A member that has ended needs no telling.
        let _told = self.tell(RaftEvent::Lost(to));
    }

    fn refused_by(&self, peer: MemberId, refusal: &Refusal) {
        if refusal.is_removed {
            tracing::error!(%peer, reason = refusal.reason, "this member was removed");
            self.shared.leave();
        }
    }

    fn membership(&self) -> Bytes {
        let (view, cluster) = (self.view(), self.shared.identity.cluster);
        let membership = Membership::of(cluster, |table| view.meta(table));
        // A malformed table ends the member's start, and nothing malformed is ever written into it.
        membership.map(|membership| membership.encode()).unwrap_or_default()
    }
}

/// The other members that a view knows.
pub(crate) fn peers(view: &keepd_mvcc::View, own: MemberId) -> Vec<PeerAddress> {
    // A malformed table ends the member's start, and nothing malformed is ever written into it.
    let members = membership::members(view.meta(tables::MEMBERS)).unwrap_or_default();
    let others = members.into_iter().filter(|member| member.id != own.0);
    others.map(|member| PeerAddress { id: MemberId(member.id), urls: member.peer_urls }).collect()
}

/// The way back to a member that asked.
fn reply_to<T: 'static>(
    shared: Arc<Shared>,
    to: MemberId,
    name: RequestName,
    wrap: fn(T) -> PeerResponse,
) -> Reply<T> {
    Reply::Peer(Box::new(move |answer| {
        let response = PeerMessage::Response(name, wrap(answer));
        shared.network.send(to, Lane::Control, &response);
    }))
}

/// Whether the members' table has a member as a learner.
pub(crate) fn is_learner(members: &MetaTable, member: MemberId) -> bool {
    membership::member(members, member).ok().flatten().is_some_and(|member| member.is_learner)
}

/// Whether the members' table names one member, or none yet.
pub(crate) fn is_alone(members: &MetaTable) -> bool {
    members.len() < 2
}

/// The last entry that each member has for certain.
pub(crate) fn matched(progress: Vec<Progress>) -> Vec<(MemberId, u64)> {
    progress.into_iter().map(|member| (MemberId(member.id), member.matched)).collect()
}

/// Each command is the sender's own, and each change of the configuration can be read.
fn check_origins(from: MemberId, forward: &Forward) -> Result<(), NotReceived> {
    for command in &forward.commands {
        let origin = command.origin();
        let is_own = origin.is_some_and(|it| it.member == from && it.boot == forward.boot);
        let is_change = !command.is_conf_change || ConfChange::decode(&command.encoded).is_ok();
        if !is_own || !is_change {
            return Err(malformed(Malformed::Origin));
        }
    }
    Ok(())
}

/// A key's check value as it travels.
fn check_value(key: &KeyId) -> Bytes {
    Bytes::copy_from_slice(&key.0.to_be_bytes())
}

fn malformed(error: Malformed) -> NotReceived {
    NotReceived::Malformed(error.to_string())
}
