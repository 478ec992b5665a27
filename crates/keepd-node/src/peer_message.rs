//! Messages between members: Raft's, and what a follower asks of the leader. Laid out in
//! `docs/formats/peer-message.md`.
//!
//! Three things travel beside Raft's own messages: commands on their way to the leader, which is
//! the only one that appends to the log; questions that only the leader can answer; and its answers.
//! A command is sent once. The leader takes it in the same term only, so a command of term T can be
//! in the log only before the first entry of a later term: whoever waits for it knows its fate then.

use bytes::Bytes;
use keepd_machine::levels;
use keepd_mvcc::{Digest, HashKv};
use keepd_raft::{Body, MalformedMessage, Message};
use keepd_types::{LeaseId, MemberId, varint};
use thiserror::Error;

use crate::messages::{Forward, ForwardedCommand, LeaseTimeToLive, PIECE_MAX, PeerHash, Renewal};

/// The format that is written.
const FORMAT: u8 = 1;
/// BOUND: commands in one message.
pub(crate) const FORWARD_COMMANDS_MAX: usize = 4096;

/// BOUND: members of which the leader tells, as in Raft's messages.
const MEMBERS_MAX: usize = 1024;

/// A message from one member to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PeerMessage {
    /// One of Raft's.
    Raft(Message),
    /// Commands of a follower.
    Forward(Forward),
    /// Commands that the leader did not take, nor ever will.
    Refused {
        /// The start of the proposing member.
        boot: u64,
        /// Numbers of the commands.
        sequences: Vec<u64>,
    },
    /// A question to the leader.
    Request(RequestName, PeerRequest),
    /// Its answer.
    Response(RequestName, PeerResponse),
    /// The digest that the sender noted at a comparison, for the leader.
    Digest(Digest),
}

/// The name of a question: no two of a member have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RequestName {
    /// The start of the asking member.
    pub(crate) boot: u64,
    /// Counts its questions since.
    pub(crate) number: u64,
}

/// A question, most of them to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PeerRequest {
    /// Renew a lease.
    Renew(LeaseId),
    /// Tell a lease's time and, if wanted, its keys behind this one.
    TimeToLive(LeaseId, Option<Bytes>),
    /// Tell how far every member's log goes.
    Replicated,
    /// Tell the hash of the keys at a revision; any member answers.
    HashKv(i64),
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PeerResponse {
    /// To [`PeerRequest::Renew`].
    Renewal(Renewal),
    /// To [`PeerRequest::TimeToLive`].
    TimeToLive(Option<LeaseTimeToLive>),
    /// To [`PeerRequest::Replicated`]: the last entry that each member has for certain; empty if the
    /// receiver does not lead.
    Replicated(Vec<(MemberId, u64)>),
    /// To [`PeerRequest::HashKv`].
    HashKv(PeerHash),
}

/// Bytes that no member sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Malformed {
    #[error("a message of a format or kind that this version does not know")]
    Unknown,
    #[error("a message that is cut short or has bytes left over")]
    Length,
    #[error("a command that the sender did not make")]
    Origin,
    #[error("a message in another member's name")]
    Sender,
    #[error(transparent)]
    Raft(#[from] MalformedMessage),
}

mod tag {
    pub(super) const RAFT: u8 = 1;
    pub(super) const FORWARD: u8 = 2;
    pub(super) const REFUSED: u8 = 3;
    pub(super) const REQUEST: u8 = 4;
    pub(super) const RESPONSE: u8 = 5;
    pub(super) const DIGEST: u8 = 6;

    pub(super) const RENEW: u8 = 1;
    pub(super) const TIME_TO_LIVE: u8 = 2;
    pub(super) const REPLICATED: u8 = 3;
    pub(super) const HASH_KV: u8 = 4;
}

impl PeerMessage {
    /// The feature level that brought the message.
    pub(crate) const fn level(&self) -> u32 {
        match self {
            Self::Forward(_) | Self::Refused { .. } => levels::FIRST,
            Self::Raft(message) => match message.body {
                Body::Append { .. }
                | Body::Appended { .. }
                | Body::AppendRejected { .. }
                | Body::Heartbeat { .. }
                | Body::HeartbeatResponse { .. }
                | Body::Vote { .. }
                | Body::VoteResponse { .. }
                | Body::Snapshot(_)
                | Body::TimeoutNow
                | Body::ReadIndex(_)
                | Body::ReadIndexResponse { .. } => levels::FIRST,
                Body::Started(_) | Body::Known(_) => levels::REJOIN,
            },
            Self::Request(_, request) => match request {
                PeerRequest::Renew(_) | PeerRequest::TimeToLive(..) | PeerRequest::Replicated => {
                    levels::FIRST
                }
                PeerRequest::HashKv(_) => levels::DIGEST_CHECK,
            },
            Self::Response(_, response) => match response {
                PeerResponse::Renewal(_)
                | PeerResponse::TimeToLive(_)
                | PeerResponse::Replicated(_) => levels::FIRST,
                PeerResponse::HashKv(_) => levels::DIGEST_CHECK,
            },
            Self::Digest(_) => levels::DIGEST_CHECK,
        }
    }

