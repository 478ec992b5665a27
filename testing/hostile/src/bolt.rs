//! Snapshot files (`docs/formats/snapshot.md`): the bbolt image alone, what `snapshot status` tells
//! of it, and a restore.

use std::path::Path;

use bytes::Bytes;
use keepd_backup::{RestoreOptions, restore, sealed_values, status};
use keepd_bolt::{Planner, Reader, Writer};
use keepd_env::Env;
use keepd_lease::Lease;
use keepd_types::{KeyValue, LeaseId, Revision};

const FILE: &str = "/snap.db";
const DATA: &str = "/data";
/// The length of a page's header, and of a meta page's body up to its checksum.
const HEADER_LEN: usize = 16;
const CHECKSUMMED_LEN: usize = 56;
/// Pages of first inputs; the smallest there are, but the writer's own size is tried too.
const PAGE_BYTES: usize = 1024;

type Bucket<'a> = (&'a str, Vec<(Bytes, Bytes)>);

/// Reads a snapshot file, as it is and with the checksums of its meta pages set right.
pub fn bolt(bytes: &[u8]) {
    read(bytes);
    let summed = summed(bytes);
    if summed != bytes {
        read(&summed);
    }
}

fn read(image: &[u8]) {
    let Ok(reader) = Reader::open(image) else { return };
    let is_clean = reader.check().is_ok_and(|report| {
        report.findings.iter().for_each(|finding| {
            let _told = finding.to_string();
        });
        report.is_clean()
    });
    let mut buckets = reader.buckets();
    // BOUND: keys ascend, and what a node's elements claim is no more than the node has.
    while let Some(Ok((_, bucket))) = buckets.next() {
        let _is_readable = reader.entries(&bucket).all(|entry| entry.is_ok());
    }
    if is_clean {
        read_as_snapshot(image);
    }
}

fn read_as_snapshot(image: &[u8]) {
    let (env, disk, _clock) = Env::simulated(1);
    let (file, data) = (Path::new(FILE), Path::new(DATA));
    disk.poke(file, image);
    let _told = status(&*env.disk, file, &mut |_| {});
    let _counted = sealed_values(&*env.disk, file);
    for bump in [0, keepd_backup::DEFAULT_BUMP] {
        let options = RestoreOptions {
            skip_hash_check: true,
            without_authentication: true,
            bump_revision: bump,
            mark_compacted: bump > 0,
            ..RestoreOptions::default()
        };
        let restored = restore(&env, file, data, &options, None, &mut |_| {});
        if let Err(error) = &restored {
            let _told = error.to_string();
        }
        let _gone = env.disk.remove_dir_all(data);
    }
}

/// The image with the checksums of both meta pages set right.
fn summed(bytes: &[u8]) -> Vec<u8> {
    let mut image = bytes.to_vec();
    let size = image.get(HEADER_LEN + 8..HEADER_LEN + 12).and_then(|size| size.first_chunk());
    let size = size.map_or(PAGE_BYTES, |size| u32::from_le_bytes(*size) as usize);
    for page in [0, size] {
        let Some(body) = image.get_mut(page.saturating_add(HEADER_LEN)..) else { continue };
        let Some((covered, behind)) = body.split_at_mut_checked(CHECKSUMMED_LEN) else { continue };
        let Some(checksum) = behind.first_chunk_mut::<8>() else { continue };
        *checksum = fnv1a(covered).to_le_bytes();
    }
    image
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Snapshots of little data, with and without a sealed value, and trees of any content.
pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    let many =
        (0_u32..90).map(|i| (Bytes::from(i.to_be_bytes().repeat(4)), Bytes::from(vec![7; 10])));
    let big = vec![(Bytes::from_static(b"big"), Bytes::from(vec![7; 1500]))];
    let trees = [("empty", Vec::new()), ("overflow", big), ("paged", many.collect())];
    let mark = [&[1][..], &77_u64.to_be_bytes(), &[9; 32]].concat();
    let sealed = ("sealed_by_keepd", vec![(revision_key(2, false), Bytes::from(mark))]);
    vec![
        image(&[], PAGE_BYTES),
        image(&trees, PAGE_BYTES),
        image(&snapshot(), PAGE_BYTES),
        image(&snapshot(), 4096),
        image(&[snapshot(), vec![sealed]].concat(), PAGE_BYTES),
    ]
}

