//! `keepd backup copy` and `download`: a backup to another place as it is, or out of it as etcd's snapshot.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use keepd_archive::catalog::Backup;
use keepd_archive::destination::Destination;
use keepd_archive::format::DigestReader;
use keepd_archive::{prove, upload};
use keepd_cli::output;
use serde_json::{Value, json};

use super::bar::Bar;
use super::choice::{self, ChoiceArguments, PlaceArguments};
use super::keys::OpenArguments;
use super::place::ScratchArguments;
use super::{Format, NOT_SOUND};

/// Copy backups to another place, sealed as they are; no key is needed.
#[derive(Debug, clap::Args)]
pub(super) struct CopyArguments {
    #[command(flatten)]
    place: PlaceArguments,
    /// The other place.
    #[arg(value_name = "TO")]
    to: String,
    /// This backup only; more than once for more.
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// The form of what is printed.
    #[arg(short = 'w', long, value_name = "FORMAT", default_value = "table")]
    write_out: Format,
}

/// Fetch a backup as a plain snapshot file, for etcd's tools too.
#[derive(Debug, clap::Args)]
pub(super) struct DownloadArguments {
    #[command(flatten)]
    choice: ChoiceArguments,
    /// The file to make.
    #[arg(short = 'o', long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    keys: OpenArguments,
    #[command(flatten)]
    scratch: ScratchArguments,
}

/// `keepd backup copy`.
pub(super) fn copy(arguments: &CopyArguments) -> anyhow::Result<ExitCode> {
    let (machine, from, catalog) = arguments.place.read()?;
    let to = machine.open(&arguments.to)?;
    let is_meant =
        |it: &&Backup| arguments.name.is_empty() || arguments.name.contains(&it.name.to_string());
    let meant: Vec<&Backup> = catalog.backups.iter().filter(is_meant).collect();
    for name in &arguments.name {
        let is_there = meant.iter().any(|it| it.name.to_string() == *name);
        anyhow::ensure!(is_there, "{} has no backup {name}", arguments.place.from);
    }
    let bar = Bar::new();
    let mut rows = Vec::new();
    let mut faults = 0;
    for backup in meant {
        let state = match copy_one(&*from, &*to, backup, &bar) {
            Ok(state) => state.to_owned(),
            Err(error) => {
                faults += 1;
                format!("NOT COPIED: {error:#}")
            }
        };
        rows.push(vec![backup.name.to_string(), state]);
    }
    bar.clear();
    if arguments.write_out == Format::Json {
        let list: Vec<Value> =
            rows.iter().map(|row| json!({"name": row[0], "state": row[1]})).collect();
        output::line(&json!({ "backups": list }).to_string());
    } else if rows.is_empty() {
        output::line("no backups");
    } else {
        output::print(keepd_cli::draw_table(&["name", ""], &rows).as_bytes());
    }
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::from(NOT_SOUND) })
}

fn copy_one(
    from: &dyn Destination,
    to: &dyn Destination,
    backup: &Backup,
    bar: &Bar,
) -> anyhow::Result<&'static str> {
    let sidecar = choice::sidecar(backup)?;
    let key = backup.name.key(backup.cluster);
    let copied = {
        let mut reader = DigestReader::new(from.get(&key)?);
        let mut told = |sent| bar.show("copying", sent, sidecar.bytes);
        let put = to.put(&key, &mut reader, &mut told);
        match put {
            Ok(_) => Some(reader.finish().context("reading it")?),
            Err(keepd_archive::Error::Exists { .. }) => None,
            Err(error) => return Err(error.into()),
        }
    };
    // What is there already is compared by what lies there.
    let (passed, state) = match copied {
        Some(passed) => (passed, "copied"),
        None => (DigestReader::new(to.get(&key)?).finish().context("reading it")?, "there already"),
    };
    if passed.sha256 != sidecar.sha256 || passed.bytes != sidecar.bytes {
        if state == "copied" {
            to.remove(&key)?;
        }
        anyhow::bail!(
            "{key}: its SHA-256 is {}, and {} was written",
            passed.sha256,
            sidecar.sha256
        );
    }
    upload::write_sidecar(to, backup.cluster, &backup.name, sidecar)?;
    Ok(state)
}

/// `keepd backup download`.
pub(super) fn download(arguments: &DownloadArguments) -> anyhow::Result<ExitCode> {
    let keys = arguments.keys.read()?;
    let chosen = arguments.choice.read()?;
    let env = &chosen.machine.env;
    let scratch = arguments.scratch.make(env)?;
    let bar = Bar::new();
    let mut told = |stage, done, all| bar.tell(stage, done, all);
    let sidecar = chosen.sidecar()?;
    let object = chosen.destination.get(&chosen.key())?;
    let (file, status) = prove::verify(object, sidecar, &keys, &scratch, &mut told)?;
    bar.clear();
    let path = &arguments.output;
    write(path, &mut file.reader()).with_context(|| format!("writing {}", path.display()))?;
    let path = path.display();
    output::complain(&match status.sealed_values {
        0 => format!("{path} is not encrypted: it shows every key, and every value"),
        sealed => format!(
            "{path} shows every key, and the values that no encryption rule covers; {sealed} sealed \
             values stay sealed, and a restore needs the encryption configuration"
        ),
    });
    output::line(&format!("{path}: revision {}", sidecar.state.revision));
    Ok(ExitCode::SUCCESS)
}

/// Writes a file that is whole when it has its name, and that only its owner reads.
fn write(path: &Path, from: &mut impl std::io::Read) -> std::io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    // What lies there is left over, or a link that somebody else put there.
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&part)?;
    let written = copy_all(from, &mut file).and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        let _left_over = std::fs::remove_file(&part);
    }
    written
}

fn copy_all(from: &mut impl std::io::Read, file: &mut std::fs::File) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let len = from.read(&mut buffer)?;
        if len == 0 {
            return file.sync_all();
        }
        file.write_all(&buffer[..len])?;
    }
}
