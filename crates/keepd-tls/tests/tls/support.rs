//! A scratch directory, the tools that make certificates, and one handshake.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use keepd_env::Env;
use keepd_tls::{
    Authority, ClientTls, ClientTlsOptions, PeerIdentity, ServerTls, Subject, TlsOptions,
    explain_io,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A directory that disappears with the test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("keepd-tls-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// Runs a shell command in the directory; its failure fails the test.
    pub(crate) fn sh(&self, command: &str) -> String {
        let output =
            Command::new("bash").arg("-c").arg(command).current_dir(&self.0).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command}: {stderr}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _unused = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether a tool can be run; a test that needs it says so and ends if not.
pub(crate) fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: {tool} is not installed");
    }
    found
}

/// Our CA with `server.{crt,key}` for localhost and `client.{crt,key}`.
pub(crate) fn own_ca(scratch: &Scratch) -> Authority {
    let authority = Authority::create(&Env::real(), scratch.dir(), "test-ca").unwrap();
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    authority.issue("server", &Subject::server("node-1", &names)).unwrap();
    authority.issue("client", &Subject::client("root")).unwrap();
    authority
}

/// A listener with `server.*` that verifies clients against `ca.crt`.
pub(crate) fn mutual(scratch: &Scratch) -> TlsOptions {
    TlsOptions {
        trusted_ca_file: Some(scratch.path("ca.crt")),
        client_cert_auth: true,
        ..plain(scratch)
    }
}

/// A listener with `server.*` that lets everyone in.
pub(crate) fn plain(scratch: &Scratch) -> TlsOptions {
    TlsOptions {
        cert_file: scratch.path("server.crt"),
        key_file: scratch.path("server.key"),
        ..TlsOptions::default()
    }
}

/// A client that trusts `ca.crt` and shows `name.{crt,key}`.
pub(crate) fn client_with(scratch: &Scratch, name: &str) -> ClientTlsOptions {
    ClientTlsOptions {
        cert_and_key_files: Some(Authority::paths(scratch.dir(), name)),
        ..client(scratch)
    }
}

/// A client that trusts `ca.crt` and shows nothing.
pub(crate) fn client(scratch: &Scratch) -> ClientTlsOptions {
    ClientTlsOptions {
        trusted_ca_file: Some(scratch.path("ca.crt")),
        alpn: vec![b"h2".to_vec()],
        ..ClientTlsOptions::default()
    }
}

/// Outcome of the handshake on one side.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) peer: Option<PeerIdentity>,
    pub(crate) version: rustls::ProtocolVersion,
}

/// One handshake by name, and a byte sent by the server: what server and client saw.
pub(crate) async fn handshake_to(
    server: &ServerTls,
    client: &ClientTls,
    name: &str,
) -> (Result<Seen, String>, Result<Seen, String>) {
    let (server_end, client_end) = duplex(1 << 16);
    let acceptor = TlsAcceptor::from(server.config());
    let connector = TlsConnector::from(client.config());
    let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let accept = async {
        let mut stream = acceptor.accept(server_end).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        let (_, connection) = stream.get_ref();
        Ok(Seen {
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            peer: PeerIdentity::from_chain(connection.peer_certificates()),
            version: connection.protocol_version().unwrap(),
        })
    };
    let connect = async {
        let mut stream = connector.connect(name, client_end).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        let (_, connection) = stream.get_ref();
        Ok(Seen {
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            peer: PeerIdentity::from_chain(connection.peer_certificates()),
            version: connection.protocol_version().unwrap(),
        })
    };
    let (accepted, connected) = tokio::join!(accept, connect);
    let explained = |error: std::io::Error| explain_io(&error);
    (accepted.map_err(explained), connected.map_err(explained))
}

/// A handshake with `localhost`.
pub(crate) async fn handshake(
    server: TlsOptions,
    client: ClientTlsOptions,
) -> (Result<Seen, String>, Result<Seen, String>) {
    let env = Env::real();
    let server = ServerTls::new(server, &env).unwrap();
    let client = ClientTls::new(client, &env).unwrap();
    handshake_to(&server, &client, "localhost").await
}

/// A handshake that must work on both sides; what the server saw.
pub(crate) async fn accepted(server: TlsOptions, client: ClientTlsOptions) -> Seen {
    let (server, client) = handshake(server, client).await;
    client.unwrap();
    server.unwrap()
}

/// A handshake that the server must refuse; its words and the client's.
pub(crate) async fn refused(server: TlsOptions, client: ClientTlsOptions) -> (String, String) {
    let (server, client) = handshake(server, client).await;
    (server.unwrap_err(), client.unwrap_err())
}

/// A server configuration kept for several handshakes.
pub(crate) fn server(options: TlsOptions) -> Arc<ServerTls> {
    Arc::new(ServerTls::new(options, &Env::real()).unwrap())
}
