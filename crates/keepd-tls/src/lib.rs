//! TLS for clients and peers: configuration, reload, verification, own CA.
//!
//! [`ServerTls`] and [`ClientTls`] hand out a rustls configuration per connection and read their
//! files again whenever the files' content changed, so certificates, keys and CA bundles are
//! replaced without a restart. A certificate chain is accepted where etcd (Go's `crypto/x509`)
//! accepts it, which includes X.509 version 1 leaves, as plain `openssl x509 -req` makes them.
//! [`Authority`] is a small CA of our own for `quickstart` and `pki`. Handshakes themselves (their
//! deadline, their number) belong to the server, sockets too.

mod authority;
mod certificate;
mod chain;
mod client;
mod enrolment;
mod error;
mod explain;
mod files;
mod names;
mod reload;
mod revocation;
mod self_signed;
mod server;
mod signature;
mod suites;
mod trust;
mod verifier;

pub use authority::{Authority, Subject, TLS_SERVER_DAYS, Usage};
pub use certificate::{CertificateSummary, PeerIdentity, Purposes};
pub use client::{ClientTls, ClientTlsOptions};
pub use enrolment::{
    DIGEST_LEN, EXPORTER_LABEL, Side, certificate_request, certificate_request_for, is_proof,
    newcomer, proof,
};
pub use error::Error;
pub use explain::{explain, explain_io};
pub use reload::ReloadStatus;
pub use self_signed::{Made, SelfSigned, self_signed};
pub use server::{ServerTls, TlsOptions};
pub use suites::{CipherSuiteName, TlsVersion};
