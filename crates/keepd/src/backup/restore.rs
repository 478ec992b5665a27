//! `keepd backup restore`: a data directory from a backup, beside what it replaces.
//!
//! Everything is made in the folder `restoring` within the data directory, which may be a mount point, and
//! then renamed: the former member aside, the new one into its place. An interruption leaves the former
//! member, the new one, or neither with a name; the server refuses to start in the last case, and the same
//! command ends it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use keepd_archive::age::Keys;
use keepd_archive::log::replay::Reader;
use keepd_archive::log::shipped::{ReplayPlan, Target};
use keepd_archive::scratch::{self, Scratch, ScratchFile};
use keepd_archive::{Moment, prove};
use keepd_backup::{DEFAULT_BUMP, Replayed, RestoreOptions, Restored};
use keepd_cli::output;
use keepd_cli::start_line::{self, Config};
use keepd_crypto::EncryptionConfig;
use keepd_env::{DirLock, Disk, Env};
use keepd_member::Layout;
use keepd_node::Survivor;
use serde_json::json;

use super::bar::Bar;
use super::choice::{ChoiceArguments, Chosen};
use super::keys::OpenArguments;
use super::moment::{MomentArguments, Way};
use super::{Format, shown};
use crate::verb;

/// The folder within the data directory that everything is made in.
const FOLDER: &str = "restoring";
const ASIDE_PREFIX: &str = "member.before-restore-";
/// Entries decompressed and stored take this much of their batches at most, or a little more.
const LOG_GROWS: u64 = 8;
/// The directory of a restore that waits for its keys, which is replaced as a member is.
const PENDING: &str = "import";

/// Make a data directory from a backup, and from the shipped log behind it.
///
/// Without a name it is the newest state that there is: the newest proven backup, and what the log has
/// behind it. --at and --revision bring back an earlier one.
///
/// A member that is there is moved aside, not removed. The revision is raised, so that watchers and
/// controllers notice that the state went back. For a cluster of several members run the same command on
/// each, or start one and let the others join.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    choice: ChoiceArguments,
    #[command(flatten)]
    moment: MomentArguments,
    /// The data directory.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    #[command(flatten)]
    keys: OpenArguments,
    /// The member's name.
    #[arg(long, default_value = "default")]
    name: String,
    /// The members of the new cluster: name=peer URL, with commas.
    #[arg(long, value_name = "LIST")]
    initial_cluster: Option<String>,
    /// The token of the new cluster.
    #[arg(long, default_value = "etcd-cluster")]
    initial_cluster_token: String,
    /// The member's peer URLs.
    #[arg(long, value_name = "URLS", default_value = "http://localhost:2380")]
    initial_advertise_peer_urls: String,
    /// The rise of the revision; 0 keeps it.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_BUMP)]
    bump_revision: u64,
    /// Take plain values although the encryption configuration does not list identity for them.
    #[arg(long)]
    encryption_trust_plain_data: bool,
    /// Restore a backup with authentication enabled, which will not be enforced.
    #[arg(long)]
    without_authentication: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// The form of what is printed.
    #[arg(short = 'w', long, value_name = "FORMAT", default_value = "table")]
    write_out: Format,
}

/// The former content of the data directory.
struct Former {
    /// The names that are moved aside.
    names: Vec<&'static str>,
    /// The member's revision, if it can be read.
    revision: Option<i64>,
}

/// Refuses to start on a data directory in which a restore was interrupted between its two renames:
/// what would begin there is an empty cluster.
pub(crate) fn refuse_half_restored(env: &Env, data_dir: &Path) -> anyhow::Result<()> {
    let has = |name: &str| env.disk.exists(&data_dir.join(name));
    if has(FOLDER)? && !has("member")? && !has(PENDING)? {
        anyhow::bail!(
            "{}: a restore was interrupted here; run the same `keepd backup restore` again (what was there \
             before lies beside it as {ASIDE_PREFIX}...)",
            data_dir.display()
        );
    }
    Ok(())
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let options = arguments.options()?;
    let keys = arguments.keys.read()?;
    let config = arguments.keys.config.read(arguments.encryption_trust_plain_data)?;
    let way = arguments.moment.find(&arguments.choice, &keys)?;
    let chosen = &way.chosen;
    let env = &chosen.machine.env;
    let data_dir = std::path::absolute(&arguments.data_dir)?;
    let state = chosen.sidecar()?.state.clone();
    anyhow::ensure!(
        state.sealed_values == 0 || config.is_some(),
        keepd_archive::Error::ValuesAreSealed(state.sealed_values)
    );
    let former = look(env, &data_dir, config.as_ref())?;
    if arguments.write_out == Format::Table {
        output::print(plan(&way, &data_dir, &former).as_bytes());
    }
    if !arguments.yes && !verb::confirm("Restore it?")? {
        return Ok(verb::not_confirmed());
    }
    let _lock = lock(env, &data_dir)?;
    remove_left_over(&*env.disk, &data_dir)?;
    // The snapshot, the store made of it, the log behind it, and some room; what is there already stays.
    let log_bytes =
        way.replay.as_ref().map_or(0, |replay| replay.bytes().saturating_mul(LOG_GROWS));
    let needed = state.snapshot_bytes.saturating_mul(3).saturating_add(log_bytes);
    scratch::check_space(env, &data_dir, needed)?;
    let bar = Bar::new();
    let new = data_dir.join(FOLDER).join("new");
    let (restored, replayed) = {
        let mut told = |stage, done, all| bar.tell(stage, done, all);
        let folder = data_dir.join(FOLDER);
        env.disk.create_dir(&folder)?;
        let scratch = Scratch::new(env, &folder)?;
        let object = chosen.destination.get(&chosen.key())?;
        let (file, _) = prove::verify(object, chosen.sidecar()?, &keys, &scratch, &mut told)?;
        make(&way, file, &new, &options, config.as_ref(), &keys, &bar)?
    };
    bar.clear();
    let aside = exchange(env, &data_dir, &new, &former)?;
    tell(arguments, &options, chosen, &data_dir, (&restored, replayed), &aside);
    Ok(ExitCode::SUCCESS)
}

