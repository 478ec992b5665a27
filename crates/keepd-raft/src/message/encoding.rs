//! Bytes of messages: `docs/formats/raft-message.md`.

use bytes::Bytes;
use keepd_types::{Entry, EntryKind, varint};
use thiserror::Error;

use super::{Body, Known, LogPosition, Message, ReadRequest, Round, SnapshotMeta, Started};
use crate::conf_change::{ConfChange, ConfState};

/// The format that is written.
const FORMAT: u8 = 1;
/// The highest term and index that a peer may send: far from the end of the numbers, so that
/// counting on from there never overflows.
const NUMBER_MAX: u64 = 1 << 62;
/// BOUND: members in one list of a configuration.
const MEMBERS_MAX: u64 = 1024;
/// The fewest bytes of an entry: term, kind, length.
const ENTRY_BYTES_MIN: usize = 3;

/// Bytes from a peer that are no message, or one with a field that no member sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed message: {0}")]
pub struct MalformedMessage(pub(crate) &'static str);

type Read<T> = Result<T, MalformedMessage>;

impl Message {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Writer(vec![FORMAT, tag(&self.body)]);
        out.numbers([self.from, self.to, self.term]);
        match &self.body {
            Body::Append { previous, commit, entries } => {
                out.position(*previous);
                out.numbers([*commit, entries.len() as u64]);
                for entry in entries {
                    out.numbers([entry.term]);
                    out.0.push(entry.kind.number());
                    out.numbers([entry.data.len() as u64]);
                    out.0.extend_from_slice(&entry.data);
                }
            }
            Body::Appended { index, commit } => out.numbers([*index, *commit]),
            Body::AppendRejected { index, commit, hint } => {
                out.numbers([*index, *commit]);
                out.position(*hint);
            }
            Body::Heartbeat { commit, round } | Body::HeartbeatResponse { commit, round } => {
                out.numbers([*commit]);
                let Round { term, number } = round.unwrap_or(Round { term: 0, number: 0 });
                out.numbers([term, number]);
            }
            Body::Vote { is_handover, last, commit, .. } => {
                out.0.push(u8::from(*is_handover));
                out.position(*last);
                out.position(*commit);
            }
            Body::VoteResponse { is_granted, commit, .. } => {
                out.0.push(u8::from(*is_granted));
                out.position(*commit);
            }
            Body::Snapshot(meta) => out.snapshot(meta),
            Body::TimeoutNow => {}
            Body::ReadIndex(request) => out.request(*request),
            Body::ReadIndexResponse { request, index } => {
                out.request(*request);
                out.numbers([*index]);
            }
            Body::Started(Started { boot, term, vote, last }) => {
                out.boot(*boot);
                out.numbers([*term, *vote, *last]);
            }
            Body::Known(Known { boot, needed, last, applied, voters }) => {
                out.boot(*boot);
                let (term, index) = needed.unwrap_or((0, 0));
                out.numbers([term, index]);
                out.position(*last);
                out.numbers([*applied]);
                out.list(voters);
            }
        }
        out.0.into()
    }

    /// Reads a message and checks each of its fields. Entries share the memory of the bytes.
    ///
    /// # Errors
    /// If no member sends such bytes.
    pub fn decode(bytes: &Bytes) -> Read<Self> {
        let mut reader = Reader { all: bytes, rest: bytes };
        if reader.byte()? != FORMAT {
            return Err(MalformedMessage("unknown format"));
        }
        let tag = reader.byte()?;
        let (from, to, term) = (reader.id()?, reader.id()?, reader.number()?);
        let body = reader.body(tag)?;
        if !reader.rest.is_empty() {
            return Err(MalformedMessage("bytes are left over"));
        }
        let message = Self { from, to, term, body };
        message.check()?;
        Ok(message)
    }

    /// Checks the fields against each other. A message that is handed to the core as a value may
    /// come from anywhere, so it checks again.
    pub(crate) fn check(&self) -> Read<()> {
        let wrong = |what| Err(MalformedMessage(what));
        if self.from == self.to || self.from == 0 || self.to == 0 {
            return wrong("sender and receiver");
        }
        let is_number = |number: u64| number <= NUMBER_MAX;
        let is_position = |at: LogPosition| {
            (at.index == 0) == (at.term == 0) && at.term <= self.term && is_number(at.index)
        };
        // Nobody has heard of a term 0.
        if self.term == 0 || !is_number(self.term) {
            return wrong("term");
        }
        let fits = match &self.body {
            Body::Append { previous, commit, entries } => {
                if !is_position(*previous) {
                    return wrong("a number is out of range");
                }
                check_entries(*previous, self.term, entries)?;
                is_number(*commit)
            }
            Body::Appended { index, commit } => is_number(*index) && is_number(*commit),
            // A follower that probes into its own log may be ahead in terms.
            Body::AppendRejected { index, commit, hint } => {
                is_number(*index) && is_number(*commit) && is_number(hint.index.max(hint.term))
            }
            Body::Heartbeat { commit, round } | Body::HeartbeatResponse { commit, round } => {
                is_number(*commit)
                    && round.is_none_or(|round| (1..=self.term).contains(&round.term))
            }
            Body::Vote { last, commit, .. } => is_position(*last) && is_number(commit.index),
            Body::VoteResponse { commit, .. } => is_number(commit.index),
            Body::Snapshot(meta) => {
                is_position(meta.last) && meta.last.index > 0 && meta.conf_state.is_sound()
            }
            Body::ReadIndexResponse { index, .. } => is_number(*index),
            Body::Started(Started { term, last, .. }) => *term <= self.term && is_number(*last),
            Body::Known(Known { needed, last, applied, voters, .. }) => {
                let (term, index) = needed.unwrap_or((1, 0));
                let is_needed = term > 0 && is_number(term) && is_number(index);
                let is_list = voters.len() as u64 <= MEMBERS_MAX && !voters.contains(&0);
                is_needed && is_list && is_position(*last) && is_number(*applied)
            }
            Body::TimeoutNow | Body::ReadIndex(_) => true,
        };
        if fits { Ok(()) } else { wrong("a number is out of range") }
    }
}

