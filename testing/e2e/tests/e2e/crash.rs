//! kill -9 under load: what was acknowledged is there afterwards, and revisions never go back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use e2e::{Client, Event};
use testkit::{Keepd, TempDir};

use crate::configuration::{FIRST, sealing};

const KILLS: usize = 20;
const WRITERS: usize = 8;

/// What one writer knows: acknowledged writes by revision, and its counter.
#[derive(Default)]
struct Writer {
    acknowledged: BTreeMap<i64, Vec<(String, String)>>,
    leases: Vec<i64>,
    count: u64,
    /// The last acknowledged value of the key that it overwrites.
    hot: u64,
}

impl Writer {
    /// Writes until the first error, which is the kill.
    async fn run(&mut self, number: usize, client: Client, is_over: Arc<AtomicBool>) {
        while !is_over.load(Ordering::Relaxed) {
            self.count += 1;
            let count = self.count;
            let own = |i| (format!("load/{number}/{count}/{i}"), format!("value {count} {i}"));
            let hot = (format!("hot/{number}"), count.to_string());
            let pairs = match count % 16 {
                0 => vec![own(0), hot, own(1), own(2)],
                n if n % 2 == 0 => vec![own(0)],
                _ => vec![hot],
            };
            let is_hot = pairs.iter().any(|(key, _)| key.starts_with("hot/"));
            let result = match pairs.as_slice() {
                [(key, value)] => client.put(key, value, 0).await,
                pairs => client.put_all(pairs).await,
            };
            let Ok(revision) = result else { return };
            let old = self.acknowledged.insert(revision, pairs);
            assert!(old.is_none(), "one revision was given twice");
            if is_hot {
                self.hot = count;
            }
            if count.is_multiple_of(50) {
                let Ok(lease) = client.grant(3600).await else { return };
                self.leases.push(lease);
            }
        }
    }
}

/// Reads the revision all the time; it never goes back, not over kills either.
async fn observe(client: Client, highest: Arc<AtomicI64>, is_over: Arc<AtomicBool>) {
    while !is_over.load(Ordering::Relaxed) {
        let Ok(revision) = client.revision().await else { return };
        let before = highest.fetch_max(revision, Ordering::SeqCst);
        assert!(revision >= before, "the revision went from {before} back to {revision}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_lose_nothing_acknowledged() {
    let dir = TempDir::new("e2e-crash");
    let config = dir.write("encryption.yaml", &sealing("key1", FIRST));
    let keepd = Keepd::new(dir.path()).encryption(&config);
    let highest = Arc::new(AtomicI64::new(1));
    let mut writers: Vec<Writer> = (0..WRITERS).map(|_| Writer::default()).collect();
    for kill in 0..KILLS {
        let mut server = keepd.start();
        let client = Client::ready(&mut server).await;
        let revision = client.revision().await.unwrap();
        assert!(revision >= highest.load(Ordering::SeqCst), "kill {kill}: revisions went back");
        check(&client, &writers).await;

        let is_over = Arc::new(AtomicBool::new(false));
        let observer = tokio::spawn(observe(client, Arc::clone(&highest), Arc::clone(&is_over)));
        let mut tasks = Vec::new();
        for (number, mut writer) in writers.drain(..).enumerate() {
            let client = Client::connect(keepd.endpoint()).await.unwrap();
            let is_over = Arc::clone(&is_over);
            tasks.push(tokio::spawn(async move {
                writer.run(number, client, is_over).await;
                writer
            }));
        }
        tokio::time::sleep(Duration::from_millis(150 + 37 * kill as u64)).await;
        server.kill();
        is_over.store(true, Ordering::Relaxed);
        observer.await.unwrap();
        for task in tasks {
            writers.push(task.await.unwrap());
        }
        let last = writers.iter().filter_map(|writer| writer.acknowledged.keys().next_back()).max();
        highest.fetch_max(*last.expect("something was acknowledged"), Ordering::SeqCst);
    }
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    check(&client, &writers).await;
    check_history(&client, &writers).await;
    let writes: usize = writers.iter().map(|writer| writer.acknowledged.len()).sum();
    assert!(writes > 20 * KILLS, "only {writes} writes: that is no load");
}

/// Every acknowledged write is there, at its revision.
async fn check(client: &Client, writers: &[Writer]) {
    let kvs = client.list("load/").await.unwrap();
    let kvs: BTreeMap<&[u8], _> = kvs.iter().map(|kv| (kv.key.as_ref(), kv)).collect();
    let leases = client.leases().await.unwrap();
    for (number, writer) in writers.iter().enumerate() {
        for (revision, pairs) in &writer.acknowledged {
            for (key, value) in pairs.iter().filter(|(key, _)| key.starts_with("load/")) {
                let kv = kvs.get(key.as_bytes()).expect("an acknowledged key is there");
                assert_eq!(kv.value, value.as_bytes());
                assert_eq!(kv.mod_revision, *revision);
            }
        }
        let hot = client.get(&format!("hot/{number}")).await.unwrap();
        let hot: u64 = hot.map_or(0, |value| value.parse().unwrap());
        // Something newer may have been written without the answer getting through.
        assert!(hot >= writer.hot, "an acknowledged overwrite was undone");
        assert!(writer.leases.iter().all(|lease| leases.contains(lease)), "a lease is lost");
    }
}

/// The history has every acknowledged write once, in order, whole.
async fn check_history(client: &Client, writers: &[Writer]) {
    let end = client.revision().await.unwrap();
    let mut by_revision: BTreeMap<i64, Vec<Event>> = BTreeMap::new();
    let mut last = 0;
    for event in client.history(1, end).await {
        assert!(event.revision >= last, "the history goes back");
        last = event.revision;
        by_revision.entry(last).or_default().push(event);
    }
    let revisions: Vec<i64> = by_revision.keys().copied().collect();
    assert_eq!(revisions, (2..=end).collect::<Vec<_>>(), "every revision is in the history");
    for writer in writers {
        for (revision, pairs) in &writer.acknowledged {
            let events = by_revision[revision].iter();
            let events: Vec<_> =
                events.map(|e| (e.key.clone(), e.value.clone().unwrap())).collect();
            let expected: Vec<_> = pairs
                .iter()
                .map(|(key, value)| (key.clone().into(), value.clone().into()))
                .collect();
            assert_eq!(events, expected, "revision {revision}");
        }
    }
}
