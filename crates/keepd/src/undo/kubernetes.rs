//! The one thing that must be known of a Kubernetes object before it is put back: whether it was being
//! deleted already, so that its controllers would delete it again.

use prost::Message as _;

/// Begins objects that kube-apiserver wrote as protobuf.
const MAGIC: &[u8] = b"k8s\0";

/// `runtime.Unknown`, as far as it matters here.
#[derive(Clone, PartialEq, prost::Message)]
struct Unknown {
    #[prost(message, optional, tag = "2")]
    raw: Option<Object>,
}

/// Any object.
#[derive(Clone, PartialEq, prost::Message)]
struct Object {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ObjectMeta {
    #[prost(message, optional, tag = "9")]
    deletion_timestamp: Option<Time>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Time {}

/// Whether an object has a deletion timestamp. What kube-apiserver has encrypted, and what is no object, has
/// none that can be seen.
pub(super) fn is_being_deleted(value: &[u8]) -> bool {
    if let Some(unknown) = value.strip_prefix(MAGIC) {
        let object = Unknown::decode(unknown).ok().and_then(|unknown| unknown.raw);
        let metadata = object.and_then(|object| object.metadata);
        return metadata.is_some_and(|metadata| metadata.deletion_timestamp.is_some());
    }
    if value.first() != Some(&b'{') {
        return false;
    }
    let object: Option<serde_json::Value> = serde_json::from_slice(value).ok();
    let timestamp = object.as_ref().and_then(|it| it.pointer("/metadata/deletionTimestamp"));
    timestamp.is_some_and(|timestamp| !timestamp.is_null())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_timestamp_is_found_in_both_forms() {
        let object = |deletion_timestamp| {
            let metadata = Some(ObjectMeta { deletion_timestamp });
            let unknown = Unknown { raw: Some(Object { metadata }) };
            [MAGIC, &unknown.encode_to_vec()].concat()
        };
        assert!(is_being_deleted(&object(Some(Time {}))));
        assert!(!is_being_deleted(&object(None)));
        assert!(is_being_deleted(br#"{"metadata":{"deletionTimestamp":"2026-11-28T00:00:00Z"}}"#));
        for other in
            [&br#"{"metadata":{"deletionTimestamp":null}}"#[..], b"{", b"k8s\0\xff", b"", b"x"]
        {
            assert!(!is_being_deleted(other), "{}", other.escape_ascii());
        }
    }
}
