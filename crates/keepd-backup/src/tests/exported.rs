//! Contents of an exported file.

use std::collections::BTreeMap;

use keepd_bolt::Reader;
use keepd_types::limits::SNAPSHOT_BLOB_BYTES;

use super::*;

fn buckets(file: &[u8]) -> BTreeMap<String, Vec<(Bytes, Bytes)>> {
    let reader = Reader::open(file).unwrap();
    assert!(reader.check().unwrap().is_clean());
    let bucket = |bucket: Result<_, _>| {
        let (name, bucket) = bucket.unwrap();
        let items = reader.entries(&bucket).map(|entry| {
            let entry = entry.unwrap();
            (entry.key, entry.value)
        });
        (String::from_utf8(Vec::from(name)).unwrap(), items.collect())
    };
    reader.buckets().map(bucket).collect()
}

fn texts(items: &[(Bytes, Bytes)]) -> Vec<(&str, &str)> {
    items
        .iter()
        .map(|(key, value)| {
            (std::str::from_utf8(key).unwrap(), std::str::from_utf8(value).unwrap())
        })
        .collect()
}

#[test]
fn a_file_comes_in_blobs_of_known_length_with_its_sha256_last() {
    let (env, _disk) = env();
    let mut store = example(&env);
    for i in 0..40 {
        put(&mut store, &format!("k{i}"), &"v".repeat(3000), 0);
    }
    let view = store.publish(Applied { index: 41, term: 3 });
    let mut export = Export::new(view, Arc::new(ValueSealer::none())).unwrap();
    let len = export.remaining_bytes();
    let mut blobs = Vec::new();
    while let Some(blob) = export.next_blob().unwrap() {
        blobs.push(blob);
        let sent: usize = blobs.iter().map(Bytes::len).sum();
        assert_eq!(export.remaining_bytes(), len - sent as u64);
    }
    assert_eq!(export.remaining_bytes(), 0);
    assert!(export.next_blob().unwrap().is_none());
    let trailer = blobs.pop().unwrap();
    assert_eq!(trailer.len(), 32);
    assert!(blobs.len() > 3);
    let (last, full) = blobs.split_last().unwrap();
    assert!(full.iter().all(|blob| blob.len() == SNAPSHOT_BLOB_BYTES));
    assert!(last.len() <= SNAPSHOT_BLOB_BYTES);
    assert_eq!(with_sha256(blobs.concat()), [&blobs.concat()[..], &trailer].concat());
}

#[test]
fn a_file_has_etcds_buckets_and_their_contents() {
    let (env, _disk) = env();
    let file = export(example(&env).views().load());
    let buckets = buckets(&file);
    let names: Vec<&str> = buckets.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "alarm",
            "auth",
            "authRoles",
            "authUsers",
            "cluster",
            "key",
            "lease",
            "members",
            "members_removed",
            "meta",
            "state_by_keepd"
        ]
    );
    assert_eq!(
        texts(&buckets["cluster"]),
        [("clusterVersion", "3.7.0"), ("downgrade", r#"{"target-version":"","enabled":false}"#)]
    );
    assert_eq!(
        texts(&buckets["members"]),
        [
            ("10", r#"{"id":16,"peerURLs":["http://m16:2380"]}"#),
            ("9", r#"{"id":9,"peerURLs":["http://m9:2380"]}"#)
        ]
    );
    assert_eq!(texts(&buckets["members_removed"]), [("ab", "removed")]);
    assert_eq!(texts(&buckets["authUsers"]), [("root", "user")]);
    let alarms: Vec<&[u8]> = buckets["alarm"].iter().map(|(key, _)| key.as_ref()).collect();
    assert_eq!(alarms, [&[8, 2, 16, 2][..], &[8, 0xac, 2, 16, 1]]);
    let leases: Vec<&[u8]> = buckets["lease"].iter().map(|(key, _)| key.as_ref()).collect();
    assert_eq!(leases, [77_i64.to_be_bytes(), (-5_i64).to_be_bytes()]);

    let compacted = b"\0\0\0\0\0\0\0\x04_\0\0\0\0\0\0\0\0";
    let meta: Vec<(&[u8], &[u8])> =
        buckets["meta"].iter().map(|(key, value)| (key.as_ref(), value.as_ref())).collect();
    assert_eq!(
        meta,
        [
            (&b"confState"[..], &br#"{"voters":[9,16],"auto_leave":false}"#[..]),
            (b"consistent_index", &40_u64.to_be_bytes()),
            (b"finishedCompactRev", compacted),
            (b"scheduledCompactRev", compacted),
            (b"storageVersion", b"3.7.0"),
            (b"term", &3_u64.to_be_bytes()),
        ]
    );
    let position = crate::LogPosition { index: 40, term: 3, since: 40, digest: 0 };
    assert_eq!(buckets["state_by_keepd"], [("position".into(), position.encode())]);
    let keys: Vec<&[u8]> = buckets["key"].iter().map(|(key, _)| key.as_ref()).collect();
    assert_eq!(keys.len(), 5, "compaction has dropped the first put of a");
    assert_eq!(keys[3], b"\0\0\0\0\0\0\0\x06_\0\0\0\0\0\0\0\0t");
    assert_eq!(buckets["key"][3].1.as_ref(), b"\x0a\x04gone");
}

#[test]
fn an_empty_store_makes_a_file() {
    let (env, disk) = env();
    let store = new_store(&env);
    let file = export(store.views().load());
    let status = status_of(&env, &disk, &file).unwrap();
    assert_eq!((status.revision, status.total_keys, status.sealed_values), (0, 0, 0));
    assert_eq!(status.total_size, file.len() as u64 - 32);
    let restored = restored_store(&env, &disk, &file, &unbumped());
    assert_eq!(restored.revision(), 1);
}

#[test]
fn the_status_counts_live_keys_and_hashes_every_bucket() {
    let (env, disk) = env();
    let file = export(example(&env).views().load());
    let status = status_of(&env, &disk, &file).unwrap();
    assert_eq!((status.revision, status.total_keys), (7, 3));
    assert_eq!(status.version, "3.7.0");
    assert_eq!(
        status.position,
        Some(crate::LogPosition { index: 40, term: 3, since: 40, digest: 0 })
    );
    let expected = buckets(&file).iter().fold(0, |hash, (name, items)| {
        items.iter().fold(crc32c::crc32c_append(hash, name.as_bytes()), |hash, (key, value)| {
            crc32c::crc32c_append(crc32c::crc32c_append(hash, key), value)
        })
    });
    assert_eq!(status.hash, expected);
}

#[test]
fn the_status_of_a_file_that_is_none_is_refused() {
    let (env, disk) = env();
    let file = export(example(&env).views().load());
    let missing = status(&*env.disk, Path::new("/nonexist"), &mut |_| {}).unwrap_err();
    assert_eq!(missing.to_string(), "stat /nonexist: no such file or directory");
    for file in [&[][..], b"etcd", &file[..file.len() / 2]] {
        assert!(matches!(status_of(&env, &disk, file), Err(Error::File(_))));
    }
    let mut damaged = file;
    // The type of the last page, which is the root.
    let root = damaged.len() - 32 - 4096;
    damaged[root + 8] = 0x40;
    let text = status_of(&env, &disk, &damaged).unwrap_err().to_string();
    assert!(text.starts_with("snapshot file integrity check failed. 1 errors found.\npage "));
}
