//! The members of a cluster, each a process of its own in this terminal.
//!
//! They belong to this process: what they print is printed here with their names, a signal ends them one
//! after the other, so that each hands over what it leads to one that stays, and none outlives it.
//! Each is of a process group of its own: a terminal's Ctrl-C reaches only this process.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::Place;

/// Pause between two looks whether members have ended.
const PAUSE: Duration = Duration::from_millis(100);
/// The same for one that was told to.
const STOP_PAUSE: Duration = Duration::from_millis(10);

/// BOUND: time that a member has to end before the rest is told to end too: more than its clients have.
const STOP_MAX: Duration = Duration::from_secs(20);

/// A running member.
struct Member {
    name: String,
    process: Child,
    printing: Vec<JoinHandle<()>>,
}

impl Member {
    /// Waits until all that a member said before its end is printed.
    fn printed(self) {
        for printing in self.printing {
            let _panicked = printing.join();
        }
    }
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
    let code = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let code = watch(&mut members, &mut signals).await?;
        stop_in_turn(&mut members, &mut signals).await?;
        Ok::<_, anyhow::Error>(code)
    })?;
    stop(&members);
    wait(members);
    Ok(code)
}

/// The signals that end a cluster.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Ends one member after the other, until another signal comes or one takes too long; those that are left
/// then stay in the list.
async fn stop_in_turn(members: &mut Vec<Member>, signals: &mut Signals) -> anyhow::Result<()> {
    while let Some(member) = members.first_mut() {
        stop(std::slice::from_ref(member));
        let end = Instant::now() + STOP_MAX;
        while member.process.try_wait()?.is_none() {
            if Instant::now() >= end {
                crate::complain(&format!("{} takes long to end; the others end too", member.name));
                return Ok(());
            }
            tokio::select! {
                () = signals.next() => return Ok(()),
                () = tokio::time::sleep(STOP_PAUSE) => {}
            }
        }
        members.remove(0).printed();
    }
    Ok(())
}

#[expect(unsafe_code, reason = "the standard library does not tie a child to its parent")]
fn start(name: String, mut command: Command) -> anyhow::Result<Member> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
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
async fn watch(members: &mut Vec<Member>, signals: &mut Signals) -> anyhow::Result<ExitCode> {
    loop {
        tokio::select! {
            () = signals.next() => return Ok(ExitCode::SUCCESS),
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
    let name = member.name.clone();
    member.printed();
    crate::complain(&format!(
        "{name} has ended ({status}); the others go on. Ctrl-C stops them, and the same command starts all"
    ));
}

/// Asks the members to end in order; those that were asked already pass over it.
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
        member.printed();
    }
}
