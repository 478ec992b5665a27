//! One backup: snapshot, upload, proof, sidecar; and what is done with older ones.
//!
//! The snapshot is made as `Maintenance.Snapshot` makes it, from one immutable view of this member, and the
//! hash is the same view's. The sidecar, which makes the object count, comes last: after the proof, and
//! after a look whether the claim still stands.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use keepd_archive::age::{Keys, Recipients};
use keepd_archive::catalog::{self, Backup, Catalog};
use keepd_archive::format::Sealing;
use keepd_archive::log::keep::{self, Pruned};
use keepd_archive::log::shipped::{Base, Shipped};
use keepd_archive::name::Kind;
use keepd_archive::prove::{self, Prover};
use keepd_archive::retention::Reason;
use keepd_archive::scratch::{Scratch, ScratchFile};
use keepd_archive::sidecar::{MemberFacts, Proven, Sidecar, StateFacts};
use keepd_archive::upload::{self, Snapshot};
use keepd_archive::{Error, Moment};
use keepd_backup::Export;
use keepd_crypto::{ConfigOptions, EncryptionConfig};
use keepd_server::{BackupMetrics, BackupStep};

use super::claims::{Claims, Held};
use super::failure::Failure;
use super::places::Place;
use crate::backup::keys;
use crate::backup::place::{Machine, host_name, made_by};
use crate::flags::BackupOptions;

/// BOUND: attempts to prove what was uploaded, while its key is in memory.
const PROOFS_MAX: u32 = 2;
const PROOF_PAUSE: Duration = Duration::from_secs(5);
/// Age at which what an interrupted run has left is removed: none takes as long.
const INTERRUPTED_MILLIS: i64 = 86_400_000;
/// BOUND: backups of a place that one drill tries.
const DRILLED_MAX: usize = 16;

/// All that backups are made with.
pub(super) struct Tools<'a> {
    pub(super) machine: &'a Machine,
    pub(super) claims: &'a Claims,
    pub(super) options: &'a BackupOptions,
    pub(super) config_file: Option<&'a Path>,
    pub(super) scratch_dir: &'a Path,
    pub(super) metrics: &'a BackupMetrics,
}

/// The keys that backups are sealed to, as their files have them now, and the encryption configuration.
pub(in crate::serve) fn read_keys(
    options: &BackupOptions,
    config_file: Option<&Path>,
) -> anyhow::Result<(Sealing, Option<EncryptionConfig>)> {
    let read = |path| keys::local_config(path, ConfigOptions::default());
    let config = config_file.map(read).transpose()?;
    let seal = &options.sealing;
    if seal.is_plain {
        return Ok((Sealing::Plain, config));
    }
    let public = keys::recipients(seal.recipients.clone(), &seal.recipients_files)?;
    let of_config = config.clone().filter(|_| seal.has_config_key);
    if of_config.as_ref().is_some_and(|config| config.writing_key().is_none()) {
        return Err(Error::ConfigSealsNothing.into());
    }
    if public.is_empty() && of_config.is_none() {
        return Err(Error::NoRecipient.into());
    }
    Ok((Sealing::To(Recipients { public, config: of_config }), config))
}

