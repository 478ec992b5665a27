//! Long histories of few keys: no step gets slower with their length, and they read as the model says.

use std::path::Path;

use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::SimDisk;
use keepd_types::{KeyRange, LeaseId, Revision, StoredValue};
use proptest::prelude::*;

use super::run::{DIR, Op, World, env, ops};
use crate::index::{KeyIndex, State, steps};
use crate::{Applied, JobRequest, Options, Reclaim, Store, Urgency};

/// The number of versions of the hot key where cost is compared.
const SHALLOW: i64 = 1000;
const DEEP: i64 = 200_000;
/// Steps that an operation on the index may take, however long the history is; the constants of unit
/// tests are small.
const STEPS_MAX: u64 = 200;

const HOT: &[u8] = b"registry/hot";

fn put(index: &mut KeyIndex, key: &[u8], main: i64) {
    index.update(key, |old| {
        let (create, version) = old.map_or((main, 1), |old| (old.create, old.version + 1));
        State { main, sub: 0, create, version }
    });
}

/// An index with a hot key among others, as of main revision `versions`.
fn hot(versions: i64) -> KeyIndex {
    let mut index = KeyIndex::default();
    put(&mut index, b"registry/a", 1);
    put(&mut index, b"registry/z", 2);
    (3..=versions).for_each(|main| put(&mut index, HOT, main));
    index
}

/// The steps that the dearest and all of 500 operations take.
fn cost(mut operation: impl FnMut(i64)) -> (u64, u64) {
    let each = (0..500).map(|number| steps::of(|| operation(number)).1);
    each.fold((0, 0), |(most, all), steps| (most.max(steps), all + steps))
}

#[test]
fn a_put_costs_the_same_however_long_the_history_is() {
    let costs = [SHALLOW, DEEP].map(|versions| {
        let mut index = hot(versions);
        // A view of each state, as after each publish.
        let mut views = [index.clone()];
        cost(|number| {
            put(&mut index, HOT, versions + 1 + number);
            views[0] = index.clone();
        })
    });
    let [(_, shallow), (most, deep)] = costs;
    assert!(most < STEPS_MAX && deep < shallow * 2, "{costs:?}");
}

#[test]
fn a_split_moves_no_history() {
    let costs = [SHALLOW, DEEP].map(|versions| {
        let mut index = hot(versions);
        let view = index.clone();
        let costs = cost(|number| {
            put(&mut index, format!("registry/hos{number:03}").as_bytes(), versions + 1 + number);
        });
        assert_eq!(view.get_at(HOT, versions / 2).unwrap().main, versions / 2);
        assert_eq!(index.get_at(HOT, versions / 2).unwrap().main, versions / 2);
        costs
    });
    let [(_, shallow), (most, deep)] = costs;
    assert!(most < STEPS_MAX && deep < shallow * 2, "{costs:?}");
}

#[test]
fn old_states_are_found_by_search() {
    let index = hot(DEEP);
    let costs = [
        cost(|number| {
            let at = 3 + number * (DEEP / 500);
            assert!(index.names(HOT, Revision::first(at)));
            assert!(!index.names(HOT, Revision { main: at, sub: 1 }));
        }),
        cost(|number| {
            let at = 3 + number * (DEEP / 500);
            assert_eq!(index.get_at(HOT, at).unwrap().main, at);
        }),
        cost(|number| {
            let at = 3 + number * (DEEP / 500);
            assert_eq!(index.scan(&KeyRange::all(), at, 0, |_, _, _| ()), 3);
        }),
    ];
    assert!(costs.iter().all(|(most, _)| *most < STEPS_MAX), "{costs:?}");
}

