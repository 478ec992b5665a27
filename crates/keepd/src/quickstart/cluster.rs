//! The members of a cluster, each a process of its own in this terminal.
//!
//! They belong to this process and are of its group: what they print is printed here with their names,
//! a signal ends them all in order, and none outlives it.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::Place;

/// Pause between two looks whether members have ended.
const PAUSE: Duration = Duration::from_millis(100);

/// A running member.
struct Member {
    name: String,
    process: Child,
    printing: Vec<JoinHandle<()>>,
}

/// Runs the members until a signal comes or all of them have ended.
pub(super) fn run(place: &Place) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe()?;
    let mut members = Vec::new();
    for member in 1..=place.members {
        let mut command = Command::new(&program);
        command.arg("server").args(super::for_terminal(place.flags(member)));
        match start(format!("keepd-{member}"), command) {
            Ok(member) => members.push(member),
            Err(error) => {
                stop(&members);
                wait(members);
                return Err(error);
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(watch(&mut members))?;
    stop(&members);
    wait(members);
    Ok(code)
}

#[expect(unsafe_code, reason = "the standard library does not tie a child to its parent")]
fn start(name: String, mut command: Command) -> anyhow::Result<Member> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: the call is safe between fork and exec, and both arguments are numbers.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM as libc::c_ulong) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut process = command.spawn().with_context(|| format!("{name} does not start"))?;
    let out = process.stdout.take().map(|out| print(name.clone(), out));
    let err = process.stderr.take().map(|err| print(name.clone(), err));
    Ok(Member { name, process, printing: out.into_iter().chain(err).collect() })
}

/// Prints the lines of a member with its name.
fn print(name: String, lines: impl Read + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        // BOUND: a line of the log is bounded by whoever writes it, the same program.
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            // A closed standard error is no reason to disturb the member.
            let _unprintable = writeln!(std::io::stderr(), "{name}  {line}");
        }
    })
}

/// Waits for a signal or for the end of all members; one that ends alone is told and left.
async fn watch(members: &mut Vec<Member>) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            () = tokio::time::sleep(PAUSE) => {}
        }
        let mut left = Vec::new();
        for mut member in members.drain(..) {
            match member.process.try_wait()? {
                None => left.push(member),
                Some(status) => tell_end(member, status),
            }
        }
        *members = left;
        if members.is_empty() {
            return Ok(ExitCode::FAILURE);
        }
    }
}

fn tell_end(member: Member, status: ExitStatus) {
    for printing in member.printing {
        let _panicked = printing.join();
    }
    crate::complain(&format!(
        "{} has ended ({status}); the others go on. Ctrl-C stops them, and the same command starts all",
        member.name
    ));
}

/// Asks the members to end in order. A terminal's Ctrl-C has asked them already; they pass over this then.
#[expect(unsafe_code, reason = "the standard library sends no signal but kill")]
fn stop(members: &[Member]) {
    for member in members {
        if let Ok(process) = libc::pid_t::try_from(member.process.id()) {
            // SAFETY: the arguments are numbers, and the child is not waited for yet: its id is its own.
            unsafe { libc::kill(process, libc::SIGTERM) };
        }
    }
}

fn wait(members: Vec<Member>) {
    for mut member in members {
        let _gone = member.process.wait();
        for printing in member.printing {
            let _panicked = printing.join();
        }
    }
}
