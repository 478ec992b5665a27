//! TLS, access and encryption at rest.

use super::Section::{Auth, Encryption, Security};
use super::{Flag, Kind};

pub(super) static FLAGS: &[Flag] = &[
    Flag::new(Security, "cert-file", Kind::Text, "", "Certificate for clients, PEM, leaf first."),
    Flag::new(Security, "key-file", Kind::Text, "", "Private key of --cert-file."),
    Flag::new(
        Security,
        "client-cert-auth",
        Kind::Bool,
        "false",
        "Require a certificate of every client.",
    ),
    Flag::new(
        Security,
        "client-cert-file",
        Kind::Text,
        "",
        "Certificate to show when this server is itself a client.",
    )
    .no_effect("it is for etcd's JSON gateway, which calls its own server"),
    Flag::new(Security, "client-key-file", Kind::Text, "", "Private key of --client-cert-file.")
        .no_effect("it is for etcd's JSON gateway, which calls its own server"),
    Flag::new(
        Security,
        "client-crl-file",
        Kind::Text,
        "",
        "Revoked client certificates, DER or PEM; read again when it changes.",
    ),
    Flag::new(
        Security,
        "client-cert-allowed-hostname",
        Kind::List,
        "",
        "Host names of the client certificates that are let in.",
    ),
    Flag::new(
        Security,
        "trusted-ca-file",
        Kind::Text,
        "",
        "CA certificates for clients; requires a certificate of every client.",
    ),
    Flag::new(
        Security,
        "auto-tls",
        Kind::Bool,
        "false",
        "Make a certificate for clients, which nobody can verify.",
    ),
    Flag::new(Security, "peer-cert-file", Kind::Text, "", "Certificate for members."),
    Flag::new(Security, "peer-key-file", Kind::Text, "", "Private key of --peer-cert-file."),
    Flag::new(
        Security,
        "peer-client-cert-auth",
        Kind::Bool,
        "false",
        "Require a certificate of every member.",
    ),
    Flag::new(
        Security,
        "peer-client-cert-file",
        Kind::Text,
        "",
        "Certificate to show to members, instead of --peer-cert-file.",
    ),
    Flag::new(
        Security,
        "peer-client-key-file",
        Kind::Text,
        "",
        "Private key of --peer-client-cert-file.",
    ),
    Flag::new(Security, "peer-trusted-ca-file", Kind::Text, "", "CA certificates for members."),
    Flag::new(Security, "peer-cert-allowed-cn", Kind::List, "", "Common names of members let in."),
    Flag::new(
        Security,
        "peer-cert-allowed-hostname",
        Kind::List,
        "",
        "Host names of members let in.",
    ),
    Flag::new(
        Security,
        "peer-auto-tls",
        Kind::Bool,
        "false",
        "Make a certificate for members; they do not verify one another.",
    ),
    Flag::new(
        Security,
        "self-signed-cert-validity",
        Kind::Uint,
        "1",
        "Years a made certificate is valid.",
    ),
    Flag::new(Security, "peer-crl-file", Kind::Text, "", "Revoked certificates of members."),
    Flag::new(
        Security,
        "peer-skip-client-san-verification",
        Kind::Bool,
        "false",
        "Do not compare a member's address with its certificate.",
    ),
    Flag::new(
        Security,
        "cipher-suites",
        Kind::List,
        "",
        "TLS 1.2 cipher suites by IANA name; empty is all good ones.",
    ),
    Flag::new(
        Security,
        "cors",
        Kind::UrlsOrStar,
        "*",
        "Origins whose pages may use the HTTP endpoints; * is any.",
    ),
    Flag::new(
        Security,
        "host-whitelist",
        Kind::List,
        "*",
        "Host names accepted from HTTP clients without TLS; * is any.",
    ),
    Flag::new(Security, "tls-min-version", Kind::Text, "TLS1.2", "Lowest version: TLS1.2, TLS1.3."),
    Flag::new(Security, "tls-max-version", Kind::Text, "", "Highest version; empty is TLS1.3."),
    Flag::new(
        Encryption,
        "encryption-provider-config",
        Kind::Text,
        "",
        "EncryptionConfiguration file; its keys seal values and everything in the data directory.",
    ),
    Flag::new(
        Encryption,
        "encryption-provider-config-automatic-reload",
        Kind::Bool,
        "false",
        "Take changes of the EncryptionConfiguration file into use while running.",
    ),
    Flag::new(
        Encryption,
        "encryption-trust-plain-data",
        Kind::Bool,
        "false",
        "Once: encrypt plain data found at the start although no rule lists identity.",
    ),
    Flag::new(Auth, "auth-token", Kind::Text, "simple", "Kind of the tokens users get.")
        .no_effect("there are no users yet"),
    Flag::new(Auth, "bcrypt-cost", Kind::Uint, "10", "Cost of hashing a password.")
        .no_effect("there are no users yet"),
    Flag::new(Auth, "auth-token-ttl", Kind::Uint, "300", "Seconds an unused token lives.")
        .no_effect("there are no users yet"),
];
