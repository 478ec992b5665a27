//! `snapshot restore`: a data directory made from a snapshot file.
//!
//! Standard output stays empty, as etcd's does. Standard error has the lines of etcdutl's log that
//! scripts wait for, then what a person needs: what was done, and the line that starts a server on
//! it.

use std::env;
use std::fs;
use std::path::Path;

use keepd_backup::{RestoreOptions, Restored};
use keepd_crypto::{ConfigOptions, EncryptionConfig, wiping};
use keepd_env::Env;

use super::Bar;
use crate::engine::answer::complain;
use crate::engine::command::{Call, Command, Flag, Kind};
use crate::engine::exit::{Exit, bad_arguments, failed};
use crate::engine::json::string;
use crate::engine::{log, plain_os_error};
use crate::start_line::{self, Config};

/// Names the encryption configuration where the flag does not, to the server too.
const CONFIG_VARIABLE: &str = "ETCD_ENCRYPTION_PROVIDER_CONFIG";

/// Makes a data directory from a snapshot file.
pub(crate) static RESTORE: Command = Command {
    usage: "restore <filename> --data-dir {output dir} [options]",
    short: "Restores an etcd member snapshot to an etcd directory",
    flags: &[
        Flag::text("data-dir", "", "Path to the output data directory"),
        Flag::text("wal-dir", "", "Path to the WAL directory (use --data-dir if none given)"),
        Flag::text(
            "initial-cluster",
            "default=http://localhost:2380",
            "Initial cluster configuration for restore bootstrap",
        ),
        Flag::text(
            "initial-cluster-token",
            "etcd-cluster",
            "Initial cluster token for the etcd cluster during restore bootstrap",
        ),
        Flag::text(
            "initial-advertise-peer-urls",
            "http://localhost:2380",
            "List of this member's peer URLs to advertise to the rest of the cluster",
        ),
        Flag::text("name", "default", "Human-readable name for this member"),
        Flag::bool(
            "skip-hash-check",
            "Ignore snapshot integrity hash value (required if copied from data directory)",
        ),
        Flag {
            name: "initial-memory-map-size",
            short: None,
            kind: Kind::Uint,
            default: "10737418240",
            usage: "Initial memory map size of the database in bytes. It uses the default value \
                    if not defined or defined to 0",
        },
        Flag {
            name: "bump-revision",
            short: None,
            kind: Kind::Uint,
            default: "1000000000",
            usage: "How much to increase the latest revision after restore; 0 keeps it",
        },
        Flag::bool(
            "mark-compacted",
            "Mark the latest revision after restore as the point of scheduled compaction \
             (required if --bump-revision > 0 is given, disallowed with 0)",
        ),
        Flag::text(
            "encryption-provider-config",
            "",
            "EncryptionConfiguration file with the keys of sealed values; also in \
             ETCD_ENCRYPTION_PROVIDER_CONFIG, as for the server (keepd only)",
        ),
        Flag::bool(
            "encryption-trust-plain-data",
            "Take plain values although the EncryptionConfiguration does not list identity for \
             them, and seal them (keepd only)",
        ),
        Flag::bool(
            "without-authentication",
            "Restore a snapshot that has authentication enabled, which will not be enforced \
             (keepd only)",
        ),
    ],
    run: Some(restore),
    ..Command::NONE
};

fn restore(call: Call<'_>) -> Result<(), Exit> {
    if call.arguments.len() != 1 {
        return Err(bad_arguments("snapshot restore requires exactly one argument"));
    }
    let options = options(&call)?;
    let data_dir = match call.string("data-dir") {
        "" => format!("{}.etcd", options.name),
        dir => dir.to_owned(),
    };
    let from_environment = env::var(CONFIG_VARIABLE).unwrap_or_default();
    let config_path = match call.string("encryption-provider-config") {
        "" => &from_environment,
        path => path,
    };
    let trust_plain_data = call.flag("encryption-trust-plain-data");
    let encryption = encryption(config_path, trust_plain_data)?;
    let snapshot = call.text(0);
    let paths = [("path", string(&snapshot)), ("data-dir", string(&data_dir))];
    inform("restoring snapshot", &paths);
    let bar = Bar::new();
    let restored = keepd_backup::restore(
        &Env::real(),
        Path::new(&*snapshot),
        Path::new(&data_dir),
        &options,
        encryption.as_ref(),
        &mut |progress| bar.show(progress),
    );
    bar.clear();
    let restored = restored.map_err(failed)?;
    log_as_etcd_does(&options, &restored).map_err(failed)?;
    inform("restored snapshot", &paths);
    tell(&options, &restored, &data_dir);
    let config = match (config_path, restored.is_pending) {
        ("", true) => Config::Unnamed,
        ("", false) => Config::Unneeded,
        (path, _) => Config::File(path),
    };
    complain(&start_line::of(&options, &data_dir, config));
    Ok(())
}

