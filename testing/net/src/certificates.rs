//! The certificates of a cluster: mutual TLS between members, and towards clients.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use keepd_env::Env;
use keepd_tls::{Authority, ClientTls, ClientTlsOptions, ServerTls, Subject, TlsOptions};
use testkit::TempDir;

/// A CA, and the directory of what it issues.
#[derive(Debug)]
pub struct Certificates {
    dir: TempDir,
    authority: Authority,
}

impl Certificates {
    /// A new CA.
    ///
    /// # Panics
    /// If its files cannot be written.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let dir = TempDir::new(name);
        let authority = Authority::create(&Env::real(), &dir.join("ca"), name);
        Self { authority: authority.expect("the directory is new"), dir }
    }

    fn ca(&self) -> PathBuf {
        self.dir.join("ca/ca.crt")
    }

    /// Both sides of TLS for a host, whose certificate is for its address.
    ///
    /// # Panics
    /// If its files cannot be written.
    #[must_use]
    pub fn of(&self, name: &str, address: IpAddr) -> (Arc<ServerTls>, Arc<ClientTls>) {
        let subject = Subject::peer(name, &[address.to_string()]);
        let (cert_file, key_file) = self.authority.issue(name, &subject).expect("a new name");
        let client = ClientTlsOptions {
            trusted_ca_file: Some(self.ca()),
            cert_and_key_files: Some((cert_file.clone(), key_file.clone())),
            alpn: vec![b"h2".to_vec()],
            ..ClientTlsOptions::default()
        };
        let server = TlsOptions {
            cert_file,
            key_file,
            trusted_ca_file: Some(self.ca()),
            client_cert_auth: true,
            ..TlsOptions::default()
        };
        let env = Env::real();
        let server = ServerTls::new(server, &env).expect("the certificate is right");
        let client = ClientTls::new(client, &env).expect("the certificate is right");
        (Arc::new(server), Arc::new(client))
    }
}
