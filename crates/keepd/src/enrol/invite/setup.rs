//! All that an invitation needs before it can be told: the CA's key, a cluster that answers, the keys that a
//! newcomer must read, and an address.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use keepd_crypto::{ConfigOptions, ValueSealer};
use keepd_env::Env;
use keepd_tls::{Authority, ClientTlsOptions};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify};

use super::super::grant::{Key, LOCAL_HOSTS, Limits};
use super::super::token::{SECRET_LEN, Token, is_address};
use super::{Arguments, Inviter, listen};
use crate::admin::{AccessArguments, Cluster};
use crate::encryption::fetch;

/// BOUND: an encryption configuration that is sent.
const CONFIG_BYTES_MAX: usize = 1 << 20;

/// Makes an invitation, and the socket at which machines find it.
pub(super) async fn prepare(
    env: &Env,
    arguments: &Arguments,
) -> anyhow::Result<(Inviter, TcpListener, Token)> {
    let ca_dir = arguments.ca_dir.clone().or_else(|| Some(arguments.dir.as_ref()?.join("pki")));
    let ca_dir = ca_dir.context("--ca-dir names the directory with ca.crt and ca.key")?;
    let authority = Authority::open(env, &ca_dir).with_context(|| {
        format!("the CA's certificate and key are needed to let a machine in: {}", ca_dir.display())
    })?;
    let access = access(arguments);
    let mut cluster = Cluster::new(env, &access)?;
    cluster.members().await.context("asking the cluster")?;
    let needed_keys = needed_keys(&access).await?;
    let encryption = match &arguments.with_encryption_config {
        Some(file) => Some(configuration(file, &needed_keys)?),
        None => None,
    };
    let listener = listen(&arguments.listen).await?;
    let addresses = addresses(arguments, &listener)?;
    let hosts = addresses.iter().filter_map(|address| Some(address.rsplit_once(':')?.0));
    let hosts = hosts.map(|host| host.trim_start_matches('[').trim_end_matches(']').to_owned());
    let names: Vec<String> = hosts.chain(LOCAL_HOSTS.map(str::to_owned)).collect();
    let tls = authority.inviter(env, &names)?;
    let mut secret = [0; SECRET_LEN];
    env.random.fill(&mut secret);
    let expires = env.clock.wall().saturating_add(arguments.ttl).as_secs();
    let token = Token { ca_digest: authority.digest(), secret, expires, addresses };
    let limits = Limits {
        name: arguments.name.clone(),
        allowed_hosts: arguments.allow_hosts.iter().map(|host| host.to_lowercase()).collect(),
    };
    let inviter = Inviter {
        env: env.clone(),
        authority,
        tls,
        secret,
        expires,
        limits,
        needed_keys,
        encryption,
        cluster: Mutex::new(cluster),
        uses_left: Cell::new(arguments.uses),
        has_guest: Cell::new(false),
        granted: RefCell::new(Vec::new()),
        learner_only: arguments.learner_only,
        changed: Notify::new(),
    };
    Ok((inviter, listener, token))
}

/// The way to the cluster; a quickstart's own if its directory was given.
fn access(arguments: &Arguments) -> AccessArguments {
    let mut access = arguments.access.clone();
    let Some(dir) = &arguments.dir else { return access };
    let pki = |name: &str| -> PathBuf { dir.join("pki").join(name) };
    if access.endpoints.is_empty() {
        access.endpoints = vec!["https://127.0.0.1:2379".to_owned()];
    }
    access.cacert.get_or_insert_with(|| pki("ca.crt"));
    if access.cert.is_none() {
        (access.cert, access.key) = (Some(pki("client.crt")), Some(pki("client.key")));
    }
    access
}

/// The addresses of the token.
fn addresses(arguments: &Arguments, listener: &TcpListener) -> anyhow::Result<Vec<String>> {
    let mut addresses = arguments.advertise.clone();
    if addresses.is_empty() {
        let local = listener.local_addr()?;
        anyhow::ensure!(
            !local.ip().is_unspecified(),
            "give the address at which machines reach this one: --advertise HOST:{}",
            local.port()
        );
        addresses.push(local.to_string());
    }
    anyhow::ensure!(addresses.len() <= 8, "--advertise names more than 8 addresses");
    if let Some(bad) = addresses.iter().find(|address| !is_address(address)) {
        anyhow::bail!("--advertise {bad}: write HOST:PORT");
    }
    Ok(addresses)
}

/// The keys that the cluster writes under, as one of its members tells.
async fn needed_keys(access: &AccessArguments) -> anyhow::Result<Vec<Key>> {
    let endpoint = access.endpoints.first().map_or("http://127.0.0.1:2379", String::as_str);
    let tls = ClientTlsOptions {
        trusted_ca_file: access.cacert.clone(),
        cert_and_key_files: access.cert.clone().zip(access.key.clone()),
        ..ClientTlsOptions::default()
    };
    let body = fetch::get(endpoint, "/keepd/encryption", tls).await;
    let body = body.context("asking which encryption keys a new member needs")?;
    let status: Value = serde_json::from_slice(&body).context("the answer is not JSON")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let keys = status["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let written = keys.iter().filter(|key| key["writes"] == true);
    Ok(written.map(|key| (text(&key["id"]), text(&key["name"]))).collect())
}

/// The configuration to send: one that has the keys.
fn configuration(file: &Path, needed: &[Key]) -> anyhow::Result<String> {
    let config = crate::read_encryption_config(file, ConfigOptions::default())?.local()?;
    let known = ValueSealer::new(&config).key_ids();
    let lacking = needed
        .iter()
        .find(|(id, _)| !known.iter().any(|(known, _)| format!("{:016x}", known.0) == *id));
    if let Some((id, name)) = lacking {
        anyhow::bail!("{} lacks the key {name} (id {id}) of the cluster", file.display());
    }
    let text = std::fs::read_to_string(file)?;
    anyhow::ensure!(text.len() <= CONFIG_BYTES_MAX, "{} is too large to be sent", file.display());
    crate::complain(&format!(
        "{} is sent to the machine that joins: whoever has it can read the data",
        file.display()
    ));
    Ok(text)
}
