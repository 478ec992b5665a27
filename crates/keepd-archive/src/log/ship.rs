//! Shipping: what the cluster commits goes into a destination, batch by batch.
//!
//! The leader ships; another member looks now and then how far it is, and keeps its own log from there on,
//! so that it can go on. Whoever begins looks for the end of the newest chain and goes on there, if its log
//! does ([`super::position`]). One call of [`Shipper::tick`] after the other does it all; calls block.

mod chain;
mod gathered;

use std::sync::Arc;
use std::time::Duration;

use keepd_backup::Mark;
use keepd_env::Env;
use keepd_types::Entry;

use self::chain::Chain;
use self::gathered::Gathered;
use super::batch::{self, Batch, FORMAT, Header};
use super::name::{BatchName, ChainName, log_folder};
use super::position::{self, Fit, NO_TAG};
use crate::destination::{Destination, Entry as Listed};
use crate::digest::sha256;
use crate::format::Sealing;
use crate::sidecar::MemberFacts;
use crate::{Error, Moment};

/// The time that a batch has for its way.
const WAY: Duration = Duration::from_secs(1);
/// Time after which an idle cluster says that it is.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// Interval at which a member that does not ship looks how far the log is.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(30);
/// The first pause after a failure; it doubles.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest one.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A member's log, as it is shipped.
pub trait Source {
    /// Whether the member leads, and has all that was committed before.
    fn leads(&self) -> bool;
    /// The newest state that it has published.
    fn state(&self) -> Mark;
    /// Its entries from an index on, up to another one, as far as bytes go but one at least.
    ///
    /// # Errors
    /// If they cannot be read.
    fn read(&mut self, first: u64, last: u64, bytes_max: usize) -> Result<Page, Error>;
    /// Keeps the entries behind an index from now on, and no others.
    fn keep_behind(&mut self, index: u64);
}

/// Entries of a member's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// From the first one on, without a gap; none if they are not durable yet.
    Entries(Vec<Entry>),
    /// The first one is gone.
    Gone,
}

/// The settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster.
    pub cluster: u64,
    /// This member.
    pub member: MemberFacts,
    /// This program.
    pub made_by: String,
    /// Time that what is committed may be behind.
    pub interval: Duration,
    /// Bytes that may.
    pub bytes: usize,
}

/// News for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A chain begins.
    Began {
        /// The chain.
        chain: String,
        /// The reason.
        reason: Reason,
    },
    /// Shipping goes on where another member, or this one before, ended.
    GoesOn {
        /// The chain.
        chain: String,
        /// The last entry that was shipped.
        last: u64,
    },
}

/// Reason why a chain begins.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Nothing was shipped before.
    #[error("nothing was shipped before")]
    First,
    /// The shipped log is of another history.
    #[error("the log of this member is of another history than what was shipped: {0}")]
    OtherHistory(&'static str),
    /// Entries are gone.
    #[error(
        "GAP: entries from {first} on had to be released from the members' logs before they were shipped"
    )]
    Gap {
        /// The first one.
        first: u64,
    },
}

/// An object that is to be uploaded.
#[derive(Debug)]
struct Pending {
    name: BatchName,
    object: Vec<u8>,
    sha256: String,
    /// By the monotonic clock.
    sealed_at: Duration,
}

/// Ships a member's log into one destination.
#[derive(Debug)]
pub struct Shipper<S> {
    env: Env,
    source: S,
    destination: Arc<dyn Destination>,
    sealing: Sealing,
    settings: Settings,
    chain: Option<Chain>,
    gathered: Gathered,
    pending: Option<Pending>,
    /// Since when there are entries that were not shipped, by the monotonic clock.
    unshipped: Option<Duration>,
    uploaded_at: Duration,
    /// No try before, after so many failures.
    paused_until: Duration,
    failures: u32,
    looked_at: Option<Duration>,
    /// The newest batch that was seen, by its key: later listings begin there.
    seen: Option<(ChainName, String)>,
    events: Vec<Event>,
    batches: u64,
}

