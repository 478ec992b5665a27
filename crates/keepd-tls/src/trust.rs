//! The certificates an endpoint trusts, and whether a chain leads to one of them for a purpose.
//!
//! Decisions are those of Go's `Certificate.Verify`, in this order: the leaf's own validity and
//! extended key usage; a leaf that is itself among the trusted ones is accepted unless it demands
//! what nobody knows; version 1 leaves and CAs as leaves go through `chain`; everything else is
//! rustls-webpki's, and each path that it finds is walked once more, up to the root, with what Go
//! asks of an issuer and webpki does not. A trusted certificate that is not a CA is trusted as a
//! leaf only, never as an issuer.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, DistinguishedName};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, VerifiedPath,
};

use crate::certificate::{Parsed, Purpose};
use crate::chain::{PathSearch, Unfit, has_unknown_critical_extension, may_issue};
use crate::explain::Refusal;

/// webpki's rule plus `anyExtendedKeyUsage`, which Go accepts.
struct UsageRule(Purpose);

impl ExtendedKeyUsageValidator for UsageRule {
    fn validate(&self, usages: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        const ANY: KeyPurposeId<'_> = KeyPurposeId::new(&[0x55, 0x1d, 0x25, 0x00]);
        const SERVER: KeyPurposeId<'_> =
            KeyPurposeId::new(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01]);
        const CLIENT: KeyPurposeId<'_> =
            KeyPurposeId::new(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02]);
        let wanted = if self.0 == Purpose::Client { CLIENT } else { SERVER };
        let mut is_absent = true;
        for usage in usages {
            is_absent = false;
            let usage = usage?;
            if usage == wanted || usage == ANY {
                return Ok(());
            }
        }
        // The context variant cannot be built outside webpki; the caller words the refusal.
        #[expect(deprecated, reason = "the only constructible variant for a missing usage")]
        let missing = webpki::Error::RequiredEkuNotFound;
        if is_absent { Ok(()) } else { Err(missing) }
    }
}

/// A trusted certificate that may issue others.
struct Issuer {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    /// Seconds since 1970.
    validity: (i64, i64),
}

/// The trusted certificates of one endpoint.
pub(crate) struct TrustStore {
    trusted: Vec<CertificateDer<'static>>,
    issuers: Vec<Issuer>,
    subjects: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl std::fmt::Debug for TrustStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustStore").field("trusted", &self.trusted.len()).finish_non_exhaustive()
    }
}

impl TrustStore {
    /// Trusts every certificate in `trusted`.
    pub(crate) fn new(
        trusted: Vec<CertificateDer<'static>>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        let (mut issuers, mut subjects) = (Vec::new(), Vec::new());
        for der in &trusted {
            let (Ok(parsed), Ok(anchor)) =
                (Parsed::from_der(der), webpki::anchor_from_trusted_cert(der))
            else {
                continue;
            };
            subjects.push(DistinguishedName::in_sequence(anchor.subject.as_ref()));
            if (parsed.is_v1() || parsed.is_ca())
                && parsed.may_sign_certificates()
                && !has_unknown_critical_extension(&parsed)
            {
                issuers.push(Issuer {
                    der: der.clone(),
                    anchor: anchor.to_owned(),
                    validity: parsed.validity(),
                });
            }
        }
        Self { trusted, issuers, subjects, algorithms }
    }

