//! The state that a restore brings back: a backup by its name, or any moment by a backup and the log behind
//! it.

use std::str::FromStr as _;

use keepd_archive::Moment;
use keepd_archive::age::Keys;
use keepd_archive::log::replay;
use keepd_archive::log::shipped::{Base, Plan, ReplayPlan, Shipped, Target};

use super::choice::{ChoiceArguments, Chosen};

/// A moment, on a command line.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct MomentArguments {
    /// Bring back the state of this moment, as in 2026-11-26T10:15:00Z: a backup from before and the shipped
    /// log behind it.
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "revision")]
    at: Option<Moment>,
    /// Bring back the state that this revision made.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    revision: Option<i64>,
}

/// A backup, and the log behind it that is to be applied.
pub(super) struct Way {
    pub(super) chosen: Chosen,
    pub(super) replay: Option<ReplayPlan>,
    pub(super) target: Option<Target>,
}

impl MomentArguments {
    /// Finds the way to what is asked for. A moment is looked for in the log, which `keys` open.
    pub(super) fn find(&self, choice: &ChoiceArguments, keys: &Keys) -> anyhow::Result<Way> {
        let target = match (self.at, self.revision) {
            (Some(time), _) => Some(Target::At(time)),
            (None, Some(revision)) => Some(Target::Revision(revision)),
            (None, None) => choice.is_latest().then_some(Target::Latest),
        };
        let Some(target) = target else {
            return Ok(Way { chosen: choice.read()?, replay: None, target: None });
        };
        anyhow::ensure!(
            choice.is_latest(),
            "a backup's name and --at or --revision exclude each other: the base is chosen"
        );
        let (machine, destination, mut catalog) = choice.read_catalog()?;
        let cluster = choice.one_cluster(&catalog)?;
        let bases = Base::among(&catalog.backups, cluster);
        let shipped = Shipped::read(&*destination, cluster)?;
        let mut open =
            |chain: &_, name: &_| replay::open(&*destination, cluster, chain, name, keys);
        let Plan { base, replay } = shipped.plan(target, &bases, &mut open)?;
        let backup = catalog.backups.swap_remove(base);
        Ok(Way { chosen: Chosen { machine, destination, backup }, replay, target: Some(target) })
    }
}

/// A moment as people and sidecars write it.
fn moment(text: &str) -> Result<Moment, String> {
    Moment::from_str(text).map_err(|error| {
        format!(
            "{error}: a time has a date, a time and a zone, as in 2026-11-26T10:15:00Z or +02:00"
        )
    })
}