/// Checks that entries follow each other without a gap, in terms that do not fall, and that changes
/// of the configuration can be read.
fn check_entries(previous: LogPosition, term: u64, entries: &[Entry]) -> Read<()> {
    let mut before = previous;
    for entry in entries {
        let follows = entry.index == before.index + 1 && entry.index <= NUMBER_MAX;
        if !follows || entry.term < before.term.max(1) || entry.term > term {
            return Err(MalformedMessage("entries do not follow each other"));
        }
        let is_readable = match entry.kind {
            EntryKind::Normal => true,
            EntryKind::ConfChange => false,
            EntryKind::ConfChangeV2 => ConfChange::decode(&entry.data).is_ok(),
        };
        if !is_readable {
            return Err(MalformedMessage("unreadable change of the configuration"));
        }
        before = LogPosition { term: entry.term, index: entry.index };
    }
    Ok(())
}

const fn tag(body: &Body) -> u8 {
    match body {
        Body::Append { .. } => 1,
        Body::Appended { .. } => 2,
        Body::AppendRejected { .. } => 3,
        Body::Heartbeat { .. } => 4,
        Body::HeartbeatResponse { .. } => 5,
        Body::Vote { is_pre: true, .. } => 6,
        Body::Vote { is_pre: false, .. } => 7,
        Body::VoteResponse { is_pre: true, .. } => 8,
        Body::VoteResponse { is_pre: false, .. } => 9,
        Body::Snapshot(_) => 10,
        Body::TimeoutNow => 11,
        Body::ReadIndex(_) => 12,
        Body::ReadIndexResponse { .. } => 13,
        Body::Started(_) => 14,
        Body::Known(_) => 15,
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn numbers<const N: usize>(&mut self, numbers: [u64; N]) {
        for number in numbers {
            varint::write_u64(number, &mut self.0);
        }
    }

    fn position(&mut self, at: LogPosition) {
        self.numbers([at.term, at.index]);
    }

    fn boot(&mut self, boot: u64) {
        self.0.extend_from_slice(&boot.to_be_bytes());
    }

    fn request(&mut self, request: ReadRequest) {
        self.boot(request.boot);
        self.numbers([request.number]);
    }

    fn list(&mut self, ids: &[u64]) {
        self.numbers([ids.len() as u64]);
        for id in ids {
            self.numbers([*id]);
        }
    }

    fn snapshot(&mut self, meta: &SnapshotMeta) {
        let ConfState { voters, learners, voters_outgoing, learners_next, auto_leave } =
            &meta.conf_state;
        self.position(meta.last);
        self.0.push(u8::from(*auto_leave));
        for list in [voters, learners, voters_outgoing, learners_next] {
            self.list(list);
        }
    }
}

struct Reader<'a> {
    all: &'a Bytes,
    rest: &'a [u8],
}