    /// The subjects, for a server's certificate request.
    pub(crate) fn subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    /// The signature algorithms in use.
    pub(crate) const fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.algorithms
    }

    /// Whether the chain leads to a trusted certificate.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        purpose: Purpose,
    ) -> Result<(), rustls::Error> {
        for der in std::iter::once(leaf).chain(intermediates) {
            let parsed = Parsed::from_der(der).map_err(|_unused| CertificateError::BadEncoding)?;
            if parsed.has_negative_serial() {
                return Err(CertificateError::BadEncoding.into());
            }
        }
        let parsed = Parsed::from_der(leaf).map_err(|_unused| CertificateError::BadEncoding)?;
        self.verify_parsed(&parsed, leaf, intermediates, now, purpose)
    }

    fn verify_parsed(
        &self,
        parsed: &Parsed<'_>,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        purpose: Purpose,
    ) -> Result<(), rustls::Error> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        check_validity(parsed.validity(), now, seconds)?;
        if !purpose.is_allowed_by(parsed.purposes()) {
            return Err(Refusal::wrong_usage(&parsed.facts(), purpose).into());
        }
        if self.trusted.iter().any(|trusted| trusted == leaf) {
            if has_unknown_critical_extension(parsed) {
                return Err(CertificateError::UnhandledCriticalExtension.into());
            }
            return Ok(());
        }
        let valid: Vec<&Issuer> = self
            .issuers
            .iter()
            .filter(|issuer| (issuer.validity.0..=issuer.validity.1).contains(&seconds))
            .collect();
        if parsed.is_v1() || parsed.is_ca() {
            let roots: Vec<Parsed<'_>> =
                valid.iter().filter_map(|issuer| Parsed::from_der(&issuer.der).ok()).collect();
            let search = PathSearch::new(&roots, intermediates, seconds, purpose, &self.algorithms);
            return search.verify(parsed).map_err(Into::into);
        }
        let anchors: Vec<TrustAnchor<'_>> =
            valid.iter().map(|issuer| issuer.anchor.clone()).collect();
        let end_entity = EndEntityCert::try_from(leaf).map_err(translate)?;
        end_entity
            .verify_for_usage(
                self.algorithms.all,
                &anchors,
                intermediates,
                now,
                UsageRule(purpose),
                None,
                Some(&|path| walk(path, &valid, purpose)),
            )
            .map_err(translate)?;
        Ok(())
    }
}

/// Asks every issuer of a path whether it may issue. Several trusted certificates may have one name
/// and key: one that may issue is enough.
fn walk(
    path: &VerifiedPath<'_>,
    issuers: &[&Issuer],
    purpose: Purpose,
) -> Result<(), webpki::Error> {
    let mut below = 0;
    for intermediate in path.intermediate_certificates() {
        let der = intermediate.der();
        let parsed = Parsed::from_der(&der).map_err(|_unused| webpki::Error::BadDer)?;
        may_issue(&parsed, below, purpose).map_err(refusal)?;
        below += 1;
    }
    let mut outcome = Err(webpki::Error::UnknownIssuer);
    for root in issuers.iter().filter(|issuer| issuer.anchor == *path.anchor()) {
        let parsed = Parsed::from_der(&root.der).map_err(|_unused| webpki::Error::BadDer)?;
        match may_issue(&parsed, below, purpose) {
            Ok(()) => return Ok(()),
            Err(unfit) => outcome = Err(refusal(unfit)),
        }
    }
    outcome
}

/// Go tells of an issuer that may not issue as of an unknown one.
#[expect(deprecated, reason = "the only constructible variant for a missing usage")]
const fn refusal(unfit: Unfit) -> webpki::Error {
    match unfit {
        Unfit::Issuer => webpki::Error::UnknownIssuer,
        Unfit::Usage => webpki::Error::RequiredEkuNotFound,
    }
}

fn check_validity(
    (not_before, not_after): (i64, i64),
    time: UnixTime,
    seconds: i64,
) -> Result<(), CertificateError> {
    let moment = |seconds: i64| {
        let since = u64::try_from(seconds).unwrap_or(0);
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(since))
    };
    if seconds < not_before {
        return Err(CertificateError::NotValidYetContext { time, not_before: moment(not_before) });
    }
    if seconds > not_after {
        return Err(CertificateError::ExpiredContext { time, not_after: moment(not_after) });
    }
    Ok(())
}

/// The rustls error, and with it the TLS alert, for one of webpki's.
pub(crate) fn translate(error: webpki::Error) -> rustls::Error {
    #[expect(deprecated, reason = "our own usage rule returns this variant")]
    let certificate_error = match error {
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            CertificateError::BadEncoding
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        webpki::Error::InvalidCertValidity => CertificateError::Expired,
        // A CA of the same name but another key is an unknown CA.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            CertificateError::UnknownIssuer
        }
        webpki::Error::UnsupportedCriticalExtension => CertificateError::UnhandledCriticalExtension,
        webpki::Error::RequiredEkuNotFound => CertificateError::InvalidPurpose,
        webpki::Error::CertNotValidForName(context) => CertificateError::NotValidForNameContext {
            expected: context.expected,
            presented: context.presented,
        },
        other => CertificateError::Other(rustls::OtherError(std::sync::Arc::new(other))),
    };
    certificate_error.into()
}