impl Tools<'_> {
    /// Takes a backup into these places; what failed.
    pub(super) fn take(&self, held: &Held<'_>, places: &[&Place]) -> Vec<Failure> {
        let one = |step, error: anyhow::Error| vec![Failure::new(step, "", error)];
        let (sealing, config) = match read_keys(self.options, self.config_file) {
            Ok(read) => read,
            Err(error) => return one(BackupStep::Keys, error),
        };
        let clock = &self.machine.env.clock;
        let begin = clock.monotonic();
        let scratch = match self.scratch() {
            Ok(scratch) => scratch,
            Err(error) => return one(BackupStep::Snapshot, error.into()),
        };
        let time = self.now();
        let (file, state) = match self.snapshot(held, &scratch) {
            Ok(taken) => taken,
            Err(error) => return one(BackupStep::Snapshot, error),
        };
        let node = &self.claims.node;
        let identity = node.identity();
        let name = node.options().name.clone();
        let member = MemberFacts { id: format!("{:016x}", identity.member.0), name };
        let (cluster, kind, made_by) = (identity.cluster.0, Kind::Scheduled, made_by());
        let snapshot = Snapshot { cluster, member, time, kind, made_by, state };
        let config = config.as_ref();
        let prover = Prover { env: &self.machine.env, scratch: &scratch, config, by: host_name() };
        let mut failures = Vec::new();
        for place in places {
            let upload =
                Upload { tools: self, held, place, snapshot: &snapshot, sealing: &sealing };
            // The others are still good to have.
            failures.extend(upload.run(&file, &prover).err());
        }
        if failures.len() < places.len() {
            let took = clock.monotonic() - begin;
            self.metrics.update(|facts| {
                facts.taken += 1;
                facts.last_millis = u64::try_from(took.as_millis()).ok();
            });
        }
        failures
    }

    fn now(&self) -> Moment {
        prove::now(&self.machine.env)
    }

    fn scratch(&self) -> Result<Scratch, Error> {
        Scratch::new(&self.machine.env, self.scratch_dir)
    }

    /// Writes the member's snapshot into the scratch folder, and has the hash of the same state.
    fn snapshot(
        &self,
        held: &Held<'_>,
        scratch: &Scratch,
    ) -> anyhow::Result<(ScratchFile, StateFacts)> {
        let node = self.claims.node.clone();
        let view = self.claims.on_server(async move { node.linearizable_view().await })?;
        let sealer = self.claims.node.encryption().sealer();
        let mut export = Export::new(view.clone(), sealer)?;
        scratch.check_space(export.remaining_bytes())?;
        let mut file = scratch.create("taken")?;
        while let Some(blob) = export.next_blob()? {
            anyhow::ensure!(held.goes_on(), "the backup is given up");
            file.write_all(&blob)?;
        }
        let file = file.finish()?;
        let status = prove::examine(&file, &mut |_, _, _| {})?;
        let hash = view.hash_kv(prove::of_state(&status))?;
        let state = prove::facts(&file, &status, hash.into());
        Ok((file, state))
    }

    /// Removes what no rule keeps, and what interrupted runs have left; what failed.
    pub(super) fn prune(&self, place: &Place, cluster: u64) -> Result<(), Failure> {
        let failed = |error: Error| Failure::new(BackupStep::Prune, &place.shown, error);
        let before = Moment::of_millis(self.now().millis().saturating_sub(INTERRUPTED_MILLIS));
        let cleared = catalog::clear_interrupted(&*place.destination, cluster, before);
        match cleared {
            Ok(0) => {}
            Ok(count) => {
                tracing::info!(
                    to = place.shown,
                    count,
                    "removed what interrupted backups had left"
                );
            }
            Err(error) if error.is_refusal() => {}
            Err(error) => return Err(failed(error)),
        }
        if self.options.keep.is_empty() && self.options.keep_log_days.is_none() {
            return Ok(());
        }
        let mut catalog = Catalog::read(&*place.destination, Some(cluster)).map_err(failed)?;
        let reasons = if self.options.keep.is_empty() {
            vec![vec![Reason::Last]; catalog.backups.len()]
        } else {
            catalog.judge(&self.options.keep, self.now())
        };
        let judged = catalog.backups.iter().zip(reasons);
        let mut gone = Vec::new();
        for (backup, _) in judged.filter(|(_, reasons)| reasons.is_empty()) {
            match catalog::remove(&*place.destination, backup) {
                Ok(()) => {
                    gone.push(backup.name);
                    tracing::info!(to = place.shown, name = %backup.name, "removed an old backup");
                }
                // Object lock, or credentials that cannot delete: somebody wants it so.
                Err(error) if error.is_refusal() => {
                    tracing::info!(to = place.shown, name = %backup.name, %error, "an old backup stays");
                }
                Err(error) => return Err(failed(error)),
            }
        }
        catalog.backups.retain(|backup| !gone.contains(&backup.name));
        self.prune_log(place, cluster, &catalog).map_err(failed)
    }

    /// Removes the part of the shipped log that no backup needs any more.
    fn prune_log(&self, place: &Place, cluster: u64, kept: &Catalog) -> Result<(), Error> {
        let shipped = Shipped::read(&*place.destination, cluster)?;
        let days = self.options.keep_log_days.map(|days| keep::days_before(self.now(), days));
        let going = keep::unneeded(&shipped, &Base::among(&kept.backups, cluster), days);
        let Pruned { removed, refused } = keep::remove_all(&*place.destination, cluster, &going)?;
        if removed > 0 {
            tracing::info!(to = place.shown, removed, "removed old batches of the log");
        }
        if let Some((count, error)) = refused {
            tracing::info!(to = place.shown, count, error, "old batches of the log stay");
        }
        Ok(())
    }

    /// Proves the backup of a place again whose proof is the longest ago; what failed, and whether it may
    /// pass. One that is not what it was is told of, and another is proven in its place.
    pub(super) fn drill(
        &self,
        held: &Held<'_>,
        place: &Place,
        cluster: u64,
    ) -> (Vec<Failure>, bool) {
        let failed = |error: anyhow::Error| Failure::new(BackupStep::Drill, &place.shown, error);
        let begun = read_keys(self.options, self.config_file).and_then(|(_, config)| {
            let catalog = Catalog::read(&*place.destination, Some(cluster))?;
            Ok((config, catalog, self.scratch()?))
        });
        let (config, catalog, scratch) = match begun {
            Ok(begun) => begun,
            Err(error) => return (vec![failed(error)], true),
        };
        let keys = Keys { config: config.clone(), ..Keys::default() };
        let config = config.as_ref();
        let prover = Prover { env: &self.machine.env, scratch: &scratch, config, by: host_name() };
        let whole = catalog.by_proof().into_iter().filter(|it| it.fault().is_none());
        let mut failures = Vec::new();
        for backup in whole.take(DRILLED_MAX) {
            let error = match self.drill_one(held, place, backup, &prover, &keys) {
                Ok(()) => break,
                // It is for who has its keys.
                Err(Error::NoKeyOpens { .. }) => continue,
                Err(error) => error,
            };
            let may_pass = !error.is_unsound();
            let error = anyhow::Error::from(error);
            failures.push(failed(error.context(format!("{} is NOT PROVEN", backup.name))));
            if may_pass {
                return (failures, true);
            }
        }
        (failures, false)
    }

    fn drill_one(
        &self,
        held: &Held<'_>,
        place: &Place,
        backup: &Backup,
        prover: &Prover<'_>,
        keys: &Keys,
    ) -> Result<(), Error> {
        let Ok(sidecar) = &backup.sidecar else { return Ok(()) };
        let object = place.destination.get(&backup.name.key(backup.cluster))?;
        let proven = prover.prove(held.watched(object), sidecar, keys, true, &mut |_, _, _| {})?;
        let (millis, destination) = (proven.millis, &*place.destination);
        upload::note_proof(destination, backup.cluster, &backup.name, sidecar, proven)?;
        self.metrics.update(|facts| facts.drilled += 1);
        tracing::info!(to = place.shown, name = %backup.name, millis, "a backup was proven again");
        Ok(())
    }
}

