//! Backups that the server takes by itself: on a schedule, each by one member of the cluster, proven before
//! it counts.
//!
//! One thread of low priority, which blocks on disks, places and the log; nothing that serves waits for it.
//! Every second it looks whether a moment is due (`duty.rs`), decides whether this member does the work
//! (`decide.rs`), claims it in the log (`claims.rs`), and does it (`take.rs`). What the places have it tells
//! by the metrics (`places.rs`), on each member.
//!
//! INVARIANT: an object without its sidecar counts for nothing, and the sidecar is written only while the
//! claim stands.

mod claims;
mod decide;
mod duty;
mod failure;
mod places;
mod take;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keepd_archive::Moment;
use keepd_archive::prove;
use keepd_env::Env;
use keepd_machine::claims::{BackupClaim, BackupTask, ClaimState};
use keepd_machine::{levels, membership, tables};
use keepd_node::Handle;
use keepd_server::{BackupMetrics, BackupPlace, BackupStep};
use keepd_types::MemberId;

use self::claims::{Claims, Held};
use self::decide::Step;
use self::duty::{Around, Duty};
use self::failure::Failure;
use self::places::Places;
use self::take::Tools;
pub(super) use self::take::read_keys;
use super::background::Background;
use super::process;
use crate::backup::place::{self, Machine};
use crate::flags::{BackupOptions, ServerOptions};

/// Interval between two looks at the schedule.
const LOOK: Duration = Duration::from_secs(1);
/// Interval between two looks at the places while nothing is due.
const REFRESH: Duration = Duration::from_secs(60);
/// Time after which it is told that nothing can be claimed yet.
const PATIENCE: Duration = Duration::from_secs(300);
/// BOUND: time that the thread gets to end.
const END: Duration = Duration::from_secs(2);

/// The thread of the backups, if there is one.
#[derive(Default)]
pub(super) struct Backups(Background);

/// Checks what can be checked before there is a member: URLs and their files, keys, the scratch folder.
pub(super) async fn check(env: &Env, options: &ServerOptions) -> anyhow::Result<()> {
    if options.backups.to.is_empty() {
        return Ok(());
    }
    let (env, options) = (env.clone(), options.clone());
    let checking = tokio::task::spawn_blocking(move || {
        let machine = machine(&env, &options.backups)?;
        for url in &options.backups.to {
            machine.open(url).map_err(|error| anyhow::anyhow!("--backup-to: {error}"))?;
        }
        let config_file = options.encryption_provider_config.as_deref();
        // The whole reason is in one text: the log has one line.
        read_keys(&options.backups, config_file)
            .map_err(|error| anyhow::anyhow!("the keys of backups: {error:#}"))?;
        env.disk
            .create_dir(&scratch_dir(&options.backups))
            .map_err(|error| anyhow::anyhow!("--backup-scratch-dir: {error}"))
    });
    checking.await?
}

fn machine(env: &Env, options: &BackupOptions) -> anyhow::Result<Machine> {
    Machine::beginning(env.clone(), options.limit_rate, process::lower_thread_priority)
}

fn scratch_dir(options: &BackupOptions) -> PathBuf {
    options.scratch_dir.clone().unwrap_or_else(place::scratch_dir)
}

impl Backups {
    /// Begins to take backups, or only to watch their places if there is no schedule; nothing without a
    /// place.
    pub(super) fn start(
        options: &ServerOptions,
        node: Handle,
        metrics: Arc<BackupMetrics>,
    ) -> anyhow::Result<Self> {
        if options.backups.to.is_empty() {
            return Ok(Self::default());
        }
        let serving = tokio::runtime::Handle::current();
        let options = options.clone();
        let mut background = Background::default();
        background.begin("backups".to_owned(), move |stop| {
            let claims = Claims { node, stop: Arc::clone(stop), serving };
            match Scheduler::new(options, claims, metrics) {
                Ok(mut scheduler) => scheduler.run(),
                Err(error) => tracing::error!(%error, "no backups are taken"),
            }
        })?;
        Ok(Self(background))
    }

    /// Tells the thread to stop.
    pub(super) fn begin_stop(&self) {
        self.0.begin_stop();
    }

    /// Waits for its end. One that waits for a store is left behind: what it was writing counts for nothing.
    pub(super) async fn stop(self) {
        if !self.0.stop(END).await {
            tracing::info!("a backup was under way; it is taken again");
        }
    }
}

