//! Files and values follow the encryption configuration while the member serves.
//!
//! Whatever is written anew lies under the active data key; what lies under another one, or plain
//! beside sealed files, is rewritten in the background, and values get the form that they would be
//! stored in today on the same way. When nothing lies under a data key any more, the keyring
//! forgets it, and a keyring without keys goes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_crypto::{DataKeyId, Encryption, KeyringError};
use keepd_env::Env;
use keepd_mvcc::{Record, Resealer, Store};
use keepd_types::{KeyValue, StoredValue};

use crate::messages::{Job, WalEvent, Writer};
use crate::shared::Shared;

/// How long after a failure or an unfinished count it is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How long after values could not be counted because of damage they are counted again.
const RETRY_UNREADABLE_AFTER: Duration = Duration::from_secs(600);

/// What to do about a damaged file that needs its old key.
const HELD_BACK_ADVICE: &str = "a damaged file keeps an old data key in use, so that the change of keys \
    does not come to its end; write or delete the keys whose reads fail, compact and defragment: once \
    nothing that is needed lies in the damage, the file is rewritten";

/// What the files of the log lie under.
#[derive(Clone, Debug, Default)]
pub(crate) struct WalFiles {
    /// The data key that was active when they were counted; none before the first count. Files
    /// that were begun later lie under it or a later one.
    pub(crate) seen: Option<DataKeyId>,
    pub(crate) counts: BTreeMap<DataKeyId, u64>,
}

/// How far the files have followed the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileCounts {
    /// Sealed files.
    pub sealed: u64,
    /// Plain files.
    pub plain: u64,
    /// Those of both that wait to be rewritten.
    pub stale: u64,
    /// Whether every file is as the configuration wants it, and no other data key is kept.
    pub is_settled: bool,
    /// Damaged files of the store that cannot be rewritten, so that their data keys are kept.
    pub held_back: Vec<PathBuf>,
}

#[derive(Debug)]
pub(crate) struct Conversion {
    shared: Arc<Shared>,
    /// Jobs that are out, with the data key that was active when they were taken.
    out: BTreeMap<Writer, DataKeyId>,
    /// A count of sealed values is out.
    counting: bool,
    /// No value is sealed, as of the last count, and none will be.
    is_free: bool,
    retry_at: Duration,
    barrier_at: Duration,
    /// The keyring is being written, which the disk may make long.
    is_retiring: bool,
}

/// What a turn found to do.
#[derive(Debug)]
pub(crate) enum Wish {
    Nothing,
    /// A job for the background.
    Run(Box<Job>),
    /// A checkpoint, in place of one under an old key.
    Checkpoint,
    /// Something must be applied, so that a flush follows.
    Barrier,
}

