//! Standard output and standard error of everything that is not the server.
//!
//! A reader that goes away (`etcdctl get ... | head -1`) ends the program as it ends etcd's and every
//! other one: quietly, by SIGPIPE. Rust ignores that signal from the start, because a write to a
//! socket whose other end is gone must be an error; so it is raised here, for these two alone.

use std::io::{self, ErrorKind, Write as _};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Writes to standard output.
pub fn print(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    end_if_gone(stdout.write_all(bytes).and_then(|()| stdout.flush()));
}

/// Writes a line to standard output.
pub fn line(text: &str) {
    print(format!("{text}\n").as_bytes());
}

/// Writes a line to standard error.
pub fn complain(text: &str) {
    end_if_gone(io::stderr().lock().write_all(format!("{text}\n").as_bytes()));
}

fn end_if_gone(written: io::Result<()>) {
    if written.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        end_by_broken_pipe();
    }
}

/// Ends the program by SIGPIPE.
#[expect(unsafe_code, reason = "raising a signal has no safe interface")]
pub fn end_by_broken_pipe() {
    // SAFETY: both calls take numbers only; the default action ends the process.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::raise(libc::SIGPIPE);
    }
}

/// Returns when nobody reads standard output any more; never if that cannot be known, as for files.
#[expect(unsafe_code, reason = "a descriptor must stay open while it is watched")]
pub async fn reader_gone() {
    // SAFETY: nothing here closes standard output.
    let watched = unsafe { AsyncFd::register_with_interest(io::stdout(), Interest::ERROR) };
    if let Ok(stdout) = watched
        && stdout.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}
