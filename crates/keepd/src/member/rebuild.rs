//! `keepd member rebuild`: a member whose data is corrupt, damaged or lost gets the state of the others.
//!
//! It runs on the member's machine while its server is stopped. The member is removed from the cluster
//! and added again as a learner with the same name and URLs, for one that forgot what it acknowledged
//! must not vote under its old id; its data is moved aside, and a data directory is made that joins, so
//! that the server starts with the flags that it always had. Then the learner is promoted.
//!
//! INVARIANT: `rebuild.json` in the data directory says what was decided before it is done, so that
//! after an interruption the same command goes on from there.

mod record;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use keepd_api::etcdserverpb as pb;
use keepd_crypto::EncryptionConfig;
use keepd_env::{DirLock, Env};
use keepd_machine::membership::Member;
use keepd_member::{Identity, Layout};
use keepd_node::{Bootstrap, DataDir, Survivor};
use keepd_types::{ClusterId, MemberId};

use self::record::Record;
use crate::admin::{AccessArguments, Cluster, id_of, sorted};
use crate::{promotion, verb};

/// Give a corrupt or damaged member the state of the others.
///
/// Run it on the member's machine with its server stopped. The others must be a healthy majority. After an
/// interruption run it again: it goes on where it was.
///
/// Exit codes: 0 done, 1 failed or refused, 2 mistake on the command line, 3 not confirmed.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The member's data directory.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The member's name in the cluster; read from the data directory if not given.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    access: AccessArguments,
    /// The encryption configuration of its server.
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<PathBuf>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Do not wait until it has caught up; the same command promotes it later.
    #[arg(long)]
    no_wait: bool,
}

/// Runs the command.
pub(super) fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let env = Env::real();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(&env, arguments))
}

async fn run(env: &Env, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let data_dir = std::path::absolute(&arguments.data_dir)?;
    let mut cluster = Cluster::new(env, &arguments.access)?;
    let (id, members) = cluster.members().await.context("asking the others")?;
    let mut record = match Record::read(env, &data_dir)? {
        Some(record) => record,
        None => {
            let record = plan(env, arguments, &data_dir, id, &members).await?;
            check_others(&cluster, &members, record.old_id).await?;
            let question = format!(
                "{} ({:x}) is removed from the cluster, its data moved aside, and it joins again with \
                 the state of the others.",
                record.name, record.old_id
            );
            if !arguments.yes && !verb::confirm(&question)? {
                return Ok(verb::not_confirmed());
            }
            record.write(env, &data_dir)?;
            record
        }
    };
    anyhow::ensure!(
        record.cluster_id == id,
        "{} is being rebuilt for cluster {:x}, and these endpoints are of cluster {id:x}",
        data_dir.display(),
        record.cluster_id
    );
    if !record.is_made {
        make(env, arguments, &data_dir, &mut cluster, &mut record).await?;
    }
    finish(env, arguments, &data_dir, &mut cluster, &record).await
}

/// The steps up to a data directory that joins.
async fn make(
    env: &Env,
    arguments: &Arguments,
    data_dir: &Path,
    cluster: &mut Cluster,
    record: &mut Record,
) -> anyhow::Result<()> {
    let lock = lock(env, data_dir)?;
    let config = encryption(env, arguments, data_dir).await?;
    let (_, members) = cluster.members().await?;
    if members.iter().any(|member| member.id == record.old_id) {
        check_others(cluster, &members, record.old_id).await?;
        // ORDER: before it is removed. An alarm of one that is no member stops the writes of all.
        cluster.disarm_corrupt(record.old_id).await.context("clearing its alarm")?;
        cluster.remove(record.old_id).await.context("removing the member")?;
        crate::complain(&format!("removed {} ({:x})", record.name, record.old_id));
    }
    drop(lock);
    if is_made(env, data_dir, config.as_ref(), record) {
        record.is_made = true;
        return record.write(env, data_dir);
    }
    let lock = self::lock(env, data_dir)?;
    move_aside(env, data_dir, record)?;
    if record.new_id.is_none() {
        let added = cluster.add_learner(&record.peer_urls).await;
        let (new_id, _) = added.context("adding the member again; run this command once more")?;
        record.new_id = Some(new_id);
        record.write(env, data_dir)?;
        crate::complain(&format!("added {} as learner {new_id:x}", record.name));
    }
    let new_id = record.new_id.unwrap_or_default();
    let (_, members) = cluster.members().await?;
    anyhow::ensure!(
        members.iter().any(|member| member.id == new_id),
        "{} ({new_id:x}) was removed from the cluster meanwhile; remove {} to begin anew",
        record.name,
        Record::path(data_dir).display()
    );
    drop(lock);
    let identity = Identity { member: MemberId(new_id), cluster: ClusterId(record.cluster_id) };
    let members = members.into_iter().map(to_machine).collect();
    let mut options = keepd_node::Options::new(data_dir.to_owned());
    options.bootstrap = Bootstrap::Join { identity, members };
    drop(DataDir::prepare(env, &options, config)?);
    record.is_made = true;
    record.write(env, data_dir)
}

