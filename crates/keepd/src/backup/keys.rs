//! Keys on a command line: those that open a backup, and those that it is sealed to.

use std::path::{Path, PathBuf};

use keepd_archive::age::{Keys, Recipient, Recipients, read_identities, read_recipients};
use keepd_archive::format::Sealing;
use keepd_crypto::{ConfigOptions, EncryptionConfig, wiping};
use zeroize::Zeroizing;

/// Names the encryption configuration where the flag does not, to the server too.
const CONFIG_VARIABLE: &str = "ETCD_ENCRYPTION_PROVIDER_CONFIG";
/// BOUND: bytes of a file with keys.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The encryption configuration of the cluster.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ConfigArguments {
    /// The encryption configuration of the cluster; also in ETCD_ENCRYPTION_PROVIDER_CONFIG, as for the
    /// server.
    #[arg(long, value_name = "FILE")]
    pub(super) encryption_provider_config: Option<PathBuf>,
}

impl ConfigArguments {
    /// The file, from the flag or the environment.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty());
        self.encryption_provider_config.clone().or_else(|| variable().map(PathBuf::from))
    }

    /// Reads it, if there is one.
    pub(super) fn read(&self, trust_plain_data: bool) -> anyhow::Result<Option<EncryptionConfig>> {
        let Some(path) = self.path() else { return Ok(None) };
        let options = ConfigOptions { trust_plain_data, ..ConfigOptions::default() };
        local_config(&path, options).map(Some)
    }
}

/// Keys that may open a backup.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct OpenArguments {
    #[command(flatten)]
    pub(super) config: ConfigArguments,
    /// A file with an age identity, as age-keygen writes it; more than once for more.
    #[arg(short = 'i', long, value_name = "FILE")]
    identity: Vec<PathBuf>,
}

impl OpenArguments {
    /// Reads them.
    pub(crate) fn read(&self) -> anyhow::Result<Keys> {
        let mut keys = Keys { config: self.config.read(false)?, ..Keys::default() };
        for path in &self.identity {
            let text = read_file(path)?;
            let read = wiping(|| read_identities(&text));
            keys.identities.extend(read.map_err(|it| anyhow::anyhow!("{}: {it}", path.display()))?);
        }
        Ok(keys)
    }
}

/// Keys that a backup is sealed to.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SealArguments {
    #[command(flatten)]
    pub(super) config: ConfigArguments,
    /// An age recipient (age1...) that the backup is sealed to, instead of the encryption
    /// configuration's key; more than once for more.
    #[arg(short = 'r', long, value_name = "AGE1...")]
    recipient: Vec<String>,
    /// A file with recipients, one a line.
    #[arg(short = 'R', long, value_name = "FILE")]
    recipients_file: Vec<PathBuf>,
    /// Seal to the encryption configuration's key beside the recipients.
    #[arg(long)]
    with_config_key: bool,
    /// Leave the backup unencrypted: whoever reads the place reads every key, and all values that no rule
    /// seals.
    #[arg(long, conflicts_with_all = ["recipient", "recipients_file", "with_config_key"])]
    unencrypted: bool,
}

impl SealArguments {
    /// Reads them; the configuration too, which a proof needs.
    pub(super) fn read(&self) -> anyhow::Result<(Sealing, Option<EncryptionConfig>)> {
        let config = self.config.read(false)?;
        if self.unencrypted {
            return Ok((Sealing::Plain, config));
        }
        let texts = self.recipient.iter().map(|text| text.parse::<Recipient>());
        let public = recipients(texts.collect::<Result<_, _>>()?, &self.recipients_file)?;
        let uses_config = public.is_empty() || self.with_config_key;
        anyhow::ensure!(
            config.is_some() || !uses_config,
            "say who can open the backup: --encryption-provider-config FILE (whoever has the file), \
             --recipient age1... (whoever has its private half, which need not be here), or \
             --unencrypted (everybody)"
        );
        let to = Recipients { public, config: config.clone().filter(|_| uses_config) };
        Ok((Sealing::To(to), config))
    }
}

/// Recipients, and those of files.
pub(crate) fn recipients(
    mut public: Vec<Recipient>,
    files: &[PathBuf],
) -> anyhow::Result<Vec<Recipient>> {
    for path in files {
        let read = read_recipients(&read_file(path)?);
        public.extend(read.map_err(|it| anyhow::anyhow!("{}: {it}", path.display()))?);
    }
    Ok(public)
}

/// Reads an encryption configuration whose keys are in its file.
pub(crate) fn local_config(
    path: &Path,
    options: ConfigOptions,
) -> anyhow::Result<EncryptionConfig> {
    let file = crate::read_encryption_config(path, options)?;
    Ok(wiping(|| file.local())?)
}

fn read_file(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let fault = |reason: String| anyhow::anyhow!("{}: {reason}", path.display());
    let len = std::fs::metadata(path).map_err(|error| fault(error.to_string()))?.len();
    if len > FILE_BYTES_MAX {
        return Err(fault("it is too long for a file with keys".to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    Ok(Zeroizing::new(text))
}
