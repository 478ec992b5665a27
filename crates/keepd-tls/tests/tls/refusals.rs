//! Files that cannot be used and clients that are not let in, each with its words.

use keepd_env::Env;
use keepd_tls::{Error, ServerTls, Subject, TlsOptions};

use crate::support::{Scratch, accepted, client_with, has, mutual, own_ca, plain, refused};

fn start(options: TlsOptions) -> Error {
    ServerTls::new(options, &Env::real()).unwrap_err()
}

#[test]
fn a_wrong_file_is_named_with_what_it_holds() {
    let scratch = Scratch::new();
    own_ca(&scratch);
    let good = plain(&scratch);

    let swapped = TlsOptions {
        cert_file: good.key_file.clone(),
        key_file: good.cert_file.clone(),
        ..good.clone()
    };
    assert!(matches!(start(swapped), Error::Swapped { .. }));

    let other = TlsOptions { key_file: scratch.path("client.key"), ..good.clone() };
    let error = start(other).to_string();
    assert!(error.starts_with("tls: private key does not match public key: "), "{error}");
    assert!(error.contains("client.key"), "{error}");

    let missing = TlsOptions { key_file: scratch.path("absent.key"), ..good.clone() };
    let error = start(missing).to_string();
    assert!(error.contains("absent.key") && error.contains("No such file"), "{error}");

    let key_is_certificate = TlsOptions { key_file: good.cert_file.clone(), ..good.clone() };
    let error = start(key_is_certificate).to_string();
    assert!(error.contains("holds CERTIFICATE, but a private key"), "{error}");

    let empty = TlsOptions { cert_file: scratch.write("empty", ""), ..good.clone() };
    assert!(start(empty).to_string().contains("holds nothing"));

    let key_as_ca = TlsOptions { trusted_ca_file: Some(scratch.path("ca.key")), ..good.clone() };
    let error = start(key_as_ca).to_string();
    assert!(error.contains("holds PRIVATE KEY, but a CA certificate"), "{error}");

    let garbled = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let garbled = TlsOptions { cert_file: scratch.write("garbled", garbled), ..good };
    let error = start(garbled).to_string();
    assert!(error.contains("certificate 1 is malformed"), "{error}");
}

#[test]
fn an_encrypted_key_names_the_command_that_opens_it() {
    if !has("openssl") {
        return;
    }
    let scratch = Scratch::new();
    own_ca(&scratch);
    scratch.sh("openssl pkcs8 -topk8 -in server.key -passout pass:x -out new.key");
    scratch.sh("openssl genrsa -out plain.key 2048
         openssl rsa -in plain.key -aes128 -passout pass:x -traditional -out old.key");
    for name in ["new.key", "old.key"] {
        let options = TlsOptions { key_file: scratch.path(name), ..plain(&scratch) };
        let error = start(options);
        assert!(matches!(error, Error::KeyEncrypted { .. }), "{error}");
        assert!(error.to_string().contains("openssl pkey -in"), "{error}");
    }
}

#[test]
fn an_expired_certificate_starts_with_a_warning() {
    let scratch = Scratch::new();
    let authority = own_ca(&scratch);
    let (cert_file, key_file) =
        authority.issue("gone", &Subject { days: 0, ..Subject::server("gone", &[]) }).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let options = TlsOptions { cert_file, key_file, ..TlsOptions::default() };
    let tls = ServerTls::new(options, &Env::real()).unwrap();
    assert!(tls.warnings()[0].contains("the certificate expired at 20"), "{:?}", tls.warnings());
}

#[tokio::test]
async fn an_expired_client_is_told_so() {
    let scratch = Scratch::new();
    let authority = own_ca(&scratch);
    authority.issue("gone", &Subject { days: 0, ..Subject::client("gone") }).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let (server, client) = refused(mutual(&scratch), client_with(&scratch, "gone")).await;
    assert!(
        server.starts_with(
            "tls: failed to verify certificate: x509: certificate has expired or is not yet \
             valid: current time 20"
        ),
        "{server}"
    );
    assert_eq!(client, "remote error: tls: expired certificate");
}

#[tokio::test]
async fn a_client_of_another_ca_is_refused() {
    let (ours, theirs) = (Scratch::new(), Scratch::new());
    own_ca(&ours);
    own_ca(&theirs);
    let options = keepd_tls::ClientTlsOptions {
        trusted_ca_file: Some(ours.path("ca.crt")),
        ..client_with(&theirs, "client")
    };
    let (server, client) = refused(mutual(&ours), options).await;
    assert!(server.ends_with("x509: certificate signed by unknown authority"), "{server}");
    assert_eq!(client, "remote error: tls: unknown certificate authority");
}

#[tokio::test]
async fn only_allowed_names_are_let_in() {
    let scratch = Scratch::new();
    let authority = own_ca(&scratch);
    let host = Subject { names: vec!["db.example.com".to_owned()], ..Subject::client("db") };
    authority.issue("db", &host).unwrap();
    let by_cn = TlsOptions { allowed_cns: vec!["db".to_owned()], ..mutual(&scratch) };
    let by_host =
        TlsOptions { allowed_hostnames: vec!["db.example.com".to_owned()], ..mutual(&scratch) };
    for options in [by_cn.clone(), by_host.clone()] {
        accepted(options.clone(), client_with(&scratch, "db")).await;
        let (server, _) = refused(options, client_with(&scratch, "client")).await;
        assert_eq!(server, "client certificate authentication failed");
    }
    let both = TlsOptions { allowed_hostnames: by_host.allowed_hostnames, ..by_cn };
    let error = start(both).to_string();
    assert_eq!(
        error,
        "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"db\"], \
         hostnames=[\"db.example.com\"])"
    );
}

#[tokio::test]
async fn plain_text_on_the_tls_port_is_called_so() {
    use tokio::io::AsyncWriteExt;
    let scratch = Scratch::new();
    own_ca(&scratch);
    let tls = ServerTls::new(plain(&scratch), &Env::real()).unwrap();
    let (server_end, mut client_end) = tokio::io::duplex(1 << 16);
    client_end.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(tls.config());
    let error = acceptor.accept(server_end).await.map(|_| ()).unwrap_err();
    assert_eq!(
        keepd_tls::explain_io(&error),
        "tls: first record does not look like a TLS handshake"
    );
}
