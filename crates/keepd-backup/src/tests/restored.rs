//! State of a restored member.

use keepd_member::Identity;
use keepd_types::ClusterId;
use keepd_wal::Wal;
use proptest::prelude::*;

use super::*;
use crate::format;

fn three() -> RestoreOptions {
    RestoreOptions {
        name: "b".to_owned(),
        initial_cluster: "a=http://a:2380,b=http://b:2380,c=http://c:2380".to_owned(),
        initial_advertise_peer_urls: "http://b:2380".to_owned(),
        ..unbumped()
    }
}

#[test]
fn a_restored_store_holds_what_the_file_does() {
    let (env, disk) = env();
    let source = example(&env);
    let view = source.views().load();
    let restored = restored_store(&env, &disk, &export(Arc::clone(&view)), &three());
    let found = restored.views().load();
    assert_eq!(records(&found), records(&view));
    assert_eq!((found.revision(), found.compact_revision()), (7, 4));
    assert_eq!(found.hash_kv(0).unwrap(), view.hash_kv(0).unwrap());
    assert_eq!(found.applied(), Applied { index: 1, term: 1 });
    for table in [tables::LEASES, tables::ALARMS, tables::FOREIGN] {
        assert_eq!(found.meta(table), view.meta(table), "table {table}");
    }
    // Lease 78 does not exist, so the secret is attached to nothing.
    let attached: Vec<_> = found.meta(tables::ATTACHMENTS).iter().collect();
    assert_eq!(attached, [(&Bytes::from_static(b"b"), &tables::lease_key(LeaseId(77)))]);
}

/// The end of its older lease would delete a key that it no longer owns.
#[test]
fn a_key_whose_newer_lease_is_gone_is_not_attached_to_the_older_one() {
    let (env, disk) = env();
    let mut source = example(&env);
    put(&mut source, "b", "again", 78);
    put(&mut source, "c", "of a lease that exists", 77);
    source.publish(Applied { index: 41, term: 3 });
    let restored = restored_store(&env, &disk, &export(source.views().load()), &three());
    let view = restored.views().load();
    let attached: Vec<_> = view.meta(tables::ATTACHMENTS).iter().collect();
    assert_eq!(attached, [(&Bytes::from_static(b"c"), &tables::lease_key(LeaseId(77)))]);
}

#[test]
fn members_and_ids_are_those_of_the_new_cluster() {
    let (env, disk) = env();
    let file = export(example(&env).views().load());
    disk.poke(Path::new(FILE), &file);
    let restored = restore_plain(&env, &three()).unwrap();
    let id = |name: &str| {
        MemberId::from_peer_urls(&[format!("http://{name}:2380")], "etcd-cluster", None)
    };
    assert_eq!(restored.member, id("b"));
    assert_eq!(restored.cluster, ClusterId::from_members(&[id("a"), id("b"), id("c")]));

    let view = open_store(&env, plain_keys()).views().load();
    let b = view.meta(tables::MEMBERS).get(&tables::member_key(id("b"))).unwrap().clone();
    let expected =
        format!("{{\"id\":{},\"peerURLs\":[\"http://b:2380\"],\"name\":\"b\"}}", id("b").0);
    assert_eq!(b, expected.as_bytes());
    assert_eq!(view.meta(tables::MEMBERS).len(), 3);
    assert!(view.meta(tables::MEMBERS_REMOVED).is_empty());
    let conf_state = view.meta(tables::CONF_STATE).get(tables::CONF_STATE_KEY).unwrap();
    let conf_state: serde_json::Value = serde_json::from_slice(conf_state).unwrap();
    let mut voters = [id("a").0, id("b").0, id("c").0];
    voters.sort_unstable();
    assert_eq!(conf_state, serde_json::json!({"voters": voters, "auto_leave": false}));

    let wal = Layout::wal(&Layout::new(Path::new(DATA)).member);
    let (_wal, recovered) = Wal::open(env, &wal, plain_keys()).unwrap();
    let identity = Identity { member: restored.member, cluster: restored.cluster };
    assert_eq!(Identity::decode(&recovered.metadata), Some(identity));
    assert_eq!((recovered.start.index, recovered.start.term), (1, 1));
    assert!(recovered.entries.is_empty());
}

