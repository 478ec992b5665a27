//! Right to issue certificates, as Go decides it, and paths to a trusted root from a leaf that
//! rustls-webpki refuses to read (version 1, or a CA).
//!
//! The rules of a path are Go's: issuer and subject match byte for byte, the signature verifies,
//! everything on the path is valid now, every issuer up to the root may issue. A CA with name
//! constraints is never used in a search here, because a version 1 leaf shows no names to check.
//! All other leaves take webpki's path, in `trust`, which asks [`may_issue`] about each issuer.

use rustls::CertificateError;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::CertificateDer;
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_CERTIFICATE_POLICIES,
    OID_X509_EXT_CRL_DISTRIBUTION_POINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_POLICY_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME,
};

use crate::certificate::{Parsed, Purpose};
use crate::signature;

/// BOUND: certificates between leaf and root.
const DEPTH_MAX: usize = 6;
/// BOUND: signature checks per handshake, so that a hostile chain costs no more than about 10 ms.
const CHECKS_MAX: usize = 32;

/// One search for a path.
pub(crate) struct PathSearch<'a> {
    /// Trusted certificates that may issue others.
    pub(crate) roots: &'a [Parsed<'a>],
    /// Certificates that the peer sent besides its leaf.
    pub(crate) intermediates: Vec<Parsed<'a>>,
    /// Seconds since 1970.
    pub(crate) now: i64,
    /// Purpose that the leaf is shown for.
    pub(crate) purpose: Purpose,
    /// The signatures that count.
    pub(crate) algorithms: &'a WebPkiSupportedAlgorithms,
    checks_left: usize,
}

impl<'a> PathSearch<'a> {
    /// A search that has not begun. Intermediates that do not parse are left out.
    pub(crate) fn new(
        roots: &'a [Parsed<'a>],
        intermediates: &'a [CertificateDer<'_>],
        now: i64,
        purpose: Purpose,
        algorithms: &'a WebPkiSupportedAlgorithms,
    ) -> Self {
        let parsed = intermediates.iter().filter_map(|der| Parsed::from_der(der).ok());
        let intermediates = parsed.take(DEPTH_MAX * 2).collect();
        Self { roots, intermediates, now, purpose, algorithms, checks_left: CHECKS_MAX }
    }

    /// Whether a path leads from `leaf` to a root.
    pub(crate) fn verify(mut self, leaf: &Parsed<'_>) -> Result<(), CertificateError> {
        if has_unknown_critical_extension(leaf) {
            return Err(CertificateError::UnhandledCriticalExtension);
        }
        let intermediates = std::mem::take(&mut self.intermediates);
        if self.reaches_root(leaf, &intermediates, 0) {
            Ok(())
        } else {
            Err(CertificateError::UnknownIssuer)
        }
    }

    /// Depth first; `below` counts the CAs between the leaf and `certificate`'s issuer.
    fn reaches_root(
        &mut self,
        certificate: &Parsed<'_>,
        intermediates: &[Parsed<'_>],
        below: u32,
    ) -> bool {
        let roots = self.roots;
        if roots.iter().any(|root| self.issues(root, certificate, below)) {
            return true;
        }
        if usize::try_from(below).is_ok_and(|below| below >= DEPTH_MAX) {
            return false;
        }
        intermediates.iter().any(|issuer| {
            // A root may be of version 1 and say nothing; an intermediate must say it is a CA.
            issuer.is_ca()
                && !issuer.is_v1()
                && self.issues(issuer, certificate, below)
                && self.reaches_root(issuer, intermediates, below + 1)
        })
    }

    fn issues(&mut self, issuer: &Parsed<'_>, certificate: &Parsed<'_>, below: u32) -> bool {
        let subject = issuer.0.tbs_certificate.subject.as_raw();
        if subject != certificate.0.tbs_certificate.issuer.as_raw() || self.checks_left == 0 {
            return false;
        }
        let (not_before, not_after) = issuer.validity();
        let fits = (not_before..=not_after).contains(&self.now)
            && may_issue(issuer, below, self.purpose).is_ok()
            && !has_unknown_critical_extension(issuer)
            && !has_name_constraints(issuer);
        if !fits {
            return false;
        }
        self.checks_left -= 1;
        signature::is_signed_by(&certificate.0, issuer, self.algorithms)
    }
}

/// Reason why a certificate may not issue another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// No CA, a key that may not sign certificates, or a path that is too long.
    Issuer,
    /// Its extended key usage excludes the purpose.
    Usage,
}

/// Whether `issuer`, a root or an intermediate, may issue a certificate for `purpose` that stands
/// above `below` other CAs. Go asks a root for nothing less than an intermediate, except that a
/// root may be of version 1 and say nothing.
pub(crate) fn may_issue(issuer: &Parsed<'_>, below: u32, purpose: Purpose) -> Result<(), Unfit> {
    let path_len = issuer.basic_constraints().and_then(|(_, path_len)| path_len);
    let fits = (issuer.is_v1() || issuer.is_ca())
        && issuer.may_sign_certificates()
        && path_len.is_none_or(|path_len| below <= path_len)
        && !asks_for_policies(issuer);
    if !fits {
        return Err(Unfit::Issuer);
    }
    if purpose.is_allowed_by(issuer.purposes()) { Ok(()) } else { Err(Unfit::Usage) }
}

/// Whether it wants every certificate below it to carry an acceptable policy. Policies are not
/// followed here, so that such a CA issues nothing, whether the extension is critical or not.
fn asks_for_policies(certificate: &Parsed<'_>) -> bool {
    let extensions = certificate.0.tbs_certificate.extensions();
    extensions.iter().any(|extension| extension.oid == OID_X509_EXT_POLICY_CONSTRAINTS)
}

fn has_name_constraints(certificate: &Parsed<'_>) -> bool {
    !matches!(certificate.0.tbs_certificate.name_constraints(), Ok(None))
}

/// Whether it demands something that nobody here knows.
pub(crate) fn has_unknown_critical_extension(certificate: &Parsed<'_>) -> bool {
    let known = [
        OID_X509_EXT_BASIC_CONSTRAINTS,
        OID_X509_EXT_CERTIFICATE_POLICIES,
        OID_X509_EXT_CRL_DISTRIBUTION_POINTS,
        OID_X509_EXT_EXTENDED_KEY_USAGE,
        OID_X509_EXT_KEY_USAGE,
        OID_X509_EXT_NAME_CONSTRAINTS,
        OID_X509_EXT_SUBJECT_ALT_NAME,
    ];
    let extensions = certificate.0.tbs_certificate.extensions();
    extensions.iter().any(|extension| extension.critical && !known.contains(&extension.oid))
}
