//! `--auto-tls` and `--peer-auto-tls`: certificates that the member makes for itself, in etcd's places.
//!
//! Unlike etcd, which serves what lies there even after its end, a member makes a new one when the end is
//! near: at its start, and while it runs, when the listeners take it over as any changed file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keepd_env::Env;
use keepd_tls::Made;

use crate::flags::{ServerOptions, TransportSecurity, Url};

/// The folder of the data directory that they lie in.
const FIXTURES: &str = "fixtures";

/// Interval at which a running member looks for the end of its certificates.
const LOOK: Duration = Duration::from_secs(3600);

/// The certificates that a member made for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OwnCertificates(Vec<Place>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    dir: PathBuf,
    hosts: Vec<String>,
    days: u64,
}

impl Place {
    /// Makes the certificate if there is none or if it is about to end.
    fn make(&self, env: &Env) -> Result<keepd_tls::SelfSigned, keepd_tls::Error> {
        let made = keepd_tls::self_signed(env, &self.dir, &self.hosts, self.days)?;
        let file = made.certificate.display();
        match &made.made {
            None | Some(Made::First) => {}
            Some(Made::Ending(end)) => {
                tracing::warn!(%file, end, "a certificate that the member made for itself ends, or has ended: a new one was made; whoever pinned it has to take the new one");
            }
            Some(Made::Unreadable(reason)) => {
                tracing::warn!(%file, reason, "a certificate that the member made for itself cannot be read: a new one was made");
            }
        }
        Ok(made)
    }
}

impl OwnCertificates {
    /// Makes them anew when their end is near, for as long as the member runs.
    pub(super) async fn renew(self, env: Env) {
        if self.0.is_empty() {
            return;
        }
        let mut interval = tokio::time::interval(LOOK);
        loop {
            interval.tick().await;
            self.renew_now(&env);
        }
    }

    fn renew_now(&self, env: &Env) {
        for place in &self.0 {
            if let Err(error) = place.make(env) {
                tracing::error!(dir = %place.dir.display(), %error, "a certificate that is about to end cannot be made anew");
            }
        }
    }
}

/// Makes the certificates that are asked for and not given, and puts them into the options.
pub(super) fn prepare(env: &Env, options: &mut ServerOptions) -> anyhow::Result<OwnCertificates> {
    let mut own = OwnCertificates::default();
    let (dir, days) = (options.data_dir.join(FIXTURES), options.self_signed_cert_days);
    let of_clients = (&mut options.client_security, &options.listen_client_urls, "client");
    let of_peers = (&mut options.peer_security, &options.listen_peer_urls, "peer");
    for (security, urls, kind) in [of_clients, of_peers] {
        own.0.extend(make(env, security, urls, &dir.join(kind), days, kind)?);
    }
    Ok(own)
}

fn make(
    env: &Env,
    security: &mut TransportSecurity,
    urls: &[Url],
    dir: &Path,
    days: u64,
    kind: &str,
) -> anyhow::Result<Option<Place>> {
    if !security.auto_tls {
        return Ok(None);
    }
    if !security.is_empty() {
        tracing::warn!("ignoring {kind} auto TLS since certs given");
        return Ok(None);
    }
    let hosts: Vec<String> = urls
        .iter()
        .map(|url| url.host().trim_start_matches('[').trim_end_matches(']').to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    let place = Place { dir: dir.to_owned(), hosts, days };
    let keepd_tls::SelfSigned { certificate, key, .. } = place.make(env)?;
    tracing::warn!(
        file = %certificate.display(),
        "this member shows a certificate of its own making that nobody can verify: whoever is in the middle can read and change \
         everything; make a CA and certificates with keepd pki"
    );
    *security = TransportSecurity {
        cert_file: Some(certificate),
        key_file: Some(key),
        is_self_signed: true,
        // Unlike in etcd, whose certificates made so admit everybody: who is let in was said.
        ..std::mem::take(security)
    };
    Ok(Some(place))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use keepd_env::{Clock as _, ManualClock};
    use keepd_tls::{ServerTls, TlsOptions};
    use testkit::TempDir;

    use super::*;
    use crate::flags;

    const DAY: Duration = Duration::from_secs(24 * 3600);

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

    /// The end of the certificate in a file.
    fn end(file: &Path) -> i64 {
        let pem = std::fs::read(file).unwrap();
        keepd_tls::CertificateSummary::from_pem(&pem).unwrap().not_after
    }

    #[test]
    fn a_certificate_that_ends_is_made_anew_at_a_start_and_in_a_running_member() {
        let (dir, clock) = (TempDir::new("auto-tls-end"), ManualClock::new());
        let env = Env { clock: Arc::new(clock.clone()), ..Env::real() };
        let data_dir = format!("--data-dir={}", dir.path().display());
        let start = || {
            let args = ["--auto-tls", "--peer-auto-tls", &data_dir].map(str::to_owned);
            let mut options = flags::parse(&args, &[]).unwrap().options;
            (prepare(&env, &mut options).unwrap(), options)
        };
        let now = || i64::try_from(clock.wall().as_secs()).unwrap();
        start();
        clock.advance(400 * DAY);
        let (own, options) = start();
        let files = [&options.client_security, &options.peer_security]
            .map(|security| security.cert_file.clone().unwrap());
        assert!(files.iter().all(|file| end(file) > now()), "nothing that has ended is served");

        let tls = TlsOptions {
            cert_file: files[0].clone(),
            key_file: options.client_security.key_file.unwrap(),
            ..TlsOptions::default()
        };
        let tls = ServerTls::new(tls, &env).unwrap();
        let before = tls.leaf().not_after;
        own.renew_now(&env);
        assert_eq!(end(&files[0]), before, "it has a year");
        clock.advance(350 * DAY);
        own.renew_now(&env);
        assert!(files.iter().all(|file| end(file) > before));
        // The listener looks at its files with the next handshakes.
        clock.advance(Duration::from_secs(60));
        let _config = tls.config();
        assert_eq!(tls.leaf().not_after, end(&files[0]));
    }
}
