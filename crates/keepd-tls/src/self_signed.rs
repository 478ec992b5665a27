//! A certificate that a member makes for itself, for `--auto-tls` and `--peer-auto-tls`: whoever listens
//! on the wire reads nothing, but nobody can tell the member from another one.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use keepd_env::Env;
use rcgen::{
    BasicConstraints, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use zeroize::Zeroizing;

use crate::authority::{issue_error, params};
use crate::certificate::CertificateSummary;
use crate::error::Error;

/// The subject that etcd gives such certificates.
const ORGANIZATION: &str = "etcd";

/// The longest time before its end at which a certificate is made anew.
const RENEWED_BEFORE_SECONDS: i64 = 30 * 24 * 3600;
/// The part of its time that a short-lived one has left then.
const RENEWED_BEFORE_PART: i64 = 10;

/// A certificate that a member has made for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfSigned {
    /// The certificate's file.
    pub certificate: PathBuf,
    /// Its key's.
    pub key: PathBuf,
    /// The reason why it was made now; `None` if it was there, and is good for some time.
    pub made: Option<Made>,
}

/// The reason why a certificate was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// There was none, or not whole.
    First,
    /// The one that was there has ended, or ends soon: at this time, for people.
    Ending(String),
    /// The one that was there cannot be read.
    Unreadable(String),
}

/// The certificate and its key in `dir`, which are made for these hosts if they are not there, or if the
/// certificate has ended or is about to.
///
/// # Errors
/// If they cannot be written, or a host name is not valid in a certificate.
pub fn self_signed(
    env: &Env,
    dir: &Path,
    hosts: &[String],
    days: u64,
) -> Result<SelfSigned, Error> {
    let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let is_whole = env.disk.exists(&certificate)? && env.disk.exists(&key)?;
    let made = if is_whole { reason(env, &certificate)? } else { Some(Made::First) };
    if made.is_some() {
        if is_whole {
            // ORDER: a crash between the two files leaves a key without a certificate, which is made anew.
            env.disk.remove(&certificate)?;
            env.disk.sync_dir(dir)?;
        }
        make(env, dir, (&certificate, &key), hosts, days)?;
    }
    Ok(SelfSigned { certificate, key, made })
}

/// The reason why a certificate is to be made anew.
fn reason(env: &Env, certificate: &Path) -> Result<Option<Made>, Error> {
    let facts = match CertificateSummary::from_pem(&env.disk.read(certificate)?) {
        Ok(facts) => facts,
        Err(reason) => return Ok(Some(Made::Unreadable(reason))),
    };
    let now = i64::try_from(env.clock.wall().as_secs()).unwrap_or(i64::MAX);
    let part = (facts.not_after - facts.not_before) / RENEWED_BEFORE_PART;
    let is_ending = facts.not_after.saturating_sub(now) < part.min(RENEWED_BEFORE_SECONDS);
    Ok(is_ending.then(|| Made::Ending(facts.not_after_text())))
}

