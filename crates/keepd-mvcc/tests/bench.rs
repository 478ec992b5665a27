//! Figures, printed by `cargo test --release -p keepd-mvcc --test bench -- --ignored --nocapture`.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::{Env, SeededRandom};
use keepd_mvcc::{Applied, JobRequest, Options, Reclaim, Store, Urgency};
use keepd_types::{KeyRange, LeaseId, Revision, StoredValue};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What this thread has spent on a processor: figures that busy neighbours do not change.
fn cpu_time() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanos = schedstat.split(' ').next().unwrap();
    Duration::from_nanos(nanos.parse().unwrap())
}

struct Bench {
    env: Env,
    dir: PathBuf,
    store: Store,
    seed: u64,
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!(
        "/registry/pods/namespace-{:03}/deployment-name-{:08x}-pod-{number:010}xxxx",
        number % 50,
        number.wrapping_mul(0x9e37_79b9) & 0xffff_ffff,
    ))
}

impl Bench {
    fn new(name: &str, options: Options) -> Self {
        let env = Env::real();
        let dir = std::env::temp_dir().join(format!("keepd-mvcc-bench-{name}"));
        if env.disk.exists(&dir).unwrap() {
            env.disk.remove_dir_all(&dir).unwrap();
        }
        let keys = FileKeys::ephemeral(&SeededRandom::new(1));
        let store = Store::open(env.clone(), &dir, keys, options).unwrap();
        Self { env, dir, store, seed: 1 }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.seed >> 33) % below
    }

    fn time<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> (T, Duration) {
        let start = cpu_time();
        let result = run(self);
        (result, cpu_time() - start)
    }

    fn flush(&mut self) {
        self.store.run(JobRequest::Flush).unwrap();
    }

    fn publish(&mut self) {
        let index = self.store.applied().index + 1;
        self.store.publish(Applied { index, term: 1 });
    }

    /// Puts `count` keys in batches; flushes are not counted.
    fn puts(&mut self, count: u64, batch: u64, choose: impl Fn(&mut Self, u64) -> u64) -> Duration {
        let value = Bytes::from(vec![7; 256]);
        let mut spent = Duration::ZERO;
        let mut done = 0;
        while done < count {
            let keys: Vec<Bytes> = (0..batch).map(|at| key(choose(self, done + at))).collect();
            let ((), took) = self.time(|bench| {
                for key in keys {
                    let mut txn = bench.store.begin();
                    txn.put(key, StoredValue::plain(value.clone()), LeaseId::NONE);
                    std::hint::black_box(txn.finish());
                }
                bench.publish();
            });
            spent += took;
            done += batch;
            if self.store.stats().tail_records > 10_000 {
                self.flush();
            }
        }
        spent
    }
}

fn per_second(count: u64, took: Duration) -> u128 {
    u128::from(count) * 1_000_000_000 / took.as_nanos().max(1)
}

#[test]
#[ignore = "prints figures"]
fn puts() {
    for batch in [10, 100, 1000] {
        let mut bench = Bench::new("puts", Options::default());
        let keys = 1_000_000;
        let took = bench.puts(keys, batch, |_, at| at.wrapping_mul(7_919) % 1_000_000);
        println!("b{batch}: insert {keys} random keys: {}/s", per_second(keys, took));
        let took = bench.puts(300_000, batch, |bench, _| bench.random(1_000_000));
        println!("b{batch}: overwrite of 1M keys: {}/s", per_second(300_000, took));
        bench.flush();
        let (_, took) = bench.time(Bench::flush);
        println!("flush {took:?}");
        bench.env.disk.remove_dir_all(&bench.dir).unwrap();
    }
}

