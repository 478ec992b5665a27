//! `snapshot status` and `snapshot restore`: what a snapshot file holds, and a data directory
//! made from it.

use std::env;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use keepd_backup::{Progress, RestoreOptions, Stage, Status};
use keepd_crypto::EncryptionConfig;
use keepd_env::Env;

use super::{file, style};
use crate::ctl::answer::{self, Answer, Style, complain, line};
use crate::ctl::command::{Call, Command, Flag, Kind};
use crate::ctl::exit::{Exit, bad_arguments, failed};
use crate::ctl::json::Object;
use crate::ctl::{gostr, plain_os_error, table};

/// Names the encryption configuration where the flag does not, to the server too.
const CONFIG_VARIABLE: &str = "ETCD_ENCRYPTION_PROVIDER_CONFIG";

/// The group of commands.
pub(super) static COMMAND: Command = Command {
    usage: "snapshot <subcommand>",
    short: "Manages etcd node snapshots",
    commands: &[&RESTORE, &STATUS],
    ..Command::NONE
};

/// Tells what a snapshot file holds.
pub(crate) static STATUS: Command = Command {
    usage: "status <filename>",
    short: "Gets backend snapshot status of a given file",
    long: "When --write-out is set to simple, this command prints out comma-separated status \
           lists for each endpoint.
The items in the lists are hash, revision, total keys, total size.
",
    run: Some(status),
    ..Command::NONE
};

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
            default: "0",
            usage: "How much to increase the latest revision after restore",
        },
        Flag::bool(
            "mark-compacted",
            "Mark the latest revision after restore as the point of scheduled compaction \
             (required if --bump-revision > 0, disallowed otherwise)",
        ),
        Flag::text(
            "encryption-provider-config",
            "",
            "EncryptionConfiguration file with the keys of sealed values; also in \
             ETCD_ENCRYPTION_PROVIDER_CONFIG, as for the server (keepd only)",
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

fn status(call: Call<'_>) -> Result<(), Exit> {
    if call.arguments.len() != 1 {
        return Err(bad_arguments("snapshot status requires exactly one argument"));
    }
    let path = call.text(0);
    file::check(&path)?;
    let style = style(&call)?;
    let bar = Bar::new();
    let real = Env::real();
    let status = keepd_backup::status(&*real.disk, Path::new(&*path), &mut |p| bar.show(p));
    bar.clear();
    answer::show(&status.map_err(failed)?, style)
}

fn restore(call: Call<'_>) -> Result<(), Exit> {
    if call.arguments.len() != 1 {
        return Err(bad_arguments("snapshot restore requires exactly one argument"));
    }
    let (bump_revision, mark_compacted) = (call.uint("bump-revision"), call.flag("mark-compacted"));
    if (bump_revision > 0) != mark_compacted {
        return Err(bad_arguments("--mark-compacted required if --revision-bump > 0"));
    }
    if !call.string("wal-dir").is_empty() {
        return Err(failed("--wal-dir is not supported, the log is part of the data directory"));
    }
    let name = call.string("name").to_owned();
    let data_dir = match call.string("data-dir") {
        "" => format!("{name}.etcd"),
        dir => dir.to_owned(),
    };
    let from_environment = env::var(CONFIG_VARIABLE).unwrap_or_default();
    let config_path = match call.string("encryption-provider-config") {
        "" => &from_environment,
        path => path,
    };
    let encryption = encryption(config_path)?;
    let options = RestoreOptions {
        name,
        initial_cluster: call.string("initial-cluster").to_owned(),
        initial_cluster_token: call.string("initial-cluster-token").to_owned(),
        initial_advertise_peer_urls: call.string("initial-advertise-peer-urls").to_owned(),
        skip_hash_check: call.flag("skip-hash-check"),
        bump_revision,
        mark_compacted,
        without_authentication: call.flag("without-authentication"),
    };
    let bar = Bar::new();
    let restored = keepd_backup::restore(
        &Env::real(),
        Path::new(&*call.text(0)),
        Path::new(&data_dir),
        &options,
        encryption.as_ref(),
        &mut |progress| bar.show(progress),
    );
    bar.clear();
    let restored = restored.map_err(failed)?;
    // Scripts expect nothing on standard output; people are told what they got.
    let config = match (config_path, restored.is_pending) {
        ("", true) => " --encryption-provider-config=FILE",
        ("", false) => "",
        (path, _) => &format!(" --encryption-provider-config={path}"),
    };
    complain(&if restored.is_pending {
        "the snapshot holds sealed values: the first start needs the encryption configuration \
         with the keys they were sealed with"
            .to_owned()
    } else {
        format!(
            "restored revision {} with {} records into {data_dir}",
            restored.revision, restored.records
        )
    });
    complain(&format!(
        "start it with: keepd server --name={} --data-dir={data_dir} --initial-cluster={} \
         --initial-advertise-peer-urls={}{config}, and the listen and certificate flags of before",
        options.name, options.initial_cluster, options.initial_advertise_peer_urls
    ));
    Ok(())
}

fn encryption(path: &str) -> Result<Option<EncryptionConfig>, Exit> {
    if path.is_empty() {
        return Ok(None);
    }
    let bytes = fs::read(path)
        .map_err(|error| bad_arguments(format_args!("open {path}: {}", plain_os_error(&error))))?;
    EncryptionConfig::parse(path, &bytes).map(Some).map_err(bad_arguments)
}

/// A bar where a person watches, nothing in a script.
struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn new() -> Self {
        if !io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        let style = ProgressStyle::with_template(
            "{msg:9} {bar:40} {decimal_bytes}/{decimal_total_bytes} {eta}",
        );
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        Self { bar: ProgressBar::new(0).with_style(style) }
    }

    fn show(&self, Progress { stage, done, total }: Progress) {
        self.bar.set_message(match stage {
            Stage::Verify => "verifying",
            Stage::Read => "reading",
            Stage::Import => "importing",
        });
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn row(status: &Status) -> Vec<String> {
    vec![
        format!("{:x}", status.hash),
        status.revision.to_string(),
        status.total_keys.to_string(),
        gostr::bytes(status.total_size),
        status.version.clone(),
    ]
}

impl Answer for Status {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        line!(out, "{}", row(self).join(", "));
    }

    fn json(&self, _style: Style) -> String {
        Object::new()
            .always("hash", &self.hash.to_string())
            .always("revision", &self.revision.to_string())
            .always("totalKey", &self.total_keys.to_string())
            .always("totalSize", &self.total_size.to_string())
            .always("version", &crate::ctl::json::string(&self.version))
            .end()
    }

    fn fields(&self, _style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        line!(out, "\"Hash\" : {}", self.hash);
        line!(out, "\"Revision\" : {}", self.revision);
        line!(out, "\"Keys\" : {}", self.total_keys);
        line!(out, "\"Size\" : {}", self.total_size);
        line!(out, "\"Version\" : {}", self.version);
        Ok(())
    }

    fn table(&self) -> Result<String, Exit> {
        let titles = ["hash", "revision", "total keys", "total size", "version"];
        Ok(table::draw(&titles, &[row(self)]))
    }
}