    /// The message's bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![FORMAT];
        match self {
            Self::Raft(message) => {
                out.push(tag::RAFT);
                out.extend_from_slice(&message.encode());
            }
            Self::Forward(forward) => {
                out.push(tag::FORWARD);
                for number in [forward.term, forward.boot, forward.number] {
                    varint::write_u64(number, &mut out);
                }
                varint::write_u64(forward.commands.len() as u64, &mut out);
                for command in &forward.commands {
                    out.push(u8::from(command.is_conf_change));
                    write_bytes(&command.encoded, &mut out);
                }
            }
            Self::Refused { boot, sequences } => {
                out.push(tag::REFUSED);
                varint::write_u64(*boot, &mut out);
                varint::write_u64(sequences.len() as u64, &mut out);
                for sequence in sequences {
                    varint::write_u64(*sequence, &mut out);
                }
            }
            Self::Request(name, request) => {
                out.push(tag::REQUEST);
                name.write(&mut out);
                request.write(&mut out);
            }
            Self::Response(name, response) => {
                out.push(tag::RESPONSE);
                name.write(&mut out);
                response.write(&mut out);
            }
            Self::Digest(digest) => {
                out.push(tag::DIGEST);
                for number in [digest.since, digest.index, digest.value] {
                    varint::write_u64(number, &mut out);
                }
            }
        }
        out.into()
    }

    /// Reads a message; byte strings share its memory.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut r = Reader(bytes);
        if r.u8()? != FORMAT {
            return Err(Malformed::Unknown);
        }
        let message = match r.u8()? {
            tag::RAFT => return Ok(Self::Raft(Message::decode(&r.0)?)),
            tag::FORWARD => {
                let (term, boot, number) = (r.u64()?, r.u64()?, r.u64()?);
                let count = r.count(FORWARD_COMMANDS_MAX)?;
                let mut commands = Vec::with_capacity(count);
                for _ in 0..count {
                    let is_conf_change = r.bool()?;
                    commands.push(ForwardedCommand { encoded: r.bytes()?, is_conf_change });
                }
                Self::Forward(Forward { term, boot, number, commands })
            }
            tag::REFUSED => {
                let boot = r.u64()?;
                let count = r.count(FORWARD_COMMANDS_MAX)?;
                let sequences = (0..count).map(|_| r.u64()).collect::<Result<_, _>>()?;
                Self::Refused { boot, sequences }
            }
            tag::REQUEST => Self::Request(RequestName::read(&mut r)?, PeerRequest::read(&mut r)?),
            tag::RESPONSE => {
                Self::Response(RequestName::read(&mut r)?, PeerResponse::read(&mut r)?)
            }
            tag::DIGEST => {
                Self::Digest(Digest { since: r.u64()?, index: r.u64()?, value: r.u64()? })
            }
            _ => return Err(Malformed::Unknown),
        };
        if r.0.is_empty() { Ok(message) } else { Err(Malformed::Length) }
    }
}

impl RequestName {
    fn write(self, out: &mut Vec<u8>) {
        varint::write_u64(self.boot, out);
        varint::write_u64(self.number, out);
    }

    fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self { boot: r.u64()?, number: r.u64()? })
    }
}

impl PeerRequest {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Renew(id) => {
                out.push(tag::RENEW);
                varint::write_i64(id.0, out);
            }
            Self::TimeToLive(id, keys_after) => {
                out.push(tag::TIME_TO_LIVE);
                varint::write_i64(id.0, out);
                out.push(u8::from(keys_after.is_some()));
                if let Some(after) = keys_after {
                    write_bytes(after, out);
                }
            }
            Self::Replicated => out.push(tag::REPLICATED),
            Self::HashKv(revision) => {
                out.push(tag::HASH_KV);
                varint::write_i64(*revision, out);
            }
        }
    }

    fn read(r: &mut Reader) -> Result<Self, Malformed> {
        match r.u8()? {
            tag::RENEW => Ok(Self::Renew(LeaseId(r.i64()?))),
            tag::REPLICATED => Ok(Self::Replicated),
            tag::HASH_KV => Ok(Self::HashKv(r.i64()?)),
            tag::TIME_TO_LIVE => {
                let id = LeaseId(r.i64()?);
                let keys_after = if r.bool()? { Some(r.bytes()?) } else { None };
                Ok(Self::TimeToLive(id, keys_after))
            }
            _ => Err(Malformed::Unknown),
        }
    }
}

