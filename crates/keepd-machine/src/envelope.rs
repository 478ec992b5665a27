//! The envelope: a command with where it comes from, which is what an entry of the log holds.
//!
//! The proposing member finds who waits for an entry by its [`Origin`], not by its place in the log:
//! after a change of leaders another entry may stand in that place, or this one in another.
//! `docs/formats/command.md` has the layout.

use bytes::Bytes;
use keepd_types::{MemberId, Term, varint};

use crate::codec::{Reader, Writer};
use crate::command::{Command, CommandError};

/// The format of entries written before they had an envelope.
const BARE_FORMAT: u8 = 1;
/// The first byte of every entry: its format version.
const FORMAT_VERSION: u8 = 2;

/// Who proposed a command: no two proposals ever have the same origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The proposing member.
    pub member: MemberId,
    /// Drawn by that member at each start, so that a number is not mistaken for one of an earlier life.
    pub boot: u64,
    /// Counts the proposals of that life.
    pub sequence: u64,
}

impl Origin {
    /// Reads no more of an entry than this; `None` if it has none or is not readable.
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

/// What an entry of the log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Who proposed it; `None` in entries of format 1.
    pub origin: Option<Origin>,
    /// For what a leader decides by itself: the term that it led in. Some of these commands are void
    /// in an entry of another term ([`Command::is_void`]).
    pub decided_in: Option<Term>,
    /// What to do.
    pub command: Command,
}

impl Envelope {
    /// The encoding that enters the log.
    ///
    /// # Panics
    /// Without an origin: only the log's past has entries that lack one.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let origin = self.origin.expect("whoever proposes says who it is");
        let mut w = Writer::with_capacity(96 + self.command.size_hint());
        w.u8(FORMAT_VERSION);
        w.u64_fixed(origin.member.0);
        w.u64_fixed(origin.boot);
        w.u64(origin.sequence);
        w.u64(self.decided_in.map_or(0, |term| term.0));
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
