//! The sidecar of a backup: JSON that tells what the object is without opening it.
//!
//! It is plain and proves nothing by itself: whoever restores compares the object with it, and what was
//! opened with the object.

use std::collections::BTreeMap;

use keepd_backup::LogPosition;
use keepd_mvcc::HashKv;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::name::{Kind, Name};
use crate::{Error, Moment};

/// The format that is written; others are refused.
pub const FORMAT: u32 = 1;
/// BOUND: bytes of a sidecar that is read.
pub const BYTES_MAX: usize = 256 << 10;
/// BOUND: fields of another program that are kept.
const UNKNOWN_MAX: usize = 64;

/// The facts of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sidecar {
    /// The format of backup and sidecar.
    pub format: u32,
    /// The object's name.
    pub object: String,
    /// The object's size.
    pub bytes: u64,
    /// The object's SHA-256, in hexadecimal.
    pub sha256: String,
    /// The cluster's id, in hexadecimal.
    pub cluster_id: String,
    /// The member that the state was read from.
    pub member: MemberFacts,
    /// The moment that the backup was begun.
    pub time: Moment,
    /// The one that asked for it.
    pub kind: Kind,
    /// The program that made it.
    pub made_by: String,
    /// The state.
    pub state: StateFacts,
    /// The keys of which any one opens it; empty if it is plain.
    pub opened_by: Vec<String>,
    /// The last proof that it restores; none if there never was one.
    pub proven: Option<Proven>,
    /// Fields that this program does not know, kept when it is written again.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// The member that a backup was taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberFacts {
    /// Its id, in hexadecimal.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// The state in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateFacts {
    /// Its revision.
    pub revision: i64,
    /// The revision up to which it is compacted; 0 if it never was.
    pub compact_revision: i64,
    /// The number of live keys.
    pub keys: u64,
    /// The number of sealed values.
    pub sealed_values: u64,
    /// The bytes of etcd's snapshot, once opened and decompressed.
    pub snapshot_bytes: u64,
    /// The member's `HashKV` at this revision.
    pub hash_kv: Option<HashFacts>,
    /// The place in the cluster's log; none if the member is etcd's, or of a keepd that told none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogFacts>,
}

/// A place in the cluster's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFacts {
    /// The last entry that was applied.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The entry after which the running digest begins.
    pub since: u64,
    /// The running digest.
    #[serde(with = "hex")]
    pub digest: u64,
}

impl From<LogPosition> for LogFacts {
    fn from(LogPosition { index, term, since, digest }: LogPosition) -> Self {
        Self { index, term, since, digest }
    }
}

impl From<LogFacts> for LogPosition {
    fn from(LogFacts { index, term, since, digest }: LogFacts) -> Self {
        Self { index, term, since, digest }
    }
}

/// Numbers that JSON's readers would round, as 16 hexadecimal digits.
pub(crate) mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(number: &u64, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&format_args!("{number:016x}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        let number = u64::from_str_radix(&text, 16).ok();
        let number = number.filter(|number| format!("{number:016x}") == text);
        number.ok_or_else(|| serde::de::Error::custom("not 16 hexadecimal digits"))
    }
}

/// A member's answer to `HashKV`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashFacts {
    /// The hash.
    pub hash: u32,
    /// The revision that it is of.
    pub revision: i64,
    /// The compaction that the member had carried out.
    pub compact_revision: i64,
}

impl From<HashKv> for HashFacts {
    fn from(HashKv { hash, revision, compact_revision }: HashKv) -> Self {
        // A store that was never compacted says -1.
        Self { hash, revision, compact_revision: compact_revision.max(0) }
    }
}

/// A proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proven {
    /// The moment that it ended.
    pub time: Moment,
    /// The host that it was on.
    pub by: String,
    /// Its length.
    pub millis: u64,
    /// Whether it was opened with a key that an operator has, and not with the key in the memory of
    /// the process that had just sealed it.
    pub with_operators_key: bool,
}