impl Reader<'_> {
    fn body(&mut self, tag: u8) -> Read<Body> {
        Ok(match tag {
            1 => {
                let (previous, commit) = (self.position()?, self.number()?);
                Body::Append { previous, commit, entries: self.entries(previous)? }
            }
            2 => Body::Appended { index: self.number()?, commit: self.number()? },
            3 => Body::AppendRejected {
                index: self.number()?,
                commit: self.number()?,
                hint: self.position()?,
            },
            4 => Body::Heartbeat { commit: self.number()?, round: self.round()? },
            5 => Body::HeartbeatResponse { commit: self.number()?, round: self.round()? },
            6 | 7 => Body::Vote {
                is_pre: tag == 6,
                is_handover: self.flag()?,
                last: self.position()?,
                commit: self.position()?,
            },
            8 | 9 => Body::VoteResponse {
                is_pre: tag == 8,
                is_granted: self.flag()?,
                commit: self.position()?,
            },
            10 => Body::Snapshot(self.snapshot()?),
            11 => Body::TimeoutNow,
            12 => Body::ReadIndex(self.request()?),
            13 => Body::ReadIndexResponse { request: self.request()?, index: self.number()? },
            14 => Body::Started(Started {
                boot: self.boot()?,
                term: self.number()?,
                vote: self.any()?,
                last: self.number()?,
            }),
            15 => Body::Known(self.known()?),
            _ => return Err(MalformedMessage("unknown kind")),
        })
    }

    fn take(&mut self, count: usize) -> Read<&[u8]> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or(MalformedMessage("it is cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Read<u8> {
        Ok(self.take(1)?[0])
    }

    fn flag(&mut self) -> Read<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(MalformedMessage("a flag is neither 0 nor 1")),
        }
    }

    fn any(&mut self) -> Read<u64> {
        varint::read_u64(&mut self.rest).ok_or(MalformedMessage("it is cut short"))
    }

    fn number(&mut self) -> Read<u64> {
        self.any().and_then(|number| {
            let is_in_range = number <= NUMBER_MAX;
            is_in_range.then_some(number).ok_or(MalformedMessage("a number is out of range"))
        })
    }

    fn id(&mut self) -> Read<u64> {
        let id = self.any()?;
        if id == 0 { Err(MalformedMessage("a member is 0")) } else { Ok(id) }
    }

    fn position(&mut self) -> Read<LogPosition> {
        Ok(LogPosition { term: self.number()?, index: self.number()? })
    }

    fn round(&mut self) -> Read<Option<Round>> {
        let (term, number) = (self.number()?, self.any()?);
        match (term, number) {
            (0, 0) => Ok(None),
            (0, _) => Err(MalformedMessage("a round has no term")),
            _ => Ok(Some(Round { term, number })),
        }
    }

    fn boot(&mut self) -> Read<u64> {
        let boot = self.take(8)?.try_into().expect("eight bytes were taken");
        Ok(u64::from_be_bytes(boot))
    }

    fn request(&mut self) -> Read<ReadRequest> {
        Ok(ReadRequest { boot: self.boot()?, number: self.any()? })
    }

    fn known(&mut self) -> Read<Known> {
        let (boot, needed) = (self.boot()?, (self.number()?, self.number()?));
        let needed = match needed {
            (0, 0) => None,
            (0, _) => return Err(MalformedMessage("an index is needed in no term")),
            needed => Some(needed),
        };
        let (last, applied) = (self.position()?, self.number()?);
        Ok(Known { boot, needed, last, applied, voters: self.list()? })
    }

    fn list(&mut self) -> Read<Vec<u64>> {
        let count = self.number()?;
        if count > MEMBERS_MAX {
            return Err(MalformedMessage("too many members"));
        }
        (0..count).map(|_| self.id()).collect()
    }

    fn entries(&mut self, previous: LogPosition) -> Read<Vec<Entry>> {
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if count > self.rest.len() / ENTRY_BYTES_MIN {
            return Err(MalformedMessage("it is cut short"));
        }
        let mut entries = Vec::with_capacity(count);
        for index in (previous.index + 1..).take(count) {
            let term = self.number()?;
            let kind = EntryKind::from_number(self.byte()?)
                .ok_or(MalformedMessage("an entry has an unknown kind"))?;
            let len = usize::try_from(self.number()?).unwrap_or(usize::MAX);
            let all = self.all;
            let data = all.slice_ref(self.take(len)?);
            entries.push(Entry { index, term, kind, data });
        }
        Ok(entries)
    }

    fn snapshot(&mut self) -> Read<SnapshotMeta> {
        let (last, auto_leave) = (self.position()?, self.flag()?);
        let (voters, learners) = (self.list()?, self.list()?);
        let (voters_outgoing, learners_next) = (self.list()?, self.list()?);
        let conf_state = ConfState { voters, learners, voters_outgoing, learners_next, auto_leave };
        Ok(SnapshotMeta { last, conf_state })
    }
}

#[cfg(test)]
mod tests;