#[test]
#[ignore = "prints figures"]
fn lists_and_starts() {
    let mut bench = Bench::new("lists", Options::default());
    bench.puts(1_000_000, 1000, |_, at| at.wrapping_mul(7_919) % 1_000_000);
    bench.flush();
    let view = bench.store.views().load();
    let (_, took) = bench.time(|_| view.range(&KeyRange::all(), 0, 0).unwrap().keys.len());
    println!("range of 1M keys: {took:?}");
    let refs = view.range(&KeyRange::all(), 0, 10_000).unwrap();
    let random: Vec<Revision> = refs.keys.iter().map(|(_, revision)| *revision).collect();
    let near: Vec<Revision> = (500_000..510_000).map(Revision::first).collect();
    for (name, revisions) in [("random", &random), ("near", &near)] {
        for temperature in ["cold", "hot", "hot"] {
            let (records, took) = bench.time(|_| view.load_many(revisions).unwrap());
            println!("load_many of 10k {name} {temperature}: {took:?}");
            std::hint::black_box(records);
        }
    }
    let (_, took) = bench.time(|_| random.iter().for_each(|it| drop(view.load(*it).unwrap())));
    println!("10k loads, hot: {took:?}");
    let (_, took) = bench.time(|_| view.range(&KeyRange::all(), 0, 500).unwrap());
    println!("page of 500 of 1M keys: {took:?}");
    let (_, took) = bench.time(|_| view.hash_kv(0).unwrap());
    println!("hash_kv of 1M records: {took:?}");
    let (_, took) = bench.time(|_| view.changes(900_000, 1000).unwrap());
    println!("changes, 1000 revisions: {took:?}");
    let (is_written, took) = bench.time(|bench| bench.store.run(JobRequest::Checkpoint).unwrap());
    assert!(is_written);
    println!("checkpoint of 1M keys: {took:?}");
    drop(view);
    let Bench { env, dir, store, .. } = bench;
    drop(store);
    for what in ["open from checkpoint", "open by replay"] {
        let keys = FileKeys::ephemeral(&SeededRandom::new(1));
        let start = env.clock.monotonic();
        let store = Store::open(env.clone(), &dir, keys, Options::default()).unwrap();
        println!("{what}: {:?}, {} keys", env.clock.monotonic() - start, store.stats().keys);
        for name in env.disk.list(&dir).unwrap().iter().filter(|it| it.starts_with("idx-")) {
            env.disk.remove(&dir.join(name)).unwrap();
        }
    }
    env.disk.remove_dir_all(&dir).unwrap();
}

#[test]
#[ignore = "prints figures"]
fn cold_lists() {
    let mut bench = Bench::new("cold", Options { cache_bytes: 0, ..Options::default() });
    bench.puts(1_000_000, 1000, |_, at| at.wrapping_mul(7_919) % 1_000_000);
    bench.flush();
    let view = bench.store.views().load();
    let refs = view.range(&KeyRange::all(), 0, 10_000).unwrap();
    let random: Vec<Revision> = refs.keys.iter().map(|(_, revision)| *revision).collect();
    let rounds = 20;
    let (_, took) = bench.time(|_| {
        (0..rounds).for_each(|_| drop(std::hint::black_box(view.load_many(&random).unwrap())));
    });
    println!("load_many of 10k random, opened anew: {:?}", took / rounds);
    bench.env.disk.remove_dir_all(&bench.dir).unwrap();
}

#[test]
#[ignore = "prints figures"]
fn overwrites_with_reclaim() {
    let options = Options { segment_bytes: 16 << 20, ..Options::default() };
    let mut bench = Bench::new("reclaim", options);
    let (mut spent, mut peak) = (Duration::ZERO, 0);
    for round in 0..25 {
        spent += bench.puts(100_000, 100, |bench, at| {
            if round < 5 { round * 100_000 + at } else { bench.random(500_000) }
        });
        let revision = bench.store.revision();
        let (_, took) = bench.time(|bench| bench.store.compact(revision - 1).unwrap());
        bench.publish();
        bench.flush();
        let (_, trim) = bench.time(|bench| while bench.store.trim(64) {});
        spent += took + trim;
        while bench.store.run(JobRequest::Rewrite(Reclaim::of(Urgency::Normal))).unwrap() {}
        peak = peak.max(bench.store.disk_bytes());
    }
    let view: Arc<_> = bench.store.views().load();
    println!("overwrite 500k keys x5, compacting: {}/s", per_second(2_500_000, spent));
    println!(
        "disk {} live {} peak {peak} keys {}",
        bench.store.disk_bytes(),
        bench.store.live_bytes(),
        view.live_keys()
    );
    bench.env.disk.remove_dir_all(&bench.dir).unwrap();
}
