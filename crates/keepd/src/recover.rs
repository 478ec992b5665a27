//! `keepd recover`: a new cluster from what is left of one whose majority is gone for good.
//!
//! The survivors' directories are read, compared by Raft's rule and told of; whoever asks is told what
//! may be lost and has to agree. Then the directory with the longest log is copied and the copy made the
//! first member of a new cluster (`keepd-node`). The originals are never changed.

mod guide;
mod plan;
mod report;

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use keepd_crypto::EncryptionConfig;
use keepd_env::Env;
use keepd_member::InitialCluster;
use keepd_node::{NewCluster, RecoveredCluster, Survivor};

use crate::verb;

use self::plan::{Found, Plan};

/// Make a new cluster from what is left of one whose majority is gone for good.
///
/// Give the data directories of all members that are left, of this machine or copied here: the one
/// with the longest log is taken. Their servers must be stopped. Nothing in them is changed: the new
/// cluster's first member is made in a directory of its own.
///
/// Exit codes: 0 done, 1 failed or refused, 2 mistake on the command line, 3 not confirmed.
#[derive(Debug, Parser)]
#[command(name = "keepd recover", bin_name = "keepd recover")]
struct Arguments {
    /// The survivors' data directories.
    #[arg(required = true, value_name = "DIR")]
    survivors: Vec<PathBuf>,
    /// The data directory to make; beside the chosen one, with `.recovered` at its end, if not given.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The encryption configuration of the servers.
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<PathBuf>,
    /// Take this one of the directories, though another one has the longer log or it is damaged.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// The name of the new cluster's member; its former one if not given.
    #[arg(long)]
    name: Option<String>,
    /// Its peer URLs; its former ones if not given.
    #[arg(long, value_name = "URLS")]
    initial_advertise_peer_urls: Option<String>,
    /// The rise of the revision, so that watchers and controllers notice; 0 keeps it.
    #[arg(long, value_name = "N", default_value_t = keepd_backup::DEFAULT_BUMP)]
    bump_revision: u64,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Tell what would be done, and do nothing.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// The form of what is printed.
    #[arg(short = 'w', long, value_name = "FORMAT", default_value = "table")]
    write_out: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// The member to make, and where.
#[derive(Debug)]
struct Target {
    data_dir: PathBuf,
    name: String,
    peer_urls: Vec<String>,
    cluster: InitialCluster,
    bump: u64,
    /// Named by the start line.
    encryption: Option<PathBuf>,
}

/// Runs the verb with its arguments.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    verb::run("keepd recover", arguments, |arguments| run(&Env::real(), &arguments))
}

fn run(env: &Env, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let found = read_all(env, arguments)?;
    let plan = plan::make(found, arguments.from.as_deref())?;
    let target = target(env, arguments, &plan)?;
    let is_json = arguments.write_out == Format::Json;
    if !is_json {
        keepd_cli::output::print(report::text(&plan, &target).as_bytes());
    }
    if arguments.dry_run {
        if is_json {
            keepd_cli::output::line(&report::json(&plan, &target, None).to_string());
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.yes && !verb::confirm("Make the new cluster?")? {
        return Ok(verb::not_confirmed());
    }
    let made = make(env, arguments, &plan, &target)?;
    if is_json {
        keepd_cli::output::line(&report::json(&plan, &target, Some(&made)).to_string());
    } else {
        keepd_cli::output::print(guide::text(&plan, &target, &made).as_bytes());
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads every directory; one that is damaged is told of, anything else that is wrong with one ends it
/// all: whoever stops the server or gives the key can ask again.
fn read_all(env: &Env, arguments: &Arguments) -> anyhow::Result<Vec<Found>> {
    let mut found: Vec<Found> = Vec::new();
    for given in &arguments.survivors {
        let dir = std::path::absolute(given)?;
        anyhow::ensure!(
            found.iter().all(|other| other.data_dir != dir),
            "{} is given twice",
            dir.display()
        );
        let config = encryption(env, arguments, &dir)?;
        let survivor = match Survivor::read(env, &dir, config.as_ref()) {
            Err(error) if !error.is_damage() => return Err(error.into()),
            read => read,
        };
        found.push(Found { data_dir: dir, survivor });
    }
    Ok(found)
}

/// The configuration as a server on this directory has it.
fn encryption(
    env: &Env,
    arguments: &Arguments,
    data_dir: &Path,
) -> anyhow::Result<Option<EncryptionConfig>> {
    let path = arguments.encryption_provider_config.as_deref();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(crate::encryption_config_at_rest(env, path, data_dir))
}

fn target(env: &Env, arguments: &Arguments, plan: &Plan) -> anyhow::Result<Target> {
    let own = plan.own();
    let dir = plan.chosen().data_dir.clone();
    let name = arguments.name.clone().or_else(|| own.map(|own| own.name.clone()));
    let name = name.filter(|name| !name.is_empty()).ok_or_else(|| {
        anyhow::anyhow!("{}: the member never told its name; give --name", dir.display())
    })?;
    let urls = match &arguments.initial_advertise_peer_urls {
        Some(urls) => urls.clone(),
        None => own.map(|own| own.peer_urls.join(",")).unwrap_or_default(),
    };
    anyhow::ensure!(
        !urls.is_empty(),
        "{}: the member's peer URLs are not known; give --initial-advertise-peer-urls",
        dir.display()
    );
    let peer_urls: Vec<String> = urls.split(',').map(|url| url.trim().to_owned()).collect();
    let named: Vec<String> = peer_urls.iter().map(|url| format!("{name}={url}")).collect();
    // A token of its own, so that the new cluster has an id that no member of the former one has.
    let token = format!("recovered-{:016x}", env.random.next_u64());
    let cluster = InitialCluster::parse(&name, &named.join(","), &token, &urls)?;
    let data_dir = match &arguments.data_dir {
        Some(data_dir) => std::path::absolute(data_dir)?,
        None => {
            let mut beside = dir.into_os_string();
            beside.push(".recovered");
            beside.into()
        }
    };
    let encryption = arguments.encryption_provider_config.as_ref();
    let encryption = encryption.map(std::path::absolute).transpose()?;
    let bump = arguments.bump_revision;
    Ok(Target { data_dir, name, peer_urls, cluster, bump, encryption })
}

fn make(
    env: &Env,
    arguments: &Arguments,
    plan: &Plan,
    target: &Target,
) -> anyhow::Result<RecoveredCluster> {
    let survivor = plan.chosen();
    let config = encryption(env, arguments, &survivor.data_dir)?;
    let new = NewCluster { member: target.cluster.clone(), bump: target.bump };
    let shows = std::io::stderr().is_terminal();
    let (bytes, mut shown) = (survivor.bytes.max(1), 0);
    let mut progress = |done: u64| {
        let percent = done.saturating_mul(100) / bytes;
        if shows && percent > shown {
            shown = percent;
            let _unprintable = write!(std::io::stderr(), "\rcopying {percent}%");
        }
    };
    let made = keepd_node::recover(env, survivor, &target.data_dir, config, &new, &mut progress);
    if shows {
        let _unprintable = write!(std::io::stderr(), "\r              \r");
    }
    Ok(made?)
}
