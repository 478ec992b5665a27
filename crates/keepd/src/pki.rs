//! `keepd pki`: a CA and certificates for the store, and a look at any certificate.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use keepd_env::Env;
use keepd_tls::{Authority, CertificateSummary, Purposes, Subject, TLS_SERVER_DAYS, Usage};

use crate::verb;

/// Make a CA and certificates, or look at one.
#[derive(Debug, Parser)]
#[command(name = "keepd pki", bin_name = "keepd pki")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a CA: DIR/ca.crt and DIR/ca.key.
    Ca {
        /// The directory; made if need be.
        #[arg(long, value_name = "DIR", default_value = "pki")]
        dir: PathBuf,
        /// The CA's common name.
        #[arg(long, default_value = "keepd-ca")]
        common_name: String,
    },
    /// Make DIR/NAME.crt and DIR/NAME.key, signed by the CA in DIR.
    Issue {
        /// The files' name, and the common name if none is given.
        name: String,
        /// Who shows the certificate.
        #[arg(long, value_enum)]
        usage: UsageArgument,
        /// A host name or address it is reached by; may be repeated.
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        /// The common name.
        #[arg(long)]
        common_name: Option<String>,
        /// Days of validity.
        #[arg(long, default_value_t = TLS_SERVER_DAYS)]
        days: u64,
        /// Replace a pair that exists; running servers take it from the next connection on.
        #[arg(long)]
        renew: bool,
        /// The directory of the CA.
        #[arg(long, value_name = "DIR", default_value = "pki")]
        dir: PathBuf,
    },
    /// Show what certificates say.
    Show {
        /// PEM files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum UsageArgument {
    /// A client.
    Client,
    /// A member, to other members.
    Peer,
    /// A server, to clients.
    Server,
}

/// Runs the verb with its arguments.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    verb::run("keepd pki", arguments, |arguments: Arguments| {
        let text = run(&Env::real(), arguments.command)?;
        keepd_cli::output::print(text.as_bytes());
        Ok(ExitCode::SUCCESS)
    })
}

fn run(env: &Env, command: Command) -> anyhow::Result<String> {
    match command {
        Command::Ca { dir, common_name } => {
            anyhow::ensure!(
                !Authority::exists(env, &dir)?,
                "{} has a CA already, and certificates of it would become worthless",
                dir.display()
            );
            Authority::create(env, &dir, &common_name)?;
            let (certificate, key) = Authority::paths(&dir, "ca");
            Ok(format!("{}\n{}  (keep it to yourself)\n", certificate.display(), key.display()))
        }
        Command::Issue { name, usage, hosts, common_name, days, renew, dir } => {
            let usage = match usage {
                UsageArgument::Client => Usage::Client,
                UsageArgument::Peer => Usage::Peer,
                UsageArgument::Server => Usage::Server,
            };
            anyhow::ensure!(
                usage == Usage::Client || !hosts.is_empty(),
                "clients compare a server's certificate with the name they dial; give each with \
                 --host, such as --host localhost --host 127.0.0.1"
            );
            anyhow::ensure!(!name.contains('/') && name != "ca", "{name:?} is no name for files");
            anyhow::ensure!(
                Authority::exists(env, &dir)?,
                "{} has no CA; make one with: keepd pki ca --dir {}",
                dir.display(),
                dir.display()
            );
            let common_name = common_name.unwrap_or_else(|| name.clone());
            let subject = Subject { common_name, names: hosts, usage, days };
            let authority = Authority::open(env, &dir)?;
            let issued = if renew {
                authority.renew(&name, &subject)
            } else {
                authority.issue(&name, &subject)
            };
            let (certificate, key) = issued?;
            Ok(format!("{}\n{}\n", certificate.display(), key.display()))
        }
        Command::Show { files } => {
            let now = i64::try_from(env.clock.wall().as_secs())?;
            let shown: anyhow::Result<Vec<String>> =
                files.iter().map(|file| show(env, file, now)).collect();
            Ok(shown?.join("\n"))
        }
    }
}

fn show(env: &Env, file: &Path, now: i64) -> anyhow::Result<String> {
    let pem = env.disk.read(file)?;
    let facts = CertificateSummary::from_pem(&pem)
        .map_err(|error| anyhow::anyhow!("{}: no certificate: {error}", file.display()))?;
    let mut names = facts.dns_names.clone();
    names.extend(facts.ip_addresses.iter().map(ToString::to_string));
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let usage = match facts.purposes {
        Purposes::Unrestricted => "any",
        Purposes::Only { client: true, server: true } => "server, client",
        Purposes::Only { client: true, server: false } => "client",
        Purposes::Only { client: false, server: true } => "server",
        Purposes::Only { client: false, server: false } => "neither server nor client",
    };
    let days = (facts.not_after - now) / (24 * 60 * 60);
    let left = if facts.not_after < now { "EXPIRED".to_owned() } else { format!("{days} days") };
    Ok(format!(
        "{}\n  subject  {}\n  issuer   {}\n  hosts    {names}\n  usage    {usage}{}\n  \
         from     {}\n  until    {} ({left})\n  serial   {}\n",
        file.display(),
        facts.subject,
        facts.issuer,
        if facts.is_ca { ", CA" } else { "" },
        facts.not_before_text(),
        facts.not_after_text(),
        facts.serial
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keepd(dir: &Path, words: &str) -> Result<String, String> {
        let words = words.replace("DIR", dir.to_str().unwrap());
        let all = std::iter::once("pki").chain(words.split_whitespace());
        let arguments = Arguments::try_parse_from(all).map_err(|error| error.to_string())?;
        run(&Env::real(), arguments.command).map_err(|error| error.to_string())
    }

    #[test]
    fn a_ca_issues_renews_and_shows() {
        let dir = std::env::temp_dir().join(format!("keepd-pki-{}", std::process::id()));
        let no_ca = keepd(&dir, "issue a --usage client --dir DIR").unwrap_err();
        assert!(no_ca.contains("keepd pki ca --dir"), "{no_ca}");
        keepd(&dir, "ca --dir DIR").unwrap();
        assert!(keepd(&dir, "ca --dir DIR").unwrap_err().contains("has a CA already"));
        keepd(&dir, "issue a --usage client --dir DIR").unwrap();
        assert!(keepd(&dir, "issue a --usage client --dir DIR").is_err(), "no overwriting");
        keepd(&dir, "issue a --usage client --dir DIR --renew --common-name b").unwrap();
        assert!(keepd(&dir, "issue s --usage server --dir DIR").unwrap_err().contains("--host"));
        keepd(&dir, "issue s --usage server --dir DIR --host localhost --host 127.0.0.1").unwrap();
        let shown = keepd(&dir, "show DIR/a.crt DIR/s.crt DIR/ca.crt").unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        for part in [
            "subject  CN=b",
            "hosts    none",
            "usage    client\n",
            "hosts    localhost, 127.0.0.1",
            "usage    server, client",
            "usage    any, CA",
            " (82",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }
}
