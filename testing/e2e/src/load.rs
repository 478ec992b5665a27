//! Writers that go on whatever happens to the members, and what they know afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::client::Client;

/// Between two attempts of a writer whose member does not answer.
const PAUSE: Duration = Duration::from_millis(20);

/// Writers at work.
#[derive(Debug)]
pub struct Load {
    writers: Vec<JoinHandle<Writes>>,
    acknowledged: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
}

/// The acknowledged writes, and the failed ones.
#[derive(Debug, Default)]
pub struct Writes {
    /// Revision by key; each key is written once, and its value is the key.
    pub revisions: BTreeMap<String, i64>,
    /// Answers that were errors: such a write may be there or not.
    pub errors: BTreeMap<String, String>,
    /// The longest time from one acknowledgement to the next.
    pub longest_gap: Duration,
}

impl Load {
    /// Begins to write through these endpoints: each writer begins with another one, and goes on to
    /// the next when its member fails.
    #[must_use]
    pub fn start(name: &str, endpoints: &[String], writers: usize) -> Self {
        let (acknowledged, is_over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let of_writers = (0..writers).map(|number| {
            let writer = Writer {
                prefix: format!("load/{name}/{number}"),
                endpoints: endpoints.to_vec(),
                at: number,
                acknowledged: Arc::clone(&acknowledged),
                is_over: Arc::clone(&is_over),
            };
            tokio::spawn(writer.run())
        });
        let writers = of_writers.collect();
        Self { writers, acknowledged, is_over }
    }

    /// Writes acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits for so many more writes.
    ///
    /// # Panics
    /// If they do not come.
    pub async fn goes_on(&self, more: usize) {
        let (began, before) = (Instant::now(), self.acknowledged());
        while self.acknowledged() < before + more {
            assert!(began.elapsed() < Duration::from_secs(60), "nothing is acknowledged any more");
            sleep(PAUSE).await;
        }
    }

    /// Ends the writers.
    ///
    /// # Panics
    /// If one of them failed.
    pub async fn stop(self) -> Writes {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Writes::default();
        for writer in self.writers {
            let writes = writer.await.expect("writers do not fail");
            all.revisions.extend(writes.revisions);
            all.errors.extend(writes.errors);
            all.longest_gap = all.longest_gap.max(writes.longest_gap);
        }
        all
    }
}

impl Writes {
    /// Every acknowledged write is there, at its revision, and no revision was given twice.
    ///
    /// # Panics
    /// If one is not.
    pub async fn check(&self, client: &Client) {
        let kvs = client.list("load/").await.expect("a member answers");
        let found: BTreeMap<&[u8], _> = kvs.iter().map(|kv| (kv.key.as_ref(), kv)).collect();
        for (key, revision) in &self.revisions {
            let kv = found.get(key.as_bytes());
            let kv = kv.unwrap_or_else(|| panic!("{key} was acknowledged and is not there"));
            assert_eq!((kv.value.as_ref(), kv.mod_revision), (key.as_bytes(), *revision));
        }
        let mut revisions: Vec<i64> = self.revisions.values().copied().collect();
        revisions.sort_unstable();
        revisions.dedup();
        assert_eq!(revisions.len(), self.revisions.len(), "one revision was given twice");
    }
}

struct Writer {
    prefix: String,
    endpoints: Vec<String>,
    at: usize,
    acknowledged: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
}

impl Writer {
    async fn run(mut self) -> Writes {
        let mut writes = Writes::default();
        let (mut client, mut last, mut count) = (None, Instant::now(), 0_u64);
        while !self.is_over.load(Ordering::Relaxed) {
            let Some(connected) = &client else {
                client = Client::connect(self.endpoints[self.at % self.endpoints.len()].clone())
                    .await
                    .ok();
                if client.is_none() {
                    self.at += 1;
                    sleep(PAUSE).await;
                }
                continue;
            };
            count += 1;
            let key = format!("{}/{count}", self.prefix);
            match connected.put(&key, &key, 0).await {
                Ok(revision) => {
                    writes.revisions.insert(key, revision);
                    writes.longest_gap = writes.longest_gap.max(last.elapsed());
                    last = Instant::now();
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    writes.errors.insert(key, error.to_string());
                    client = None;
                    self.at += 1;
                }
            }
        }
        writes
    }
}