fn make(
    env: &Env,
    dir: &Path,
    (certificate_path, key_path): (&Path, &Path),
    hosts: &[String],
    days: u64,
) -> Result<(), Error> {
    let failed = issue_error(ORGANIZATION);
    let mut params = params(env, ORGANIZATION, days);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, ORGANIZATION);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    for host in hosts {
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.as_str().try_into().map_err(&failed)?),
        });
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(&failed)?;
    let certificate = params.self_signed(&key).map_err(&failed)?;
    env.disk.create_dir(dir)?;
    // ORDER: a certificate without its key is of no use and is made anew.
    let pem = Zeroizing::new(key.serialize_pem());
    env.disk.replace(key_path, pem.as_bytes())?;
    env.disk.replace(certificate_path, certificate.pem().as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use keepd_env::{Disk as _, ManualClock, SimDisk};
    use rcgen::PublicKeyData as _;
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject as _;
    use testkit::TempDir;

    use super::*;
    use crate::certificate::Parsed;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn facts(env: &Env, certificate: &Path) -> CertificateSummary {
        CertificateSummary::from_pem(&env.disk.read(certificate).unwrap()).unwrap()
    }

    #[test]
    fn a_certificate_is_made_once_for_its_hosts() {
        let (dir, env) = (TempDir::new("self-signed"), Env::real());
        let hosts = ["127.0.0.1".to_owned(), "m1.example".to_owned()];
        let place = dir.join("fixtures/peer");
        let first = self_signed(&env, &place, &hosts, 365).unwrap();
        assert_eq!(first.made, Some(Made::First));
        let made = env.disk.read(&first.certificate).unwrap();
        let facts = facts(&env, &first.certificate);
        assert_eq!(facts.ip_addresses, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(facts.dns_names, ["m1.example"]);
        assert!(facts.purposes.allows_client() && facts.purposes.allows_server());
        assert!(facts.not_after - facts.not_before >= 365 * 24 * 3600);
        let kept = self_signed(&env, &place, &[], 1).unwrap();
        assert_eq!(kept, SelfSigned { made: None, ..first.clone() });
        assert_eq!(env.disk.read(&kept.certificate).unwrap(), made);
        std::fs::remove_file(kept.key).unwrap();
        self_signed(&env, &place, &hosts, 365).unwrap();
        assert_ne!(env.disk.read(&first.certificate).unwrap(), made);
    }

    #[test]
    fn a_certificate_that_ends_soon_or_cannot_be_read_is_made_anew() {
        let (disk, clock) = (SimDisk::new(), ManualClock::new());
        let env =
            Env { disk: Arc::new(disk.clone()), clock: Arc::new(clock.clone()), ..Env::real() };
        let place = Path::new("/data/fixtures/client");
        let hosts = ["m1.example".to_owned()];
        let first = self_signed(&env, place, &hosts, 365).unwrap();
        let end = facts(&env, &first.certificate).not_after;
        clock.advance(330 * DAY);
        assert_eq!(self_signed(&env, place, &hosts, 365).unwrap().made, None);
        clock.advance(10 * DAY);
        let second = self_signed(&env, place, &hosts, 365).unwrap();
        assert!(matches!(second.made, Some(Made::Ending(_))), "{second:?}");
        assert!(facts(&env, &second.certificate).not_after >= end + 330 * 24 * 3600);
        assert_eq!(facts(&env, &second.certificate).dns_names, ["m1.example"]);
        // Long after its end, as after a long stop.
        clock.advance(1000 * DAY);
        let third = self_signed(&env, place, &hosts, 1).unwrap();
        assert!(matches!(third.made, Some(Made::Ending(_))), "{third:?}");
        assert_eq!(self_signed(&env, place, &hosts, 1).unwrap().made, None, "a day is kept");
        disk.replace(&third.certificate, b"not a certificate").unwrap();
        let fourth = self_signed(&env, place, &hosts, 365).unwrap();
        assert!(matches!(fourth.made, Some(Made::Unreadable(_))), "{fourth:?}");
    }

    #[test]
    fn a_crash_at_any_call_leaves_what_the_next_start_makes_whole() {
        let calls = 40;
        for call in 0..calls {
            let (disk, clock) = (SimDisk::new(), ManualClock::new());
            let env = |disk: &SimDisk| Env {
                disk: Arc::new(disk.clone()),
                clock: Arc::new(clock.clone()),
                ..Env::real()
            };
            let place = Path::new("/data/fixtures/peer");
            self_signed(&env(&disk), place, &[], 1).unwrap();
            clock.advance(2 * DAY);
            let begun = disk.mutations();
            disk.crash_at(begun + call);
            let is_done = self_signed(&env(&disk), place, &[], 1).is_ok();
            let disk = disk.crash(keepd_env::sim::CrashMode::LoseUnsynced);
            let made = self_signed(&env(&disk), place, &[], 1).unwrap();
            let pem = disk.read(&made.certificate).unwrap();
            let key = KeyPair::from_pem(&String::from_utf8(disk.read(&made.key).unwrap()).unwrap());
            let der = CertificateDer::from_pem_slice(&pem).unwrap();
            let of_certificate = Parsed::from_der(&der).unwrap().spki();
            let of_key = key.unwrap().subject_public_key_info();
            assert_eq!(of_certificate.as_ref(), of_key, "after call {call}");
            if is_done {
                return;
            }
        }
        panic!("it never came to an end");
    }
}