impl<S: Source> Shipper<S> {
    /// Begins; nothing is asked of the destination yet.
    pub fn new(
        env: &Env,
        source: S,
        destination: Arc<dyn Destination>,
        sealing: Sealing,
        settings: Settings,
    ) -> Self {
        Self {
            env: env.clone(),
            source,
            destination,
            sealing,
            settings,
            chain: None,
            gathered: Gathered::default(),
            pending: None,
            unshipped: None,
            uploaded_at: Duration::ZERO,
            paused_until: Duration::ZERO,
            failures: 0,
            looked_at: None,
            seen: None,
            events: Vec::new(),
            batches: 0,
        }
    }

    /// Does what is due; to be called several times a second.
    ///
    /// # Errors
    /// If the place or the member's log refuses: it is tried again, after a pause.
    pub fn tick(&mut self) -> Result<(), Error> {
        self.step(false)
    }

    /// Ships what there is, before a stop.
    ///
    /// # Errors
    /// If the place or the member's log refuses.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.paused_until = Duration::ZERO;
        self.step(true)
    }

    /// Seconds for which something committed has not been shipped; zero if all was, or this member does not
    /// ship.
    #[must_use]
    pub fn behind(&self) -> Duration {
        let now = self.env.clock.monotonic();
        self.unshipped.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// Whether this member ships.
    #[must_use]
    pub fn ships(&self) -> bool {
        self.chain.is_some()
    }

    /// The last entry that was shipped, as far as this member knows.
    #[must_use]
    pub fn shipped(&self) -> u64 {
        self.chain.as_ref().map_or(0, |chain| chain.last)
    }

    /// Batches that this member has shipped.
    #[must_use]
    pub const fn batches(&self) -> u64 {
        self.batches
    }

    /// Seals to these keys from now on.
    pub fn set_sealing(&mut self, sealing: Sealing) {
        self.sealing = sealing;
    }

    /// The news since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn step(&mut self, is_last: bool) -> Result<(), Error> {
        let now = self.env.clock.monotonic();
        if !self.source.leads() {
            (self.chain, self.pending, self.unshipped) = (None, None, None);
            self.gathered = Gathered::default();
            if is_last || now < self.paused_until {
                return Ok(());
            }
            let followed = self.follow(now);
            return self.judged(followed, now);
        }
        self.note(now);
        if now < self.paused_until {
            return Ok(());
        }
        let shipped = self.ship(now, is_last);
        self.judged(shipped, now)
    }

    /// After a failure nothing is tried for a while.
    fn judged(&mut self, result: Result<(), Error>, now: Duration) -> Result<(), Error> {
        if result.is_ok() {
            self.failures = 0;
            return result;
        }
        let pause = PAUSE_MIN.saturating_mul(1 << self.failures.min(5)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.paused_until = now + pause;
        result
    }

    /// Notes the state of this moment, also while the place is away.
    fn note(&mut self, now: Duration) {
        // ORDER: the clock first. What was acknowledged before a moment is in the state that is noted for it.
        let time = Moment::of_wall(self.env.clock.wall());
        let state = self.source.state();
        self.gathered.note(time, &state);
        let shipped = self.chain.as_ref().map(|chain| chain.last);
        if shipped == Some(state.position.index) {
            self.unshipped = None;
        } else {
            self.unshipped.get_or_insert(now);
        }
    }

    fn ship(&mut self, now: Duration, is_last: bool) -> Result<(), Error> {
        if self.chain.is_none() {
            self.establish(now)?;
        }
        if self.pending.is_some() {
            self.upload(now)?;
        }
        // BOUND: what is behind is caught up with, a batch after the other, up to this state.
        loop {
            let is_gone = self.gather(now)?;
            let is_full = self.gathered.bytes() >= self.settings.bytes;
            if is_gone && self.gathered.is_empty() {
                let first = self.chain.as_ref().map_or(0, |chain| chain.last + 1);
                self.chain = None;
                self.begin(Reason::Gap { first }, None, now)?;
                return self.upload(now);
            }
            if !(is_full || is_gone || self.is_due(now, is_last)) {
                return Ok(());
            }
            self.seal()?;
            self.upload(now)?;
            if !is_full {
                return Ok(());
            }
        }
    }

    fn is_due(&self, now: Duration, is_last: bool) -> bool {
        let interval = self.settings.interval;
        let patience = interval.saturating_sub(WAY).max(interval / 2);
        match self.gathered.since() {
            Some(since) => is_last || now.saturating_sub(since) >= patience,
            None => now.saturating_sub(self.uploaded_at) >= HEARTBEAT.max(patience),
        }
    }

    /// Reads what was committed since; whether entries are gone.
    fn gather(&mut self, now: Duration) -> Result<bool, Error> {
        let Some(chain) = &self.chain else { return Ok(false) };
        let last = self.gathered.newest();
        loop {
            let next = self.gathered.last().unwrap_or(chain.last) + 1;
            let left = self.settings.bytes.saturating_sub(self.gathered.bytes());
            if next > last || left == 0 {
                return Ok(false);
            }
            match self.source.read(next, last, left)? {
                Page::Gone => return Ok(true),
                Page::Entries(entries) if entries.is_empty() => return Ok(false),
                Page::Entries(entries) => self.gathered.take(entries, now),
            }
        }
    }

    /// Makes a batch of what was gathered.
    fn seal(&mut self) -> Result<(), Error> {
        let Some(chain) = &self.chain else { return Ok(()) };
        let name = self.gathered.name(chain, self.sealing.is_sealed());
        let header = Header {
            format: FORMAT,
            cluster_id: format!("{:016x}", self.settings.cluster),
            chain: chain.name.to_string(),
            name: name.to_string(),
            after: chain.after.clone(),
            member: self.settings.member.clone(),
            made_by: self.settings.made_by.clone(),
            marks: self.gathered.marks_up_to(name.last),
        };
        let batch = Batch { header, entries: self.gathered.entries() };
        let object = batch::seal(&batch, &self.sealing, &*self.env.random)?;
        let sha256 = sha256(&object);
        self.gathered.forget(name.last);
        let sealed_at = self.env.clock.monotonic();
        self.pending = Some(Pending { name, object, sha256, sealed_at });
        Ok(())
    }

    fn upload(&mut self, now: Duration) -> Result<(), Error> {
        let (Some(pending), Some(chain)) = (&self.pending, &mut self.chain) else { return Ok(()) };
        let key = pending.name.key(self.settings.cluster, &chain.name);
        keepd_env::failpoint!(ShipBeforeUpload);
        match self.destination.put(&key, &mut pending.object.as_slice(), &mut |_| {}) {
            Ok(_) => {}
            // An upload may arrive although its answer did not.
            Err(Error::Exists { .. }) => {
                if sha256(&read(&*self.destination, &key)?) != pending.sha256 {
                    // Another leader has shipped this: its chain is gone on with.
                    (self.chain, self.pending) = (None, None);
                    self.gathered = Gathered::default();
                    return Ok(());
                }
            }
            Err(error) => return Err(error),
        }
        keepd_env::failpoint!(ShipAfterUpload);
        chain.advance(&pending.name, &pending.sha256);
        self.source.keep_behind(chain.last.saturating_sub(1));
        let sealed_at = pending.sealed_at;
        self.pending = None;
        self.batches += 1;
        self.uploaded_at = now;
        self.unshipped = (self.gathered.newest() > chain.last).then_some(sealed_at);
        Ok(())
    }

    /// Finds the chain to go on with, or begins one.
    fn establish(&mut self, now: Duration) -> Result<(), Error> {
        let Some((chain, last, entry)) = self.newest()? else {
            return self.begin(Reason::First, None, now);
        };
        let state = self.source.state();
        let at_end = match self.source.read(last.last, last.last, 1)? {
            Page::Entries(mut entries) => entries.pop(),
            Page::Gone => None,
        };
        let has_next = last.last >= state.position.index
            || self.source.read(last.last + 1, last.last + 1, 1)? != Page::Gone;
        match position::fit(&state.position, &chain, &last, at_end.as_ref(), has_next) {
            Fit::GoesOn => {}
            Fit::Other(reason) => {
                return self.begin(Reason::OtherHistory(reason), Some(chain), now);
            }
            Fit::Released => {
                return self.begin(Reason::Gap { first: last.last + 1 }, Some(chain), now);
            }
        }
        let digest = sha256(&read(&*self.destination, &entry.key)?);
        let event = Event::GoesOn { chain: chain.to_string(), last: last.last };
        self.chain = Some(Chain::behind(chain, &last, &digest));
        self.source.keep_behind(last.last.saturating_sub(1));
        if last.last < state.position.index {
            // It is behind by what the one before had not shipped when it ended.
            let wall = Moment::of_wall(self.env.clock.wall());
            self.unshipped = Some(now.saturating_sub(wall.since(last.until)));
        }
        self.uploaded_at = now;
        self.events.push(event);
        Ok(())
    }

    /// Begins a chain at the state of now; its first batch is to be uploaded at once.
    fn begin(
        &mut self,
        reason: Reason,
        newest: Option<ChainName>,
        now: Duration,
    ) -> Result<(), Error> {
        let newest = newest.or_else(|| self.seen.as_ref().map(|(chain, _)| *chain));
        let state = self.source.state();
        let index = state.position.index;
        let entry = match self.source.read(index, index, 1)? {
            Page::Entries(mut entries) => entries.pop(),
            Page::Gone => None,
        };
        let mut begin = Moment::of_wall(self.env.clock.wall());
        self.gathered = Gathered::default();
        self.gathered.note(begin, &state);
        // Whatever clocks say, the newest chain has the last name.
        if let Some(newest) = newest.filter(|newest| newest.begin >= begin) {
            begin = Moment::of_millis(newest.begin.millis() + 1);
        }
        let random = u32::try_from(self.env.random.next_u64() >> 32).unwrap_or_default();
        let name = ChainName { begin, since: state.position.since, random };
        let tag = entry.map_or(NO_TAG, |entry| position::tag(name.since, &entry));
        self.chain = Some(Chain::new(name, &state, tag, reason.to_string()));
        self.seen = Some((name, name.folder(self.settings.cluster)));
        self.pending = None;
        self.unshipped = Some(now);
        self.events.push(Event::Began { chain: name.to_string(), reason });
        self.seal()
    }

    /// The newest chain that has a batch, and its last one.
    fn newest(&mut self) -> Result<Option<(ChainName, BatchName, Listed)>, Error> {
        let cluster = self.settings.cluster;
        let names = self.destination.names(&log_folder(cluster))?;
        let mut chains: Vec<ChainName> =
            names.folders.iter().filter_map(|name| name.parse().ok()).collect();
        chains.sort_unstable();
        while let Some(chain) = chains.pop() {
            let folder = chain.folder(cluster);
            let seen =
                self.seen.as_ref().filter(|(of, _)| *of == chain).map(|(_, key)| key.clone());
            let mut listed = self.destination.list_below(&folder, seen.as_deref())?;
            if listed.is_empty() && seen.is_some() {
                listed = self.destination.list_below(&folder, None)?;
            }
            let batches = listed.into_iter().filter_map(|entry| {
                let name = entry.key.strip_prefix(&folder)?.strip_prefix('/')?.parse().ok()?;
                Some((name, entry))
            });
            // Of leaders that overlapped the one that came further.
            let last =
                batches.max_by_key(|(name, _): &(BatchName, Listed)| (name.last, name.until));
            if let Some((name, entry)) = last {
                self.seen = Some((chain, entry.key.clone()));
                return Ok(Some((chain, name, entry)));
            }
        }
        Ok(None)
    }

    /// Looks how far the log is, and keeps what was not shipped.
    fn follow(&mut self, now: Duration) -> Result<(), Error> {
        let is_due = self.looked_at.is_none_or(|at| now.saturating_sub(at) >= FOLLOW_INTERVAL);
        if !is_due {
            return Ok(());
        }
        let newest = self.newest()?;
        self.looked_at = Some(now);
        if let Some((_, last, _)) = newest {
            self.source.keep_behind(last.last.saturating_sub(1));
        }
        Ok(())
    }
}

/// Reads the object of a batch.
fn read(destination: &dyn Destination, key: &str) -> Result<Vec<u8>, Error> {
    let keys = [key.to_owned()];
    destination.get_all(&keys, batch::OBJECT_BYTES_MAX).pop().unwrap_or(Err(Error::Truncated))
}