fn options(call: &Call<'_>) -> Result<RestoreOptions, Exit> {
    let bump_revision = call.uint("bump-revision");
    // A bump without the mark would leave revisions that look valid and hold nothing. etcd makes
    // people ask for both; who asks for neither gets both.
    let asks_for_neither = !call.is_given("bump-revision") && !call.is_given("mark-compacted");
    let mark_compacted = asks_for_neither || call.flag("mark-compacted");
    if (bump_revision > 0) != mark_compacted {
        return Err(bad_arguments("--mark-compacted required if --revision-bump > 0"));
    }
    if !call.string("wal-dir").is_empty() {
        return Err(failed("--wal-dir is not supported, the log is part of the data directory"));
    }
    Ok(RestoreOptions {
        name: call.string("name").to_owned(),
        initial_cluster: call.string("initial-cluster").to_owned(),
        initial_cluster_token: call.string("initial-cluster-token").to_owned(),
        initial_advertise_peer_urls: call.string("initial-advertise-peer-urls").to_owned(),
        skip_hash_check: call.flag("skip-hash-check"),
        bump_revision,
        mark_compacted,
        without_authentication: call.flag("without-authentication"),
    })
}

fn encryption(path: &str, trust_plain_data: bool) -> Result<Option<EncryptionConfig>, Exit> {
    if path.is_empty() {
        return Ok(None);
    }
    wiping(|| {
        let bytes = fs::read(path).map_err(|error| {
            bad_arguments(format_args!("open {path}: {}", plain_os_error(&error)))
        })?;
        let options = ConfigOptions { trust_plain_data, ..ConfigOptions::default() };
        EncryptionConfig::parse_with(path, &bytes, options).map(Some).map_err(bad_arguments)
    })
}

/// Writes a line as etcdutl's log has it; `fields` are JSON already.
fn inform(message: &str, fields: &[(&str, String)]) {
    let now = log::timestamp(Env::real().clock.wall());
    let seconds = now.split('.').next().unwrap_or_default();
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
    complain(&format!("{seconds}Z\tinfo\t{message}\t{{{}}}", fields.join(", ")));
}

/// The lines that etcd's own tests and people's scripts wait for.
fn log_as_etcd_does(
    options: &RestoreOptions,
    restored: &Restored,
) -> Result<(), keepd_backup::Error> {
    if options.bump_revision > 0 && !restored.is_pending {
        let fields = [
            ("latest-revision", restored.file_revision.to_string()),
            ("bump-amount", options.bump_revision.to_string()),
            ("new-latest-revision", restored.revision.to_string()),
        ];
        inform("bumping latest revision", &fields);
        inform("marking revision compacted", &[("revision", restored.revision.to_string())]);
    }
    let cluster = options.cluster()?;
    for member in &cluster.members {
        let urls: Vec<String> = member.peer_urls.iter().map(|url| string(url)).collect();
        let fields = [
            ("cluster-id", string(&cluster.id.to_string())),
            // There is no local member yet when etcd's tool adds them.
            ("local-member-id", string("0")),
            ("added-peer-id", string(&member.id.to_string())),
            ("added-peer-peer-urls", format!("[{}]", urls.join(", "))),
            ("added-peer-is-learner", "false".to_owned()),
        ];
        inform("added member", &fields);
    }
    Ok(())
}

/// Says what was done.
fn tell(options: &RestoreOptions, restored: &Restored, data_dir: &str) {
    let Restored { revision, records, sealed, .. } = restored;
    let bump = options.bump_revision;
    if restored.is_pending {
        complain(&format!(
            "the snapshot holds sealed values: put in place in {data_dir} as it is; the first \
             start needs the encryption configuration with the keys they were sealed with, to be \
             named instead of FILE below"
        ));
        if bump > 0 {
            complain(&format!("that start bumps the revision by {bump}"));
        }
        return;
    }
    complain(&format!("records restored into {data_dir}: {records}, of them sealed: {sealed}"));
    complain(&if bump > 0 {
        format!(
            "revision bumped by {bump} to {revision}, so that watchers and controllers notice; \
             --bump-revision 0 keeps it"
        )
    } else {
        format!(
            "revision kept at {revision}: a watcher or controller that has seen a later one will \
             not notice"
        )
    });
}