/// The state of the thread.
struct Scheduler {
    options: ServerOptions,
    machine: Machine,
    scratch_dir: PathBuf,
    claims: Claims,
    places: Places,
    duties: Vec<Duty>,
    metrics: Arc<BackupMetrics>,
    /// The next look at the places.
    refresh_at: Duration,
    /// Whether the revision was compared with what the places have.
    has_looked: bool,
    /// The moment of which it was told that nothing can be claimed.
    told_of_level: Option<Moment>,
}

impl Scheduler {
    fn new(
        options: ServerOptions,
        claims: Claims,
        metrics: Arc<BackupMetrics>,
    ) -> anyhow::Result<Self> {
        let machine = machine(claims.node.env(), &options.backups)?;
        let cluster = claims.node.identity().cluster.0;
        let places = Places::open(&machine, &options.backups.to, cluster)?;
        let to = |shown: &str| BackupPlace { to: shown.to_owned(), ..BackupPlace::default() };
        metrics.update(|facts| {
            facts.places = places.all.iter().map(|place| to(&place.shown)).collect();
        });
        let BackupOptions { schedule, drill_schedule, .. } = &options.backups;
        let duties = [(BackupTask::Take, schedule), (BackupTask::Drill, drill_schedule)];
        let duties = duties
            .into_iter()
            .filter_map(|(task, schedule)| Some(Duty::new(task, schedule.clone()?)))
            .collect();
        let scratch_dir = scratch_dir(&options.backups);
        Ok(Self {
            options,
            machine,
            scratch_dir,
            claims,
            places,
            duties,
            metrics,
            refresh_at: Duration::ZERO,
            has_looked: false,
            told_of_level: None,
        })
    }

    fn run(&mut self) {
        while !self.claims.stop.wait(LOOK) {
            for number in 0..self.duties.len() {
                self.attend(number);
            }
            let now = prove::now(&self.machine.env);
            let next = self.duties.iter().find(|duty| duty.task == BackupTask::Take);
            let next = next.and_then(|duty| duty.next(now, self.places.cluster));
            self.metrics.update(|facts| facts.next_due = next.map(Moment::millis));
            if self.at() >= self.refresh_at && !self.claims.stop.is_set() {
                self.refresh();
            }
        }
    }

    fn at(&self) -> Duration {
        self.machine.env.clock.monotonic()
    }

    /// Looks at the places; the first time whether they know of more than this member.
    fn refresh(&mut self) {
        let newest = self.places.refresh(&self.metrics);
        self.refresh_at = self.at() + REFRESH;
        if self.has_looked || newest.is_none() {
            return;
        }
        let node = self.claims.node.clone();
        let view = self.claims.on_server(async move { node.linearizable_view().await });
        let (Some((to, backup)), Ok(view)) = (newest, view) else { return };
        self.has_looked = true;
        let (found, own) = (backup.name.revision, view.revision());
        if found > own {
            tracing::warn!(
                to,
                name = %backup.name,
                backup_revision = found,
                revision = own,
                "the newest proven backup has a higher revision than the data directory: if data was lost, \
                 stop the server and run keepd backup restore URL --data-dir DIR"
            );
        }
    }

    /// The members that this one sees, if it may claim anything: it votes, follows a leader, and its data is
    /// to be believed.
    fn around(&self) -> Option<Around> {
        let node = &self.claims.node;
        let leader = MemberId(node.status().leader);
        if leader.0 == 0 || node.is_learner() || node.serves_nothing() {
            return None;
        }
        let own = node.identity().member;
        let members = membership::members(node.view().meta(tables::MEMBERS)).ok()?;
        let voters = members.iter().filter(|it| !it.is_learner).map(|it| MemberId(it.id));
        let is_connected = |id: &MemberId| *id != own && node.connected_for(*id).is_some();
        let connected: Vec<MemberId> = voters.filter(is_connected).collect();
        let before = decide::before(own, leader, &connected);
        Some(Around { own, connected, before })
    }

    /// Does what is due, if it is this member's turn.
    fn attend(&mut self, number: usize) {
        let (now, at, cluster) = (prove::now(&self.machine.env), self.at(), self.places.cluster);
        let Some(due) = self.duties[number].due(now, at, cluster) else { return };
        if !self.claims.node.may_write(levels::BACKUP_CLAIM) {
            self.tell_of_level(due, self.duties[number].waited(at));
            return;
        }
        let Some(around) = self.around() else { return };
        let duty = &mut self.duties[number];
        // ORDER: before the places are listed. Whoever takes the backup in between replaces this claim.
        let current = self.claims.current(duty.task);
        if duty.see(due, current, &around, at) {
            duty.mark_done(due);
            self.refresh_at = Duration::ZERO;
            return;
        }
        let attempt = match decide::decide(&duty.scene(due, &around, at)) {
            Step::Claim(attempt) if at >= duty.not_before => attempt,
            Step::Claim(_) | Step::Wait => return,
            Step::Done => return duty.mark_done(due),
        };
        let claim = BackupClaim {
            moment: due.millis(),
            attempt,
            member: around.own,
            state: ClaimState::Held,
        };
        let after = current.map_or(0, |(number, _)| number);
        match duty.task {
            BackupTask::Take => self.take(number, due, after, claim),
            BackupTask::Drill => self.drill(after, claim),
        }
    }

