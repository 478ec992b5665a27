//! Our own CA, and what both ends see of each other.

use std::os::unix::fs::PermissionsExt;

use keepd_env::Env;
use keepd_tls::{
    Authority, CertificateSummary, ClientTls, Purposes, ServerTls, Subject, TlsVersion,
};
use rustls::ProtocolVersion;

use crate::support::{
    Scratch, accepted, client, client_with, handshake_to, mutual, own_ca, plain, refused,
};

fn facts(path: &std::path::Path) -> CertificateSummary {
    CertificateSummary::from_pem(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn a_client_of_our_ca_is_let_in_and_named() {
    let scratch = Scratch::new();
    own_ca(&scratch);
    let seen = accepted(mutual(&scratch), client_with(&scratch, "client")).await;
    assert_eq!(seen.version, ProtocolVersion::TLSv1_3);
    assert_eq!(seen.alpn.as_deref(), Some(b"h2".as_slice()));
    let peer = seen.peer.unwrap();
    assert_eq!(peer.common_name.as_deref(), Some("root"));
    assert!(peer.dns_names.is_empty());
}

#[tokio::test]
async fn a_trusted_ca_file_alone_makes_certificates_mandatory() {
    let scratch = Scratch::new();
    own_ca(&scratch);
    let options = keepd_tls::TlsOptions { client_cert_auth: false, ..mutual(&scratch) };
    let (server, client) = refused(options, client(&scratch)).await;
    assert_eq!(server, "tls: client didn't provide a certificate");
    assert_eq!(client, "remote error: tls: certificate required");
}

#[tokio::test]
async fn a_client_without_alpn_speaks_http1_and_either_protocol_can_be_chosen() {
    let scratch = Scratch::new();
    own_ca(&scratch);
    for (offered, chosen) in [
        (vec![], None),
        (vec![b"http/1.1".to_vec()], Some(b"http/1.1".to_vec())),
        (vec![b"http/1.1".to_vec(), b"h2".to_vec()], Some(b"h2".to_vec())),
    ] {
        let options = keepd_tls::ClientTlsOptions { alpn: offered, ..client(&scratch) };
        assert_eq!(accepted(plain(&scratch), options).await.alpn, chosen);
    }
}

#[tokio::test]
async fn versions_are_limited_on_both_ends() {
    let scratch = Scratch::new();
    own_ca(&scratch);
    let old = keepd_tls::ClientTlsOptions {
        max_version: Some(TlsVersion::Tls12),
        ..client_with(&scratch, "client")
    };
    let seen = accepted(mutual(&scratch), old.clone()).await;
    assert_eq!(seen.version, ProtocolVersion::TLSv1_2);
    let strict = keepd_tls::TlsOptions { min_version: Some(TlsVersion::Tls13), ..mutual(&scratch) };
    let (server, client) = refused(strict, old).await;
    assert_eq!(server, "tls: client offered only unsupported versions");
    assert_eq!(client, "remote error: tls: protocol version not supported");
}

#[tokio::test]
async fn our_server_certificate_also_serves_a_client_and_knows_its_addresses() {
    let scratch = Scratch::new();
    own_ca(&scratch);
    let seen = accepted(mutual(&scratch), client_with(&scratch, "server")).await;
    assert_eq!(seen.peer.unwrap().common_name.as_deref(), Some("node-1"));

    let env = Env::real();
    let server = ServerTls::new(plain(&scratch), &env).unwrap();
    let dialling = ClientTls::new(client(&scratch), &env).unwrap();
    for name in ["localhost", "127.0.0.1", "::1"] {
        handshake_to(&server, &dialling, name).await.1.unwrap();
    }
    assert_eq!(
        handshake_to(&server, &dialling, "example.com").await.1.unwrap_err(),
        "tls: failed to verify certificate: x509: certificate is valid for localhost, 127.0.0.1, \
         ::1, not example.com"
    );
}

#[test]
fn what_is_issued_says_what_it_is_for_and_is_private() {
    let scratch = Scratch::new();
    let dir = scratch.path("pki");
    let env = Env::real();
    assert!(!Authority::exists(&env, &dir).unwrap());
    let authority = Authority::create(&env, &dir, "keepd-ca").unwrap();
    assert!(Authority::exists(&env, &dir).unwrap());
    let (client, key) = authority.issue("client", &Subject::client("root")).unwrap();
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&key), mode(&dir.join("ca.key"))), (0o700, 0o600, 0o600));
    assert_eq!(facts(&client).purposes, Purposes::Only { client: true, server: false });
    assert!(facts(&dir.join("ca.crt")).is_ca);
    assert!(authority.issue("client", &Subject::client("root")).is_err(), "no overwriting");
    assert!(Authority::create(&env, &dir, "keepd-ca").is_err(), "no overwriting");

    let again = Authority::open(&env, &dir).unwrap();
    let peer = Subject::peer("node-1", &["127.0.0.1".to_owned()]);
    let (peer, _) = again.issue("peer", &peer).unwrap();
    assert_eq!(facts(&peer).purposes, Purposes::Only { client: true, server: true });
    assert_eq!(facts(&peer).issuer, "CN=keepd-ca");
}

#[tokio::test]
async fn what_a_reopened_ca_issues_is_accepted() {
    let scratch = Scratch::new();
    own_ca(&scratch);
    let again = Authority::open(&Env::real(), scratch.dir()).unwrap();
    again.issue("later", &Subject::client("later")).unwrap();
    let seen = accepted(mutual(&scratch), client_with(&scratch, "later")).await;
    assert_eq!(seen.peer.unwrap().common_name.as_deref(), Some("later"));
}

#[tokio::test]
async fn a_renewed_pair_replaces_the_old_one_and_works() {
    let scratch = Scratch::new();
    let authority = own_ca(&scratch);
    let tls = ServerTls::new(mutual(&scratch), &Env::real()).unwrap();
    let before = facts(&scratch.path("server.crt")).serial;
    let names = ["localhost".to_owned()];
    let (certificate, _) = authority.renew("server", &Subject::server("again", &names)).unwrap();
    assert_ne!(facts(&certificate).serial, before);
    let client = ClientTls::new(client_with(&scratch, "client"), &Env::real()).unwrap();
    let seen = handshake_to(&tls, &client, "localhost").await.1.unwrap();
    assert_eq!(seen.peer.unwrap().common_name.as_deref(), Some("again"));
}
