//! `keepd backup prune`: removes the backups that a policy does not keep.

use std::process::ExitCode;
use std::time::Duration;

use keepd_archive::catalog::{self, Backup};
use keepd_archive::destination::Destination;
use keepd_archive::log::keep::{self, Pruned};
use keepd_archive::log::name::{BatchName, ChainName};
use keepd_archive::log::shipped::{Base, Shipped};
use keepd_archive::prove;
use keepd_archive::retention::{Policy, Reason};
use keepd_cli::output;
use serde_json::{Value, json};

use super::Format;
use super::choice::PlaceArguments;
use super::place::Machine;
use crate::verb;

/// Remove the scheduled backups that no rule keeps.
///
/// Never removed are the newest backup, the newest proven one, those later than now, and those taken on demand
/// (remove these by name: --name). The shipped log that no kept backup needs goes too. A place that refuses to delete is no error: what stays is told.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: PlaceArguments,
    /// Keep the newest N.
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_last: u32,
    /// Keep all of the last N hours.
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_within_hours: u32,
    /// Keep one of each of the last N hours that have any.
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_hourly: u32,
    /// Keep one of each of the last N days that have any.
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_daily: u32,
    /// Keep one of each of the last N weeks that have any.
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_weekly: u32,
    /// Keep one of each of the last N months that have any.
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_monthly: u32,
    /// Keep the shipped log of the last N days, and what the newest proven backup needs; without it all stays
    /// that any kept backup needs.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_log_days: Option<u32>,
    /// Remove this one instead of judging by rules; more than once for more.
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Tell what would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// The form of what is printed.
    #[arg(short = 'w', long, value_name = "FORMAT", default_value = "table")]
    write_out: Format,
}

/// Batches of a log.
type Batches = Vec<(ChainName, BatchName)>;

impl Arguments {
    fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last,
            within: Duration::from_secs(u64::from(self.keep_within_hours) * 3600),
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
        }
    }
}

/// A backup with what becomes of it.
struct Judged<'a> {
    backup: &'a Backup,
    reasons: Vec<Reason>,
    /// The words of the place when it was to be removed.
    refusal: Option<String>,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let policy = arguments.policy();
    anyhow::ensure!(
        policy.is_empty() != arguments.name.is_empty(),
        "say what to keep (--keep-last, --keep-daily, ...) or which to remove (--name), one of both"
    );
    let (machine, destination, catalog) = arguments.place.read()?;
    for name in &arguments.name {
        let is_there = catalog.backups.iter().any(|it| it.name.to_string() == *name);
        anyhow::ensure!(is_there, "{} has no backup {name}", arguments.place.from);
    }
    let reasons = if arguments.name.is_empty() {
        catalog.judge(&policy, prove::now(&machine.env))
    } else {
        let is_named = |it: &Backup| arguments.name.contains(&it.name.to_string());
        let reasons = |it| if is_named(it) { Vec::new() } else { vec![Reason::OnDemand] };
        catalog.backups.iter().map(reasons).collect()
    };
    let judged = catalog.backups.iter().zip(reasons);
    let mut judged: Vec<Judged<'_>> =
        judged.map(|(backup, reasons)| Judged { backup, reasons, refusal: None }).collect();
    let count = judged.iter().filter(|it| it.reasons.is_empty()).count();
    let logs = unneeded_logs(arguments, &machine, &*destination, &judged)?;
    let batches: usize = logs.iter().map(|(_, batches)| batches.len()).sum();
    let mut pruned = Pruned::default();
    if !arguments.dry_run && count + batches > 0 {
        let question = format!(
            "{count} backups and {batches} batches of the log of {} are removed.",
            arguments.place.from
        );
        if !arguments.yes {
            output::print(table(&judged, true).as_bytes());
            if !verb::confirm(&question)? {
                return Ok(verb::not_confirmed());
            }
        }
        for one in judged.iter_mut().filter(|it| it.reasons.is_empty()) {
            match catalog::remove(&*destination, one.backup) {
                Ok(()) => {}
                Err(error) if error.is_refusal() => one.refusal = Some(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        for (cluster, batches) in &logs {
            let more = keep::remove_all(&*destination, *cluster, batches)?;
            pruned.removed += more.removed;
            pruned.refused = pruned.refused.or(more.refused);
        }
    }
    tell(arguments, &judged, batches, &pruned);
    Ok(ExitCode::SUCCESS)
}

/// The batches of the log that no backup needs that stays, of each cluster.
fn unneeded_logs(
    arguments: &Arguments,
    machine: &Machine,
    destination: &dyn Destination,
    judged: &[Judged<'_>],
) -> anyhow::Result<Vec<(u64, Batches)>> {
    let now = prove::now(&machine.env);
    let not_before = arguments.keep_log_days.map(|days| keep::days_before(now, days));
    let staying = judged.iter().filter(|it| !it.reasons.is_empty());
    let staying: Vec<Backup> = staying.map(|it| it.backup.clone()).collect();
    let mut clusters: Vec<u64> = judged.iter().map(|it| it.backup.cluster).collect();
    clusters.dedup();
    let mut logs = Vec::new();
    for cluster in clusters {
        let shipped = Shipped::read(destination, cluster)?;
        let bases = Base::among(&staying, cluster);
        logs.push((cluster, keep::unneeded(&shipped, &bases, not_before)));
    }
    Ok(logs)
}

fn tell(arguments: &Arguments, judged: &[Judged<'_>], batches: usize, pruned: &Pruned) {
    if arguments.write_out == Format::Json {
        let list: Vec<Value> = judged
            .iter()
            .map(|it| {
                let reasons: Vec<&str> = it.reasons.iter().map(|reason| reason.text()).collect();
                json!({
                    "name": it.backup.name.to_string(),
                    "is_kept": !it.reasons.is_empty(),
                    "reasons": reasons,
                    "refusal": it.refusal,
                })
            })
            .collect();
        let log = json!({
            "unneeded": batches,
            "removed": pruned.removed,
            "refusal": pruned.refused.as_ref().map(|(_, refusal)| refusal),
        });
        let told = json!({"dry_run": arguments.dry_run, "backups": list, "log": log});
        output::line(&told.to_string());
    } else {
        output::print(table(judged, arguments.dry_run).as_bytes());
        if arguments.dry_run && batches > 0 {
            output::line(&format!("{batches} batches of the log to be removed"));
        } else if pruned.removed > 0 {
            output::line(&format!("{} batches of the log removed", pruned.removed));
        }
    }
    if let Some((count, refusal)) = &pruned.refused {
        crate::complain(&format!("{count} batches of the log stay: {refusal}"));
    }
    for one in judged {
        if let Some(refusal) = &one.refusal {
            crate::complain(&format!("{} stays: {refusal}", one.backup.name));
        }
    }
}

fn table(judged: &[Judged<'_>], is_to_come: bool) -> String {
    let word = |it: &Judged<'_>| match (it.reasons.is_empty(), &it.refusal, is_to_come) {
        (false, _, _) => {
            let reasons: Vec<&str> = it.reasons.iter().map(|reason| reason.text()).collect();
            format!("kept: {}", reasons.join(", "))
        }
        (true, None, true) => "to be removed".to_owned(),
        (true, None, false) => "removed".to_owned(),
        (true, Some(_), _) => "not removed: refused".to_owned(),
    };
    let rows: Vec<Vec<String>> =
        judged.iter().map(|it| vec![it.backup.name.to_string(), word(it)]).collect();
    if rows.is_empty() {
        "no backups\n".to_owned()
    } else {
        keepd_cli::draw_table(&["name", ""], &rows)
    }
}