/// Whether the directory is the new one already: it may have served since, and is not made again.
fn is_made(env: &Env, data_dir: &Path, config: Option<&EncryptionConfig>, record: &Record) -> bool {
    let found = Survivor::read(env, data_dir, config);
    found.is_ok_and(|found| Some(found.identity.member.0) == record.new_id)
}

/// Waits for the server and promotes it.
async fn finish(
    env: &Env,
    arguments: &Arguments,
    data_dir: &Path,
    cluster: &mut Cluster,
    record: &Record,
) -> anyhow::Result<ExitCode> {
    let new_id = record.new_id.unwrap_or_default();
    crate::complain(&format!(
        "{} is ready to join: start its server as before, with the flags that it had",
        record.name
    ));
    if arguments.no_wait {
        let promoted = if record.is_learner { "" } else { "; the same command promotes it" };
        crate::complain(&format!("not waited for, as asked{promoted}"));
        return Ok(ExitCode::SUCCESS);
    }
    if !record.is_learner {
        promotion::wait(cluster, new_id, &record.name).await?;
    }
    env.disk.remove(&Record::path(data_dir))?;
    env.disk.sync_dir(data_dir)?;
    if let Some(aside) = &record.aside {
        crate::complain(&format!(
            "done; what it had lies in {}: remove it when nobody wants to look into it any more",
            data_dir.join(aside).display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Decides whom to rebuild.
async fn plan(
    env: &Env,
    arguments: &Arguments,
    data_dir: &Path,
    cluster_id: u64,
    members: &[pb::Member],
) -> anyhow::Result<Record> {
    // Refuses early what would be found after the first change.
    drop(lock(env, data_dir)?);
    let known = |id: u64| members.iter().find(|member| member.id == id);
    let member = match &arguments.name {
        Some(name) => {
            let mut named = members.iter().filter(|member| member.name == *name);
            let member = named.next().with_context(|| {
                let names: Vec<&str> = members.iter().map(|it| it.name.as_str()).collect();
                format!("the cluster has no member {name}; it has {}", names.join(", "))
            })?;
            anyhow::ensure!(
                named.next().is_none(),
                "the cluster has two members of the name {name}"
            );
            member
        }
        None => {
            let config = encryption(env, arguments, data_dir).await?;
            let survivor = Survivor::read(env, data_dir, config.as_ref());
            let identity =
                survivor.context("which member it is cannot be read; give --name")?.identity;
            anyhow::ensure!(
                identity.cluster.0 == cluster_id,
                "{} is of cluster {}, and these endpoints are of cluster {cluster_id:x}",
                data_dir.display(),
                identity.cluster
            );
            known(identity.member.0).with_context(|| {
                format!("the cluster has no member {}; give --name", identity.member)
            })?
        }
    };
    let keyring = Layout::new(data_dir).member.join("KEYRING");
    anyhow::ensure!(
        arguments.encryption_provider_config.is_some() || !env.disk.exists(&keyring)?,
        "the data of this member is sealed: give the --encryption-provider-config of its server"
    );
    Ok(Record {
        cluster_id,
        name: member.name.clone(),
        peer_urls: sorted(&member.peer_ur_ls),
        is_learner: member.is_learner,
        old_id: member.id,
        new_id: None,
        aside: None,
        is_made: false,
    })
}

/// Refuses unless the others can do without this member.
async fn check_others(
    cluster: &Cluster,
    members: &[pb::Member],
    old_id: u64,
) -> anyhow::Result<()> {
    let others: Vec<pb::Member> =
        members.iter().filter(|member| member.id != old_id).cloned().collect();
    let statuses = cluster.statuses(&others).await;
    let is_healthy = |member: &&pb::Member| {
        statuses.iter().any(|status| id_of(status) == member.id && is_well(status))
    };
    let is_voter = |member: &&pb::Member| !member.is_learner;
    let voters = members.iter().filter(is_voter).count();
    let (healthy, unwell): (Vec<_>, Vec<_>) = others.iter().filter(is_voter).partition(is_healthy);
    let quorum = voters / 2 + 1;
    let names: Vec<&str> = unwell.iter().map(|member| member.name.as_str()).collect();
    anyhow::ensure!(
        healthy.len() >= quorum,
        "without this member {} of {voters} voting members are known to be healthy, and {quorum} are \
         needed to remove it; not well, or not reached at its client URLs: {}. Start those first (give \
         their addresses with --endpoints); if they are gone for good, see: keepd recover --help",
        healthy.len(),
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    );
    Ok(())
}

/// Whether a member follows a leader and serves. Alarms of others, the one that is rebuilt first of all, do
/// not count against it.
fn is_well(status: &pb::StatusResponse) -> bool {
    let is_stopped = |error: &String| {
        [id_of(status), 0].iter().any(|id| *error == format!("memberID:{id} alarm:CORRUPT"))
    };
    status.leader != 0 && !status.errors.iter().any(is_stopped)
}

/// Keeps the server from using the directory; refuses if it does.
fn lock(env: &Env, data_dir: &Path) -> anyhow::Result<Box<dyn DirLock>> {
    env.disk.create_dir(data_dir)?;
    env.disk.lock_dir(data_dir).map_err(|error| match error.source.kind() {
        std::io::ErrorKind::WouldBlock => anyhow::anyhow!(
            "{}: the data directory is in use by another process; stop the server first",
            data_dir.display()
        ),
        _ => error.into(),
    })
}

/// Renames the member's old directory. The data directory itself stays: it may be a mount point.
fn move_aside(env: &Env, data_dir: &Path, record: &mut Record) -> anyhow::Result<()> {
    let disk = &*env.disk;
    let member = Layout::new(data_dir).member;
    if record.aside.is_none() {
        if !disk.exists(&member)? {
            return Ok(());
        }
        let now = keepd_cli::timestamp(env.clock.wall());
        let now: String = now.chars().take(19).filter(char::is_ascii_alphanumeric).collect();
        record.aside = Some(format!("member.before-rebuild-{now}"));
        record.write(env, data_dir)?;
    }
    let aside = data_dir.join(record.aside.as_deref().unwrap_or_default());
    if !disk.exists(&aside)? && disk.exists(&member)? {
        disk.rename(&member, &aside)?;
        disk.sync_dir(data_dir)?;
        crate::complain(&format!("moved its data to {}", aside.display()));
    }
    Ok(())
}

async fn encryption(
    env: &Env,
    arguments: &Arguments,
    data_dir: &Path,
) -> anyhow::Result<Option<EncryptionConfig>> {
    let path = arguments.encryption_provider_config.as_deref();
    crate::encryption_config_at_rest(env, path, data_dir).await
}

/// A member as a directory keeps it.
fn to_machine(member: pb::Member) -> Member {
    Member {
        id: member.id,
        name: member.name,
        peer_urls: member.peer_ur_ls,
        client_urls: member.client_ur_ls,
        is_learner: member.is_learner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_of_the_member_that_is_rebuilt_makes_nobody_unwell() {
        let header = pb::ResponseHeader { member_id: 7, ..Default::default() };
        let status = |leader: u64, error: &str| pb::StatusResponse {
            header: Some(header),
            leader,
            errors: if error.is_empty() { Vec::new() } else { vec![error.to_owned()] },
            ..Default::default()
        };
        assert!(is_well(&status(1, "")));
        assert!(is_well(&status(1, "memberID:9 alarm:CORRUPT")));
        assert!(is_well(&status(1, "memberID:7 alarm:NOSPACE")));
        assert!(!is_well(&status(1, "memberID:7 alarm:CORRUPT")));
        assert!(!is_well(&status(1, "memberID:0 alarm:CORRUPT")));
        assert!(!is_well(&status(0, "")));
    }
}
