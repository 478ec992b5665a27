//! `keepd backup`: backups elsewhere, taken from any machine, proven to restore, and restored.
//!
//! The mechanisms are `keepd-archive`'s; here are the command line, the cluster and what people read.

mod bar;
mod choice;
mod copy;
mod examine;
pub(crate) mod keys;
mod moment;
mod now;
pub(crate) mod place;
mod prune;
mod restore;
mod shown;
mod source;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::verb;

pub(crate) use bar::Bar;
pub(crate) use choice::{cluster_id, sidecar};
pub(crate) use keys::OpenArguments;
pub(crate) use place::{LineArguments, Machine, ScratchArguments};
pub(crate) use restore::refuse_half_restored;
pub(crate) use shown::bytes;

/// Backups elsewhere: in a folder or an object store, sealed, and proven to restore.
///
/// A place is a URL: file:///folder, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix. Options
/// go behind a ?, as in s3://bucket/prefix?endpoint=https://minio:9000&region=eu-1&ca=/etc/ca.crt:
/// endpoint, region, ca, path-style, credentials, profile (s3); endpoint, ca, credentials (gs); endpoint, ca,
/// account (az). Credentials come from the environment (AWS_..., GOOGLE_..., AZURE_...), a file, a web
/// identity or the machine's role.
///
/// Exit codes: 0 done, 1 failed or refused, 2 mistake on the command line, 3 not confirmed, 4 a backup is not
/// what it should be.
#[derive(Debug, Parser)]
#[command(name = "keepd backup", bin_name = "keepd backup")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Now(now::Arguments),
    List(choice::ListArguments),
    Show(choice::ShowArguments),
    Verify(examine::VerifyArguments),
    Drill(examine::DrillArguments),
    Prune(prune::Arguments),
    Copy(copy::CopyArguments),
    Download(copy::DownloadArguments),
    Restore(restore::Arguments),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

/// A backup is not what it should be.
const NOT_SOUND: u8 = 4;

/// Runs the verb with its arguments.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    verb::run("keepd backup", arguments, |arguments: Arguments| match arguments.command {
        Command::Now(arguments) => now::run(&arguments),
        Command::List(arguments) => choice::list(&arguments),
        Command::Show(arguments) => choice::show(&arguments),
        Command::Verify(arguments) => examine::verify(&arguments),
        Command::Drill(arguments) => examine::drill(&arguments),
        Command::Prune(arguments) => prune::run(&arguments),
        Command::Copy(arguments) => copy::copy(&arguments),
        Command::Download(arguments) => copy::download(&arguments),
        Command::Restore(arguments) => restore::run(&arguments),
    })
}