/// etcd's buckets.
fn snapshot() -> Vec<Bucket<'static>> {
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    let mut lease = Vec::new();
    Lease { id: LeaseId(77), ttl: 300, remaining_ttl: 0 }.encode(&mut lease);
    let lease = (Bytes::copy_from_slice(&77_i64.to_be_bytes()), Bytes::from(lease));
    let member = text(r#"{"id":9,"peerURLs":["http://m:2380"]}"#);
    let number = |number: u64| Bytes::copy_from_slice(&number.to_be_bytes());
    let meta = vec![
        (text("confState"), text(r#"{"voters":[9],"auto_leave":false}"#)),
        (text("consistent_index"), number(40)),
        (text("finishedCompactRev"), revision_key(2, false)),
        (text("scheduledCompactRev"), revision_key(2, false)),
        (text("storageVersion"), text("3.7.0")),
        (text("term"), number(3)),
    ];
    vec![
        ("alarm", vec![(Bytes::from_static(&[8, 9, 16, 1]), Bytes::new())]),
        ("auth", vec![(text("authEnabled"), Bytes::from_static(&[0]))]),
        ("authUsers", vec![(text("root"), text("user"))]),
        ("cluster", vec![(text("clusterVersion"), text("3.7.0"))]),
        ("key", records()),
        ("lease", vec![lease]),
        ("members", vec![(text("9"), member)]),
        ("members_removed", vec![(text("b"), text("removed"))]),
        ("meta", meta),
    ]
}

fn records() -> Vec<(Bytes, Bytes)> {
    let put = |main: i64, create: i64, key: &'static str, lease: i64| {
        let record = KeyValue {
            key: Bytes::from_static(key.as_bytes()),
            create_revision: create,
            mod_revision: main,
            version: 1 + (main - create) / 2,
            value: Bytes::from_static(b"value"),
            lease: LeaseId(lease),
        };
        (revision_key(main, false), encoded(&record))
    };
    let gone = encoded(&KeyValue::tombstone(Bytes::from_static(b"b")));
    vec![
        put(2, 2, "a", 0),
        put(3, 3, "b", 77),
        put(4, 2, "a", 77),
        (revision_key(5, true), gone),
        put(6, 6, "/registry/secrets/default/s", 0),
    ]
}

fn encoded(record: &KeyValue) -> Bytes {
    let mut out = Vec::new();
    record.encode(&mut out);
    out.into()
}

fn revision_key(main: i64, tombstone: bool) -> Bytes {
    let (bytes, len) = Revision::first(main).to_bytes(tombstone);
    Bytes::copy_from_slice(&bytes[..len])
}

fn image(buckets: &[Bucket<'_>], page_bytes: usize) -> Vec<u8> {
    const FITS: &str = "first inputs fit into a file";
    let mut planner = Planner::with_page_size(page_bytes).expect(FITS);
    for (name, items) in buckets {
        planner.bucket(name.as_bytes()).expect(FITS);
        for (key, value) in items {
            planner.item(key.len(), value.len()).expect(FITS);
        }
    }
    let plan = planner.finish().expect(FITS);
    let mut writer = Writer::new(plan, Vec::new()).expect(FITS);
    for (name, items) in buckets {
        writer.bucket(Bytes::copy_from_slice(name.as_bytes())).expect(FITS);
        for (key, value) in items {
            writer.item(key.clone(), value.clone()).expect(FITS);
        }
    }
    writer.finish().expect(FITS)
}
