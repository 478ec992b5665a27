//! `snapshot`: saves a member's state to a file, and looks at or restores such files.
//!
//! The file is written beside its final name, checked, made durable and only then renamed, so the
//! final name never holds half a snapshot. Its last 32 bytes are the SHA-256 of the bytes before
//! them; unlike etcdctl, keepd checks that sum while saving.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use keepd_api::etcdserverpb::{SnapshotRequest, SnapshotResponse};
use keepd_env::Env;
use keepd_gotext::GoDuration;
use sha2::{Digest as _, Sha256};

use super::GROUP_CLUSTER;
use super::client::{Client, Failure, Method, Repeat, framed, run};
use super::global::Options;
use crate::engine::answer::{complain, print};
use crate::engine::command::{Call, Command};
use crate::engine::exit::{Exit, INTERRUPTED, bad_arguments};
use crate::engine::json::Object;
use crate::engine::plain_os_error;
use crate::engine::{humanize, log};
use crate::etcdutl::snapshot;

const SNAPSHOT: Method<SnapshotRequest, SnapshotResponse> =
    Method::new("/etcdserverpb.Maintenance/Snapshot", Repeat::Allowed);

const EXAMPLE: &str = "  # Save snapshot to a given file
  etcdctl snapshot save /backup/etcd-snapshot.db
\x20\x20
  # Get snapshot from given address and save it to file
  etcdctl snapshot save --endpoints=127.0.0.1:3000 /backup/etcd-snapshot.db
\x20\x20
  # Get snapshot from given address with certificates
  etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/etcd/ca.crt \
--cert=/etc/etcd/etcd.crt --key=/etc/etcd/etcd.key snapshot save /backup/etcd-snapshot.db
\x20\x20
  # Get snapshot with certain user and password
  etcdctl --user=root --password=password123 snapshot save /backup/etcd-snapshot.db
\x20\x20
  # Get snapshot from given address with timeout
  etcdctl --endpoints=https://127.0.0.1:2379 --dial-timeout=20s snapshot save \
/backup/etcd-snapshot.db
\x20\x20
  # Save snapshot with desirable time format
  etcdctl snapshot save /mnt/backup/etcd/backup_$(date +%Y%m%d_%H%M%S).db";

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "snapshot <subcommand>",
    short: "Manages etcd node snapshots",
    example: EXAMPLE,
    group: GROUP_CLUSTER,
    // etcdctl had the other two before etcd 3.6, and scripts still call them here.
    commands: &[&SAVE, &snapshot::RESTORE, &snapshot::STATUS],
    ..Command::NONE
};

static SAVE: Command = Command {
    usage: "save <filename>",
    short: "Stores an etcd node backend snapshot to a given file",
    example: EXAMPLE,
    run: Some(save),
    ..Command::NONE
};

fn broken_off(text: impl std::fmt::Display) -> Exit {
    Exit::new(INTERRUPTED, text)
}

fn save(mut call: Call<'_>) -> Result<(), Exit> {
    if call.arguments.len() != 1 {
        return Err(bad_arguments("snapshot save expects one argument <filename>"));
    }
    let path = call.text(0).into_owned();
    let options = Options::read(&mut call)?;
    if options.endpoints.len() != 1 {
        return Err(broken_off(format_args!(
            "snapshot must be requested to one selected node, not multiple [{}]",
            options.endpoints.join(" ")
        )));
    }
    // Without the option, a snapshot may take as long as it takes.
    let limit = call.is_given("command-timeout").then_some(options.command_timeout);
    run(async move {
        let client =
            Client::new(options).await.map_err(|exit| Exit { code: INTERRUPTED, ..exit })?;
        let mut part = PartFile::create(&path)?;
        let received = receive(&client, &mut part);
        let version = match limit {
            Some(limit) => tokio::time::timeout(limit, received)
                .await
                .map_err(|_elapsed| broken_off(Failure::DeadlineExceeded))?,
            None => received.await,
        }?;
        part.finish(&path)?;
        complain(&what_is_plain(&path));
        print(format!("Snapshot saved at {path}\n").as_bytes());
        if !version.is_empty() {
            print(format!("Server version {version}\n").as_bytes());
        }
        Ok(())
    })
}

/// Tells which values anyone who has the file can read (rule 9.12), on standard error and before
/// the lines that scripts read.
fn what_is_plain(path: &str) -> String {
    match keepd_backup::sealed_values(&*Env::real().disk, Path::new(path)) {
        Ok(0) => format!(
            "{path} is not encrypted: it shows every key, and every value as clients wrote it"
        ),
        Ok(sealed) => format!(
            "{path} shows every key, and the values that no encryption rule covers; {sealed} \
             sealed values stay sealed, and a restore needs the encryption configuration"
        ),
        Err(error) => format!("{path} is saved, but what is sealed in it cannot be told: {error}"),
    }
}

