//! What a server asks of its process: descriptors, no core files, readiness, the way it ends.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::ExitCode;

use keepd_server::RESERVED_DESCRIPTORS;

/// Raises the limit of open files to what is allowed, and forbids core files: they would hold keys.
///
/// # Errors
/// If the limit of open files leaves nothing for connections.
#[expect(unsafe_code, reason = "resource limits have no safe interface")]
pub(super) fn prepare() -> Result<(), String> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live, initialized structure.
    if unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) } != 0 {
        tracing::warn!("core files could not be forbidden; they would hold keys");
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

/// Tells systemd that the server serves.
pub(super) fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to(b"READY=1", &path));
    match sent {
        Ok(_) => tracing::info!("successfully notified init daemon"),
        Err(error) => tracing::error!(%error, "failed to notify init daemon"),
    }
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
