//! `keepd backup verify` and `drill`: whether a backup is what it was, and whether it restores.

use std::process::ExitCode;

use keepd_archive::age::Keys;
use keepd_archive::catalog::Backup;
use keepd_archive::destination::Destination;
use keepd_archive::prove::{self, Prover};
use keepd_archive::scratch::Scratch;
use keepd_archive::upload;
use keepd_cli::output;
use serde_json::{Value, json};

use super::bar::Bar;
use super::choice::{self, ChoiceArguments};
use super::keys::OpenArguments;
use super::place::{Machine, ScratchArguments, host_name};
use super::{Format, NOT_SOUND};

/// Read a backup back and check it: its digest, its seal, the snapshot in it. It is not restored.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArguments {
    #[command(flatten)]
    choice: ChoiceArguments,
    #[command(flatten)]
    common: CommonArguments,
}

/// The arguments of both.
#[derive(Debug, clap::Args)]
struct CommonArguments {
    #[command(flatten)]
    keys: OpenArguments,
    #[command(flatten)]
    scratch: ScratchArguments,
    /// The form of what is printed.
    #[arg(short = 'w', long, value_name = "FORMAT", default_value = "table")]
    write_out: Format,
}

/// Prove that a backup restores: verify it, restore it into a scratch folder, and compare it with the
/// member's hash. The proof is noted in its sidecar.
///
/// Run it on a schedule, where the private keys are: it is the fire drill of backups.
#[derive(Debug, clap::Args)]
pub(super) struct DrillArguments {
    #[command(flatten)]
    choice: ChoiceArguments,
    /// Instead of one, drill so many whose last proof is the longest ago.
    #[arg(long, value_name = "N")]
    oldest: Option<usize>,
    /// Do not write the proof into the sidecar, where the place is not writable.
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    common: CommonArguments,
}

struct Examiner<'a> {
    machine: &'a Machine,
    destination: &'a dyn Destination,
    scratch: Scratch,
    keys: Keys,
    bar: Bar,
}

/// The result for one backup.
struct Outcome {
    name: String,
    fault: Option<String>,
}

/// `keepd backup verify`.
pub(super) fn verify(arguments: &VerifyArguments) -> anyhow::Result<ExitCode> {
    let keys = arguments.common.keys.read()?;
    let chosen = arguments.choice.read()?;
    let scratch = arguments.common.scratch.make(&chosen.machine.env)?;
    let destination = &*chosen.destination;
    let machine = &chosen.machine;
    let examiner = Examiner { machine, destination, scratch, keys, bar: Bar::new() };
    let verified = examiner.verify(&chosen.backup);
    examiner.bar.clear();
    let outcome = Outcome::of(&chosen.backup, verified);
    Ok(tell(arguments.common.write_out, "verified", &[outcome]))
}

/// `keepd backup drill`.
pub(super) fn drill(arguments: &DrillArguments) -> anyhow::Result<ExitCode> {
    let keys = arguments.common.keys.read()?;
    let (machine, destination, backups) = match arguments.oldest {
        None => {
            let chosen = arguments.choice.read()?;
            (chosen.machine, chosen.destination, vec![chosen.backup])
        }
        Some(count) => {
            let (machine, destination, catalog) = arguments.choice.place.read()?;
            let backups = catalog.by_proof().into_iter().take(count).cloned().collect();
            (machine, destination, backups)
        }
    };
    let scratch = arguments.common.scratch.make(&machine.env)?;
    let destination = &*destination;
    let examiner = Examiner { machine: &machine, destination, scratch, keys, bar: Bar::new() };
    let mut outcomes = Vec::new();
    for backup in &backups {
        outcomes.push(Outcome::of(backup, examiner.drill(backup, arguments.read_only)));
    }
    examiner.bar.clear();
    Ok(tell(arguments.common.write_out, "proven to restore", &outcomes))
}

impl Examiner<'_> {
    fn verify(&self, backup: &Backup) -> anyhow::Result<()> {
        let sidecar = choice::sidecar(backup)?;
        let mut told = |stage, done, all| self.bar.tell(stage, done, all);
        let object = self.destination.get(&backup.name.key(backup.cluster))?;
        prove::verify(object, sidecar, &self.keys, &self.scratch, &mut told)?;
        Ok(())
    }

    fn drill(&self, backup: &Backup, is_read_only: bool) -> anyhow::Result<()> {
        let sidecar = choice::sidecar(backup)?;
        let mut told = |stage, done, all| self.bar.tell(stage, done, all);
        let object = self.destination.get(&backup.name.key(backup.cluster))?;
        let (env, config) = (&self.machine.env, self.keys.config.as_ref());
        let prover = Prover { env, scratch: &self.scratch, config, by: host_name() };
        let proven = prover.prove(object, sidecar, &self.keys, true, &mut told)?;
        if !is_read_only {
            upload::note_proof(self.destination, backup.cluster, &backup.name, sidecar, proven)?;
        }
        Ok(())
    }
}

impl Outcome {
    fn of(backup: &Backup, result: anyhow::Result<()>) -> Self {
        let fault = result.err().map(|error| format!("{error:#}"));
        Self { name: backup.name.to_string(), fault }
    }
}

fn tell(format: Format, good: &str, outcomes: &[Outcome]) -> ExitCode {
    if format == Format::Json {
        let list: Vec<Value> = outcomes
            .iter()
            .map(|it| json!({"name": it.name, "is_sound": it.fault.is_none(), "fault": it.fault}))
            .collect();
        output::line(&json!({ "backups": list }).to_string());
    } else {
        for Outcome { name, fault } in outcomes {
            if fault.is_none() {
                output::line(&format!("{name}: {good}"));
            }
        }
    }
    for Outcome { name, fault } in outcomes {
        if let Some(fault) = fault {
            crate::complain(&format!("{name}: NOT SOUND: {fault}"));
        }
    }
    let is_sound = outcomes.iter().all(|outcome| outcome.fault.is_none());
    if is_sound { ExitCode::SUCCESS } else { ExitCode::from(NOT_SOUND) }
}