/// A backup on its way into one place.
struct Upload<'a> {
    tools: &'a Tools<'a>,
    held: &'a Held<'a>,
    place: &'a Place,
    snapshot: &'a Snapshot,
    sealing: &'a Sealing,
}

impl Upload<'_> {
    fn run(&self, file: &ScratchFile, prover: &Prover<'_>) -> Result<(), Failure> {
        let destination = &*self.place.destination;
        let random = &*self.tools.machine.env.random;
        let content = self.held.watched(file.reader());
        let uploaded = upload::upload_object(
            destination,
            self.snapshot,
            content,
            self.sealing,
            random,
            &mut |_| {},
        );
        let (sidecar, file_key) =
            uploaded.map_err(|error| self.failed(BackupStep::Upload, error))?;
        // The private half of a recipient need not be here: the key of the file is still in memory.
        let keys = Keys { file_key, ..Keys::default() };
        let proven = self.prove(&sidecar, prover, &keys);
        let is_kept = match &proven {
            Ok(_) => true,
            // Whatever it is, it is no backup. One that only could not be looked at may be one.
            Err(error) => !error.is_unsound(),
        };
        if !is_kept || !self.held.goes_on() {
            self.withdraw();
            let error = proven.err().map_or_else(|| given_up(self.held), anyhow::Error::from);
            return Err(self.failed(BackupStep::Proof, error));
        }
        let millis = proven.as_ref().map(|proven| proven.millis).ok();
        let (proven, fault) = match proven {
            Ok(proven) => (Some(proven), None),
            Err(error) => (None, Some(error)),
        };
        self.write_sidecar(&Sidecar { proven, ..sidecar.clone() })?;
        if let Some(error) = fault {
            let error = anyhow::Error::from(error).context(
                "written, but NOT PROVEN: do not rely on it, and prove it by keepd backup drill",
            );
            return Err(self.failed(BackupStep::Proof, error));
        }
        let (bytes, keys, name) = (sidecar.bytes, sidecar.state.keys, &sidecar.object);
        let (to, revision) = (&self.place.shown, sidecar.state.revision);
        tracing::info!(to, name, revision, keys, bytes, millis, "a backup was taken and proven");
        Ok(())
    }

    fn prove(&self, sidecar: &Sidecar, prover: &Prover<'_>, keys: &Keys) -> Result<Proven, Error> {
        let mut attempts = 1;
        loop {
            let proven = self.place.destination.get(&self.key()).and_then(|object| {
                let object = self.held.watched(object);
                prover.prove(object, sidecar, keys, false, &mut |_, _, _| {})
            });
            let is_last = attempts == PROOFS_MAX || !self.held.goes_on();
            if proven.is_ok() || is_last {
                return proven;
            }
            attempts += 1;
            self.tools.claims.stop.wait(PROOF_PAUSE);
        }
    }

    /// Has the backup count, if this member is still the one to take it.
    fn write_sidecar(&self, sidecar: &Sidecar) -> Result<(), Failure> {
        // ORDER: right before the sidecar. A member that took over has taken, or takes, one of its own.
        let stands = self.held.stands();
        if !matches!(stands, Ok(true)) {
            self.withdraw();
            let error = stands.err().map_or_else(|| given_up(self.held), anyhow::Error::from);
            return Err(self.failed(BackupStep::Claim, error));
        }
        let name = self.snapshot.name(self.sealing.is_sealed());
        let cluster = self.snapshot.cluster;
        upload::write_sidecar(&*self.place.destination, cluster, &name, sidecar).map_err(|error| {
            self.withdraw();
            self.failed(BackupStep::Sidecar, error)
        })
    }

    fn key(&self) -> String {
        self.snapshot.name(self.sealing.is_sealed()).key(self.snapshot.cluster)
    }

    /// Removes the object, which counts for nothing without its sidecar.
    fn withdraw(&self) {
        // What stays is told by a listing, and removed by a later run.
        let _refused = self.place.destination.remove(&self.key());
    }

    fn failed(&self, step: BackupStep, error: impl Into<anyhow::Error>) -> Failure {
        Failure::new(step, &self.place.shown, error)
    }
}

fn given_up(held: &Held<'_>) -> anyhow::Error {
    if held.is_lost() {
        anyhow::anyhow!("another member has taken it over meanwhile")
    } else {
        anyhow::anyhow!("the server stops")
    }
}
