//! The envelope: a log entry's content, which is a command and its origin.
//!
//! The proposing member finds the waiting request by the [`Origin`] of an entry, not by its index:
//! after a change of leaders another entry may have that index, or this one another.
//! `docs/formats/command.md` has the layout.

use bytes::Bytes;
use keepd_types::{MemberId, Term, varint};

use crate::codec::{CommandError, Reader, Writer};
use crate::command::Command;

/// The format of entries written before they had an envelope.
const BARE_FORMAT: u8 = 1;
/// The first byte of every entry: its format version.
const FORMAT_VERSION: u8 = 2;

/// Identity of a proposal: no two proposals ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The proposing member.
    pub member: MemberId,
    /// Drawn at random at each start of the member: sequence numbers begin anew then.
    pub boot: u64,
    /// Number of the proposal since that start.
    pub sequence: u64,
}

impl Origin {
    /// Reads the origin of an entry and nothing else; `None` if it has none or is not readable.
    #[must_use]
    pub fn peek(entry: &Bytes) -> Option<Self> {
        let mut r = Reader::new(entry.clone());
        if r.u8() != Ok(FORMAT_VERSION) {
            return None;
        }
        Self::read(&mut r).ok()
    }

    fn read(r: &mut Reader) -> Result<Self, CommandError> {
        let (member, boot) = (MemberId(r.u64_fixed()?), r.u64_fixed()?);
        Ok(Self { member, boot, sequence: r.u64()? })
    }
}

/// Content of a log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The proposal that it comes from; `None` in entries of format 1.
    pub origin: Option<Origin>,
    /// Term in which a leader decided this by itself. Some of these commands are void in an entry
    /// of another term ([`Command::is_void`]).
    pub decided_in: Option<Term>,
    /// The command.
    pub command: Command,
}

impl Envelope {
    /// The encoding that enters the log.
    ///
    /// # Panics
    /// Without an origin: only the log's past has entries that lack one.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let origin = self.origin.expect("a proposal has an origin");
        let mut w = Writer::with_capacity(96 + self.command.size_hint());
        w.u8(FORMAT_VERSION);
        w.u64_fixed(origin.member.0);
        w.u64_fixed(origin.boot);
        w.u64(origin.sequence);
        w.u64(self.decided_in.map_or(0, |term| term.0));
        assert!(self.decided_in.is_none_or(|term| term.0 > 0), "term 0 has no leader");
        self.command.write(&mut w);
        w.finish()
    }

    /// Bytes of the encoding that are not the command's: no client is charged for them.
    #[must_use]
    pub fn header_len(&self) -> usize {
        let sequence = self.origin.map_or(0, |origin| origin.sequence);
        let term = self.decided_in.map_or(0, |term| term.0);
        2 * size_of::<u64>() + varint::len_u64(sequence) + varint::len_u64(term)
    }

    /// Reads an entry of the log.
    ///
    /// # Errors
    /// If the bytes are not an entry this version knows.
    pub fn decode(entry: Bytes) -> Result<Self, CommandError> {
        let mut r = Reader::new(entry);
        let (origin, decided_in) = match r.u8()? {
            BARE_FORMAT => (None, None),
            FORMAT_VERSION => {
                let origin = Origin::read(&mut r)?;
                (Some(origin), Some(Term(r.u64()?)).filter(|term| term.0 != 0))
            }
            value => return Err(CommandError::Unknown { what: "format version", value }),
        };
        let command = Command::read(&mut r)?;
        r.finish()?;
        Ok(Self { origin, decided_in, command })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            origin: Some(Origin { member: MemberId(u64::MAX), boot: 1 << 60, sequence: 300 }),
            decided_in: Some(Term(7)),
            command: Command::Compact { revision: 5 },
        }
    }

    #[test]
    fn an_entry_comes_back_and_tells_its_origin_alone() {
        let by_leader = envelope();
        let by_client = Envelope { decided_in: None, ..envelope() };
        for envelope in [by_leader, by_client] {
            let encoded = envelope.encode();
            assert_eq!(Origin::peek(&encoded), envelope.origin);
            assert_eq!(encoded.len() - envelope.header_len(), 3, "format, tag and revision");
            for cut in 0..encoded.len() {
                let cut = encoded.slice(..cut);
                assert!(Envelope::decode(cut).is_err());
            }
            assert_eq!(Envelope::decode(encoded), Ok(envelope));
        }
    }

    #[test]
    fn entries_of_before_have_no_origin_and_later_formats_are_refused() {
        let entry = Bytes::from_static(&[1, 4, 10]);
        assert_eq!(Origin::peek(&entry), None);
        let command = Command::Compact { revision: 5 };
        assert_eq!(
            Envelope::decode(entry),
            Ok(Envelope { origin: None, decided_in: None, command })
        );
        let unknown = CommandError::Unknown { what: "format version", value: 3 };
        assert_eq!(Envelope::decode(Bytes::from_static(&[3, 4, 10])), Err(unknown));
        assert_eq!(Origin::peek(&Bytes::new()), None);
    }
}