/// Makes the new data directory.
fn make(
    way: &Way,
    file: ScratchFile,
    new: &Path,
    options: &RestoreOptions,
    config: Option<&EncryptionConfig>,
    keys: &Keys,
    bar: &Bar,
) -> anyhow::Result<(Restored, Option<Replayed>)> {
    let env = &way.chosen.machine.env;
    let mut told = |it: keepd_backup::Progress| bar.show("restoring", it.done, it.total);
    let file = Box::new(file);
    let Some(replay) = &way.replay else {
        let restored = keepd_backup::restore_file(env, file, new, options, config, &mut told)?;
        return Ok((restored, None));
    };
    let (destination, cluster) = (&*way.chosen.destination, way.chosen.backup.cluster);
    let mut entries = |done, all| bar.show("replaying", done, all);
    let mut log = Reader::new(destination, cluster, replay, keys, &mut entries);
    let (restored, replayed) = keepd_backup::restore_with_log(
        env, file, new, options, config, &mut log, replay.end, &mut told,
    )?;
    Ok((restored, Some(replayed)))
}

impl Arguments {
    fn options(&self) -> anyhow::Result<RestoreOptions> {
        let advertised = &self.initial_advertise_peer_urls;
        let alone = || {
            let urls = advertised.split(',').map(|url| format!("{}={url}", self.name));
            urls.collect::<Vec<_>>().join(",")
        };
        let options = RestoreOptions {
            name: self.name.clone(),
            initial_cluster: self.initial_cluster.clone().unwrap_or_else(alone),
            initial_cluster_token: self.initial_cluster_token.clone(),
            initial_advertise_peer_urls: advertised.clone(),
            skip_hash_check: false,
            bump_revision: self.bump_revision,
            mark_compacted: self.bump_revision > 0,
            without_authentication: self.without_authentication,
        };
        // Contradictions are found before anything is read.
        options.cluster()?;
        Ok(options)
    }
}

/// Looks at what is there; refuses if a server uses it.
fn look(env: &Env, data_dir: &Path, config: Option<&EncryptionConfig>) -> anyhow::Result<Former> {
    if !env.disk.exists(data_dir)? {
        return Ok(Former { names: Vec::new(), revision: None });
    }
    drop(lock(env, data_dir)?);
    let mut names = Vec::new();
    for name in ["member", PENDING] {
        if env.disk.exists(&data_dir.join(name))? {
            names.push(name);
        }
    }
    // A directory that cannot be read is the reason of many a restore.
    let survivor = Survivor::read(env, data_dir, config).ok();
    let revision = survivor.and_then(|it| it.store.ok()).map(|store| store.revision);
    Ok(Former { names, revision })
}

/// Keeps the server from using the directory; refuses if it does.
fn lock(env: &Env, data_dir: &Path) -> anyhow::Result<Box<dyn DirLock>> {
    env.disk.create_dir(data_dir)?;
    env.disk.lock_dir(data_dir).map_err(|error| match error.source.kind() {
        ErrorKind::WouldBlock => anyhow::anyhow!(
            "{}: the data directory is in use by another process; stop the server first",
            data_dir.display()
        ),
        _ => error.into(),
    })
}

/// Removes what an interrupted restore has left. The new member in it was made from a backup, which is
/// still there.
fn remove_left_over(disk: &dyn Disk, data_dir: &Path) -> anyhow::Result<()> {
    let folder = data_dir.join(FOLDER);
    if disk.exists(&folder)? {
        disk.remove_dir_all(&folder)?;
        disk.sync_dir(data_dir)?;
    }
    Ok(())
}

