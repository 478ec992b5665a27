//! The names and entries of etcd's buckets, and of the one that keepd adds.
//! Layout: `docs/formats/snapshot.md`.

use bytes::Bytes;
use keepd_crypto::{BINDING_LEN, ValueSealer};
use keepd_types::{KeyId, MemberId, Revision, varint};
use sha2::{Digest, Sha256};

pub(crate) const ALARM: &[u8] = b"alarm";
pub(crate) const AUTH: &[u8] = b"auth";
pub(crate) const AUTH_ROLES: &[u8] = b"authRoles";
pub(crate) const AUTH_USERS: &[u8] = b"authUsers";
pub(crate) const CLUSTER: &[u8] = b"cluster";
pub(crate) const KEY: &[u8] = b"key";
pub(crate) const LEASE: &[u8] = b"lease";
pub(crate) const MEMBERS: &[u8] = b"members";
pub(crate) const MEMBERS_REMOVED: &[u8] = b"members_removed";
pub(crate) const META: &[u8] = b"meta";
/// keepd's own: which values are ciphertext. Sorts after etcd's ten, so that its size is known
/// once the records have been counted.
pub(crate) const SEALED: &[u8] = b"sealed_by_keepd";

/// keepd's own: what a log behind this state needs to be applied. Sorts last.
pub(crate) const STATE: &[u8] = b"state_by_keepd";

/// The entry of [`STATE`] with the [`LogPosition`].
pub(crate) const POSITION: &[u8] = b"position";
/// Begin of the entries of [`STATE`] with keepd's facts about the cluster; the name there follows.
pub(crate) const CLUSTER_FACT: &[u8] = b"cluster/";

pub(crate) const AUTH_ENABLED: &[u8] = b"authEnabled";
pub(crate) const CLUSTER_VERSION: &[u8] = b"clusterVersion";
pub(crate) const DOWNGRADE: &[u8] = b"downgrade";
pub(crate) const CONF_STATE: &[u8] = b"confState";
pub(crate) const CONSISTENT_INDEX: &[u8] = b"consistent_index";
pub(crate) const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";
pub(crate) const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";
pub(crate) const STORAGE_VERSION: &[u8] = b"storageVersion";
pub(crate) const TERM: &[u8] = b"term";

/// The length of the SHA-256 after the bbolt image.
pub(crate) const TRAILER_LEN: u64 = 32;
/// A file with a trailer has this length modulo 512, for pages are multiples of 512 bytes.
pub(crate) const TRAILER_MODULUS: u64 = 512;

/// A record's key in the bucket of records.
pub(crate) fn record_key(revision: Revision, tombstone: bool) -> Bytes {
    let (bytes, len) = revision.to_bytes(tombstone);
    Bytes::copy_from_slice(bytes.get(..len).unwrap_or(&bytes))
}

/// The place of a snapshot in the log: its last entry, and the running digest of all up to there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// The index of the last entry that was applied.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The index after which the digest begins.
    pub since: u64,
    /// The digest.
    pub digest: u64,
}

impl LogPosition {
    /// The place of a view.
    #[must_use]
    pub fn of(view: &keepd_mvcc::View) -> Self {
        let (applied, digest) = (view.applied(), view.digest());
        let (index, term) = (applied.index, applied.term);
        Self { index, term, since: digest.since, digest: digest.value }
    }

    pub(crate) fn encode(self) -> Bytes {
        let words = [self.index, self.term, self.since, self.digest];
        words.into_iter().flat_map(u64::to_be_bytes).collect()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 32] = bytes.try_into().ok()?;
        let word = |at: usize| {
            bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_be_bytes)
        };
        Some(Self { index: word(0)?, term: word(8)?, since: word(16)?, digest: word(24)? })
    }
}

/// The length of [`SealEntry::encode`]'s output.
pub(crate) const SEAL_ENTRY_LEN: usize = 1 + 8 + 32;
/// A digest without a key, which anybody can make: read, but no longer written.
const SEAL_ENTRY_UNBOUND: u8 = 1;
const SEAL_ENTRY_BOUND: u8 = 2;