fn inform(message: &str, fields: &Object) {
    log::write("info", "", message, fields);
}

async fn receive(client: &Client, part: &mut PartFile) -> Result<String, Exit> {
    let endpoint = &client.options.endpoints[0];
    let clock = Env::real().clock;
    let start = clock.monotonic();
    let mut answers =
        client.stream(&SNAPSHOT, SnapshotRequest {}).await.map_err(|failure| match failure {
            Failure::Status(status) => broken_off(framed(&status)),
            failure => broken_off(failure),
        })?;
    inform("fetching snapshot", &Object::new().text("endpoint", endpoint));
    let progress = progress_bar();
    let mut version = String::new();
    while let Some(answer) = answers.message().await.map_err(|status| {
        if part.len == 0 {
            return broken_off(framed(&status));
        }
        broken_off(format_args!("could not write snapshot: {}", framed(&status)))
    })? {
        if version.is_empty() {
            version = answer.version;
        }
        part.write(&answer.blob)?;
        progress.set_length(part.len + answer.remaining_bytes);
        progress.set_position(part.len);
    }
    progress.finish_and_clear();
    part.check()?;
    let fields = Object::new()
        .text("endpoint", endpoint)
        .text("size", &humanize::bytes(part.len))
        .text("took", &GoDuration::from(clock.monotonic() - start).to_string())
        .text("etcd-version", &version);
    inform("fetched snapshot", &fields);
    Ok(version)
}

/// A bar where a person watches, nothing in a script.
fn progress_bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "{bar:40} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}",
    );
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// BOUND: a SHA-256 sum.
const SUM_LEN: usize = 32;

/// The file while it is written; removed again unless it is finished.
struct PartFile {
    path: String,
    file: File,
    len: u64,
    sum: Sha256,
    /// The last bytes written, which may be the sum and are not part of it.
    tail: Vec<u8>,
}

impl PartFile {
    fn create(path: &str) -> Result<Self, Exit> {
        let path = format!("{path}.part");
        // What lies there is left over from a save that was killed, or a link or a file that somebody
        // else put there: it is not written into, but taken away.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let why = plain_os_error(&error);
                return Err(broken_off(format_args!(
                    "could not open {path} (remove {path}: {why})"
                )));
            }
            Ok(()) | Err(_) => {}
        }
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = opened.map_err(|error| {
            let why = plain_os_error(&error);
            broken_off(format_args!("could not open {path} (open {path}: {why})"))
        })?;
        inform("created temporary db file", &Object::new().text("path", &path));
        Ok(Self { path, file, len: 0, sum: Sha256::new(), tail: Vec::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Exit> {
        self.file.write_all(bytes).map_err(|error| {
            let (path, why) = (&self.path, plain_os_error(&error));
            broken_off(format_args!("could not write snapshot: write {path}: {why}"))
        })?;
        self.len += u64::try_from(bytes.len()).expect("a length fits 64 bits");
        self.tail.extend_from_slice(bytes);
        let summed = self.tail.len().saturating_sub(SUM_LEN);
        self.sum.update(&self.tail[..summed]);
        self.tail.drain(..summed);
        Ok(())
    }

    /// Images are whole sectors, so the length tells whether a sum follows.
    fn check(&self) -> Result<(), Exit> {
        if self.len % 512 != 32 {
            let text = format!("sha256 checksum not found [bytes: {}]", self.len);
            return Err(broken_off(text));
        }
        let sum = self.sum.clone().finalize();
        if sum[..] != self.tail[..] {
            return Err(broken_off(format_args!(
                "expected sha256 {:?}, got {:?}",
                self.tail,
                &sum[..]
            )));
        }
        Ok(())
    }

    fn finish(&self, path: &str) -> Result<(), Exit> {
        self.file.sync_all().map_err(|error| {
            broken_off(format_args!("could not fsync snapshot: {}", plain_os_error(&error)))
        })?;
        fs::rename(&self.path, path).map_err(|error| {
            let (part, why) = (&self.path, plain_os_error(&error));
            broken_off(format_args!(
                "could not rename {part} to {path} (rename {part} {path}: {why})"
            ))
        })?;
        inform("saved", &Object::new().text("path", path));
        Ok(())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        // Renamed away after success; then there is nothing to remove.
        let _nothing_there = fs::remove_file(&self.path);
    }
}
