//! One backup of a place, chosen by its name or as the newest; and what a place has.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use keepd_archive::catalog::{Backup, Catalog, Fault};
use keepd_archive::destination::Destination;
use keepd_archive::log::shipped::{Base, Shipped};
use keepd_archive::sidecar::Sidecar;
use keepd_cli::output;

use super::place::{LineArguments, Machine};
use super::shown::Log;
use super::{Format, shown};

/// The word for the newest proven backup.
const LATEST: &str = "latest";

/// List the backups of a place.
#[derive(Debug, clap::Args)]
pub(super) struct ListArguments {
    #[command(flatten)]
    place: PlaceArguments,
    /// The form of what is printed.
    #[arg(short = 'w', long, value_name = "FORMAT", default_value = "table")]
    write_out: Format,
}

/// Show all that is known of a backup.
#[derive(Debug, clap::Args)]
pub(super) struct ShowArguments {
    #[command(flatten)]
    choice: ChoiceArguments,
    /// The form of what is printed.
    #[arg(short = 'w', long, value_name = "FORMAT", default_value = "table")]
    write_out: Format,
}

/// A place, on a command line.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PlaceArguments {
    /// The place of the backups.
    #[arg(value_name = "URL")]
    pub(super) from: String,
    /// The cluster, if the place has backups of several.
    #[arg(long, value_name = "ID", value_parser = cluster_id)]
    pub(super) cluster: Option<u64>,
    #[command(flatten)]
    pub(super) line: LineArguments,
}

/// A backup of a place, on a command line.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ChoiceArguments {
    #[command(flatten)]
    pub(super) place: PlaceArguments,
    /// The backup's name as `list` tells it; the newest proven one if not given.
    #[arg(value_name = "NAME", default_value = LATEST)]
    backup: String,
}

/// A backup that was chosen.
pub(super) struct Chosen {
    pub(super) machine: Machine,
    pub(super) destination: Arc<dyn Destination>,
    pub(super) backup: Backup,
}

impl PlaceArguments {
    /// Reads the place.
    pub(super) fn read(&self) -> anyhow::Result<(Machine, Arc<dyn Destination>, Catalog)> {
        let machine = Machine::new(self.line.limit_rate)?;
        let destination = machine.open(&self.from)?;
        let catalog = Catalog::read(&*destination, self.cluster)?;
        Ok((machine, destination, catalog))
    }
}

impl ChoiceArguments {
    /// Reads the place and finds the backup.
    pub(super) fn read(&self) -> anyhow::Result<Chosen> {
        let (machine, destination, mut catalog) = self.place.read()?;
        let at = self.find(&catalog)?;
        Ok(Chosen { machine, destination, backup: catalog.backups.swap_remove(at) })
    }

    /// Reads the place.
    pub(super) fn read_catalog(&self) -> anyhow::Result<(Machine, Arc<dyn Destination>, Catalog)> {
        self.place.read()
    }

    /// Whether no backup was named.
    pub(super) fn is_latest(&self) -> bool {
        self.backup == LATEST
    }

    /// The one cluster that the place has backups of.
    pub(super) fn one_cluster(&self, catalog: &Catalog) -> anyhow::Result<u64> {
        anyhow::ensure!(!catalog.backups.is_empty(), "{} has no backups", self.place.from);
        let clusters = catalog.clusters();
        anyhow::ensure!(
            clusters.len() == 1,
            "the place has backups of several clusters: name one of {} with --cluster",
            clusters.iter().map(|id| format!("{id:016x}")).collect::<Vec<_>>().join(", ")
        );
        clusters.first().copied().context("there is one")
    }

    fn find(&self, catalog: &Catalog) -> anyhow::Result<usize> {
        anyhow::ensure!(!catalog.backups.is_empty(), "{} has no backups", self.place.from);
        if self.backup != LATEST {
            let name = self.backup.rsplit('/').next().unwrap_or_default();
            let found = catalog.backups.iter().position(|it| it.name.to_string() == name);
            return found.with_context(|| {
                format!("{} has no backup {name}; see: keepd backup list", self.place.from)
            });
        }
        self.one_cluster(catalog)?;
        let newest = catalog.newest(true).context(
            "no backup is proven: prove one with `keepd backup drill URL NAME`, or name the one to take",
        )?;
        let name = newest.name;
        let at = catalog.backups.iter().position(|backup| backup.name == name);
        at.context("the newest backup is one of them")
    }
}

impl Chosen {
    /// Its sidecar, without which nothing can be compared.
    pub(super) fn sidecar(&self) -> anyhow::Result<&Sidecar> {
        sidecar(&self.backup)
    }

    /// Its key below the place.
    pub(super) fn key(&self) -> String {
        self.backup.name.key(self.backup.cluster)
    }
}

/// A backup's sidecar, without which nothing can be compared.
pub(crate) fn sidecar(backup: &Backup) -> anyhow::Result<&Sidecar> {
    match &backup.sidecar {
        Ok(sidecar) => Ok(sidecar),
        Err(Fault::NoSidecar) => anyhow::bail!(
            "{} has no sidecar: its upload was interrupted, or is still going on",
            backup.name
        ),
        Err(Fault::Unreadable(reason)) => anyhow::bail!("{reason}"),
    }
}

/// A cluster's id in hexadecimal.
pub(crate) fn cluster_id(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|_malformed| "an id is a hexadecimal number".to_owned())
}

/// `keepd backup list`.
pub(super) fn list(arguments: &ListArguments) -> anyhow::Result<ExitCode> {
    let (_machine, destination, catalog) = arguments.place.read()?;
    let mut logs = Vec::new();
    for cluster in catalog.clusters() {
        let shipped = Shipped::read(&*destination, cluster)?;
        let windows = shipped.windows(&Base::among(&catalog.backups, cluster));
        logs.push(Log { cluster, shipped, windows });
    }
    if arguments.write_out == Format::Json {
        output::line(&shown::catalog_json(&catalog, &logs).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    output::print(shown::table(&catalog, &logs).as_bytes());
    for foreign in &catalog.foreign {
        output::complain(&format!("not a backup, left alone: {foreign}"));
    }
    let unnamed = catalog.foreign_count - catalog.foreign.len();
    if unnamed > 0 {
        output::complain(&format!("and {unnamed} more"));
    }
    Ok(ExitCode::SUCCESS)
}

/// `keepd backup show`.
pub(super) fn show(arguments: &ShowArguments) -> anyhow::Result<ExitCode> {
    let chosen = arguments.choice.read()?;
    if arguments.write_out == Format::Json {
        output::line(&shown::json(&chosen.backup).to_string());
    } else {
        let place = chosen.destination.place(&chosen.key());
        output::print(shown::details(&place, &chosen.backup).as_bytes());
    }
    Ok(ExitCode::SUCCESS)
}
