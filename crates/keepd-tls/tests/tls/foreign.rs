//! Certificates as people make them: by hand with `openssl`, with `cfssl`, and by mistake.

use keepd_tls::{ClientTlsOptions, ServerTls, TlsVersion};

use crate::support::{
    Scratch, accepted, client, client_with, handshake, has, mutual, own_ca, plain, refused,
};

/// A CA and a server certificate made by openssl.
fn openssl_ca(scratch: &Scratch) {
    scratch.sh(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=ca
         openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=server
         openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 \
           -out server.crt -extfile <(echo subjectAltName=DNS:localhost,IP:127.0.0.1)",
    );
}

/// A client certificate; `extensions` empty makes openssl 3.0 write version 1.
fn openssl_client(scratch: &Scratch, name: &str, extensions: &str) {
    let extfile = if extensions.is_empty() {
        String::new()
    } else {
        format!("-extfile <(printf '{extensions}')")
    };
    scratch.sh(&format!(
        "openssl req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}
         openssl x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 \
           -out {name}.crt {extfile}"
    ));
}

fn version_of(scratch: &Scratch, name: &str) -> String {
    scratch.sh(&format!("openssl x509 -in {name}.crt -noout -text | grep Version:"))
}

#[tokio::test]
async fn a_version_1_client_certificate_is_accepted_by_both_protocol_versions() {
    if !has("openssl") {
        return;
    }
    let scratch = Scratch::new();
    openssl_ca(&scratch);
    openssl_client(&scratch, "v1", "");
    if !version_of(&scratch, "v1").contains("Version: 1") {
        eprintln!("SKIPPED: this openssl makes no version 1 certificates");
        return;
    }
    for max in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let options = ClientTlsOptions { max_version: Some(max), ..client_with(&scratch, "v1") };
        let seen = accepted(mutual(&scratch), options).await;
        assert_eq!(seen.peer.unwrap().common_name.as_deref(), Some("v1"));
    }
}

#[tokio::test]
async fn a_version_1_certificate_of_another_ca_with_the_same_name_is_refused() {
    if !has("openssl") {
        return;
    }
    let (ours, theirs) = (Scratch::new(), Scratch::new());
    openssl_ca(&ours);
    openssl_ca(&theirs);
    openssl_client(&theirs, "v1", "");
    let options = ClientTlsOptions {
        cert_and_key_files: client_with(&theirs, "v1").cert_and_key_files,
        ..client(&ours)
    };
    let (server, client) = refused(mutual(&ours), options).await;
    let unknown =
        "tls: failed to verify certificate: x509: certificate signed by unknown authority";
    assert_eq!(server, unknown);
    assert_eq!(client, "remote error: tls: unknown certificate authority");
}

