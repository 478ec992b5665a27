//! Written files are read back, checked, damaged and cut.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use crate::page::{FLAG_BRANCH, FLAG_FREELIST, FLAG_LEAF, Meta, NO_FREELIST, PageHeader};
use crate::{Error, Finding, PageFault, Planner, Reader, Writer};

type Content = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

fn write(content: &Content, page_size: usize) -> Vec<u8> {
    let mut planner = Planner::with_page_size(page_size).unwrap();
    for (name, items) in content {
        planner.bucket(name).unwrap();
        for (key, value) in items {
            planner.item(key.len(), value.len()).unwrap();
        }
    }
    let plan = planner.finish().unwrap();
    let mut writer = Writer::new(plan, Vec::new()).unwrap();
    for (name, items) in content {
        writer.bucket(Bytes::copy_from_slice(name)).unwrap();
        for (key, value) in items {
            writer.item(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)).unwrap();
        }
    }
    let image = writer.finish().unwrap();
    assert_eq!(image.len() as u64, plan.image_len());
    image
}

fn read(image: &[u8]) -> Result<Content, Error> {
    let reader = Reader::open(image)?;
    let mut content = Content::new();
    for bucket in reader.buckets() {
        let (name, bucket) = bucket?;
        let items = reader.entries(&bucket).map(|entry| {
            let entry = entry?;
            Ok((entry.key.to_vec(), entry.value.to_vec()))
        });
        content.insert(name.to_vec(), items.collect::<Result<_, Error>>()?);
    }
    Ok(content)
}

fn findings(image: &[u8]) -> Vec<Finding> {
    Reader::open(image).unwrap().check().unwrap().findings
}

#[track_caller]
fn check_round_trip(content: &Content, page_size: usize) {
    let image = write(content, page_size);
    assert_eq!(findings(&image), []);
    assert_eq!(read(&image).unwrap(), *content);
}

/// `count` items under keys like etcd's revisions, their values `value_len` long.
fn many(count: u32, value_len: usize) -> BTreeMap<Vec<u8>, Vec<u8>> {
    (0..count).map(|i| (i.to_be_bytes().repeat(4), vec![i.to_le_bytes()[0]; value_len])).collect()
}

/// Empty, inline and paged buckets, overflow and a branch, in few pages.
fn small() -> Content {
    Content::from([
        (b"empty".to_vec(), BTreeMap::new()),
        (b"inline".to_vec(), BTreeMap::from([(b"k".to_vec(), b"v".to_vec()), (vec![1], vec![])])),
        (b"overflow".to_vec(), BTreeMap::from([(b"big".to_vec(), vec![7; 1500])])),
        (b"paged".to_vec(), many(60, 10)),
    ])
}

#[test]
fn an_empty_file_is_sound() {
    check_round_trip(&Content::new(), 4096);
}

#[test]
fn every_kind_of_bucket_round_trips() {
    check_round_trip(&small(), 1024);
}

#[test]
fn trees_of_several_branch_levels_round_trip() {
    let image_items = many(60_000, 3);
    check_round_trip(&Content::from([(b"key".to_vec(), image_items)]), 1024);
}

#[test]
fn branches_never_have_a_lone_child() {
    // Around every count that fills leaves and branches exactly.
    for count in 1..1200 {
        let image = write(&Content::from([(b"key".to_vec(), many(count, 100))]), 1024);
        for page in image.chunks(1024).skip(2) {
            let header = PageHeader::decode(page).unwrap();
            assert!(header.flags != FLAG_BRANCH || header.count >= 2, "{count} items");
        }
    }
}