/// Moves the former member aside and the new one into its place; where the former one is.
fn exchange(
    env: &Env,
    data_dir: &Path,
    new: &Path,
    former: &Former,
) -> anyhow::Result<Vec<PathBuf>> {
    let disk = &*env.disk;
    let now = Moment::of_wall(env.clock.wall()).compact();
    let mut aside = Vec::new();
    for name in &former.names {
        let to = match *name {
            "member" => data_dir.join(format!("{ASIDE_PREFIX}{now}")),
            other => data_dir.join(format!("{other}.before-restore-{now}")),
        };
        disk.rename(&data_dir.join(name), &to).context("moving the former data aside")?;
        aside.push(to);
    }
    let member = Layout::new(data_dir).member;
    disk.rename(&Layout::new(new).member, &member).context("moving the new data into its place")?;
    // ORDER: the names are durable before the folder goes, whose presence says that they may not be.
    disk.sync_dir(data_dir)?;
    disk.remove_dir_all(&data_dir.join(FOLDER))?;
    disk.sync_dir(data_dir)?;
    Ok(aside)
}

/// The text that tells what was found, and what will be lost.
fn plan(way: &Way, data_dir: &Path, former: &Former) -> String {
    let backup = &way.chosen.backup;
    let mut lines = vec![format!(
        "backup    {} of {}: revision {}, {}",
        backup.name,
        backup.name.time,
        backup.name.revision,
        shown::state(backup)
    )];
    if let Some(replay) = &way.replay {
        lines.push(format!("log       {}", log_line(replay, way.target)));
    }
    let dir = data_dir.display();
    lines.push(if former.names.is_empty() {
        format!("data dir  {dir}: holds no member")
    } else {
        format!("data dir  {dir}: holds a member, which is moved aside")
    });
    // With a log the revision is known for certain only where it is what was asked for.
    let wanted = match (way.target, &way.replay) {
        (_, None) => Some(backup.name.revision),
        (Some(Target::Revision(revision)), _) => Some(revision),
        (_, Some(replay)) => replay.batches.last().map(|last| last.name.revision),
    };
    match (former.revision, wanted) {
        (Some(revision), Some(wanted)) if revision > wanted => lines.push(format!(
            "lost      it is at revision {revision}: what was changed in the last {} revisions is not in the \
             backup",
            revision - wanted
        )),
        (Some(revision), _) => lines.push(format!("          it is at revision {revision}")),
        (None, _) if former.names.is_empty() => {}
        (None, _) => lines.push("          its revision cannot be read".to_owned()),
    }
    lines.push(String::new());
    lines.join("\n")
}

/// The log that is applied, in words.
fn log_line(replay: &ReplayPlan, target: Option<Target>) -> String {
    let to = match target {
        Some(Target::At(time)) => format!("up to {time}"),
        Some(Target::Revision(revision)) => format!("up to revision {revision}"),
        _ => format!("up to {}, where it ends", replay.until),
    };
    format!("{} batches behind it, {}, {to}", replay.batches.len(), shown::bytes(replay.bytes()))
}

fn tell(
    arguments: &Arguments,
    options: &RestoreOptions,
    chosen: &Chosen,
    data_dir: &Path,
    (restored, replayed): (&Restored, Option<Replayed>),
    aside: &[PathBuf],
) {
    let path = arguments.keys.config.path().map(|path| path.display().to_string());
    let config = path.as_deref().map_or(Config::Unneeded, Config::File);
    let dir = data_dir.display().to_string();
    let line = start_line::of(options, &dir, config);
    if arguments.write_out == Format::Json {
        let command = line.lines().last().unwrap_or_default();
        output::line(
            &json!({
                "backup": chosen.backup.name.to_string(),
                "data_dir": dir,
                "moved_aside": aside.iter().map(|it| it.display().to_string()).collect::<Vec<_>>(),
                "cluster_id": restored.cluster.to_string(),
                "member_id": restored.member.to_string(),
                "backup_revision": restored.file_revision,
                "revision": restored.revision,
                "records": restored.records,
                "replayed": replayed.map(|it| json!({
                    "entries": it.entries,
                    "index": it.index,
                    "revision": it.revision,
                    "compared": it.compared,
                })),
                "start": command,
            })
            .to_string(),
        );
        return;
    }
    for aside in aside {
        output::line(&format!("moved aside: {}", aside.display()));
    }
    output::line(&format!("restored {} records into {dir}", restored.records));
    if let Some(replayed) = replayed {
        let compared = match replayed.compared {
            0 => String::new(),
            count => format!(", compared with the member's own state at {count} places"),
        };
        output::line(&format!(
            "replayed {} entries of the log, to revision {}{compared}",
            replayed.entries, replayed.revision
        ));
    }
    output::line(&if options.bump_revision > 0 {
        format!(
            "revision bumped by {} to {}, so that watchers and controllers notice; --bump-revision 0 keeps \
             it",
            options.bump_revision, restored.revision
        )
    } else {
        format!(
            "revision kept at {}: a watcher or controller that has seen a later one will not notice",
            restored.revision
        )
    });
    output::line(&line);
}