/// One file makes the members of a cluster, each in its own directory: what they apply from there on
/// must give the same on all.
#[test]
fn the_members_of_a_cluster_are_restored_alike_from_one_file() {
    let file = export(example(&env().0).views().load());
    let members = ["a", "b", "c"].map(|name| {
        let (env, disk) = env();
        let options = RestoreOptions {
            name: name.to_owned(),
            initial_advertise_peer_urls: format!("http://{name}:2380"),
            bump_revision: 1000,
            mark_compacted: true,
            ..three()
        };
        disk.poke(Path::new(FILE), &file);
        let restored = restore_plain(&env, &options).unwrap();
        let wal = Layout::wal(&Layout::new(Path::new(DATA)).member);
        let log = Wal::read(&env, &wal, &plain_keys()).unwrap();
        (restored, log, open_store(&env, plain_keys()))
    });
    let (first, first_log, first_store) = &members[0];
    let first_view = first_store.views().load();
    for (restored, log, store) in &members {
        assert_eq!((restored.cluster, restored.revision), (first.cluster, 1007));
        let identity = Identity { member: restored.member, cluster: restored.cluster };
        assert_eq!(Identity::decode(&log.metadata), Some(identity));
        assert_eq!((log.start, log.hard_state), (first_log.start, first_log.hard_state));
        let view = store.views().load();
        assert_eq!(view.applied(), Applied { index: 1, term: 1 });
        assert_eq!(store.digest(), first_store.digest());
        assert_eq!(records(&view), records(&first_view));
        assert_eq!(view.hash_kv(0).unwrap(), first_view.hash_kv(0).unwrap());
        assert_eq!(view.compact_revision(), first_view.compact_revision());
        for table in 0..=u8::MAX {
            assert_eq!(view.meta(table), first_view.meta(table), "table {table}");
        }
    }
    let mut ids = members.map(|(restored, ..)| restored.member);
    ids.sort_unstable();
    assert!(ids.is_sorted_by(|a, b| a < b), "each member is one of its own");
}

#[test]
fn a_bump_raises_the_revision_and_compacts_the_rest() {
    let (env, disk) = env();
    let source = example(&env);
    let file = export(source.views().load());
    let options = RestoreOptions { bump_revision: 1000, mark_compacted: true, ..three() };
    let mut restored = restored_store(&env, &disk, &file, &options);
    assert_eq!((restored.revision(), restored.compact_revision()), (1007, 1007));
    put(&mut restored, "x", "y", 0);
    assert_eq!(restored.revision(), 1008);
    let view = restored.publish(Applied { index: 2, term: 2 });
    assert_eq!(view.count(&KeyRange::all(), 0).unwrap(), 4);

    let half = RestoreOptions { mark_compacted: false, ..options.clone() };
    assert!(matches!(restore_plain(&env, &half), Err(Error::MarkCompactedRequired)));
    let half = RestoreOptions { bump_revision: 0, ..options };
    assert!(matches!(restore_plain(&env, &half), Err(Error::MarkCompactedRequired)));
}

/// Rule 9.11.
#[test]
fn a_restore_bumps_by_a_billion_unless_told_not_to() {
    let (env, disk) = env();
    let source = example(&env);
    let view = source.views().load();
    disk.poke(Path::new(FILE), &export(Arc::clone(&view)));
    let restored = restore_plain(&env, &RestoreOptions::default()).unwrap();
    assert_eq!((restored.file_revision, restored.revision), (7, 1_000_000_007));
    let found = open_store(&env, plain_keys()).views().load();
    assert_eq!((found.revision(), found.compact_revision()), (1_000_000_007, 1_000_000_007));
    // Records keep the revisions they were written at, and nothing that lives is lost.
    for key in ["a", "b", "/registry/secrets/default/s"] {
        let range = KeyRange::point(Bytes::from_static(key.as_bytes()));
        let mod_revision = |view: &View| {
            let keys = view.range(&range, 0, 0).unwrap().keys;
            assert_eq!(keys.len(), 1, "{key}");
            keys[0].1
        };
        assert_eq!(mod_revision(&found), mod_revision(&view), "{key}");
    }

    env.disk.remove_dir_all(Path::new(DATA)).unwrap();
    let restored = restore_plain(&env, &unbumped()).unwrap();
    assert_eq!((restored.file_revision, restored.revision), (7, 7));
    assert_eq!(open_store(&env, plain_keys()).compact_revision(), 4);
}