    fn tell_of_level(&mut self, due: Moment, waited: Duration) {
        if waited < PATIENCE || self.told_of_level == Some(due) {
            return;
        }
        self.told_of_level = Some(due);
        tracing::warn!(
            due = %due,
            needed = levels::BACKUP_CLAIM,
            level = self.claims.node.cluster_facts().feature_level,
            "no scheduled backups while a member runs a version that does not know of them: upgrade all, \
             or run keepd backup now"
        );
    }

    fn tools(&self) -> Tools<'_> {
        Tools {
            machine: &self.machine,
            claims: &self.claims,
            options: &self.options.backups,
            config_file: self.options.encryption_provider_config.as_deref(),
            scratch_dir: &self.scratch_dir,
            metrics: &self.metrics,
        }
    }

    /// Claims work. Whether it was won is known for certain only if the log was reached.
    fn claim(&self, task: BackupTask, after: u64, claim: BackupClaim) -> Option<Held<'_>> {
        match self.claims.claim(task, after, claim) {
            Ok(held) => held,
            Err(error) => {
                // Without a leader nobody wins. The next look finds out.
                tracing::debug!(%error, "a backup could not be claimed");
                self.metrics.failed(BackupStep::Claim);
                None
            }
        }
    }

    /// Takes the backup that is due, if a place lacks it.
    fn take(&mut self, number: usize, due: Moment, after: u64, claim: BackupClaim) {
        let (now, cluster) = (prove::now(&self.machine.env), self.places.cluster);
        let begin = self.duties[number].begin(due, cluster);
        let (lacking, mut failures) = self.places.lacking(begin, now);
        if lacking.is_empty() {
            self.found_none_lacking(number, due, failures);
            return;
        }
        let Some(held) = self.claim(BackupTask::Take, after, claim) else { return };
        let tools = self.tools();
        failures.extend(tools.take(&held, &lacking));
        if self.claims.stop.is_set() {
            return;
        }
        let is_lost = held.is_lost();
        held.end(if failures.is_empty() { ClaimState::Done } else { ClaimState::Failed });
        let pause = decide::backoff(claim.attempt).as_secs();
        let next = if is_lost {
            "the member that took over goes on".to_owned()
        } else {
            format!("the cluster tries again in {pause} s, until the next one is due")
        };
        failures.iter().for_each(|failure| failure.tell(&self.metrics, &next));
        for place in lacking {
            if let Err(failure) = tools.prune(place, cluster) {
                failure.tell(&self.metrics, "it is tried again after the next backup");
            }
        }
        self.refresh_at = Duration::ZERO;
    }

    /// Nothing to take: every place that answers has it.
    fn found_none_lacking(&mut self, number: usize, due: Moment, failures: Vec<Failure>) {
        let at = self.at();
        let duty = &mut self.duties[number];
        if failures.is_empty() {
            duty.mark_done(due);
            self.refresh_at = Duration::ZERO;
            return;
        }
        duty.fruitless = duty.fruitless.saturating_add(1);
        let pause = decide::backoff(duty.fruitless);
        duty.not_before = at + pause;
        let next = format!("it is tried again in {} s", pause.as_secs());
        failures.iter().for_each(|failure| failure.tell(&self.metrics, &next));
    }

    /// Proves one backup of each place again.
    fn drill(&self, after: u64, claim: BackupClaim) {
        let Some(held) = self.claim(BackupTask::Drill, after, claim) else { return };
        let tools = self.tools();
        let mut may_pass = false;
        for place in &self.places.all {
            let (failures, passes) = tools.drill(&held, place, self.places.cluster);
            if self.claims.stop.is_set() || held.is_lost() {
                return;
            }
            may_pass |= passes;
            let next = if passes { "it is tried again" } else { "take another backup" };
            failures.iter().for_each(|failure| failure.tell(&self.metrics, next));
        }
        held.end(if may_pass { ClaimState::Failed } else { ClaimState::Done });
    }
}
