//! The log on its way into the places of backups, a thread of low priority for each of them.
//!
//! The member keeps its log for it (`keepd_node::LogHold`); what is shipped when is `keepd_archive::log`'s.
//! Nothing that serves waits for these threads.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keepd_archive::Error;
use keepd_archive::destination;
use keepd_archive::log::ship::{Event, Page, Reason, Settings, Shipper, Source};
use keepd_archive::sidecar::MemberFacts;
use keepd_backup::{LogPosition, Mark};
use keepd_node::{BackupLog, Handle, LogHold, LogPage};
use parking_lot::Mutex;

use super::background::{Background, Stop};
use super::backups::read_keys;
use super::process;
use crate::backup::place::{Machine, made_by};
use crate::flags::{BackupOptions, ServerOptions, ShipOptions};

/// Interval between two looks at what was committed: the moments that can be told apart.
const TICK: Duration = Duration::from_millis(200);
/// Interval at which the files with the keys are read again.
const KEYS_INTERVAL: Duration = Duration::from_secs(60);
/// Interval at which a failure that lasts is told again.
const TELL_INTERVAL: Duration = Duration::from_secs(60);
/// BOUND: time that the threads get at a stop to ship what is left.
const END: Duration = Duration::from_secs(3);

/// The threads.
#[derive(Default)]
pub(super) struct Shipping(Background);

impl Shipping {
    /// Begins to ship, if that is asked for.
    pub(super) fn start(options: &ServerOptions, node: &Handle) -> anyhow::Result<Self> {
        let Some(log) = options.backups.log else { return Ok(Self::default()) };
        let numbers = &node.metrics().backup_log;
        numbers.is_on.store(1, Ordering::Relaxed);
        let states = Arc::new(Mutex::new(vec![State::default(); options.backups.to.len()]));
        let mut background = Background::default();
        for (number, url) in options.backups.to.iter().enumerate() {
            let (options, node) = (options.clone(), node.clone());
            let (states, url) = (Arc::clone(&states), url.clone());
            background.begin(format!("backup-log-{number}"), move |stop| {
                match Line::open(&options, log, &node, number, &url) {
                    Ok(line) => line.run(stop, &states),
                    Err(error) => {
                        let to = destination::shown(&url);
                        tracing::error!(to, %error, "the log is not shipped");
                    }
                }
            })?;
        }
        Ok(Self(background))
    }

    /// Has the threads ship what is left, and waits for it a little. What a place that is away does not get
    /// stays in the log of this member, and the next start goes on with it.
    pub(super) async fn stop(self) {
        if !self.0.stop(END).await {
            tracing::info!("the rest of the log is shipped after the next start");
        }
    }
}

/// A place, as the metrics tell of all.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    ships: bool,
    behind: Duration,
    index: u64,
}

/// The log of this member.
#[derive(Debug)]
struct MemberLog {
    node: Handle,
    hold: Option<LogHold>,
}

impl Source for MemberLog {
    fn leads(&self) -> bool {
        self.node.leads()
    }

    fn state(&self) -> Mark {
        let view = self.node.view();
        Mark { position: LogPosition::of(&view), revision: view.revision() }
    }

    fn read(&mut self, first: u64, last: u64, bytes_max: usize) -> Result<Page, Error> {
        match self.node.read_log(first, last, bytes_max) {
            Ok(LogPage::Entries(entries)) => Ok(Page::Entries(entries)),
            Ok(LogPage::Gone) => Ok(Page::Gone),
            Err(error) => Err(Error::MemberLog(error.to_string())),
        }
    }

    fn keep_behind(&mut self, index: u64) {
        if let Some(hold) = &self.hold {
            hold.keep_behind(index);
        }
    }
}

/// The way into one place.
struct Line {
    node: Handle,
    number: usize,
    shown: String,
    shipper: Shipper<MemberLog>,
    options: BackupOptions,
    config_file: Option<PathBuf>,
    machine: Machine,
    keys_at: Duration,
    told_at: Option<Duration>,
}