#[test]
fn a_bump_beyond_the_last_revision_there_can_be_is_refused() {
    let (env, disk) = env();
    let near_the_end = (1 << 62) - 5;
    let item = record_item(near_the_end, &kv("k", near_the_end, "v"));
    disk.poke(Path::new(FILE), &crafted(&[("key", vec![item])]));
    let error = restore_plain(&env, &RestoreOptions::default()).unwrap_err();
    assert!(matches!(error, Error::RevisionOverflow { revision, .. } if revision == near_the_end));
    assert!(!env.disk.exists(Path::new(DATA)).unwrap());
}

/// A file whose numbers leave no room to go on is refused, not restored into a member that ends at
/// its first write.
#[test]
fn numbers_that_leave_no_room_to_go_on_are_refused() {
    let (env, disk) = env();
    let refused = |buckets: &[(&str, Vec<(Bytes, Bytes)>)]| {
        disk.poke(Path::new(FILE), &crafted(buckets));
        let error = restore_plain(&env, &unbumped()).unwrap_err();
        assert!(matches!(error, Error::Entry { .. }), "{error}");
        assert!(!env.disk.exists(Path::new(DATA)).unwrap());
    };
    for last in [i64::MAX, i64::MAX - 1, (1 << 62) + 1] {
        refused(&[("key", vec![record_item(last, &kv("k", last, "v"))])]);
        let place = format::record_key(Revision::first(last), false);
        for mark in [format::SCHEDULED_COMPACTION, format::FINISHED_COMPACTION] {
            let mark = (Bytes::from_static(mark), place.clone());
            refused(&[("key", vec![record_item(2, &kv("k", 2, "v"))]), ("meta", vec![mark])]);
        }
        // What etcd's own bump leaves.
        refused(&[("key", vec![(place.clone(), Bytes::new())])]);
        let versioned = KeyValue { version: last, ..kv("k", 2, "v") };
        refused(&[("key", vec![record_item(2, &versioned)])]);
        let mut lease = Vec::new();
        Lease { id: LeaseId(7), ttl: last, remaining_ttl: 0 }.encode(&mut lease);
        let lease = (tables::lease_key(LeaseId(7)), Bytes::from(lease));
        refused(&[("key", vec![]), ("lease", vec![lease])]);
    }
}

#[test]
fn a_value_larger_than_a_frame_is_refused() {
    let (env, disk) = env();
    let large = |len: usize| KeyValue { value: vec![b'v'; len].into(), ..kv("k", 2, "") };
    for len in [63 << 20, 64 << 20, 65 << 20] {
        disk.poke(Path::new(FILE), &crafted(&[("key", vec![record_item(2, &large(len))])]));
        let error = restore_plain(&env, &unbumped()).unwrap_err();
        assert!(error.to_string().contains("larger than any"), "{error}");
    }
    disk.poke(Path::new(FILE), &crafted(&[("key", vec![record_item(2, &large(62 << 20))])]));
    assert_eq!(restore_plain(&env, &unbumped()).unwrap().records, 1);
}

#[test]
fn a_record_left_by_etcds_own_bump_only_raises_the_revision() {
    let (env, disk) = env();
    let revision = |main| format::record_key(Revision::first(main), false);
    let file = crafted(&[
        ("key", vec![record_item(2, &kv("k", 2, "v")), (revision(1002), Bytes::new())]),
        ("meta", vec![(Bytes::from_static(b"scheduledCompactRev"), revision(1002))]),
    ]);
    let restored = restored_store(&env, &disk, &file, &unbumped());
    assert_eq!((restored.revision(), restored.compact_revision()), (1002, 1002));
    assert_eq!(records(&restored.views().load()).len(), 1);
}

