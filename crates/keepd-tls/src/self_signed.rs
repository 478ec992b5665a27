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
use crate::error::Error;

/// The subject that etcd gives such certificates.
const ORGANIZATION: &str = "etcd";

/// Paths of the certificate and its key in `dir`, which are made for these hosts if they are not there.
///
/// # Errors
/// If they cannot be written, or a host name is not valid in a certificate.
pub fn self_signed(
    env: &Env,
    dir: &Path,
    hosts: &[String],
    days: u64,
) -> Result<(PathBuf, PathBuf), Error> {
    let (certificate_path, key_path) = (dir.join("cert.pem"), dir.join("key.pem"));
    if env.disk.exists(&certificate_path)? && env.disk.exists(&key_path)? {
        return Ok((certificate_path, key_path));
    }
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
    env.disk.replace(&key_path, pem.as_bytes())?;
    env.disk.replace(&certificate_path, certificate.pem().as_bytes())?;
    Ok((certificate_path, key_path))
}

#[cfg(test)]
mod tests {
    use testkit::TempDir;

    use super::*;
    use crate::certificate::CertificateSummary;

    #[test]
    fn a_certificate_is_made_once_for_its_hosts() {
        let (dir, env) = (TempDir::new("self-signed"), Env::real());
        let hosts = ["127.0.0.1".to_owned(), "m1.example".to_owned()];
        let place = dir.join("fixtures/peer");
        let (certificate, key) = self_signed(&env, &place, &hosts, 365).unwrap();
        let made = env.disk.read(&certificate).unwrap();
        let facts = CertificateSummary::from_pem(&made).unwrap();
        assert_eq!(facts.ip_addresses, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(facts.dns_names, ["m1.example"]);
        assert!(facts.purposes.allows_client() && facts.purposes.allows_server());
        assert!(facts.not_after - facts.not_before >= 365 * 24 * 3600);
        assert_eq!(self_signed(&env, &place, &[], 1).unwrap(), (certificate.clone(), key.clone()));
        assert_eq!(env.disk.read(&certificate).unwrap(), made);
        std::fs::remove_file(key).unwrap();
        self_signed(&env, &place, &hosts, 365).unwrap();
        assert_ne!(env.disk.read(&certificate).unwrap(), made);
    }
}
