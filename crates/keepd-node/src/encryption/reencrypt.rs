//! Re-encryption of files and values in the background, and retirement of data keys.
//!
//! New files are encrypted with the active data key. A file that is encrypted with another one, or
//! plain beside encrypted ones, is rewritten, and its values get the form that they would be stored
//! in today on the same way. A data key that encrypts no file any more leaves the keyring, and a
//! keyring without keys is removed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_crypto::{DataKeyId, Encryption, KeyringError};
use keepd_env::Env;
use keepd_mvcc::{JobKind, JobRequest, Record, Reencryptor, Store};
use keepd_types::{KeyValue, StoredValue};

use crate::encryption::state::FileCounts;
use crate::messages::{Job, WalEvent};
use crate::shared::Shared;

/// Interval after which a failed step is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Interval after which values are counted again that could not be read because of damage.
const RETRY_UNREADABLE_AFTER: Duration = Duration::from_secs(600);

/// Advice to the operator about a damaged file that needs its old key.
const HELD_BACK_ADVICE: &str = "a damaged file keeps an old data key in use, so that the change of keys \
    does not come to its end; write or delete the keys whose reads fail, compact and defragment: once \
    nothing that is needed lies in the damage, the file is rewritten";

#[derive(Debug)]
pub(crate) struct Reencryption {
    shared: Arc<Shared>,
    /// A count of sealed values is under way.
    is_counting: bool,
    /// The last count found no sealed value while all values were to be plain.
    is_all_plain: bool,
    retry_at: Duration,
    /// Next time at which an entry may be proposed only to have something to flush.
    proposal_due: Duration,
    /// The keyring is being written, which a slow disk makes long.
    is_retiring: bool,
}

/// Next step of the re-encryption.
#[derive(Debug)]
pub(crate) enum NextStep {
    Nothing,
    /// A job for the background.
    Run(Box<Job>),
    /// A checkpoint, in place of one that an old data key encrypts.
    Checkpoint,
    /// An entry to apply, so that a flush follows.
    Propose,
}

