//! Files replaced while connections go on.

use std::fs;

use keepd_env::Env;
use keepd_tls::{Authority, ClientTls, Subject, TlsOptions};

use crate::support::{Scratch, client_with, handshake_to, has, mutual, own_ca, server};

fn copy(from: &Scratch, to: &Scratch, names: &[(&str, &str)]) {
    for (source, target) in names {
        fs::copy(from.path(source), to.path(target)).unwrap();
    }
}

#[tokio::test]
async fn a_new_certificate_and_key_count_from_the_next_connection() {
    let scratch = Scratch::new();
    let authority = own_ca(&scratch);
    let names = ["localhost".to_owned()];
    authority.issue("next", &Subject::server("node-2", &names)).unwrap();
    let tls = server(mutual(&scratch));
    let client = ClientTls::new(client_with(&scratch, "client"), &Env::real()).unwrap();
    let common_name = async || {
        let seen = handshake_to(&tls, &client, "localhost").await.1.unwrap();
        seen.peer.unwrap().common_name.unwrap()
    };
    assert_eq!(common_name().await, "node-1");

    // The certificate first: until its key follows, the pair in use stays.
    copy(&scratch, &scratch, &[("next.crt", "server.crt")]);
    assert_eq!(common_name().await, "node-1");
    assert_eq!(common_name().await, "node-1");
    let status = tls.status();
    assert_eq!((status.reloads, status.refusals), (0, 1));
    assert!(status.problem.unwrap().contains("does not match"));

    copy(&scratch, &scratch, &[("next.key", "server.key")]);
    assert_eq!(common_name().await, "node-2");
    let status = tls.status();
    assert_eq!((status.reloads, status.refusals, status.problem), (1, 1, None));
    assert_eq!(tls.leaf().common_name.as_deref(), Some("node-2"));
}

#[tokio::test]
async fn a_missing_or_garbled_file_leaves_the_last_good_pair_in_use() {
    let scratch = Scratch::new();
    own_ca(&scratch);
    let tls = server(mutual(&scratch));
    let client = ClientTls::new(client_with(&scratch, "client"), &Env::real()).unwrap();
    let good = fs::read(scratch.path("server.crt")).unwrap();

    fs::remove_file(scratch.path("server.crt")).unwrap();
    handshake_to(&tls, &client, "localhost").await.0.unwrap();
    assert!(tls.status().problem.unwrap().contains("server.crt"));
    fs::write(scratch.path("server.crt"), &good[..good.len() / 2]).unwrap();
    handshake_to(&tls, &client, "localhost").await.0.unwrap();
    assert!(tls.status().problem.is_some());

    fs::write(scratch.path("server.crt"), &good).unwrap();
    handshake_to(&tls, &client, "localhost").await.0.unwrap();
    assert_eq!(tls.status().problem, None);
    assert_eq!(tls.status().refusals, 2);
}

#[tokio::test]
async fn an_expired_replacement_is_not_taken_while_the_old_one_is_valid() {
    let scratch = Scratch::new();
    let authority = own_ca(&scratch);
    let names = ["localhost".to_owned()];
    let expired = Subject { days: 0, ..Subject::server("gone", &names) };
    authority.issue("gone", &expired).unwrap();
    let tls = server(mutual(&scratch));
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    copy(&scratch, &scratch, &[("gone.crt", "server.crt"), ("gone.key", "server.key")]);
    let client = ClientTls::new(client_with(&scratch, "client"), &Env::real()).unwrap();
    handshake_to(&tls, &client, "localhost").await.0.unwrap();
    assert!(tls.status().problem.unwrap().contains("expired at"));
}

