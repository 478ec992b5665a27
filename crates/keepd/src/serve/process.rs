//! The server as a process: descriptors, no core files, readiness, signals.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::ExitCode;

use keepd_server::RESERVED_DESCRIPTORS;

/// Raises the limit of open files to what is allowed, and forbids core files: they would hold keys.
///
/// # Errors
/// If the limit of open files leaves nothing for connections.
#[expect(unsafe_code, reason = "resource limits have no safe interface")]
pub(super) fn prepare() -> Result<(), String> {
    const NOT_DUMPABLE: libc::c_ulong = 0;
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live, initialized structure.
    if unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) } != 0 {
        tracing::warn!("core files could not be forbidden; they would hold keys");
    }
    // A limit does not hold for a core_pattern that is a program. The price: no process of the same
    // user can trace this one or look into its /proc; root still can.
    // SAFETY: both arguments are numbers of the types that the call takes.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, NOT_DUMPABLE) } != 0 {
        tracing::warn!("the process could not be made undumpable; its memory holds keys");
    }
    let mut files = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live structure that the call fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files) } == 0 {
        files.rlim_cur = files.rlim_max;
        // SAFETY: the pointer is to a live, initialized structure.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files) } != 0 {
            tracing::warn!("the limit of open files could not be raised");
        } else if files.rlim_cur <= RESERVED_DESCRIPTORS {
            return Err(format!(
                "file descriptor limit of etcd process is too low; please set higher (the limit is \
                 {}, {RESERVED_DESCRIPTORS} are reserved for files)",
                files.rlim_cur
            ));
        }
    }
    Ok(())
}

/// Has the calling thread yield to the others of the process and of the machine.
#[expect(unsafe_code, reason = "the priority of a thread has no safe interface")]
pub(super) fn lower_thread_priority() {
    const NICE: libc::c_int = 10;
    // On Linux it is the thread's own, and 0 the calling one.
    // SAFETY: all arguments are numbers of the types that the call takes.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
        tracing::debug!("a thread of backups keeps the priority of those that serve");
    }
}

/// Ignores the signals that every Go program ignores; by default they end a process.
#[expect(unsafe_code, reason = "ignoring a signal has no safe interface")]
pub(super) fn ignore_signals() {
    let named = [
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGIO,
        libc::SIGPWR,
        libc::SIGXCPU,
        libc::SIGXFSZ,
    ];
    for signal in named.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
        // SAFETY: both arguments are numbers, and no handler runs.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Tells systemd that the server is ready.
pub(super) fn notify_ready() {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return;
    };
    match notify(&socket, b"READY=1") {
        Ok(_) => tracing::info!("successfully notified init daemon"),
        Err(error) => tracing::error!(%error, "failed to notify init daemon"),
    }
}

/// Sends a message to a socket of the service manager: a path, or `@` and an abstract name.
fn notify(socket: &OsStr, message: &[u8]) -> io::Result<usize> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address)
}

/// Whether group or others may enter a directory.
pub(super) fn is_entered_by_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0)
}

/// Whether group or others may read a file.
pub(super) fn is_readable_by_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o044 != 0)
}

/// Ends the process by the signal that stopped it, as etcd does, so that a shell sees it; process 1
/// ends with success instead.
#[expect(unsafe_code, reason = "raising a signal has no safe interface")]
pub(super) fn end_by_signal(signal: i32) -> ExitCode {
    if std::process::id() == 1 {
        return ExitCode::SUCCESS;
    }
    // SAFETY: both calls take numbers only; the default action ends the process.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use testkit::TempDir;

    use super::*;

    #[test]
    fn the_service_manager_is_told_by_path_and_by_abstract_name() {
        let dir = TempDir::new("notify");
        let (path, name) = (dir.join("n"), dir.path().display().to_string());
        let abstract_name = format!("@{name}");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        for (socket, given) in [(by_path, path.as_os_str()), (by_name, abstract_name.as_ref())] {
            notify(given, b"READY=1").unwrap();
            let mut message = [0; 16];
            let len = socket.recv(&mut message).unwrap();
            assert_eq!(&message[..len], b"READY=1");
        }
    }
}
