//! `keepd quickstart`: a server, or a cluster on one machine, with TLS and encryption at rest, from
//! nothing, in one command.
//!
//! The first run makes a directory with a CA, certificates and an encryption configuration; every
//! run starts the server on it and prints the lines to try. Everything lives in that directory:
//!
//! ```text
//! pki/              ca, server, peer, client and apiserver, each .crt and .key
//! encryption.yaml   the key that seals values and the data directory
//! data/             the server's; with --members, data-1, data-2, ...
//! backups/          a sealed backup every 30 minutes; backup-scratch/ is empty between them
//! ```
//!
//! Each part is made under another name and renamed when complete, so a run that was interrupted
//! is continued by the next. Nothing that exists is replaced, except certificates near their end.
//! Data whose encryption configuration is missing is refused, never started with another key.

mod cluster;
mod guide;
mod owned;
mod ports;
mod ready;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use keepd_archive::destination::folder_url;
use keepd_env::Env;
use keepd_tls::{Authority, CertificateSummary, Subject};

use crate::{flags, verb};

/// Certificates that end sooner are replaced.
const RENEWED_BEFORE_DAYS: i64 = 30;
const DAY_SECONDS: i64 = 24 * 60 * 60;
/// From a member's ports to those of the next.
const PORT_DISTANCE: u16 = 10;
/// When a backup is taken, and what is kept of them.
const BACKUPS: [&str; 3] =
    ["--backup-schedule=*/30 * * * *", "--backup-keep-within-hours=24", "--backup-keep-daily=7"];
/// BOUND: members on one machine.
const MEMBERS_MAX: u16 = 7;

/// Make everything a secure server needs in one directory, and start it.
#[derive(Debug, Parser)]
#[command(name = "keepd quickstart", bin_name = "keepd quickstart")]
struct Arguments {
    /// The directory to make, or to start again from.
    #[arg(long, value_name = "DIR", default_value = "keepd-quickstart")]
    dir: PathBuf,
    /// Members of the cluster, each a process of its own, in this terminal; as many as the directory
    /// has, or one.
    #[arg(long, value_name = "N", value_parser = members_count)]
    members: Option<u16>,
    /// The port for clients, on 127.0.0.1; that of each further member is ten higher.
    #[arg(long, value_name = "PORT", default_value_t = 2379)]
    client_port: u16,
    /// The port for other members, on 127.0.0.1; the one after the clients' if not given. That of
    /// each further member is ten higher.
    #[arg(long, value_name = "PORT")]
    peer_port: Option<u16>,
    /// Make the directory and print the lines, but do not start.
    #[arg(long)]
    no_start: bool,
}

/// The directory, and the ports.
#[derive(Clone, Debug)]
struct Place {
    dir: PathBuf,
    members: u16,
    /// The first member's ports.
    client_port: u16,
    peer_port: u16,
}

impl Place {
    fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }

    fn encryption(&self) -> PathBuf {
        self.dir.join("encryption.yaml")
    }

    fn backups(&self) -> PathBuf {
        self.dir.join("backups")
    }

    /// The place of the backups of all members.
    fn backups_url(&self) -> String {
        folder_url(&self.backups())
    }

    /// The data directories of all members.
    fn data(&self) -> Vec<PathBuf> {
        (1..=self.members).map(|member| self.data_of(member)).collect()
    }

    fn data_of(&self, member: u16) -> PathBuf {
        let is_alone = self.members == 1;
        self.dir.join(if is_alone { "data".to_owned() } else { format!("data-{member}") })
    }

    /// The ports of a member, for clients and for the other members.
    fn ports(&self, member: u16) -> (u16, u16) {
        let distance = (member - 1) * PORT_DISTANCE;
        (self.client_port + distance, self.peer_port + distance)
    }

    /// The client URLs of all members.
    fn client_urls(&self) -> Vec<String> {
        let url = |member| format!("https://127.0.0.1:{}", self.ports(member).0);
        (1..=self.members).map(url).collect()
    }

    /// A member's flags: `keepd server` with them is the same member.
    fn flags(&self, member: u16) -> Vec<String> {
        let (client_port, peer_port) = self.ports(member);
        let client = format!("https://127.0.0.1:{client_port}");
        let peer = format!("https://127.0.0.1:{peer_port}");
        let named = |member| format!("keepd-{member}=https://127.0.0.1:{}", self.ports(member).1);
        let cluster = (1..=self.members).map(named).collect::<Vec<_>>().join(",");
        let pki = |name: &str| self.pki().join(name).display().to_string();
        let mut flags = vec![
            format!("--name=keepd-{member}"),
            format!("--data-dir={}", self.data_of(member).display()),
            format!("--encryption-provider-config={}", self.encryption().display()),
            "--encryption-provider-config-automatic-reload=true".to_owned(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--cert-file={}", pki("server.crt")),
            format!("--key-file={}", pki("server.key")),
            "--client-cert-auth=true".to_owned(),
            format!("--trusted-ca-file={}", pki("ca.crt")),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={cluster}"),
            format!("--peer-cert-file={}", pki("peer.crt")),
            format!("--peer-key-file={}", pki("peer.key")),
            "--peer-client-cert-auth=true".to_owned(),
            format!("--peer-trusted-ca-file={}", pki("ca.crt")),
            format!("--backup-to={}", self.backups_url()),
            format!("--backup-scratch-dir={}", self.dir.join("backup-scratch").display()),
        ];
        flags.extend(BACKUPS.map(str::to_owned));
        flags
    }
}

