//! `keepd encryption`: keys and files of an `EncryptionConfiguration`, and how a server stands.

pub(crate) mod fetch;
mod status;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use keepd_crypto::ConfigOptions;
use keepd_env::Env;

use keepd_cli::output;

use crate::verb;

/// Encryption at rest: keys, configuration files, and how a server stands.
#[derive(Debug, Parser)]
#[command(name = "keepd encryption", bin_name = "keepd encryption")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print a new random key (32 bytes, base64), fit for every provider.
    Keygen,
    /// Read a configuration file as the server would, and tell what it means.
    Verify {
        /// The file.
        file: PathBuf,
    },
    /// Ask a server what it seals how, and whether every file is re-encrypted.
    Status(StatusArguments),
}

#[derive(Debug, clap::Args)]
struct StatusArguments {
    /// The server.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:2379")]
    endpoint: String,
    /// The CA of the server's certificate.
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// The certificate to show to the server.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Count the stored values by their keys; reads the whole store.
    #[arg(long)]
    values: bool,
    /// How to print.
    #[arg(short = 'w', long, value_name = "FORMAT", default_value = "table")]
    write_out: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Runs the verb with its arguments.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    verb::run("keepd encryption", arguments, |arguments: Arguments| {
        match arguments.verb {
            Verb::Keygen => output::line(&keepd_crypto::new_secret(&*Env::real().random)),
            Verb::Verify { file } => verify(&file)?,
            Verb::Status(arguments) => status::run(&arguments)?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Prints what a configuration seals how; fails with everything that is wrong with it.
fn verify(file: &std::path::Path) -> anyhow::Result<()> {
    let config = crate::read_encryption_config(file, ConfigOptions::default())?.local()?;
    for rule in keepd_crypto::ValueSealer::new(&config).rules() {
        output::line(&match rule.sealing_key {
            Some((id, name)) => format!("{}: sealed under {name} (id {:016x})", rule.scope, id.0),
            None => format!("{}: plain", rule.scope),
        });
    }
    let files = if config.seals() { "sealed" } else { "plain" };
    output::line(&format!("files of the data directory: {files}"));
    for warning in config.warnings() {
        output::line(&format!("warning: {warning}"));
    }
    Ok(())
}