#[tokio::test]
async fn a_ca_bundle_grows_and_shrinks_under_running_clients() {
    let (ours, theirs) = (Scratch::new(), Scratch::new());
    own_ca(&ours);
    own_ca(&theirs);
    let env = Env::real();
    let tls = server(mutual(&ours));
    let old = ClientTls::new(client_with(&ours, "client"), &env).unwrap();
    let new = keepd_tls::ClientTlsOptions {
        trusted_ca_file: Some(ours.path("ca.crt")),
        ..client_with(&theirs, "client")
    };
    let new = ClientTls::new(new, &env).unwrap();
    handshake_to(&tls, &old, "localhost").await.0.unwrap();
    handshake_to(&tls, &new, "localhost").await.0.unwrap_err();

    let (old_ca, new_ca) =
        (fs::read(ours.path("ca.crt")).unwrap(), fs::read(theirs.path("ca.crt")).unwrap());
    fs::write(ours.path("ca.crt"), [old_ca.as_slice(), &new_ca].concat()).unwrap();
    handshake_to(&tls, &old, "localhost").await.0.unwrap();
    handshake_to(&tls, &new, "localhost").await.0.unwrap();

    // The clients trust the file as well, so their view is kept apart from here on.
    let trusting = ours.write("old-ca.crt", std::str::from_utf8(&old_ca).unwrap());
    let trusting = |scratch: &Scratch| {
        let options = keepd_tls::ClientTlsOptions {
            trusted_ca_file: Some(trusting.clone()),
            ..client_with(scratch, "client")
        };
        ClientTls::new(options, &env).unwrap()
    };
    fs::write(ours.path("ca.crt"), new_ca).unwrap();
    let (old, new) = (trusting(&ours), trusting(&theirs));
    handshake_to(&tls, &old, "localhost").await.0.unwrap_err();
    handshake_to(&tls, &new, "localhost").await.0.unwrap();
    assert_eq!(tls.status().reloads, 2);
}

#[tokio::test]
async fn a_client_shows_its_renewed_certificate_on_the_next_connection() {
    let scratch = Scratch::new();
    let authority = own_ca(&scratch);
    authority.issue("renewed", &Subject::client("renewed")).unwrap();
    let tls = server(mutual(&scratch));
    let client = ClientTls::new(client_with(&scratch, "client"), &Env::real()).unwrap();
    handshake_to(&tls, &client, "localhost").await.0.unwrap();
    copy(&scratch, &scratch, &[("renewed.crt", "client.crt"), ("renewed.key", "client.key")]);
    let seen = handshake_to(&tls, &client, "localhost").await.0.unwrap();
    assert_eq!(seen.peer.unwrap().common_name.as_deref(), Some("renewed"));
}

#[tokio::test]
async fn a_revocation_list_is_read_in_both_forms_and_followed() {
    if !has("openssl") {
        return;
    }
    let scratch = Scratch::new();
    let authority = own_ca(&scratch);
    authority.issue("other", &Subject::client("other")).unwrap();
    scratch.write(
        "ca.cnf",
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=30\n",
    );
    let list = |out: &str| {
        scratch.sh(&format!(
            "touch index.txt
             openssl ca -config ca.cnf -gencrl -keyfile ca.key -cert ca.crt -out {out}.pem
             openssl crl -in {out}.pem -outform DER -out {out}.der"
        ));
    };
    list("empty");
    scratch.sh("openssl ca -config ca.cnf -revoke client.crt -keyfile ca.key -cert ca.crt");
    list("full");

    copy(&scratch, &scratch, &[("empty.der", "list")]);
    let options = TlsOptions { crl_file: Some(scratch.path("list")), ..mutual(&scratch) };
    let tls = server(options);
    let env = Env::real();
    let client = ClientTls::new(client_with(&scratch, "client"), &env).unwrap();
    let other = ClientTls::new(client_with(&scratch, "other"), &env).unwrap();
    handshake_to(&tls, &client, "localhost").await.0.unwrap();
    for form in ["full.der", "full.pem"] {
        copy(&scratch, &scratch, &[(form, "list")]);
        let (seen, told) = handshake_to(&tls, &client, "localhost").await;
        assert_eq!(seen.unwrap_err(), "transport: certificate revoked");
        assert_eq!(told.unwrap_err(), "remote error: tls: revoked certificate");
        handshake_to(&tls, &other, "localhost").await.0.unwrap();
    }
    let (certificate, _) = Authority::paths(scratch.dir(), "client");
    let broken = TlsOptions { crl_file: Some(certificate), ..mutual(&scratch) };
    let error = keepd_tls::ServerTls::new(broken, &env).unwrap_err().to_string();
    assert!(error.starts_with("x509: malformed crl: "), "{error}");
}
