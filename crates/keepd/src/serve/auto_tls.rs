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
        is_self_signed: true,
        // Unlike in etcd, whose certificates made so admit everybody: who is let in was said.
        ..std::mem::take(security)
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use testkit::TempDir;

    use super::*;
    use crate::flags;

    #[test]
    fn a_certificate_that_is_made_lets_in_nobody_who_was_not_let_in_before() {
        let dir = TempDir::new("auto-tls");
        let data_dir = format!("--data-dir={}", dir.path().display());
        let args = ["--auto-tls", "--client-cert-auth", "--trusted-ca-file=ca.crt", &data_dir];
        let args = args.map(str::to_owned);
        let mut options = flags::parse(&args, &[]).unwrap().options;
        prepare(&Env::real(), &mut options).unwrap();
        let security = &options.client_security;
        assert!(security.is_self_signed && security.cert_file.is_some());
        assert!(security.client_cert_auth);
        assert_eq!(security.trusted_ca_file.as_deref(), Some(Path::new("ca.crt")));
    }
}