#[test]
fn only_an_empty_directory_is_filled() {
    let (env, disk) = env();
    let file = export(example(&env).views().load());
    disk.poke(Path::new(FILE), &file);
    let remains = Path::new("/data/member.partial/store");
    env.disk.create_dir(remains).unwrap();
    disk.poke(&remains.join("MANIFEST"), b"of an interrupted restore");
    restore_plain(&env, &RestoreOptions::default()).unwrap();
    let error = restore_plain(&env, &RestoreOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "data-dir \"/data\" not empty or could not be read");
    assert!(disk.files().iter().all(|path| !path.starts_with("/data/member.partial")));
}

#[test]
fn a_file_without_its_sha256_needs_the_flag() {
    let (env, disk) = env();
    let mut file = export(example(&env).views().load());
    file.truncate(file.len() - 32);
    disk.poke(Path::new(FILE), &file);
    let error = restore_plain(&env, &RestoreOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "snapshot missing hash but --skip-hash-check=false");
    let options = RestoreOptions { skip_hash_check: true, ..RestoreOptions::default() };
    restore_plain(&env, &options).unwrap();
}

#[test]
fn a_flipped_byte_is_found_and_leaves_nothing() {
    let (env, disk) = env();
    let file = export(example(&env).views().load());
    for at in (0..file.len()).step_by(97) {
        let mut damaged = file.clone();
        damaged[at] ^= 0x20;
        disk.poke(Path::new(FILE), &damaged);
        let error = restore_plain(&env, &RestoreOptions::default()).unwrap_err();
        assert!(matches!(error, Error::HashMismatch { .. }), "byte {at}: {error}");
    }
    let error = restore_plain(&env, &RestoreOptions::default()).unwrap_err().to_string();
    assert!(error.starts_with("expected sha256 [") && error.contains("], got ["), "{error}");
    assert!(!env.disk.exists(Path::new(DATA)).unwrap());
}

#[test]
fn without_the_hash_check_damage_never_panics_and_leaves_all_or_nothing() {
    let (env, disk) = env();
    let file = export(example(&env).views().load());
    let options = RestoreOptions { skip_hash_check: true, ..RestoreOptions::default() };
    let mut refused = 0;
    for at in (0..file.len()).step_by(41) {
        let mut damaged = file.clone();
        damaged[at] ^= 0x81;
        disk.poke(Path::new(FILE), &damaged);
        match restore_plain(&env, &options) {
            Ok(_) => {
                records(&open_store(&env, plain_keys()).views().load());
                env.disk.remove_dir_all(Path::new(DATA)).unwrap();
            }
            Err(_) => refused += 1,
        }
        assert!(!env.disk.exists(Path::new(DATA)).unwrap());
    }
    assert!(refused > 5, "{refused} refused");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let (env, disk) = env();
    let file = export(example(&env).views().load());
    for options in [false, true]
        .map(|skip_hash_check| RestoreOptions { skip_hash_check, ..RestoreOptions::default() })
    {
        // A cut of the trailer alone leaves a whole image, which the flag allows.
        let end = file.len() - 32 - usize::from(!options.skip_hash_check);
        for len in (0..end).step_by(211).chain([end - 1]) {
            disk.poke(Path::new(FILE), &file[..len]);
            assert!(restore_plain(&env, &options).is_err(), "{len} bytes");
        }
    }
    assert!(!env.disk.exists(Path::new(DATA)).unwrap());
}

