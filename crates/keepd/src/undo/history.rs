//! `keepd history`: the versions of a key that are still there, in the cluster and in backups.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Parser;
use keepd_cli::output;
use serde_json::json;

use super::sources::{SourceArguments, Sources};
use super::state::{State as _, Version, Versions};
use super::{shown, versions};
use crate::backup::{Format, bytes};

/// Show the versions of a key that can still be read.
///
/// The running cluster has those since its last compaction (kube-apiserver compacts every five minutes);
/// with --from URL the newest proven backups are opened and looked into as well.
#[derive(Debug, Parser)]
#[command(name = "keepd history", bin_name = "keepd history")]
pub(crate) struct Arguments {
    /// The key.
    #[arg(value_name = "KEY")]
    key_name: String,
    #[command(flatten)]
    sources: SourceArguments,
    /// With --from, the number of backups that are opened, the newest ones.
    #[arg(long, value_name = "N", default_value_t = 3)]
    backups: usize,
    /// Write the value of one revision to standard output, as it is, and nothing else.
    #[arg(long, value_name = "REVISION")]
    value_of: Option<i64>,
    /// Tell the values too, in base64, with -w json.
    #[arg(long)]
    values: bool,
    /// The form of what is printed.
    #[arg(short = 'w', long, value_name = "FORMAT", default_value = "table")]
    write_out: Format,
}

/// A version with the place that has it.
struct Found {
    version: Version,
    place: String,
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let key = Bytes::from(arguments.key_name.clone());
    anyhow::ensure!(!key.is_empty(), "a key has at least one byte");
    let mut sources = Sources::new(&arguments.sources)?;
    let mut found = BTreeMap::new();
    let of_cluster = versions::of(sources.live()?, &key)?;
    add(&mut found, "cluster", of_cluster);
    if sources.has_place() {
        // The newest first: a version that several have is told of the newest.
        for at in sources.newest(arguments.backups)?.into_iter().rev() {
            let backup = sources.open(at)?;
            add(&mut found, &backup.name(), backup.versions(&key)?);
        }
    }
    if let Some(revision) = arguments.value_of {
        let content = found.get(&revision).and_then(|found| found.version.put.as_ref());
        let (_, content) = content.with_context(|| {
            format!("revision {revision} wrote no value of the key that is still there")
        })?;
        output::print(&content.value);
        return Ok(ExitCode::SUCCESS);
    }
    tell(arguments, &key, &found);
    Ok(ExitCode::SUCCESS)
}

fn add(found: &mut BTreeMap<i64, Found>, place: &str, versions: Versions) {
    if versions.left_out > 0 {
        output::complain(&format!("{place}: {} older versions are left out", versions.left_out));
    }
    for version in versions.into_iter() {
        let place = place.to_owned();
        found.entry(version.revision).or_insert(Found { version, place });
    }
}

fn tell(arguments: &Arguments, key: &[u8], found: &BTreeMap<i64, Found>) {
    if arguments.write_out == Format::Json {
        let told = found.values().map(|Found { version, place }| {
            let put = version.put.as_ref().map(|(number, content)| {
                let mut told = shown::content(content, arguments.values);
                told["version"] = (*number).into();
                told
            });
            json!({ "revision": version.revision, "put": put, "place": place })
        });
        let versions: Vec<serde_json::Value> = told.collect();
        output::line(&json!({ "key": shown::key_json(key), "versions": versions }).to_string());
        return;
    }
    let rows: Vec<Vec<String>> = found
        .values()
        .map(|Found { version, place }| {
            let (number, size) = match &version.put {
                Some((number, content)) => (number.to_string(), bytes(content.value.len() as u64)),
                None => (String::new(), "deleted".to_owned()),
            };
            vec![version.revision.to_string(), number, size, place.clone()]
        })
        .collect();
    if rows.is_empty() {
        output::line(&format!("{}: no version is left", shown::key(key)));
    } else {
        let titles = ["revision", "version", "value", "in"];
        output::print(keepd_cli::draw_table(&titles, &rows).as_bytes());
    }
}