#[tokio::test]
async fn a_version_1_leaf_cannot_issue_other_certificates() {
    if !has("openssl") {
        return;
    }
    let scratch = Scratch::new();
    openssl_ca(&scratch);
    openssl_client(&scratch, "v1", "");
    scratch.sh("openssl req -newkey rsa:2048 -nodes -keyout evil.key -out evil.csr -subj /CN=root
         openssl x509 -req -in evil.csr -CA v1.crt -CAkey v1.key -CAcreateserial -days 30 \
           -out leaf.crt
         cat leaf.crt v1.crt > evil.crt");
    let (server, _) = refused(mutual(&scratch), client_with(&scratch, "evil")).await;
    assert!(server.ends_with("certificate signed by unknown authority"), "{server}");
}

#[tokio::test]
async fn a_server_certificate_shown_by_a_client_is_accepted_unless_its_usage_forbids_it() {
    if !has("openssl") {
        return;
    }
    let scratch = Scratch::new();
    openssl_ca(&scratch);
    accepted(mutual(&scratch), client_with(&scratch, "server")).await;

    openssl_client(&scratch, "both", "extendedKeyUsage=serverAuth,clientAuth");
    accepted(mutual(&scratch), client_with(&scratch, "both")).await;
    openssl_client(&scratch, "any", "extendedKeyUsage=anyExtendedKeyUsage");
    accepted(mutual(&scratch), client_with(&scratch, "any")).await;
    openssl_client(&scratch, "only", "extendedKeyUsage=clientAuth\\nkeyUsage=digitalSignature");
    accepted(mutual(&scratch), client_with(&scratch, "only")).await;

    openssl_client(&scratch, "wrong", "extendedKeyUsage=serverAuth");
    let (server, _) = refused(mutual(&scratch), client_with(&scratch, "wrong")).await;
    assert!(server.contains("x509: certificate specifies an incompatible key usage"), "{server}");
    assert!(server.contains("\"CN=wrong\""), "{server}");
    assert!(server.contains("extendedKeyUsage=clientAuth"), "{server}");
}

#[tokio::test]
async fn every_key_kind_in_every_file_form_is_read() {
    if !has("openssl") {
        return;
    }
    let scratch = Scratch::new();
    openssl_ca(&scratch);
    let kinds = [
        ("rsa", "openssl genrsa -out k.pem 2048"),
        ("p256", "openssl ecparam -name prime256v1 -genkey -out k.pem"),
        ("p384", "openssl ecparam -name secp384r1 -genkey -out k.pem"),
        ("p521", "openssl ecparam -name secp521r1 -genkey -out k.pem"),
        ("ed25519", "openssl genpkey -algorithm ed25519 -out k.pem"),
    ];
    for (kind, generate) in kinds {
        scratch.sh(&format!(
            "{generate} && openssl req -new -key k.pem -out k.csr -subj /CN={kind}
             openssl x509 -req -in k.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 \
               -out {kind}.crt -extfile <(echo subjectAltName=DNS:localhost)
             openssl pkcs8 -topk8 -nocrypt -in k.pem -out {kind}.key"
        ));
        let traditional = match kind {
            "ed25519" => None,
            "rsa" => Some("openssl rsa -in k.pem -traditional -out"),
            // With its EC PARAMETERS block in front, as ecparam writes it.
            _ => Some("cp k.pem"),
        };
        let mut names = vec![kind.to_owned()];
        if let Some(convert) = traditional {
            let name = format!("{kind}-traditional");
            scratch.sh(&format!("{convert} {name}.key && cp {kind}.crt {name}.crt"));
            let pem = std::fs::read_to_string(scratch.path(&format!("{name}.key"))).unwrap();
            let label = if kind == "rsa" { "RSA PRIVATE KEY" } else { "EC PRIVATE KEY" };
            assert!(pem.contains(label), "{pem}");
            names.push(name);
        }
        for name in names {
            accepted(mutual(&scratch), client_with(&scratch, &name)).await;
            let mut served = mutual(&scratch);
            (served.cert_file, served.key_file) =
                client_with(&scratch, &name).cert_and_key_files.unwrap();
            accepted(served, client_with(&scratch, &name)).await;
        }
    }
}

#[tokio::test]
async fn one_self_signed_certificate_may_be_server_client_and_ca_at_once() {
    if !has("openssl") {
        return;
    }
    let scratch = Scratch::new();
    scratch.sh(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout server.key -out server.crt -days 30 \
           -subj /CN=localhost -addext subjectAltName=DNS:localhost
         cp server.crt ca.crt",
    );
    accepted(mutual(&scratch), client_with(&scratch, "server")).await;
}

#[tokio::test]
async fn a_trusted_leaf_that_is_no_ca_is_trusted_only_itself() {
    if !has("openssl") {
        return;
    }
    let scratch = Scratch::new();
    openssl_ca(&scratch);
    openssl_client(&scratch, "pinned", "basicConstraints=CA:FALSE");
    scratch.sh("openssl req -newkey rsa:2048 -nodes -keyout minted.key -out m.csr -subj /CN=root
         openssl x509 -req -in m.csr -CA pinned.crt -CAkey pinned.key -CAcreateserial -days 30 \
           -out minted.crt -extfile <(echo extendedKeyUsage=clientAuth)");
    let mut options = mutual(&scratch);
    options.trusted_ca_file = Some(scratch.path("pinned.crt"));
    accepted(options.clone(), client_with(&scratch, "pinned")).await;
    let (server, _) = refused(options, client_with(&scratch, "minted")).await;
    assert!(server.ends_with("certificate signed by unknown authority"), "{server}");
}

#[tokio::test]
async fn a_chain_over_an_intermediate_is_followed_for_both_leaf_versions() {
    if !has("openssl") {
        return;
    }
    let scratch = Scratch::new();
    openssl_ca(&scratch);
    openssl_client(&scratch, "sub", "basicConstraints=critical,CA:TRUE,pathlen:0");
    for (name, extfile) in [("new", "-extfile <(echo extendedKeyUsage=clientAuth)"), ("old", "")] {
        scratch.sh(&format!(
            "openssl req -newkey rsa:2048 -nodes -keyout {name}.key -out l.csr -subj /CN={name}
             openssl x509 -req -in l.csr -CA sub.crt -CAkey sub.key -CAcreateserial -days 30 \
               -out leaf.crt {extfile}
             cat leaf.crt sub.crt > {name}.crt"
        ));
        accepted(mutual(&scratch), client_with(&scratch, name)).await;
    }
}

#[tokio::test]
async fn a_path_longer_than_its_ca_allows_is_refused_for_both_leaf_versions() {
    if !has("openssl") {
        return;
    }
    let scratch = Scratch::new();
    openssl_ca(&scratch);
    openssl_client(&scratch, "sub", "basicConstraints=critical,CA:TRUE,pathlen:0");
    scratch.sh("openssl req -newkey rsa:2048 -nodes -keyout sub2.key -out l.csr -subj /CN=sub2
         openssl x509 -req -in l.csr -CA sub.crt -CAkey sub.key -CAcreateserial -days 30 \
           -out sub2.crt -extfile <(echo basicConstraints=critical,CA:TRUE)");
    for (name, extfile) in [("new", "-extfile <(echo extendedKeyUsage=clientAuth)"), ("old", "")] {
        scratch.sh(&format!(
            "openssl req -newkey rsa:2048 -nodes -keyout {name}.key -out l.csr -subj /CN={name}
             openssl x509 -req -in l.csr -CA sub2.crt -CAkey sub2.key -CAcreateserial -days 30 \
               -out leaf.crt {extfile}
             cat leaf.crt sub2.crt sub.crt > {name}.crt"
        ));
        let (server, _) = refused(mutual(&scratch), client_with(&scratch, name)).await;
        assert!(server.contains("tls: failed to verify certificate"), "{server}");
    }
}

/// The table of all shapes of chains is `testing/interop/chains_test.go`, against Go and etcd.
#[tokio::test]
async fn whoever_may_not_issue_lets_nobody_in() {
    if !has("openssl") {
        return;
    }
    let cases = [
        ("", "basicConstraints=critical,CA:TRUE\\nkeyUsage=digitalSignature"),
        ("-addext basicConstraints=critical,CA:TRUE,pathlen:0", "basicConstraints=CA:TRUE"),
        ("-addext extendedKeyUsage=serverAuth", "basicConstraints=CA:TRUE"),
    ];
    for (root, intermediate) in cases {
        let scratch = Scratch::new();
        openssl_ca(&scratch);
        scratch.sh(&format!(
            "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out root.crt -days 30 \
               -subj /CN=root {root}
             cat root.crt >> ca.crt"
        ));
        scratch.sh(&format!(
            "openssl req -newkey rsa:2048 -nodes -keyout sub.key -out sub.csr -subj /CN=sub
             openssl x509 -req -in sub.csr -CA root.crt -CAkey ca.key -CAcreateserial -days 30 \
               -out sub.crt -extfile <(printf '{intermediate}')
             openssl req -newkey rsa:2048 -nodes -keyout leaf.key -out l.csr -subj /CN=root
             openssl x509 -req -in l.csr -CA sub.crt -CAkey sub.key -CAcreateserial -days 30 \
               -out l.crt -extfile <(echo extendedKeyUsage=clientAuth)
             cat l.crt sub.crt > leaf.crt"
        ));
        let (server, _) = refused(mutual(&scratch), client_with(&scratch, "leaf")).await;
        assert!(server.contains("tls: failed to verify certificate: x509: "), "{server}");
    }
}

#[tokio::test]
async fn a_key_is_read_whatever_its_label_and_a_ca_too() {
    if !has("openssl") {
        return;
    }
    let scratch = Scratch::new();
    openssl_ca(&scratch);
    openssl_client(&scratch, "user", "extendedKeyUsage=clientAuth");
    let pkcs8 = std::fs::read_to_string(scratch.path("user.key")).unwrap();
    scratch.sh("openssl rsa -in user.key -traditional -out user.pkcs1");
    let pkcs1 = std::fs::read_to_string(scratch.path("user.pkcs1")).unwrap();
    for (text, from) in [(&pkcs8, "PRIVATE KEY"), (&pkcs1, "RSA PRIVATE KEY")] {
        for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ANY PRIVATE KEY"] {
            let (begin, end) = (format!("BEGIN {from}-"), format!("END {from}-"));
            let text = text.replace(&begin, &format!("BEGIN {label}-"));
            scratch.write("user.key", &text.replace(&end, &format!("END {label}-")));
            accepted(mutual(&scratch), client_with(&scratch, "user")).await;
        }
    }
    let ca = std::fs::read_to_string(scratch.path("ca.crt")).unwrap();
    scratch.write("ca.crt", &ca.replace(" CERTIFICATE-", " X509 CERTIFICATE-"));
    accepted(mutual(&scratch), client_with(&scratch, "user")).await;
}

#[tokio::test]
async fn an_expired_ca_lets_nobody_in() {
    let scratch = Scratch::new();
    own_ca(&scratch);
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "test-ca");
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let pem = std::fs::read_to_string(scratch.path("ca.key")).unwrap();
    let key = rcgen::KeyPair::from_pem(&pem).unwrap();
    // The same CA by name and key, but over: its clients' own certificates are valid.
    let expired = scratch.write("expired.crt", &params.self_signed(&key).unwrap().pem());
    let mut options = mutual(&scratch);
    accepted(options.clone(), client_with(&scratch, "client")).await;
    options.trusted_ca_file = Some(expired);
    let (server, _) = refused(options, client_with(&scratch, "client")).await;
    assert!(server.ends_with("certificate signed by unknown authority"), "{server}");
}

#[tokio::test]
async fn a_server_certificate_without_names_is_warned_of_and_the_client_says_why() {
    if !has("openssl") {
        return;
    }
    let scratch = Scratch::new();
    openssl_ca(&scratch);
    openssl_client(&scratch, "bare", "");
    scratch.sh("cp bare.crt server.crt && cp bare.key server.key");
    let tls = ServerTls::new(plain(&scratch), &keepd_env::Env::real()).unwrap();
    assert!(tls.warnings()[0].contains("no subject alternative name"), "{:?}", tls.warnings());
    let (_, client) = handshake(plain(&scratch), client(&scratch)).await;
    let client = client.unwrap_err();
    assert!(client.contains("relies on legacy Common Name field, use SANs instead"), "{client}");

    let anyone = ClientTlsOptions {
        dangerously_skip_verification: true,
        trusted_ca_file: None,
        ..crate::support::client(&scratch)
    };
    accepted(plain(&scratch), anyone).await;
}

#[tokio::test]
async fn cfssl_certificates_work_and_its_profiles_are_told_apart() {
    if !has("openssl") || !has("cfssl") || !has("cfssljson") {
        return;
    }
    let scratch = Scratch::new();
    scratch.write("ca.json", r#"{"CN":"cfssl ca","key":{"algo":"ecdsa","size":256}}"#);
    scratch.write(
        "config.json",
        r#"{"signing":{"profiles":{
            "server":{"expiry":"24h","usages":["signing","key encipherment","server auth"]},
            "client":{"expiry":"24h","usages":["signing","key encipherment","client auth"]}}}}"#,
    );
    scratch.write(
        "leaf.json",
        r#"{"CN":"etcd","hosts":["localhost"],"key":{"algo":"rsa","size":2048}}"#,
    );
    scratch.write("user.json", r#"{"CN":"user","hosts":[""],"key":{"algo":"rsa","size":2048}}"#);
    scratch.sh("cfssl gencert -initca ca.json | cfssljson -bare ca
         gen() { cfssl gencert -ca ca.pem -ca-key ca-key.pem -config config.json -profile $1 $2 \
           | cfssljson -bare $3; cp $3.pem $3.crt; cp $3-key.pem $3.key; }
         gen server leaf.json server; gen client user.json user; cp ca.pem ca.crt");
    let seen = accepted(mutual(&scratch), client_with(&scratch, "user")).await;
    assert_eq!(seen.peer.unwrap().common_name.as_deref(), Some("user"));
    let (server, _) = refused(mutual(&scratch), client_with(&scratch, "server")).await;
    assert!(server.contains("incompatible key usage"), "{server}");
}