impl Line {
    fn open(
        options: &ServerOptions,
        log: ShipOptions,
        node: &Handle,
        number: usize,
        url: &str,
    ) -> anyhow::Result<Self> {
        let (backups, config_file) =
            (options.backups.clone(), options.encryption_provider_config.clone());
        let first = process::lower_thread_priority;
        let machine = Machine::beginning(node.env().clone(), backups.limit_rate, first)?;
        let destination = machine.open(url)?;
        let (sealing, _) = read_keys(&backups, config_file.as_deref())?;
        let identity = node.identity();
        let settings = Settings {
            cluster: identity.cluster.0,
            member: MemberFacts {
                id: format!("{:016x}", identity.member.0),
                name: node.options().name.clone(),
            },
            made_by: made_by(),
            interval: log.interval,
            bytes: log.bytes,
        };
        let source = MemberLog { node: node.clone(), hold: node.log_hold(number) };
        let shipper = Shipper::new(node.env(), source, destination, sealing, settings);
        Ok(Self {
            node: node.clone(),
            number,
            shown: destination::shown(url),
            shipper,
            options: backups,
            config_file,
            machine,
            keys_at: Duration::ZERO,
            told_at: None,
        })
    }

    fn run(mut self, stop: &Stop, states: &Mutex<Vec<State>>) {
        while !stop.wait(TICK) {
            let now = self.machine.env.clock.monotonic();
            self.read_keys(now);
            let before = self.shipper.batches();
            let ticked = self.shipper.tick();
            self.tell(ticked, now);
            self.count(before, states);
        }
        let before = self.shipper.batches();
        if let Err(error) = self.shipper.finish() {
            tracing::warn!(to = self.shown, %error, "the rest of the log is shipped after the next start");
        }
        self.count(before, states);
    }

    /// The keys may have been exchanged: what is sealed from now on is for those of now.
    fn read_keys(&mut self, now: Duration) {
        if now.saturating_sub(self.keys_at) < KEYS_INTERVAL {
            return;
        }
        self.keys_at = now;
        match read_keys(&self.options, self.config_file.as_deref()) {
            Ok((sealing, _)) => self.shipper.set_sealing(sealing),
            Err(error) => {
                tracing::warn!(%error, "the keys of backups cannot be read; the log is sealed as before");
            }
        }
    }

    fn tell(&mut self, ticked: Result<(), Error>, now: Duration) {
        let (to, numbers) = (self.shown.as_str(), &self.node.metrics().backup_log);
        for event in self.shipper.take_events() {
            match event {
                Event::GoesOn { chain, last } => {
                    tracing::info!(to, chain, last, "shipping the log: it goes on");
                }
                Event::Began { chain, reason: Reason::First } => {
                    tracing::info!(
                        to,
                        chain,
                        "shipping the log: it begins, and is of use from the next backup on"
                    );
                }
                Event::Began { chain, reason: reason @ Reason::OtherHistory(_) } => {
                    tracing::warn!(
                        to, chain, %reason,
                        "the shipped log begins anew, and is of use from the next backup on: take one"
                    );
                }
                Event::Began { chain, reason: reason @ Reason::Gap { .. } } => {
                    numbers.gaps.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(
                        to, chain, %reason,
                        "the shipped log has a gap, and what comes after is of use from the next backup on: \
                         take one now"
                    );
                }
            }
        }
        let Err(error) = ticked else {
            if self.told_at.take().is_some() {
                tracing::info!(to, "the log is shipped again");
            }
            return;
        };
        numbers.failures.fetch_add(1, Ordering::Relaxed);
        if self.told_at.is_none_or(|at| now.saturating_sub(at) >= TELL_INTERVAL) {
            self.told_at = Some(now);
            let behind = self.shipper.behind().as_secs();
            tracing::warn!(to, behind, %error, "the log cannot be shipped now; it is tried again");
        }
    }

    fn count(&self, batches_before: u64, states: &Mutex<Vec<State>>) {
        let shipper = &self.shipper;
        let mut states = states.lock();
        if let Some(state) = states.get_mut(self.number) {
            let (ships, behind) = (shipper.ships(), shipper.behind());
            *state = State { ships, behind, index: shipper.shipped() };
        }
        let BackupLog { ships, behind_millis, index, batches, .. } =
            &self.node.metrics().backup_log;
        ships.store(u64::from(states.iter().any(|it| it.ships)), Ordering::Relaxed);
        let behind = states.iter().map(|it| it.behind).max().unwrap_or_default();
        let behind = u64::try_from(behind.as_millis()).unwrap_or(u64::MAX);
        behind_millis.store(behind, Ordering::Relaxed);
        index.store(states.iter().map(|it| it.index).min().unwrap_or(0), Ordering::Relaxed);
        batches.fetch_add(shipper.batches() - batches_before, Ordering::Relaxed);
    }
}
