//! `keepd quickstart --members 3`: a cluster from nothing, the lines it prints, and its end.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use testkit::{Keepd, TempDir};

const MEMBERS: u16 = 3;
/// From the ports of a member to those of the next, as the help says.
const PORT_DISTANCE: u16 = 10;
const POLL: Duration = Duration::from_millis(50);
/// BOUND: looks at something that takes a moment: a minute.
const LOOKS: u32 = 1200;

/// A terminal in which quickstart runs: a process group of its own.
struct Terminal {
    dir: PathBuf,
    process: Child,
}

impl Terminal {
    fn start(dir: &Path, arguments: &[&str]) -> Self {
        let file = |name: &str| File::create(dir.join(name)).unwrap();
        let process = Command::new(Keepd::binary())
            .args(["quickstart", "--dir", "cluster"])
            .args(arguments)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(file("err"))
            .process_group(0)
            .spawn()
            .unwrap();
        Self { dir: dir.to_owned(), process }
    }

    fn out(&self) -> String {
        fs::read_to_string(self.dir.join("out")).unwrap()
    }

    fn err(&self) -> String {
        fs::read_to_string(self.dir.join("err")).unwrap()
    }

    fn is_ready(&mut self) {
        let is_ready = (0..LOOKS).any(|_| {
            sleep(POLL);
            assert_eq!(self.process.try_wait().unwrap(), None, "it ends: {}", self.err());
            self.out().contains("Ready: ")
        });
        assert!(is_ready, "it is not ready: {}", self.err());
    }

    /// Sends a signal: Ctrl-C goes to everything in the terminal, others to one process.
    fn signal(&self, signal: &str, to_all: bool) {
        let process = self.process.id();
        let target = if to_all { format!("-{process}") } else { process.to_string() };
        let status = Command::new("kill").args([signal, "--", &target]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end, after which nothing of it is left.
    fn ends(&mut self, ports: &[u16]) {
        let status = (0..LOOKS).find_map(|_| {
            sleep(POLL);
            self.process.try_wait().unwrap()
        });
        let is_success = status.is_some_and(|status| status.success());
        assert!(is_success, "{status:?}: {}", self.err());
        for port in ports {
            TcpListener::bind(("127.0.0.1", *port)).expect("no member is left");
        }
        assert!(!self.err().contains("\terror\t"), "{}", self.err());
    }

    /// Ends with Ctrl-C, calmly: no member warns of what the others do, and none waits for one that is gone.
    fn ends_calmly(&mut self, ports: &[u16]) {
        let said = self.err().len();
        self.signal("-INT", true);
        self.ends(ports);
        let err = self.err();
        let said = err.get(said..).unwrap_or_default();
        let warnings: Vec<_> = said.lines().filter(|line| line.contains("\twarn\t")).collect();
        assert!(warnings.is_empty(), "{warnings:#?}");
    }

    /// The lines that it prints for another terminal.
    fn lines(&self) -> String {
        let out = self.out();
        let (_, lines) = out.split_once("In another terminal:").unwrap();
        lines.split_once("Flags for kube-apiserver:").unwrap().0.to_owned()
    }

    /// Runs lines in another terminal, after the first of those that it prints, which names the cluster.
    fn run(&self, lines: &str) -> String {
        self.run_at(None, lines)
    }

    /// The same with another endpoint.
    fn run_at(&self, url: Option<&str>, lines: &str) -> String {
        let mut alias =
            self.lines().lines().find(|line| line.contains("alias ")).unwrap().to_owned();
        if let Some(url) = url {
            let (before, rest) = alias.split_once("--endpoints=").unwrap();
            let (_, after) = rest.split_once(' ').unwrap();
            alias = format!("{before}--endpoints={url} {after}");
        }
        self.shell(&format!("{alias}\n{lines}\n"))
    }

    fn shell(&self, script: &str) -> String {
        let mut shell = Command::new("sh")
            .arg("-e")
            .current_dir(&self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = shell.wait_with_output().unwrap();
        let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
        assert!(output.status.success(), "{script}\n{err}");
        String::from_utf8(out).unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            let group = format!("-{}", self.process.id());
            let _gone = Command::new("kill").args(["-KILL", "--", &group]).status();
            let _ended = self.process.wait();
        }
    }
}

/// A first port of which the others of a cluster follow, all of them free. Other tests take none of these.
fn ports() -> Vec<u16> {
    const FIRST: u32 = 12_000;
    const PORTS: u32 = 3_900;
    let found = (0..100).find_map(|attempt| {
        let first = FIRST + (std::process::id() * 97 + attempt * 40) % PORTS;
        let first = u16::try_from(first).unwrap();
        let of_member =
            |member| [first + member * PORT_DISTANCE, first + member * PORT_DISTANCE + 1];
        let all: Vec<u16> = (0..MEMBERS).flat_map(of_member).collect();
        let are_free = all.iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
        are_free.then_some(all)
    });
    found.unwrap()
}

/// The process that was started with an argument.
fn process_with(argument: &str) -> u32 {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|it| it.file_name().to_str()?.parse().ok());
    let mut found = numbers.filter(|process: &u32| {
        let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
    });
    found.next().unwrap()
}

#[test]
fn a_cluster_from_nothing_does_what_it_prints_ends_with_ctrl_c_and_goes_on() {
    let dir = TempDir::new("e2e-quick");
    let ports = ports();
    let port = ports[0].to_string();
    let mut terminal = Terminal::start(dir.path(), &["--members", "3", "--client-port", &port]);
    terminal.is_ready();
    let did = terminal.shell(&terminal.lines());
    assert!(did.contains("OK\n/registry/demo\nhello\n"), "{did}");
    assert!(did.contains("no plain text on the disk"), "{did}");
    assert!(dir.join("snapshot.db").is_file());
    for member in 0..MEMBERS {
        let url = format!("https://127.0.0.1:{}", ports[usize::from(2 * member)]);
        assert!(
            did.matches(&url).count() >= 2,
            "endpoint status and member list have {url}: {did}"
        );
        let put = format!("keepctl put /registry/of-{member} {member}\n");
        assert_eq!(terminal.run_at(Some(&url), &put), "OK\n");
    }
    terminal.ends_calmly(&ports);

    // The directory knows how many members it has.
    let mut terminal = Terminal::start(dir.path(), &["--client-port", &port]);
    terminal.is_ready();
    let found = terminal.run("keepctl get --prefix /registry/ --print-value-only");
    assert_eq!(found, "hello\n0\n1\n2\n");
    terminal.run("keepctl put /registry/demo again");
    terminal.signal("-TERM", false);
    terminal.ends(&ports);

    // A member that ends alone is told; the others go on.
    let mut terminal = Terminal::start(dir.path(), &["--client-port", &port]);
    terminal.is_ready();
    let data = dir.join("cluster/data-2").display().to_string();
    let process = process_with(&format!("--data-dir={data}")).to_string();
    assert!(Command::new("kill").args(["-KILL", &process]).status().unwrap().success());
    let told = (0..LOOKS).any(|_| {
        sleep(POLL);
        terminal.err().contains("keepd-2 has ended")
    });
    assert!(told, "{}", terminal.err());
    assert_eq!(terminal.run("keepctl put /registry/demo more"), "OK\n");
    terminal.signal("-INT", true);
    terminal.ends(&ports);
}