#[test]
fn foreign_files_are_refused_with_their_reason() {
    let (env, disk) = env();
    let refused = |buckets: &[(&str, Vec<(Bytes, Bytes)>)], text: &str| {
        disk.poke(Path::new(FILE), &crafted(buckets));
        let error = restore_plain(&env, &RestoreOptions::default()).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    let item = |key: &'static [u8], value: &'static [u8]| {
        vec![(Bytes::from_static(key), Bytes::from_static(value))]
    };
    refused(&[("movies", vec![])], "not a snapshot of etcd or keepd");
    refused(&[("key", item(b"short", b"x"))], "not a revision");
    let revision = b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0";
    refused(&[("key", item(revision, b"\xff"))], "not a record");
    refused(&[("key", item(revision, b"\x18\x02\x20\x01"))], "record without a key");
    refused(
        &[("key", vec![(Bytes::from_static(revision), record_item(3, &kv("k", 3, "v")).1)])],
        "record of another revision",
    );
    refused(&[("key", item(revision, b"\x20\x01\x0a\x01k\x10\x02\x18\x02"))], "canonical");
    refused(&[("key", vec![]), ("lease", item(b"x", b"\xff"))], "not a lease");
    refused(
        &[("key", vec![]), ("lease", item(b"\0\0\0\0\0\0\0\x09", b"\x08\x07"))],
        "another lease's id",
    );
    refused(&[("alarm", item(b"\xff", b"")), ("key", vec![])], "not an alarm");
    refused(
        &[("key", vec![]), ("meta", item(b"storageVersion", b"3.8.0"))],
        "3.8.0 is not supported",
    );
    refused(&[("auth", item(b"authEnabled", b"\x01")), ("key", vec![])], "authentication enabled");
}

#[test]
fn authentication_is_given_up_only_on_request() {
    let (env, disk) = env();
    let enabled = (Bytes::from_static(b"authEnabled"), Bytes::from_static(&[1]));
    let file = crafted(&[("auth", vec![enabled]), ("key", vec![])]);
    let options = RestoreOptions { without_authentication: true, ..RestoreOptions::default() };
    let restored = restored_store(&env, &disk, &file, &options);
    let key = Bytes::from_static(b"auth\0authEnabled");
    assert_eq!(restored.meta(tables::FOREIGN).get(&key), Some(&Bytes::from_static(&[1])));
}

#[test]
fn a_missing_file_is_told_as_etcd_does() {
    let (env, _disk) = env();
    let error = restore_plain(&env, &RestoreOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "open /snap.db: no such file or directory");
}

#[test]
fn progress_rises_to_its_total() {
    let (env, disk) = env();
    disk.poke(Path::new(FILE), &export(example(&env).views().load()));
    let mut seen = Vec::new();
    let options = RestoreOptions::default();
    restore(&env, Path::new(FILE), Path::new(DATA), &options, None, &mut |progress| {
        assert!(progress.done <= progress.total);
        seen.push(progress);
    })
    .unwrap();
    for stage in [crate::Stage::Verify, crate::Stage::Import] {
        let of_stage: Vec<_> = seen.iter().filter(|progress| progress.stage == stage).collect();
        assert!(of_stage.is_sorted_by_key(|progress| progress.done));
        assert!(of_stage.last().is_some_and(|progress| progress.done == progress.total));
    }
}

#[derive(Clone, Debug)]
enum Op {
    Put(u8, usize, i64),
    Delete(u8),
    Compact,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0..12_u8, prop_oneof![0..50_usize, 3000..9000_usize], 0..3_i64)
            .prop_map(|(key, len, lease)| Op::Put(key, len, lease)),
        2 => (0..12_u8).prop_map(Op::Delete),
        1 => Just(Op::Compact),
    ];
    prop::collection::vec(op, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_was_written_comes_back(ops in ops()) {
        let (env, disk) = env();
        let mut store = new_store(&env);
        for op in ops {
            match op {
                Op::Put(key, len, lease) => {
                    put(&mut store, &format!("k{key}"), &"v".repeat(len), lease);
                }
                Op::Delete(key) => delete(&mut store, &format!("k{key}")),
                Op::Compact => {
                    let _ = store.compact(store.revision());
                }
            }
        }
        let view = store.publish(Applied { index: 9, term: 1 });
        let file = export(Arc::clone(&view));
        let restored = restored_store(&env, &disk, &file, &unbumped());
        let found = restored.views().load();
        prop_assert_eq!(records(&found), records(&view));
        prop_assert_eq!(found.hash_kv(0).unwrap(), view.hash_kv(0).unwrap());
        prop_assert_eq!(found.compact_revision(), view.compact_revision());
        prop_assert_eq!(found.live_keys(), view.live_keys());
        // The second file differs in what a restore changes, not in its records.
        prop_assert_eq!(
            status_of(&env, &disk, &export(found)).unwrap().total_keys,
            status_of(&env, &disk, &file).unwrap().total_keys
        );
    }
}