/// An entry of the bucket [`SEALED`]; its key is the record's.
///
/// Neither length nor checksum of the plaintext is told: the file may be read by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SealEntry {
    /// The key that opens the value.
    pub(crate) key_id: KeyId,
    pub(crate) proof: Proof,
}

/// That the mark is this record's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// SHA-256 of the record's bytes.
    Digest([u8; 32]),
    /// [`ValueSealer::bind`] of the record and its key in the bucket: key, revision and value were
    /// put together by who held the encryption key.
    Binding([u8; BINDING_LEN]),
}

impl SealEntry {
    /// The mark of a sealed record; none if the key is not held.
    pub(crate) fn of(
        sealer: &ValueSealer,
        key_id: KeyId,
        record_key: &[u8],
        record: &[u8],
    ) -> Option<Self> {
        let binding = sealer.bind(key_id, record_key, record)?;
        Some(Self { key_id, proof: Proof::Binding(binding) })
    }

    /// Whether it is the mark of this record.
    pub(crate) fn fits(&self, sealer: &ValueSealer, record_key: &[u8], record: &[u8]) -> bool {
        match &self.proof {
            Proof::Digest(digest) => Sha256::digest(record)[..] == digest[..],
            Proof::Binding(binding) => sealer.is_bound(self.key_id, record_key, record, binding),
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(SEAL_ENTRY_LEN);
        let (format, proof) = match &self.proof {
            Proof::Digest(digest) => (SEAL_ENTRY_UNBOUND, digest),
            Proof::Binding(binding) => (SEAL_ENTRY_BOUND, binding),
        };
        out.push(format);
        out.extend_from_slice(&self.key_id.0.to_be_bytes());
        out.extend_from_slice(proof);
        out.into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (format, rest) = bytes.split_first()?;
        let (key_id, rest) = rest.split_first_chunk()?;
        let proof = match *format {
            SEAL_ENTRY_UNBOUND => Proof::Digest(rest.try_into().ok()?),
            SEAL_ENTRY_BOUND => Proof::Binding(rest.try_into().ok()?),
            _ => return None,
        };
        Some(Self { key_id: KeyId(u64::from_be_bytes(*key_id)), proof })
    }
}

/// The key of a raised alarm: `etcdserverpb.AlarmMember` (1 member, 2 alarm).
pub(crate) fn encode_alarm(member: MemberId, alarm: u8) -> Bytes {
    let mut out = Vec::new();
    for (tag, number) in [(0x08, member.0), (0x10, u64::from(alarm))] {
        if number != 0 {
            out.push(tag);
            varint::write_u64(number, &mut out);
        }
    }
    out.into()
}

/// Reads a raised alarm.
pub(crate) fn decode_alarm(mut bytes: &[u8]) -> Option<(MemberId, u8)> {
    let (mut member, mut alarm) = (0, 0);
    while let Some((tag, rest)) = bytes.split_first() {
        bytes = rest;
        let number = varint::read_u64(&mut bytes)?;
        match tag {
            0x08 => member = number,
            0x10 => alarm = u8::try_from(number).ok()?,
            _ => return None,
        }
    }
    Some((MemberId(member), alarm))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_encoded_as_etcd_does() {
        let member = MemberId(7_682_480_421_167_246_171);
        let encoded = encode_alarm(member, 1);
        assert_eq!(
            encoded.as_ref(),
            [0x08, 0xdb, 0xd6, 0xc4, 0x8c, 0xd5, 0xe7, 0xe9, 0xce, 0x6a, 0x10, 0x01]
        );
        assert_eq!(decode_alarm(&encoded), Some((member, 1)));
        assert_eq!(decode_alarm(&[0x08]), None);
    }

    #[test]
    fn seal_entries_round_trip() {
        for proof in [Proof::Digest([1; 32]), Proof::Binding([2; 32])] {
            let entry = SealEntry { key_id: KeyId(7), proof };
            let encoded = entry.encode();
            assert_eq!(encoded.len(), SEAL_ENTRY_LEN);
            assert_eq!(SealEntry::decode(&encoded), Some(entry));
            assert_eq!(SealEntry::decode(&encoded[1..]), None);
            assert_eq!(SealEntry::decode(&[&[3], &encoded[1..]].concat()), None);
        }
    }
}