impl Conversion {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            out: BTreeMap::new(),
            counting: false,
            is_free: false,
            retry_at: Duration::ZERO,
            barrier_at: Duration::ZERO,
            is_retiring: false,
        }
    }

    /// A job that writes files was taken.
    pub(crate) fn taken(&mut self, writer: Writer) {
        self.out.insert(writer, self.shared.encryption.files().active());
    }

    /// It has ended.
    pub(crate) fn finished(&mut self, writer: Writer) {
        self.out.remove(&writer);
    }

    /// The sealed values were counted while everything was to be plain.
    pub(crate) fn counted(&mut self, store: &Store, sealed: Option<u64>) {
        self.counting = false;
        let Some(sealed) = sealed else {
            // Whether one is in the part that cannot be read is not known: the keyring stays.
            self.retry_at = self.shared.env.clock.monotonic() + RETRY_UNREADABLE_AFTER;
            return;
        };
        self.is_free = sealed == 0;
        if sealed > 0 {
            tracing::info!(sealed, "some values are still sealed; storing them plain");
            store.rekey_all();
        }
    }

    /// Looks what is left to do. Cheap when nothing is.
    pub(crate) fn turn(&mut self, store: &mut Store, now: Duration) -> Wish {
        let files = self.shared.encryption.files();
        let active = files.active();
        let log = self.shared.wal_files.lock().clone();
        if log.seen != Some(active) {
            self.shared.wal.hand(WalEvent::Rekey);
        }
        let mut counts = match store.data_keys() {
            Ok(Some(counts)) => counts,
            Ok(None) => return Wish::Nothing,
            Err(error) => {
                tracing::warn!(%error, "the files cannot be counted by their keys");
                return Wish::Nothing;
            }
        };
        for (key, count) in &log.counts {
            *counts.entry(*key).or_default() += count;
        }
        let is_settled = files.known() == [active];
        self.publish(&counts, active, is_settled, store.held_back());
        self.is_free &= active == DataKeyId::PLAIN;
        if is_settled && !store.is_rekeying() {
            self.is_free = false;
            return Wish::Nothing;
        }
        if log.counts.keys().any(|key| *key != active) {
            let keepd_mvcc::Applied { index, term } = store.durable();
            self.shared.wal.hand(WalEvent::Release { index, term, is_short: false });
        }
        if self.shared.ballast.is_short() {
            // Copies of whole segments would take the space that others give back.
            return Wish::Nothing;
        }
        if !self.out.contains_key(&Writer::Rewrite)
            && let Some(job) = store.take_rekey()
        {
            self.taken(Writer::Rewrite);
            return Wish::Run(Box::new(Job::Rewrite(job)));
        }
        if self.out.contains_key(&Writer::Rewrite) {
            return Wish::Nothing;
        }
        if store.is_rekeying() {
            // Only the last segment is left, which gives way with a flush.
            let is_due = now >= self.barrier_at;
            if is_due {
                self.barrier_at = now + RETRY_AFTER;
            }
            return if is_due { Wish::Barrier } else { Wish::Nothing };
        }
        if store.has_stale_checkpoint() && !self.out.contains_key(&Writer::Checkpoint) {
            return Wish::Checkpoint;
        }
        let is_over = counts.keys().all(|key| *key == active)
            && log.seen == Some(active)
            && self.out.values().all(|key| *key == active);
        if is_over && now >= self.retry_at && !self.is_retiring {
            return self.finish(&counts, active, now);
        }
        Wish::Nothing
    }

    fn finish(
        &mut self,
        counts: &BTreeMap<DataKeyId, u64>,
        active: DataKeyId,
        now: Duration,
    ) -> Wish {
        if active == DataKeyId::PLAIN && !self.is_free {
            // Without the keyring nothing refuses a start that lacks the values' keys.
            if self.counting {
                return Wish::Nothing;
            }
            self.counting = true;
            return Wish::Run(Box::new(Job::CountSealed(self.shared.views.load())));
        }
        self.retry_at = now + RETRY_AFTER;
        self.is_retiring = true;
        Wish::Run(Box::new(Job::RetireKeys { active, in_use: counts.keys().copied().collect() }))
    }

    /// The keyring was told which keys are in use.
    pub(crate) fn retired(&mut self, result: Result<bool, KeyringError>) {
        self.is_retiring = false;
        let active = self.shared.encryption.files().active();
        match result {
            Ok(true) if active == DataKeyId::PLAIN => tracing::info!(
                "sealed files left: 0; no value is sealed: the encryption configuration may go"
            ),
            Ok(true) => tracing::info!("plain files left: 0; files under older data keys left: 0"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the keyring still keeps data keys unused"),
        }
    }

    fn publish(
        &self,
        counts: &BTreeMap<DataKeyId, u64>,
        active: DataKeyId,
        is_settled: bool,
        held_back: Vec<PathBuf>,
    ) {
        let sum = |wanted: &dyn Fn(DataKeyId) -> bool| {
            counts.iter().filter(|(key, _)| wanted(**key)).map(|(_, count)| count).sum()
        };
        let now = FileCounts {
            sealed: sum(&|key| key != DataKeyId::PLAIN),
            plain: sum(&|key| key == DataKeyId::PLAIN),
            stale: sum(&|key| key != active),
            is_settled,
            held_back,
        };
        let mut published = self.shared.file_counts.lock();
        for file in now.held_back.iter().filter(|file| !published.held_back.contains(file)) {
            tracing::warn!(file = %file.display(), "{HELD_BACK_ADVICE}");
        }
        if *published != now {
            if active != DataKeyId::PLAIN && published.plain != now.plain {
                tracing::info!("plain files left: {}", now.plain);
            } else if active == DataKeyId::PLAIN && published.sealed != now.sealed {
                tracing::info!("sealed files left: {}", now.sealed);
            }
            *published = now;
        }
    }
}

/// Stores values as the configuration of the moment wants them.
pub(crate) fn resealer(env: &Env, encryption: &Arc<Encryption>) -> Resealer {
    let (random, encryption) = (Arc::clone(&env.random), Arc::clone(encryption));
    Resealer::new(move |record| {
        let resealed = reseal(record, &encryption, &*random);
        resealed.unwrap_or_else(|reason| {
            // It stays as it is: the record is whole, and its key may come back.
            tracing::warn!(reason, "a value cannot be stored under another key");
            None
        })
    })
}

fn reseal(
    record: &Record,
    encryption: &Encryption,
    random: &dyn keepd_env::Random,
) -> Result<Option<Record>, String> {
    if record.tombstone {
        return Ok(None);
    }
    let sealer = encryption.sealer();
    if record.seal.is_none() && !sealer.has_real_provider() {
        return Ok(None);
    }
    let mut kv = KeyValue::decode(&record.encoded).map_err(|error| error.to_string())?;
    let stored = StoredValue { bytes: std::mem::take(&mut kv.value), seal: record.seal };
    if !sealer.is_stale(&kv.key, &stored) {
        return Ok(None);
    }
    let plain = sealer.open(&kv.key, &stored).map_err(|error| error.to_string())?;
    let stored = sealer.seal(&kv.key, plain, random).map_err(|error| error.to_string())?;
    kv.value = stored.bytes;
    let mut encoded = Vec::with_capacity(kv.encoded_len());
    kv.encode(&mut encoded);
    Ok(Some(Record { encoded: Bytes::from(encoded), tombstone: false, seal: stored.seal }))
}
