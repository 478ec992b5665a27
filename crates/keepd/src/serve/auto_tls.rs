//! `--auto-tls` and `--peer-auto-tls`: certificates that the member makes for itself, in etcd's places.

use std::path::Path;

use keepd_env::Env;

use crate::flags::{ServerOptions, TransportSecurity, Url};

/// The folder of the data directory that they lie in.
const FIXTURES: &str = "fixtures";

/// Makes the certificates that are asked for and not given, and puts them into the options.
pub(super) fn prepare(env: &Env, options: &mut ServerOptions) -> anyhow::Result<()> {
    let (dir, days) = (options.data_dir.join(FIXTURES), options.self_signed_cert_days);
    let of_clients = (&mut options.client_security, &options.listen_client_urls, "client");
    let of_peers = (&mut options.peer_security, &options.listen_peer_urls, "peer");
    for (security, urls, kind) in [of_clients, of_peers] {
        make(env, security, urls, &dir.join(kind), days, kind)?;
    }
    Ok(())
}

fn make(
    env: &Env,
    security: &mut TransportSecurity,
    urls: &[Url],
    dir: &Path,
    days: u64,
    kind: &str,
) -> anyhow::Result<()> {
    if !security.auto_tls {
        return Ok(());
    }
    if !security.is_empty() {
        tracing::warn!("ignoring {kind} auto TLS since certs given");
        return Ok(());
    }
    let hosts: Vec<String> = urls
        .iter()
        .map(|url| url.host().trim_start_matches('[').trim_end_matches(']').to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    let (certificate, key) = keepd_tls::self_signed(env, dir, &hosts, days)?;
    tracing::warn!(
        file = %certificate.display(),
        "a certificate was made that nobody can verify: whoever is in the middle can read and change \
         everything; make a CA and certificates with keepd pki"
    );
    *security = TransportSecurity {
        cert_file: Some(certificate),
        key_file: Some(key),
        auto_tls: true,
        is_self_signed: true,
        ..TransportSecurity::default()
    };
    Ok(())
}
