//! Faults of the files and settings of a TLS endpoint. Every text names the file and, where one
//! exists, the command that mends it; the wording of etcd comes first where it has one.

use std::path::PathBuf;

use keepd_env::IoError;
use thiserror::Error;

/// Reason why an endpoint's TLS configuration cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    /// `--client-cert-allowed-*` both as names and as common names.
    #[error(
        "AllowedCNs and AllowedHostnames are mutually exclusive (cns={cns:?}, hostnames={hostnames:?})"
    )]
    AllowedNamesConflict {
        /// The common names.
        cns: Vec<String>,
        /// The host names.
        hostnames: Vec<String>,
    },
    /// A certificate does not parse.
    #[error("{}: certificate {position} is malformed: {reason}", path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// Which one in the file, from 1.
        position: usize,
        /// The parser's reason.
        reason: String,
    },
    /// A certificate revocation list does not parse.
    #[error(
        "x509: malformed crl: {}: {reason}; a list in DER is expected, made for example by: \
         openssl crl -in list.pem -outform DER -out list.der", path.display()
    )]
    BadCrl {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        reason: String,
    },
    /// A file is not valid PEM.
    #[error("{}: {reason}", path.display())]
    BadPem {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        reason: String,
    },
    /// A CA bundle holds no certificate.
    #[error(
        "could not parse certificate file, {}: it holds {found}, but a CA certificate \
         (BEGIN CERTIFICATE) is expected", path.display()
    )]
    CaMissing {
        /// The file.
        path: PathBuf,
        /// Its content instead, in words.
        found: String,
    },
    /// A certificate file holds no certificate.
    #[error(
        "tls: failed to find any PEM data in certificate input: {} holds {found}, but a \
         certificate (BEGIN CERTIFICATE) is expected", path.display()
    )]
    CertificateMissing {
        /// The file.
        path: PathBuf,
        /// Its content instead, in words.
        found: String,
    },
    /// A new certificate has expired while the one in use has not.
    #[error("{}: the certificate expired at {not_after}", path.display())]
    Expired {
        /// The file.
        path: PathBuf,
        /// End of its validity.
        not_after: String,
    },
    /// The private key needs a passphrase.
    #[error(
        "{}: the private key is protected by a passphrase, which a server cannot ask for; write \
         it without one: openssl pkey -in {} -out new.key && chmod 600 new.key",
        path.display(), path.display()
    )]
    KeyEncrypted {
        /// The file.
        path: PathBuf,
    },
    /// The private key belongs to another certificate.
    #[error(
        "tls: private key does not match public key: {} was not issued for the key in {}; both \
         print the same with: openssl x509 -in {} -noout -pubkey, openssl pkey -in {} -pubout",
        certificate.display(), key.display(), certificate.display(), key.display()
    )]
    KeyMismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// A key file holds no private key.
    #[error(
        "tls: failed to find any PEM data in key input: {} holds {found}, but a private key \
         (BEGIN PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY) is expected", path.display()
    )]
    KeyMissing {
        /// The file.
        path: PathBuf,
        /// Its content instead, in words.
        found: String,
    },
    /// A private key of a kind or size that is not supported.
    #[error(
        "{}: the private key cannot be used ({reason}); supported are RSA from 2048 bits, \
         ECDSA P-256, P-384 and P-521, and Ed25519", path.display()
    )]
    KeyUnsupported {
        /// The file.
        path: PathBuf,
        /// The library's reason.
        reason: String,
    },
    /// A certificate cannot be made.
    #[error("cannot make the certificate for {subject:?}: {reason}")]
    Issue {
        /// Subject of the certificate.
        subject: String,
        /// The library's reason.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// No cipher suite that is asked for exists here.
    #[error(
        "none of the cipher suites {names:?} is supported: TLS 1.2 here has ECDHE with AES-GCM or \
         ChaCha20-Poly1305 only"
    )]
    NoUsableCipherSuite {
        /// The names asked for.
        names: Vec<String>,
    },
    /// Neither a CA file nor the system's bundle.
    #[error(
        "no CA certificates: none given and the system's bundle was not found (SSL_CERT_FILE \
         names one)"
    )]
    NoSystemRoots,
    /// The certificate and the key file are the wrong way round.
    #[error(
        "the certificate and key files are swapped: {} holds a private key and {} a certificate",
        certificate.display(), key.display()
    )]
    Swapped {
        /// The file given as the certificate.
        certificate: PathBuf,
        /// The file given as the key.
        key: PathBuf,
    },
    /// rustls refuses the combination.
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
    /// A file is larger than any certificate bundle.
    #[error("{}: larger than {max} bytes, so not a certificate or key", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        max: u64,
    },
    /// A cipher suite that nobody knows.
    #[error("unexpected TLS cipher suite {name:?}")]
    UnknownCipherSuite {
        /// The name asked for.
        name: String,
    },
    /// A TLS version that nobody knows.
    #[error("unexpected TLS version {name:?} (must be one of: TLS1.2, TLS1.3)")]
    UnknownVersion {
        /// The name asked for.
        name: String,
    },
    /// The lowest version is above the highest.
    #[error("min version ({min}) is greater than max version ({max})")]
    VersionsReversed {
        /// The lowest.
        min: String,
        /// The highest.
        max: String,
    },
}