#[test]
fn long_keys_make_branches_that_overflow() {
    let items = (0..40_u8).map(|i| ([vec![i], vec![b'x'; 5000]].concat(), vec![i])).collect();
    check_round_trip(&Content::from([(b"b".to_vec(), items)]), 4096);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_written_is_read(
        content in prop::collection::btree_map(
            prop::collection::vec(any::<u8>(), 1..20),
            prop::collection::btree_map(
                prop::collection::vec(any::<u8>(), 1..60),
                prop_oneof![
                    8 => prop::collection::vec(any::<u8>(), 0..200),
                    1 => prop::collection::vec(any::<u8>(), 0..20_000),
                ],
                0..120,
            ),
            0..12,
        ),
        shift in 10_usize..13,
    ) {
        check_round_trip(&content, 1 << shift);
    }

    #[test]
    fn any_damage_ends_in_an_error_or_in_reads_that_end(
        edits in prop::collection::vec((2048_usize..10_000, any::<u8>()), 1..24),
    ) {
        let mut image = write(&small(), 1024);
        for (at, byte) in edits {
            let at = 2048 + at % (image.len() - 2048);
            image[at] = byte;
        }
        let content = read(&image);
        let report = Reader::open(image.as_slice()).unwrap().check().unwrap();
        prop_assert!(content.is_ok() || !report.is_clean());
    }

    #[test]
    fn noise_is_no_bbolt_file(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(matches!(Reader::open(bytes.as_slice()), Err(Error::NoMeta)));
    }
}

#[test]
fn a_flipped_byte_never_panics_and_a_clean_check_means_a_readable_file() {
    let image = write(&small(), 1024);
    let whole = read(&image).unwrap();
    let (mut found, mut unseen) = (0, 0);
    for at in 0..image.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = image.clone();
            damaged[at] ^= flip;
            let content = read(&damaged);
            let Ok(reader) = Reader::open(damaged.as_slice()) else {
                assert!(content.is_err());
                found += 1;
                continue;
            };
            match content {
                Err(_) => {
                    assert!(!reader.check().unwrap().is_clean(), "byte {at} read, not checked");
                    found += 1;
                }
                Ok(content) => {
                    // What no structure guards: values, padding, the other meta page, keys that
                    // stay in order. A snapshot's SHA-256 is for those.
                    reader.check().unwrap();
                    unseen += usize::from(content == whole);
                }
            }
        }
    }
    assert!(found > 1000, "{found} flips found");
    assert!(unseen > 1000, "{unseen} flips without effect");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let image = write(&small(), 1024);
    for len in 0..image.len() {
        let error = Reader::open(&image[..len]).unwrap_err();
        assert!(matches!(error, Error::NoMeta | Error::Truncated { .. }), "{len}: {error}");
    }
}

#[test]
fn bytes_behind_the_image_do_not_matter() {
    let mut image = write(&small(), 1024);
    let image_len = image.len() as u64;
    image.extend_from_slice(&[9; 5000]);
    let reader = Reader::open(image.as_slice()).unwrap();
    assert_eq!(reader.image_len(), image_len);
    assert_eq!(read(&image).unwrap(), small());
}

#[test]
fn either_meta_page_will_do_and_the_later_one_wins() {
    let image = write(&small(), 1024);
    assert_eq!(Reader::open(image.as_slice()).unwrap().txid(), 1);
    for meta in [0, 1] {
        let mut damaged = image.clone();
        damaged[meta * 1024 + 20] ^= 1;
        assert_eq!(Reader::open(damaged.as_slice()).unwrap().txid(), 1 - meta as u64);
        assert_eq!(read(&damaged).unwrap(), small());
    }
}

/// Two metas, then the pages given as (flags, count, body).
fn crafted(freelist: u64, pages: &[(u16, u16, &[u64])]) -> Vec<u8> {
    let hwm = 2 + pages.len() as u64;
    let mut image = Vec::new();
    for txid in [0, 1] {
        Meta { page_size: 1024, root: 2, freelist, hwm, txid }.encode_page(&mut image);
    }
    for (id, (flags, count, words)) in (2..).zip(pages) {
        let start = image.len();
        PageHeader { id, flags: *flags, count: *count, overflow: 0 }.encode(&mut image);
        for word in *words {
            image.extend_from_slice(&word.to_le_bytes());
        }
        image.resize(start + 1024, 0);
    }
    image
}

