//! Read contexts: the name by which the answer to a ReadIndex finds the member that asked.
//!
//! A leader keeps the reads of all members in one table by context, and drops the second of two
//! equal ones without a word. An answer may also come late, after its member has started again.
//! Therefore a context on the wire names the member, this start of it, and the read:
//!
//! ```text
//! member id (8 bytes) | boot id (8, random) | number of the read (8), all big-endian
//! ```
//!
//! The driver sees only the number.

/// Bytes of a context.
const LEN: usize = 24;

/// The contexts of one start of one member.
#[derive(Debug)]
pub(super) struct ReadContexts {
    prefix: [u8; 16],
    last: u64,
}

impl ReadContexts {
    pub(super) fn new(member: u64, boot: u64) -> Self {
        let prefix = (u128::from(member) << 64 | u128::from(boot)).to_be_bytes();
        Self { prefix, last: 0 }
    }

    /// The number of a new read.
    pub(super) fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The context of a read, as it travels.
    pub(super) fn encode(&self, number: u64) -> Vec<u8> {
        let mut context = Vec::with_capacity(LEN);
        context.extend_from_slice(&self.prefix);
        context.extend_from_slice(&number.to_be_bytes());
        context
    }

    /// The number of the read that a context names; none if this start of this member did not
    /// ask for it. The bytes come from a peer.
    pub(super) fn decode(&self, context: &[u8]) -> Option<u64> {
        let number = context.strip_prefix(&self.prefix)?;
        let number = u64::from_be_bytes(number.try_into().ok()?);
        (1..=self.last).contains(&number).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_recognised() {
        let mut ours = ReadContexts::new(7, 1);
        let number = ours.next();
        let context = ours.encode(number);
        assert_eq!(context.len(), LEN);
        assert_eq!(ours.decode(&context), Some(number));
        assert_eq!(ours.decode(&ours.encode(number + 1)), None, "not asked for yet");
        assert_eq!(ReadContexts::new(8, 1).decode(&context), None, "another member");
        assert_eq!(ReadContexts::new(7, 2).decode(&context), None, "another start");
        assert_eq!(ours.decode(&context[..23]), None, "cut short");
    }
}