/// Runs the verb with its arguments.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    verb::run("keepd quickstart", arguments, |arguments| run(&Env::real(), &arguments))
}

/// Prepares the directory, prints the guide, and runs the server or the cluster unless it is not to
/// start.
fn run(env: &Env, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let place = place(arguments)?;
    if !arguments.no_start {
        ports::check(&place)?;
    }
    let made = prepare(env, &place)?;
    let guide = guide::text(&place, &made, &std::env::current_exe()?, !arguments.no_start);
    keepd_cli::output::print(guide.as_bytes());
    if arguments.no_start {
        return Ok(ExitCode::SUCCESS);
    }
    ready::tell(&place);
    if place.members > 1 {
        return cluster::run(&place);
    }
    let parsed = flags::parse(&for_terminal(place.flags(1)), &[]);
    let parsed = parsed.map_err(|exit| anyhow::anyhow!("its own flags are refused: {exit:?}"))?;
    Ok(crate::serve::run(parsed))
}

/// Only for the terminal: `keepd server` with the printed flags logs as etcd does.
fn for_terminal(mut flags: Vec<String>) -> Vec<String> {
    flags.extend(["--log-format=console".to_owned(), "--log-level=warn".to_owned()]);
    flags
}

/// A number of members that makes sense: one more than an odd number survives no more failures.
fn members_count(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(count @ (1 | 3 | 5 | 7)) => Ok(count),
        _ => Err("1, 3, 5 or 7: an even number survives no more failures than one less".to_owned()),
    }
}

/// The number of members of a directory that was made before; `None` if there is no data yet.
fn members_found(dir: &Path) -> anyhow::Result<Option<u16>> {
    if dir.join("data").exists() {
        return Ok(Some(1));
    }
    let count = (1..=MEMBERS_MAX).take_while(|n| dir.join(format!("data-{n}")).exists()).count();
    Ok(u16::try_from(count).ok().filter(|count| *count > 0))
}

fn place(arguments: &Arguments) -> anyhow::Result<Place> {
    let client_port = arguments.client_port;
    let peer_port = match arguments.peer_port {
        Some(port) => port,
        None => client_port.checked_add(1).ok_or_else(|| {
            anyhow::anyhow!("there is no port after {client_port}; choose one with --peer-port")
        })?,
    };
    let dir = std::path::absolute(&arguments.dir)?;
    let found = members_found(&dir)?;
    let members = arguments.members.or(found).unwrap_or(1);
    if let Some(found) = found.filter(|found| *found != members) {
        anyhow::bail!(
            "{} holds a cluster of {found}, not of {members}: start it without --members, or choose \
             another --dir",
            dir.display()
        );
    }
    let last = (members - 1) * PORT_DISTANCE;
    anyhow::ensure!(
        client_port.max(peer_port).checked_add(last).is_some(),
        "the ports of {members} members end above 65535; choose lower ones"
    );
    anyhow::ensure!(
        client_port.abs_diff(peer_port) % PORT_DISTANCE != 0
            || client_port.abs_diff(peer_port) > last,
        "clients and members need two ports"
    );
    anyhow::ensure!(
        client_port != 0 && peer_port != 0,
        "port 0 would be another one at each start; choose one"
    );
    Ok(Place { dir, members, client_port, peer_port })
}