#[test]
fn the_file_bbolt_begins_with_is_clean() {
    let mut image = crafted(3, &[(FLAG_LEAF, 0, &[]), (FLAG_FREELIST, 0, &[])]);
    assert_eq!(findings(&image), []);
    assert_eq!(read(&image).unwrap(), Content::new());
    image[2048 + 8] = 0x40;
    let fault = PageFault::Type { flags: 0x40 };
    assert_eq!(findings(&image), [Finding::Page { pgid: 2, fault, stack: vec![2] }]);
}

#[test]
fn the_free_list_is_held_against_the_trees() {
    let leaf: (u16, u16, &[u64]) = (FLAG_LEAF, 0, &[]);
    let check = |count, ids: &[u64], expected: &[Finding]| {
        let image = crafted(3, &[leaf, (FLAG_FREELIST, count, ids), leaf]);
        assert_eq!(findings(&image), expected);
    };
    check(1, &[4], &[]);
    check(0xffff, &[1, 4], &[]);
    check(0, &[], &[Finding::UnreachableUnfreed { pgid: 4 }]);
    check(2, &[4, 4], &[Finding::AlreadyFreed { pgid: 4 }]);
    check(2, &[2, 4], &[Finding::ReachableFreed { pgid: 2 }]);
    let outside = PageFault::OutOfBounds { hwm: 5 };
    check(2, &[4, 9], &[Finding::Page { pgid: 9, fault: outside, stack: vec![] }]);
    let image = crafted(3, &[leaf, (FLAG_FREELIST, 0xffff, &[1 << 60, 4]), leaf]);
    let fault = PageFault::ElementOutside { index: 126 };
    assert_eq!(
        findings(&image),
        [Finding::Page { pgid: 3, fault, stack: vec![] }, Finding::UnreachableUnfreed { pgid: 4 }]
    );
}

#[test]
fn a_cycle_ends_with_an_error() {
    // Branches whose children, keyed "a" and "b", are both the branch itself.
    let children = [32 | 1 << 32, 2, 17 | 1 << 32, 2, u64::from(b'a') | u64::from(b'b') << 8];
    let image = crafted(NO_FREELIST, &[(FLAG_BRANCH, 2, &children)]);
    assert!(matches!(
        read(&image),
        Err(Error::Page {
            fault: PageFault::Depth | PageFault::KeyOrder { .. } | PageFault::Overlap { .. },
            ..
        })
    ));
    let expected = Finding::MultipleReferences { pgid: 2, stack: vec![2, 2] };
    assert_eq!(findings(&image), [expected.clone(), expected]);
}

/// Counts what is read.
struct Counting<'a>(&'a [u8], std::cell::Cell<u64>);

impl crate::ReadAt for Counting<'_> {
    fn size(&self) -> std::io::Result<u64> {
        self.0.size()
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.1.set(self.1.get() + bytes.len() as u64);
        self.0.read_exact_at(bytes, offset)
    }
}

/// Reads everything there is, in every way there is; how many bytes were read.
fn read_all(image: &[u8]) -> u64 {
    let reader = Reader::open(Counting(image, std::cell::Cell::new(0))).unwrap();
    let _findings = reader.check().unwrap();
    for bucket in reader.buckets() {
        let Ok((_, bucket)) = bucket else { break };
        reader.entries(&bucket).take_while(Result::is_ok).count();
    }
    reader.source().1.get()
}

/// A branch whose children, with ascending keys, are pages given by `child`.
fn branch_of(count: u16, child: impl Fn(u64) -> u64) -> Vec<u64> {
    let mut words = Vec::new();
    for index in 0..u64::from(count) {
        let key_at = (u64::from(count) - index) * 16 + index * 8;
        words.extend([key_at | 8 << 32, child(index)]);
    }
    words.extend((0..u64::from(count)).map(u64::swap_bytes));
    words
}