impl Reencryption {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            is_counting: false,
            is_all_plain: false,
            retry_at: Duration::ZERO,
            proposal_due: Duration::ZERO,
            is_retiring: false,
        }
    }

    /// Takes the result of a count of sealed values, `None` if some could not be read.
    pub(crate) fn counted(&mut self, store: &Store, sealed: Option<u64>) {
        self.is_counting = false;
        let Some(sealed) = sealed else {
            // The part that cannot be read may hold one: the keyring stays.
            self.retry_at = self.shared.env.clock.monotonic() + RETRY_UNREADABLE_AFTER;
            return;
        };
        self.is_all_plain = sealed == 0;
        if sealed > 0 {
            tracing::info!(sealed, "some values are still sealed; storing them plain");
            store.reencrypt_all();
        }
    }

    /// Finds the next step. Cheap when nothing is left to do.
    pub(crate) fn next_step(&mut self, store: &mut Store, now: Duration) -> NextStep {
        // ORDER: before anything is looked at.
        let begun = self.shared.encryption_state.begun();
        let files = self.shared.encryption.files();
        let active = files.active();
        let log = self.shared.encryption_state.wal_files();
        if log.seen != Some(active) {
            self.shared.mailboxes.wal.push(WalEvent::Reencrypt);
        }
        let mut counts = match store.data_keys() {
            Ok(Some(counts)) => counts,
            Ok(None) => return NextStep::Nothing,
            Err(error) => {
                tracing::warn!(%error, "the files cannot be counted by their keys");
                return NextStep::Nothing;
            }
        };
        for (key, count) in &log.counts {
            *counts.entry(*key).or_default() += count;
        }
        let is_complete = files.known() == [active];
        self.publish(&counts, active, (is_complete, begun), store.held_back());
        self.is_all_plain &= active == DataKeyId::PLAIN;
        if is_complete && !store.is_reencrypting() {
            self.is_all_plain = false;
            return NextStep::Nothing;
        }
        if log.counts.keys().any(|key| *key != active) {
            self.shared.release_log(store.durable(), false);
        }
        if self.shared.space.ballast.is_short() {
            // Copies of whole segments would take the space that others give back.
            return NextStep::Nothing;
        }
        if store.is_out(JobKind::Rewrite) {
            return NextStep::Nothing;
        }
        if let Some(job) = store.take(JobRequest::Reencrypt) {
            return NextStep::Run(Box::new(Job::Store(job)));
        }
        if store.is_reencrypting() {
            // Only the last segment is left, which the next flush replaces.
            let is_due = now >= self.proposal_due;
            if is_due {
                self.proposal_due = now + RETRY_AFTER;
            }
            return if is_due { NextStep::Propose } else { NextStep::Nothing };
        }
        if store.has_stale_checkpoint() && !store.is_out(JobKind::Checkpoint) {
            return NextStep::Checkpoint;
        }
        let is_over = counts.keys().all(|key| *key == active)
            && log.seen == Some(active)
            && !store.may_write_stale_file()
            // What is staged is counted nowhere.
            && !self.shared.incoming.is_taken();
        if is_over && now >= self.retry_at && !self.is_retiring {
            return self.retire(&counts, active, now);
        }
        NextStep::Nothing
    }

    /// Asks the keyring to forget the data keys that encrypt no file any more.
    fn retire(
        &mut self,
        counts: &BTreeMap<DataKeyId, u64>,
        active: DataKeyId,
        now: Duration,
    ) -> NextStep {
        if active == DataKeyId::PLAIN && !self.is_all_plain {
            // Without the keyring nothing refuses a start that lacks the values' keys.
            if self.is_counting {
                return NextStep::Nothing;
            }
            self.is_counting = true;
            return NextStep::Run(Box::new(Job::CountSealed(self.shared.views.load())));
        }
        self.retry_at = now + RETRY_AFTER;
        self.is_retiring = true;
        NextStep::Run(Box::new(Job::RetireKeys {
            active,
            in_use: counts.keys().copied().collect(),
        }))
    }

    /// Takes the result of a retirement of data keys; `true` if the keyring holds no others now.
    pub(crate) fn retired(&mut self, result: Result<bool, KeyringError>) {
        self.is_retiring = false;
        let active = self.shared.encryption.files().active();
        match result {
            Ok(true) if active == DataKeyId::PLAIN => tracing::info!(
                "sealed files left: 0; no value is sealed: the encryption configuration may go"
            ),
            Ok(true) => tracing::info!("plain files left: 0; files under older data keys left: 0"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "unused data keys are not retired yet"),
        }
    }

    fn publish(
        &self,
        counts: &BTreeMap<DataKeyId, u64>,
        active: DataKeyId,
        (is_complete, begun): (bool, u64),
        held_back: Vec<PathBuf>,
    ) {
        let sum = |wanted: &dyn Fn(DataKeyId) -> bool| {
            counts.iter().filter(|(key, _)| wanted(**key)).map(|(_, count)| count).sum()
        };
        let now = FileCounts {
            sealed: sum(&|key| key != DataKeyId::PLAIN),
            plain: sum(&|key| key == DataKeyId::PLAIN),
            stale: sum(&|key| key != active),
            is_complete,
            held_back,
        };
        let before = self.shared.encryption_state.replace_file_counts(now.clone(), begun);
        for file in now.held_back.iter().filter(|file| !before.held_back.contains(file)) {
            tracing::warn!(file = %file.display(), "{HELD_BACK_ADVICE}");
        }
        if active != DataKeyId::PLAIN && before.plain != now.plain {
            tracing::info!("plain files left: {}", now.plain);
        } else if active == DataKeyId::PLAIN && before.sealed != now.sealed {
            tracing::info!("sealed files left: {}", now.sealed);
        }
    }
}

/// Stores values as the current configuration wants them.
pub(crate) fn reencryptor(env: &Env, encryption: &Arc<Encryption>) -> Reencryptor {
    let (random, encryption) = (Arc::clone(&env.random), Arc::clone(encryption));
    Reencryptor::new(move |record| {
        let reencrypted = reencrypt_record(record, &encryption, &*random);
        reencrypted.unwrap_or_else(|reason| {
            // It stays as it is: the record is whole, and its key may come back.
            tracing::warn!(reason, "a value cannot be stored under another key");
            None
        })
    })
}

fn reencrypt_record(
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