impl PeerResponse {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Renewal(renewal) => {
                out.push(tag::RENEW);
                match renewal {
                    Renewal::Renewed { ttl } => {
                        out.push(0);
                        varint::write_i64(*ttl, out);
                    }
                    Renewal::Gone => out.push(1),
                    Renewal::NotPrimary => out.push(2),
                }
            }
            Self::TimeToLive(found) => {
                out.push(tag::TIME_TO_LIVE);
                out.push(u8::from(found.is_some()));
                if let Some(found) = found {
                    varint::write_i64(found.granted_ttl, out);
                    varint::write_i64(found.remaining_ttl, out);
                    varint::write_u64(found.keys.len() as u64, out);
                    for key in &found.keys {
                        write_bytes(key, out);
                    }
                }
            }
            Self::Replicated(members) => {
                out.push(tag::REPLICATED);
                varint::write_u64(members.len() as u64, out);
                for (member, index) in members {
                    varint::write_u64(member.0, out);
                    varint::write_u64(*index, out);
                }
            }
            Self::HashKv(found) => {
                out.push(tag::HASH_KV);
                match found {
                    PeerHash::Hashed { hash, revision } => {
                        out.push(0);
                        varint::write_u64(u64::from(hash.hash), out);
                        for number in [hash.compact_revision, hash.revision, *revision] {
                            varint::write_i64(number, out);
                        }
                    }
                    PeerHash::Compacted => out.push(1),
                    PeerHash::Future => out.push(2),
                    PeerHash::Failed => out.push(3),
                }
            }
        }
    }

    fn read(r: &mut Reader) -> Result<Self, Malformed> {
        match r.u8()? {
            tag::RENEW => Ok(Self::Renewal(match r.u8()? {
                0 => Renewal::Renewed { ttl: r.i64()? },
                1 => Renewal::Gone,
                2 => Renewal::NotPrimary,
                _ => return Err(Malformed::Unknown),
            })),
            tag::TIME_TO_LIVE if !r.bool()? => Ok(Self::TimeToLive(None)),
            tag::TIME_TO_LIVE => {
                let (granted_ttl, remaining_ttl) = (r.i64()?, r.i64()?);
                let count = r.count(PIECE_MAX)?;
                let keys = (0..count).map(|_| r.bytes()).collect::<Result<_, _>>()?;
                Ok(Self::TimeToLive(Some(LeaseTimeToLive { granted_ttl, remaining_ttl, keys })))
            }
            tag::REPLICATED => {
                let count = r.count(MEMBERS_MAX)?;
                let mut members = Vec::with_capacity(count);
                for _ in 0..count {
                    members.push((MemberId(r.u64()?), r.u64()?));
                }
                Ok(Self::Replicated(members))
            }
            tag::HASH_KV => Ok(Self::HashKv(match r.u8()? {
                0 => {
                    let hash = u32::try_from(r.u64()?).map_err(|_wide| Malformed::Unknown)?;
                    let (compact_revision, at) = (r.i64()?, r.i64()?);
                    let hash = HashKv { hash, compact_revision, revision: at };
                    PeerHash::Hashed { hash, revision: r.i64()? }
                }
                1 => PeerHash::Compacted,
                2 => PeerHash::Future,
                3 => PeerHash::Failed,
                _ => return Err(Malformed::Unknown),
            })),
            _ => Err(Malformed::Unknown),
        }
    }
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    varint::write_u64(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Reads a message from its front.
struct Reader(Bytes);

impl Reader {
    fn u8(&mut self) -> Result<u8, Malformed> {
        if self.0.is_empty() {
            return Err(Malformed::Length);
        }
        Ok(self.0.split_to(1)[0])
    }

    fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Unknown),
        }
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        let mut rest: &[u8] = &self.0;
        let value = varint::read_u64(&mut rest).ok_or(Malformed::Length)?;
        let used = self.0.len() - rest.len();
        let _read = self.0.split_to(used);
        Ok(value)
    }

    fn i64(&mut self) -> Result<i64, Malformed> {
        self.u64().map(u64::cast_signed)
    }

    /// A count of items that each take a byte at least.
    fn count(&mut self, max: usize) -> Result<usize, Malformed> {
        let count = usize::try_from(self.u64()?).map_err(|_wide| Malformed::Length)?;
        if count > max.min(self.0.len()) { Err(Malformed::Length) } else { Ok(count) }
    }

    fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let len = usize::try_from(self.u64()?).map_err(|_wide| Malformed::Length)?;
        if len > self.0.len() {
            return Err(Malformed::Length);
        }
        Ok(self.0.split_to(len))
    }
}