#[test]
fn a_compaction_costs_what_it_drops_in_bounded_passes() {
    let mut index = hot(DEEP);
    let view = index.clone();
    let (mut cursor, mut dead, mut passes) = (Some(Vec::new()), Vec::new(), 0);
    let (mut most, mut all) = (0, 0);
    while let Some(from) = cursor {
        let (next, steps) = steps::of(|| index.compact(DEEP / 2, &from, 4, &mut dead));
        (cursor, passes, most, all) = (next, passes + 1, most.max(steps), all + steps);
    }
    let dropped = u64::try_from(dead.len()).unwrap();
    assert_eq!(i64::try_from(dropped).unwrap(), DEEP / 2 - 3);
    dead.dedup();
    assert!(dead.is_sorted() && dead.len() as u64 == dropped);
    assert!(most < 2 * STEPS_MAX && all < dropped * 6, "{most}, {all} in {passes} passes");
    assert_eq!(index.get_at(HOT, DEEP / 2).unwrap().main, DEEP / 2);
    assert_eq!(view.get_at(HOT, 17).unwrap().main, 17);
    assert_eq!(steps::of(|| index.compact(DEEP / 2, &[], 4, &mut dead)).0, None);
}

/// A store in which one key was written `versions` times.
fn hot_store(disk: &SimDisk, versions: i64) -> Store {
    let options = Options { segment_bytes: 256 << 10, block_bytes: 2048, ..Options::default() };
    let mut store = Store::open(env(disk, 7), Path::new(DIR), FileKeys::plain(), options).unwrap();
    for index in 1..=u64::try_from(versions / 1000).unwrap() {
        for _ in 0..1000 {
            let mut txn = store.begin();
            txn.put(Bytes::from_static(HOT), StoredValue::default(), LeaseId::NONE);
            txn.finish();
        }
        store.publish(Applied { index, term: 1 });
        assert!(store.run(JobRequest::Flush).unwrap());
    }
    store
}

fn settle(store: &mut Store, index: u64) {
    store.publish(Applied { index, term: 1 });
    assert!(store.run(JobRequest::Flush).unwrap());
    while store.trim(64) {}
}

#[test]
fn a_rewrite_takes_some_steps_for_each_record() {
    let disk = SimDisk::new();
    let mut store = hot_store(&disk, DEEP);
    store.compact(store.revision() / 2).unwrap();
    settle(&mut store, 1000);
    let (mut rewrites, before) = (0, store.disk_bytes());
    let ((), steps) = steps::of(|| {
        while store.run(JobRequest::Rewrite(Reclaim::of(Urgency::Full))).unwrap() {
            rewrites += 1;
        }
    });
    assert!(rewrites > 0 && store.disk_bytes() * 10 < before * 6, "{rewrites} rewrites");
    assert!(steps < DEEP.unsigned_abs() * 20, "{steps} steps");
}

#[test]
fn a_checkpoint_continues_a_history_over_frames() {
    let disk = SimDisk::new();
    let mut store = hot_store(&disk, DEEP / 4);
    assert!(store.run(JobRequest::Checkpoint).unwrap());
    let view = store.views().load();
    drop(store);
    let options = Options::default();
    let reopened = Store::open(env(&disk, 8), Path::new(DIR), FileKeys::plain(), options).unwrap();
    assert_eq!(reopened.stats().since_checkpoint_bytes, 0);
    let found = reopened.views().load();
    assert_eq!(found.hash_kv(0).unwrap(), view.hash_kv(0).unwrap());
    for at in (2..view.revision()).step_by(97) {
        let states = |view: &crate::View| view.states(&KeyRange::all(), at, 0).unwrap().keys;
        assert_eq!(states(&found), states(&view));
    }
}

/// Steps on few keys, written again and again.
fn deep_ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..6_u8, 1..40_u8).prop_map(|(key, count)| Op::Burst(key, count)),
        1 => (0..6_u8, 0..6_u8).prop_map(|(a, b)| Op::DeleteRange(a, b)),
        4 => ops(),
    ]
}

proptest! {
    #[test]
    fn long_histories_read_as_the_model_says(
        script in prop::collection::vec(deep_ops(), 1..120), is_sealed: bool,
    ) {
        let mut world = World::new(is_sealed);
        for op in &script {
            world.step(op).unwrap();
        }
        world.publish();
        world.check(0, 0, 3);
    }
}
