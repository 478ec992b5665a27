//! The key index at its real size against a sorted map: thousands of keys, long histories.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::{Env, Random, SeededRandom};
use keepd_mvcc::{Applied, JobRequest, Options, Store};
use keepd_types::{KeyRange, LeaseId, RangeEnd, StoredValue};

const KEYS: u64 = 3000;

/// For each key, when it was written (true) or deleted.
type History = BTreeMap<Bytes, Vec<(i64, bool)>>;

fn key(number: u64) -> Bytes {
    let kind = ["pods", "leases", "events", "a/very/long/path/of/some/custom/resource"];
    let kind = kind[usize::try_from(number % 4).unwrap()];
    Bytes::from(format!("/registry/{kind}/namespace-{}/{number}", number % 17))
}

fn at(history: &History, revision: i64, range: &KeyRange) -> Vec<(Bytes, i64)> {
    let in_range = history.iter().filter(|(key, _)| range.contains(key));
    let newest = in_range.filter_map(|(key, changes)| {
        let (main, is_put) = changes.iter().rev().find(|(main, _)| *main <= revision)?;
        is_put.then_some((key.clone(), *main))
    });
    newest.collect()
}

fn check(store: &Store, history: &History, random: &SeededRandom) {
    let view = store.views().load();
    let (low, high) = (view.compact_revision().max(2), view.revision());
    for _ in 0..6 {
        let span = u64::try_from(high - low + 1).unwrap();
        let revision = low + i64::try_from(random.next_u64() % span).unwrap();
        let end = match random.next_u64() % 3 {
            0 => RangeEnd::Open,
            _ => RangeEnd::Before(key(random.next_u64() % KEYS)),
        };
        let range = KeyRange { start: key(random.next_u64() % KEYS), end };
        for range in [range, KeyRange::all()] {
            let wanted = at(history, revision, &range);
            let found = view.range(&range, revision, 40).unwrap();
            let shown: Vec<(Bytes, i64)> =
                found.keys.into_iter().map(|(key, revision)| (key, revision.main)).collect();
            assert_eq!(shown, wanted[..wanted.len().min(40)]);
            assert_eq!(found.count, wanted.len() as u64);
            assert_eq!(view.count(&range, revision).unwrap(), wanted.len() as u64);
            let weight = view.weight(&range, revision, u64::MAX);
            assert!(weight >= wanted.len() as u64, "{weight} of {}", wanted.len());
            let ended = view.weight(&range, revision, 100);
            assert!(ended <= weight && (ended > 100 || ended == weight), "{ended} of {weight}");
        }
    }
    let live = at(history, high, &KeyRange::all());
    assert_eq!(view.live_keys(), live.len() as u64);
    let mut seen = Vec::new();
    let all = view.all(&KeyRange::all(), |prefix, suffix, state| {
        seen.push((Bytes::from([prefix, suffix].concat()), state.mod_revision.main));
        seen.len() < 1000
    });
    assert_eq!(all, Some(live.len() < 1000));
    assert_eq!(seen, live[..live.len().min(1000)], "a key that does not pass ends the walk");
    assert_eq!(view.all(&KeyRange::point("nothing".into()), |_, _, _| false), None);
}

#[test]
fn thousands_of_keys_with_long_histories_read_as_a_sorted_map_says() {
    let (env, _, _) = Env::simulated(5);
    let mut store =
        Store::open(env, Path::new("/data"), FileKeys::plain(), Options::default()).unwrap();
    let random = SeededRandom::new(11);
    let mut history = History::new();
    for round in 1..=60_u64 {
        for _ in 0..500 {
            // A third of the writes go to a few hot keys.
            let spread = if random.next_u64().is_multiple_of(3) { 20 } else { KEYS };
            let key = key(random.next_u64() % spread);
            let is_put = !random.next_u64().is_multiple_of(5);
            let mut txn = store.begin();
            let main = txn.revision();
            if is_put {
                txn.put(key.clone(), StoredValue::default(), LeaseId::NONE);
            } else if txn.delete_range(&KeyRange::point(key.clone())).is_empty() {
                continue;
            }
            txn.finish();
            history.entry(key).or_default().push((main, is_put));
        }
        if round % 7 == 0 {
            store.compact(store.revision() - 700).unwrap();
        }
        store.publish(Applied { index: round, term: 1 });
        assert!(store.run(JobRequest::Flush).unwrap());
        if round % 5 == 0 {
            while store.trim(13) {}
        }
        check(&store, &history, &random);
    }
}