/// The state that a run found or made.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Made {
    /// This is the first run.
    is_new: bool,
    /// Certificates that were near their end and are new now.
    renewed: Vec<&'static str>,
    /// The end of the first certificate to expire.
    valid_until: String,
}

/// Makes what is missing.
fn prepare(env: &Env, place: &Place) -> anyhow::Result<Made> {
    let disk = env.disk.as_ref();
    owned::check(place)?;
    let names = disk.list(&place.dir)?;
    let is_ours = names.is_empty() || names.iter().any(|name| name.starts_with("pki"));
    anyhow::ensure!(
        is_ours,
        "{} is not empty and was not made by keepd quickstart; choose another --dir",
        place.dir.display()
    );
    disk.create_dir(&place.dir)?;
    // Somebody may have been faster.
    owned::check(place)?;
    let is_new = !disk.exists(&place.pki())?;
    if is_new {
        make_pki(env, place)?;
    }
    if !disk.exists(&place.encryption())? {
        for data in place.data() {
            anyhow::ensure!(
                disk.list(&data)?.is_empty(),
                "{} is missing, and without it {} cannot be read; put it back from your copy, or \
                 remove the data to begin anew",
                place.encryption().display(),
                data.display()
            );
        }
        let config = keepd_crypto::quickstart_config(env.random.as_ref());
        disk.replace(&place.encryption(), config.as_bytes())?;
    }
    if place.members > 1 {
        // So that the next start knows how many there are.
        for data in place.data() {
            disk.create_dir(&data)?;
        }
    }
    let (renewed, valid_until) = renew(env, place)?;
    Ok(Made { is_new, renewed, valid_until })
}

/// The certificates: their names and subjects.
fn subjects() -> [(&'static str, Subject); 4] {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(host_name());
    [
        ("server", Subject::server("keepd-1", &names)),
        ("peer", Subject::peer("keepd-1", &names)),
        ("client", Subject::client("root")),
        ("apiserver", Subject::client("kube-apiserver-etcd-client")),
    ]
}

/// The machine's name, if it is one that a certificate can carry.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    (is_plain && !name.is_empty() && name != "localhost").then(|| name.to_owned())
}

fn make_pki(env: &Env, place: &Place) -> anyhow::Result<()> {
    let disk = env.disk.as_ref();
    let unfinished = place.dir.join("pki.new");
    if disk.exists(&unfinished)? {
        disk.remove_dir_all(&unfinished)?;
    }
    let authority = Authority::create(env, &unfinished, "keepd-ca")?;
    for (name, subject) in subjects() {
        authority.issue(name, &subject)?;
    }
    disk.rename(&unfinished, &place.pki())?;
    disk.sync_dir(&place.dir)?;
    Ok(())
}

/// Replaces certificates near their end. Returns their names and the earliest end of all.
fn renew(env: &Env, place: &Place) -> anyhow::Result<(Vec<&'static str>, String)> {
    let now = i64::try_from(env.clock.wall().as_secs())?;
    let mut renewed = Vec::new();
    let mut soonest: Option<CertificateSummary> = None;
    for (name, subject) in subjects() {
        let (path, _) = Authority::paths(&place.pki(), name);
        let mut facts = facts(env, &path)?;
        if facts.not_after - now < RENEWED_BEFORE_DAYS * DAY_SECONDS {
            Authority::open(env, &place.pki())?.renew(name, &subject)?;
            facts = self::facts(env, &path)?;
            renewed.push(name);
        }
        if soonest.as_ref().is_none_or(|soonest| facts.not_after < soonest.not_after) {
            soonest = Some(facts);
        }
    }
    let until = soonest.map(|facts| facts.not_after_text()).unwrap_or_default();
    Ok((renewed, until.chars().take(10).collect()))
}

fn facts(env: &Env, path: &Path) -> anyhow::Result<CertificateSummary> {
    let pem = env.disk.read(path)?;
    CertificateSummary::from_pem(&pem)
        .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