impl Sidecar {
    /// The JSON, for people too.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("facts can be told in JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Reads the sidecar of the object `name` of a cluster.
    ///
    /// # Errors
    /// If it is malformed, of another format, or of another object.
    pub fn decode(cluster: u64, name: &Name, bytes: &[u8]) -> Result<Self, Error> {
        let fault = |reason: String| Error::Sidecar { name: name.to_string(), reason };
        if bytes.len() > BYTES_MAX {
            return Err(fault(format!("it is longer than {BYTES_MAX} bytes")));
        }
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| fault(error.to_string()))?;
        let format = value.get("format").and_then(Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            let found = format.map_or_else(|| "none".to_owned(), |format| format.to_string());
            return Err(fault(format!(
                "its format is {found}, and this program reads {FORMAT}: use the program that made \
                 the backup, or a newer one"
            )));
        }
        let sidecar: Self = serde_json::from_value(value).map_err(|it| fault(it.to_string()))?;
        sidecar.check(cluster, name).map_err(|reason| fault(reason.to_owned()))?;
        Ok(sidecar)
    }

    fn check(&self, cluster: u64, name: &Name) -> Result<(), &'static str> {
        let is_digest = self.sha256.len() == 64
            && self.sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let state = &self.state;
        let checks = [
            (self.unknown.len() <= UNKNOWN_MAX, "it has too many unknown fields"),
            (is_digest, "its sha256 is none"),
            (self.object == name.to_string(), "it is of another object"),
            (self.cluster_id == format!("{cluster:016x}"), "it is of another cluster"),
            (self.time == name.time && self.kind == name.kind, "it contradicts the name"),
            (state.revision == name.revision, "its revision is not the one of the name"),
            (self.opened_by.is_empty() != name.is_sealed, "it contradicts the name on the sealing"),
            (
                (0..=state.revision).contains(&state.compact_revision),
                "its compaction lies behind its revision",
            ),
        ];
        checks.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, reason)| Err(reason))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn example() -> (u64, Name, Sidecar) {
        let name = Name {
            time: "2026-11-28T00:53:36.123Z".parse().unwrap(),
            revision: 118_206,
            kind: Kind::OnDemand,
            is_sealed: true,
        };
        let sidecar = Sidecar {
            format: FORMAT,
            object: name.to_string(),
            bytes: 4096,
            sha256: "0f".repeat(32),
            cluster_id: format!("{:016x}", 0xaa),
            member: MemberFacts { id: format!("{:016x}", 7), name: "one".to_owned() },
            time: name.time,
            kind: name.kind,
            made_by: "keepd 0.1.0".to_owned(),
            state: StateFacts {
                revision: name.revision,
                compact_revision: 100,
                keys: 3,
                sealed_values: 1,
                snapshot_bytes: 65_568,
                hash_kv: Some(HashFacts { hash: 1, revision: 118_206, compact_revision: 100 }),
                log: Some(LogFacts { index: 200_000, term: 3, since: 1, digest: u64::MAX }),
            },
            opened_by: vec!["secretbox:key1 (id 00000000000000aa)".to_owned()],
            proven: Some(Proven {
                time: name.time,
                by: "host".to_owned(),
                millis: 20,
                with_operators_key: true,
            }),
            unknown: BTreeMap::new(),
        };
        (0xaa, name, sidecar)
    }

    fn refused(bytes: &[u8]) -> String {
        let (cluster, name, _) = example();
        Sidecar::decode(cluster, &name, bytes).unwrap_err().to_string()
    }

    #[test]
    fn it_comes_back_and_keeps_what_it_does_not_know() {
        let (cluster, name, sidecar) = example();
        assert_eq!(Sidecar::decode(cluster, &name, &sidecar.encode()).unwrap(), sidecar);
        let mut value: Value = serde_json::from_slice(&sidecar.encode()).unwrap();
        value["labels"] = serde_json::json!({"site": "north"});
        let bytes = serde_json::to_vec(&value).unwrap();
        let read = Sidecar::decode(cluster, &name, &bytes).unwrap();
        let again: Value = serde_json::from_slice(&read.encode()).unwrap();
        assert_eq!(again, value);
    }

    #[test]
    fn each_contradiction_is_named() {
        let (_, _, sidecar) = example();
        let value: Value = serde_json::from_slice(&sidecar.encode()).unwrap();
        for (path, wrong, reason) in [
            ("/format", serde_json::json!(2), "its format is 2, and this program reads 1"),
            ("/format", serde_json::json!("1"), "its format is none"),
            ("/object", serde_json::json!("x"), "it is of another object"),
            ("/cluster_id", serde_json::json!("00000000000000ab"), "it is of another cluster"),
            ("/sha256", serde_json::json!("0F"), "its sha256 is none"),
            ("/opened_by", serde_json::json!([]), "on the sealing"),
            ("/state/revision", serde_json::json!(5), "its revision is not the one of the name"),
            ("/state/compact_revision", serde_json::json!(-1), "its compaction lies behind"),
            ("/state/keys", serde_json::json!(-1), "invalid value"),
            ("/kind", serde_json::json!("scheduled"), "it contradicts the name"),
            ("/time", serde_json::json!("yesterday"), "premature end"),
        ] {
            let mut changed = value.clone();
            *changed.pointer_mut(path).unwrap() = wrong;
            let error = refused(&serde_json::to_vec(&changed).unwrap());
            assert!(error.contains(reason), "{path}: {error}");
        }
        let mut changed = value;
        changed["state"]["more"] = Value::Null;
        assert!(refused(&serde_json::to_vec(&changed).unwrap()).contains("unknown field `more`"));
        assert!(refused(&vec![b' '; BYTES_MAX + 1]).contains("longer than"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let (cluster, name, _) = example();
            prop_assert!(Sidecar::decode(cluster, &name, &bytes).is_err());
        }
    }
}
