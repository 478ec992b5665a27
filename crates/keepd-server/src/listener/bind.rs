//! Binding addresses and unix sockets, as Go does it for etcd.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Type};
use tokio::net::{TcpListener, UnixListener};

use super::ConnectionOptions;

/// The length of the kernel's queue of new connections.
const BACKLOG: i32 = 4096;

/// An address to listen on.
#[derive(Clone, Debug)]
pub enum Bind {
    /// TCP, as `host:port`.
    Tcp(String),
    /// A unix socket.
    Unix(PathBuf),
}

/// The error of an address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{}", describe(bind, source))]
pub struct BindError {
    pub(super) bind: Bind,
    #[source]
    pub(super) source: io::Error,
}

impl BindError {
    /// Whether something else listens there.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

fn describe(bind: &Bind, error: &io::Error) -> String {
    let known = [
        (io::ErrorKind::AddrInUse, "bind: address already in use"),
        (io::ErrorKind::PermissionDenied, "bind: permission denied"),
        (io::ErrorKind::AddrNotAvailable, "bind: cannot assign requested address"),
    ];
    let reason = known.iter().find(|(kind, _)| *kind == error.kind());
    let reason = reason.map_or_else(|| error.to_string(), |(_, words)| (*words).to_owned());
    match bind {
        Bind::Tcp(address) => format!("listen tcp {address}: {reason}"),
        Bind::Unix(path) => format!("listen unix {}: {reason}", path.display()),
    }
}

pub(super) async fn tcp(address: &str, options: ConnectionOptions) -> io::Result<TcpListener> {
    let mut last =
        io::Error::new(io::ErrorKind::NotFound, format!("lookup {address}: no such host"));
    let mut addresses: Vec<_> = tokio::net::lookup_host(address).await?.collect();
    // `localhost` means 127.0.0.1 to Go, whichever a resolver puts first.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    for address in addresses {
        match wildcard_or_one(address, options) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Binds an address; to Go both `0.0.0.0` and `[::]` mean every address of both families.
fn wildcard_or_one(address: SocketAddr, options: ConnectionOptions) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return one(address, options);
    }
    let every = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
    match one(every, options) {
        // The kernel may have no IPv6.
        Err(error) if address.is_ipv4() && !is_about_the_port(&error) => one(address, options),
        bound => bound,
    }
}

fn is_about_the_port(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

fn one(address: SocketAddr, options: ConnectionOptions) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Whatever the system's default is.
        socket.set_only_v6(false)?;
    }
    // A restarted server takes its port over from connections that linger; a listening one stays
    // in the way.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Binds a unix socket. A socket that nobody listens on was left by a process that was killed and
/// is replaced; anything else in its place is somebody's.
pub(super) fn unix(path: &Path) -> io::Result<UnixListener> {
    if let Ok(meta) = path.symlink_metadata() {
        if !meta.file_type().is_socket() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is no socket is in the way, and keepd does not delete it; remove it \
                 or listen on another path",
            ));
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
            }
            // Somebody listens, or whether somebody does cannot be told.
            Ok(_) | Err(_) => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    UnixListener::bind(path)
}

/// Removes a socket that is not listened on any more.
pub(super) fn remove_unix(path: &Path) {
    if path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket()) {
        // It may have been removed by hand.
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use testkit::TempDir;

    use super::*;

    #[tokio::test]
    async fn a_wildcard_serves_both_families() {
        for wildcard in ["0.0.0.0:0", "[::]:0"] {
            let listener = tcp(wildcard, ConnectionOptions::default()).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            for address in ["127.0.0.1", "::1"] {
                let address = SocketAddr::new(address.parse().unwrap(), port);
                // A machine without IPv6 has no ::1 to connect to.
                if std::net::TcpListener::bind((address.ip(), 0)).is_ok() {
                    tokio::net::TcpStream::connect(address).await.unwrap();
                }
            }
        }
        let listener = tcp("[::1]:0", ConnectionOptions::default()).await;
        if let Ok(listener) = listener {
            let port = listener.local_addr().unwrap().port();
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn only_a_dead_socket_is_replaced() {
        let dir = TempDir::new("bind-unix");
        let path = dir.join("s");
        std::fs::write(&path, "precious").unwrap();
        let refused = unix(&path).unwrap_err();
        assert!(refused.to_string().contains("no socket"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();

        std::os::unix::fs::symlink(dir.join("elsewhere"), &path).unwrap();
        unix(&path).unwrap_err();
        assert!(path.is_symlink());
        std::fs::remove_file(&path).unwrap();

        let living = unix(&path).unwrap();
        assert_eq!(unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(living);
        unix(&path).unwrap();
        remove_unix(&path);
        assert!(!path.exists());
    }
}
