//! `keepd backup now`: takes a backup over the client API, uploads it, and proves it.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use keepd_archive::age::Keys;
use keepd_archive::destination::Destination;
use keepd_archive::format::Sealing;
use keepd_archive::name::Kind;
use keepd_archive::prove::{self, Prover};
use keepd_archive::scratch::{Scratch, ScratchFile};
use keepd_archive::sidecar::{Proven, Sidecar};
use keepd_archive::upload::{self, Snapshot};
use keepd_cli::output;
use keepd_crypto::EncryptionConfig;
use serde_json::{Value, json};

use super::bar::Bar;
use super::keys::SealArguments;
use super::place::{LineArguments, Machine, ScratchArguments, host_name, made_by};
use super::{Format, NOT_SOUND, shown, source};
use crate::admin::{AccessArguments, Cluster};

/// Take a backup now, from any machine, upload it and prove that it restores.
///
/// It is read back, opened, restored into a scratch folder and compared with the member's hash; only then
/// does it count. Where values are sealed, the proof needs the encryption configuration of the cluster.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The place of the backup; more than once for more.
    #[arg(long, value_name = "URL", required = true)]
    to: Vec<String>,
    #[command(flatten)]
    access: AccessArguments,
    #[command(flatten)]
    keys: SealArguments,
    #[command(flatten)]
    scratch: ScratchArguments,
    #[command(flatten)]
    line: LineArguments,
    /// Do not prove it: it is then listed as not proven, and `keepd backup drill` proves it.
    #[arg(long)]
    no_proof: bool,
    /// The form of what is printed.
    #[arg(short = 'w', long, value_name = "FORMAT", default_value = "table")]
    write_out: Format,
}

/// A backup that was written, and the reason why it is not proven, if it is not.
struct Taken {
    place: String,
    sidecar: Sidecar,
    fault: Option<String>,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let machine = Machine::new(arguments.line.limit_rate)?;
    let (sealing, config) = arguments.keys.read()?;
    // Mistakes in the URLs are found before the cluster is asked for anything.
    let destinations: Vec<Arc<dyn Destination>> =
        arguments.to.iter().map(|url| machine.open(url)).collect::<anyhow::Result<_>>()?;
    let scratch = arguments.scratch.make(&machine.env)?;
    let bar = Bar::new();
    let mut cluster = Cluster::new(&machine.env, &arguments.access.or_environment())?;
    let time = prove::now(&machine.env);
    let (source, file, state) = machine.runtime.block_on(async {
        let source = source::choose(&mut cluster).await?;
        let (file, state) = source.snapshot(&scratch, &bar).await?;
        anyhow::Ok((source, file, state))
    })?;
    let snapshot = Snapshot {
        cluster: source.cluster_id,
        member: source.member,
        time,
        kind: Kind::OnDemand,
        made_by: made_by(),
        state,
    };
    let taker = Taker { machine: &machine, scratch: &scratch, bar: &bar, config, sealing };
    let mut failures = Vec::new();
    let mut taken = Vec::new();
    for destination in &destinations {
        match taker.take(&**destination, &snapshot, &file, !arguments.no_proof) {
            Ok(one) => taken.push(one),
            // The others are still good to have.
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    bar.clear();
    tell(arguments.write_out, &snapshot, &taken, &failures);
    let is_unsound = taken.iter().any(|one| one.fault.is_some());
    Ok(match (failures.is_empty(), is_unsound) {
        (true, false) => ExitCode::SUCCESS,
        (true, true) => ExitCode::from(NOT_SOUND),
        (false, _) => ExitCode::FAILURE,
    })
}

/// Everything that a backup needs.
struct Taker<'a> {
    machine: &'a Machine,
    scratch: &'a Scratch,
    bar: &'a Bar,
    config: Option<EncryptionConfig>,
    sealing: Sealing,
}

impl Taker<'_> {
    fn take(
        &self,
        destination: &dyn Destination,
        snapshot: &Snapshot,
        file: &ScratchFile,
        proves: bool,
    ) -> anyhow::Result<Taken> {
        let name = snapshot.name(self.sealing.is_sealed());
        let place = destination.place(&name.key(snapshot.cluster));
        let random = &*self.machine.env.random;
        // The size of the object is not known before its end; it is about that of the snapshot at most.
        let mut told = |sent| self.bar.show("uploading", sent, file.bytes());
        let (sidecar, file_key) =
            upload::upload(destination, snapshot, file.reader(), &self.sealing, random, &mut told)?;
        if !proves {
            return Ok(Taken { place, sidecar, fault: None });
        }
        // The private half of a recipient need not be here: the key of the file, which is still in memory,
        // opens it as well.
        let keys = Keys { file_key, ..Keys::default() };
        let proven = self.prove(destination, &name.key(snapshot.cluster), &sidecar, &keys);
        match proven {
            Ok(proven) => {
                let noted =
                    upload::note_proof(destination, snapshot.cluster, &name, &sidecar, proven);
                Ok(match noted {
                    Ok(sidecar) => Taken { place, sidecar, fault: None },
                    Err(error) => {
                        let fault = format!("it restores, but the proof cannot be noted: {error}");
                        Taken { place, sidecar, fault: Some(fault) }
                    }
                })
            }
            Err(error) => Ok(Taken { place, sidecar, fault: Some(format!("{error:#}")) }),
        }
    }

    fn prove(
        &self,
        destination: &dyn Destination,
        key: &str,
        sidecar: &Sidecar,
        keys: &Keys,
    ) -> anyhow::Result<Proven> {
        let (env, config) = (&self.machine.env, self.config.as_ref());
        let prover = Prover { env, scratch: self.scratch, config, by: host_name() };
        let object = destination.get(key).context("reading it back")?;
        let mut told = |stage, done, all| self.bar.tell(stage, done, all);
        Ok(prover.prove(object, sidecar, keys, false, &mut told)?)
    }
}

fn tell(format: Format, snapshot: &Snapshot, taken: &[Taken], failures: &[String]) {
    if format == Format::Json {
        let backups: Vec<Value> = taken
            .iter()
            .map(|it| json!({"at": it.place, "sidecar": it.sidecar, "fault": it.fault}))
            .collect();
        output::line(&json!({"backups": backups, "failures": failures}).to_string());
    } else {
        for Taken { place, sidecar, fault } in taken {
            let state = &snapshot.state;
            output::line(&format!(
                "{place}\nrevision {}, {} keys, {}",
                state.revision,
                state.keys,
                shown::bytes(sidecar.bytes)
            ));
            match (&sidecar.proven, fault) {
                (Some(proven), _) => {
                    output::line(&format!("proven: restored and compared in {} ms", proven.millis));
                }
                (None, Some(_)) => {}
                (None, None) => output::line("not proven, as asked; keepd backup drill proves it"),
            }
        }
    }
    for one in taken {
        if let Some(fault) = &one.fault {
            crate::complain(&format!("{}: NOT PROVEN, do not rely on it: {fault}", one.place));
        }
    }
    for failure in failures {
        crate::complain(&format!("keepd backup: not written: {failure}"));
    }
}
