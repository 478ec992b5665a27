//! The way to the other members: TLS towards them, the network itself, and the question that a member
//! without a data directory asks them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use keepd_env::Env;
use keepd_machine::Membership;
use keepd_peer::{Network, Tcp};
use keepd_tls::{ClientTls, ClientTlsOptions};

use super::bootstrap::RunningCluster;
use super::process;
use crate::flags::ServerOptions;

/// Application protocol between members.
const HTTP2: &[u8] = b"h2";

/// TLS towards other members, from the `--peer-*` flags; `None` if nothing asks for it.
pub(super) fn tls(env: &Env, options: &ServerOptions) -> anyhow::Result<Option<Arc<ClientTls>>> {
    let security = &options.peer_security;
    let (certificate, key) = match (&security.client_cert_file, &security.client_key_file) {
        (None, None) => (&security.cert_file, &security.key_file),
        own => own,
    };
    let cert_and_key_files: Option<(PathBuf, PathBuf)> = certificate.clone().zip(key.clone());
    anyhow::ensure!(
        cert_and_key_files.is_some() || (certificate.is_none() && key.is_none()),
        "--peer-client-cert-file and --peer-client-key-file belong together, as \
         --peer-cert-file and --peer-key-file do: one of the two is missing"
    );
    if security.is_self_signed {
        // As in etcd: nobody could verify the others' certificates.
        let tls = ClientTlsOptions {
            cert_and_key_files,
            dangerously_skip_verification: true,
            alpn: vec![HTTP2.to_vec()],
            ..ClientTlsOptions::default()
        };
        return Ok(Some(Arc::new(ClientTls::new(tls, env)?)));
    }
    let names_tls = options.initial_cluster.iter().any(|(_, url)| url.starts_with("https:"));
    if cert_and_key_files.is_none() && security.trusted_ca_file.is_none() && !names_tls {
        return Ok(None);
    }
    if let Some((_, key)) = &cert_and_key_files
        && security.client_key_file.is_some()
        && process::is_readable_by_others(key)
    {
        tracing::warn!(file = %key.display(), "others can read the private key: chmod 600 it");
    }
    // As in etcd: whoever DNS names must belong to the domain, unless there is a CA of the cluster's own.
    let is_of_domain = !options.discovery_srv.is_empty() && security.trusted_ca_file.is_none();
    let tls = ClientTlsOptions {
        trusted_ca_file: security.trusted_ca_file.clone(),
        cert_and_key_files,
        server_name: is_of_domain.then(|| options.discovery_srv.clone()),
        min_version: Some(options.tls_min_version),
        max_version: options.tls_max_version,
        alpn: vec![HTTP2.to_vec()],
        ..ClientTlsOptions::default()
    };
    let tls = ClientTls::new(tls, env);
    // The reason is in the text: the log has one line.
    let tls = tls.map_err(|error| anyhow::anyhow!("TLS towards other members: {error}"))?;
    Ok(Some(Arc::new(tls)))
}

/// The network of this member, which talks to nobody yet.
pub(super) fn start(env: &Env, options: &ServerOptions, tls: Option<Arc<ClientTls>>) -> Network {
    let options = keepd_peer::Options {
        connect: Arc::new(Tcp { local_address: options.local_peer_address }),
        tls,
        election_timeout: options.election_timeout,
        state_bytes_per_second: None,
    };
    Network::new(options, env)
}

/// Asks the members at these peer URLs for their cluster, each for so long at most.
pub(super) async fn fetch(
    urls: Vec<String>,
    tls: Option<Arc<ClientTls>>,
    timeout: Duration,
) -> anyhow::Result<RunningCluster> {
    let told = keepd_peer::fetch_membership(&urls, tls, timeout).await?;
    let told = Membership::decode(told).context(
        "the members tell a membership that this version cannot read: they run a newer version of \
         keepd; start this member with theirs",
    )?;
    Ok(RunningCluster { id: told.cluster, members: told.members })
}