#[cfg(test)]
mod tests {
    use keepd_raft::LogPosition;

    use super::*;

    fn messages() -> Vec<PeerMessage> {
        let name = RequestName { boot: u64::MAX, number: 3 };
        let body = Body::Vote {
            is_pre: true,
            is_handover: false,
            last: LogPosition { term: 1, index: 7 },
            commit: LogPosition { term: 1, index: 6 },
        };
        let command = |is_conf_change| ForwardedCommand {
            encoded: Bytes::from_static(b"put"),
            is_conf_change,
        };
        let found = LeaseTimeToLive {
            granted_ttl: 60,
            remaining_ttl: -1,
            keys: vec![Bytes::from_static(b"a"), Bytes::new()],
        };
        vec![
            PeerMessage::Raft(Message { from: 1, to: 2, term: 3, body }),
            PeerMessage::Forward(Forward {
                term: 7,
                boot: 1 << 63,
                number: 9,
                commands: vec![command(false), command(true)],
            }),
            PeerMessage::Refused { boot: 5, sequences: vec![0, 300] },
            PeerMessage::Request(name, PeerRequest::Renew(LeaseId(-4))),
            PeerMessage::Request(name, PeerRequest::TimeToLive(LeaseId(4), None)),
            PeerMessage::Request(name, PeerRequest::TimeToLive(LeaseId(4), Some("k".into()))),
            PeerMessage::Response(name, PeerResponse::Renewal(Renewal::Renewed { ttl: 9 })),
            PeerMessage::Response(name, PeerResponse::Renewal(Renewal::Gone)),
            PeerMessage::Response(name, PeerResponse::Renewal(Renewal::NotPrimary)),
            PeerMessage::Response(name, PeerResponse::TimeToLive(None)),
            PeerMessage::Response(name, PeerResponse::TimeToLive(Some(found))),
            PeerMessage::Request(name, PeerRequest::Replicated),
            PeerMessage::Response(name, PeerResponse::Replicated(Vec::new())),
            PeerMessage::Response(name, PeerResponse::Replicated(vec![(MemberId(7), 300)])),
            PeerMessage::Digest(Digest { since: 1, index: 300, value: u64::MAX }),
            PeerMessage::Request(name, PeerRequest::HashKv(-1)),
            PeerMessage::Response(
                name,
                PeerResponse::HashKv(PeerHash::Hashed {
                    hash: HashKv { hash: u32::MAX, compact_revision: -1, revision: 300 },
                    revision: 301,
                }),
            ),
            PeerMessage::Response(name, PeerResponse::HashKv(PeerHash::Compacted)),
            PeerMessage::Response(name, PeerResponse::HashKv(PeerHash::Future)),
            PeerMessage::Response(name, PeerResponse::HashKv(PeerHash::Failed)),
        ]
    }

    #[test]
    fn a_message_comes_back_whole_and_is_refused_cut_short() {
        for message in messages() {
            let encoded = message.encode();
            for cut in 0..encoded.len() {
                PeerMessage::decode(encoded.slice(..cut)).unwrap_err();
            }
            let mut longer = encoded.to_vec();
            longer.push(0);
            PeerMessage::decode(longer.into()).unwrap_err();
            assert_eq!(PeerMessage::decode(encoded), Ok(message));
        }
    }

    #[test]
    fn changed_bytes_never_panic_and_counts_are_bounded() {
        for message in messages() {
            let encoded = message.encode();
            for (position, bit) in (0..encoded.len()).flat_map(|at| (0..8).map(move |b| (at, b))) {
                let mut changed = encoded.to_vec();
                changed[position] ^= 1 << bit;
                let _read = PeerMessage::decode(changed.into());
            }
        }
        let many = Bytes::from_static(&[FORMAT, tag::REFUSED, 1, 0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert_eq!(PeerMessage::decode(many), Err(Malformed::Length));
    }
}