/// However often pages name each other, a file is read as often as it is long.
#[test]
fn many_references_to_one_large_leaf_cost_one_reading() {
    const PAGES: u64 = 4000;
    // A thousand children that are one leaf over all pages, then leaves that run into each other.
    let children: [fn(u64) -> u64; 2] = [|_| 3, |index| 3 + index];
    for child in children {
        let words = branch_of(40, child);
        let mut image = crafted(NO_FREELIST, &[(FLAG_BRANCH, 40, &words)]);
        image.resize(image.len() + usize::try_from(PAGES * 1024).unwrap(), 0);
        let hwm = 3 + PAGES;
        let mut metas = Vec::new();
        for txid in [0, 1] {
            Meta { page_size: 1024, root: 2, freelist: NO_FREELIST, hwm, txid }
                .encode_page(&mut metas);
        }
        image[..2048].copy_from_slice(&metas);
        for id in 3..43_u64 {
            let mut header = Vec::new();
            let overflow = u32::try_from(hwm - id - 1).unwrap();
            PageHeader { id, flags: FLAG_LEAF, count: 0, overflow }.encode(&mut header);
            let at = usize::try_from(id * 1024).unwrap();
            image[at..at + 16].copy_from_slice(&header);
        }
        let read = read_all(&image);
        assert!(read < 4 * image.len() as u64, "{read} of {}", image.len());
        assert!(!findings(&image).is_empty());
    }
}

#[test]
fn elements_that_share_their_bytes_are_refused() {
    // Two items, "a" and "b", whose values are the same 900 bytes.
    let offset = |index: u64| 32 - 16 * index + index;
    let element = |index: u64| [offset(index) << 32, 1 | 900 << 32];
    let words: Vec<u64> = [element(0), element(1)]
        .concat()
        .into_iter()
        .chain([u64::from_le_bytes(*b"ab      ")])
        .collect();
    let image = crafted(NO_FREELIST, &[(FLAG_LEAF, 2, &words)]);
    let fault = PageFault::Overlap { index: 1 };
    assert!(findings(&image).contains(&Finding::Page { pgid: 2, fault, stack: vec![2] }));
}

#[test]
fn pages_out_of_bounds_are_found() {
    let children = [32 | 1 << 32, 9, 17 | 1 << 32, 1, u64::from(b'a') | u64::from(b'b') << 8];
    let image = crafted(NO_FREELIST, &[(FLAG_BRANCH, 2, &children)]);
    let fault = PageFault::OutOfBounds { hwm: 3 };
    assert_eq!(
        findings(&image),
        [9, 1].map(|pgid| Finding::Page { pgid, fault, stack: vec![2, pgid] })
    );
}

#[test]
fn findings_read_like_etcds() {
    let finding = Finding::MultipleReferences { pgid: 7, stack: vec![2, 7] };
    assert_eq!(finding.to_string(), "page 7: multiple references (stack: [2, 7])");
    assert_eq!(Finding::UnreachableUnfreed { pgid: 4 }.to_string(), "page 4: unreachable unfreed");
}

#[test]
fn the_writer_refuses_what_was_not_planned() {
    let mut planner = Planner::default();
    planner.bucket(b"b").unwrap();
    planner.item(1, 10).unwrap();
    let plan = planner.finish().unwrap();
    let bytes = |len: usize| Bytes::from(vec![b'x'; len]);

    let mut writer = Writer::new(plan, Vec::new()).unwrap();
    writer.bucket(bytes(1)).unwrap();
    writer.item(bytes(1), bytes(90_000)).unwrap();
    assert!(matches!(writer.finish(), Err(Error::PlanMismatch { planned: 3, .. })));

    let mut writer = Writer::new(plan, Vec::new()).unwrap();
    assert!(matches!(writer.item(bytes(1), bytes(1)), Err(Error::ItemOutsideBucket)));
    writer.bucket(bytes(1)).unwrap();
    assert!(matches!(writer.bucket(bytes(1)), Err(Error::BucketOrder { .. })));
    writer.item(bytes(2), bytes(1)).unwrap();
    assert!(matches!(writer.item(bytes(1), bytes(1)), Err(Error::KeyOrder { .. })));
    assert!(matches!(writer.item(bytes(40_000), bytes(1)), Err(Error::KeyLength { .. })));
}
