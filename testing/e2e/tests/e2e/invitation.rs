//! A cluster grows by invitation: `keepd cluster invite` on a member's machine, `keepd server --join` on
//! an empty one.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e::free_port;
use testkit::{Keepd, TempDir};
use tokio::time::{Duration, Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(90);

/// A process that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// The folder of a quickstart, and the ports of its first member.
struct Place {
    dir: TempDir,
    client_port: u16,
    peer_port: u16,
}

fn keepd() -> Command {
    let mut command = Command::new(Keepd::binary());
    command.stdin(Stdio::null());
    command
}

fn log(path: &Path) -> Stdio {
    std::fs::File::options().create(true).append(true).open(path).unwrap().into()
}

impl Place {
    fn new(name: &str) -> Self {
        Self { dir: TempDir::new(name), client_port: free_port(), peer_port: free_port() }
    }

    fn folder(&self) -> PathBuf {
        self.dir.join("qs")
    }

    fn file(&self, name: &str) -> String {
        self.folder().join(name).to_str().unwrap().to_owned()
    }

    fn endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.client_port)
    }

    async fn quickstart(&self) -> Running {
        let mut command = keepd();
        command
            .args(["quickstart", "--dir", self.folder().to_str().unwrap()])
            .args(["--client-port", &self.client_port.to_string()])
            .args(["--peer-port", &self.peer_port.to_string()])
            .stdout(log(&self.dir.join("quickstart.log")))
            .stderr(log(&self.dir.join("quickstart.log")));
        let running = Running(command.spawn().unwrap());
        self.until("the first member serves", || {
            self.ctl(&["endpoint", "health"]).status.success()
        })
        .await;
        running
    }

    fn ctl(&self, words: &[&str]) -> Output {
        let mut command = keepd();
        command
            .args(["ctl", "--endpoints", &self.endpoint(), "--cacert", &self.file("pki/ca.crt")])
            .args(["--cert", &self.file("pki/client.crt"), "--key", &self.file("pki/client.key")])
            .args(words);
        command.output().unwrap()
    }

    fn invite(&self, more: &[&str]) -> Invitation {
        let listen = format!("127.0.0.1:{}", free_port());
        let mut command = keepd();
        command
            .args(["cluster", "invite", "--dir", self.folder().to_str().unwrap()])
            .args(["--endpoints", &self.endpoint(), "--listen", &listen])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut running = Running(command.spawn().unwrap());
        let mut out = BufReader::new(running.0.stdout.take().unwrap());
        let mut token = String::new();
        out.read_line(&mut token).unwrap();
        let token = token.trim().to_owned();
        if token.is_empty() {
            let mut text = String::new();
            running.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            assert!(!token.is_empty(), "no token: {text}");
        }
        Invitation { running, token }
    }

    /// The flags of a further member.
    fn newcomer(&self, name: &str, token: &str) -> Command {
        let (client, peer) = (free_port(), free_port());
        let (client, peer) =
            (format!("https://127.0.0.1:{client}"), format!("https://127.0.0.1:{peer}"));
        let mut command = keepd();
        command
            .args(["server", "--name", name, "--join", token])
            .args(["--data-dir", self.dir.join(name).to_str().unwrap()])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command
    }

    fn start(&self, mut newcomer: Command) -> Running {
        let path = self.dir.join("newcomer.log");
        Running(newcomer.stdout(log(&path)).stderr(log(&path)).spawn().unwrap())
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < PATIENCE, "{what}: not in time\n{}", self.logs());
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn logs(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        format!("{}\n{}", read("quickstart.log"), read("newcomer.log"))
    }

    /// Voters that have started.
    fn voters(&self) -> usize {
        let output = self.ctl(&["member", "list"]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| line.contains("started") && line.ends_with("false")).count()
    }
}

struct Invitation {
    running: Running,
    token: String,
}

impl Invitation {
    /// Waits for its end; its exit code and what it told.
    async fn end(mut self) -> (Option<i32>, String) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.running.0.try_wait().unwrap() {
                break status.code();
            }
            assert!(began.elapsed() < PATIENCE, "the invitation does not end");
            sleep(Duration::from_millis(50)).await;
        };
        let mut text = String::new();
        self.running.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (status, text)
    }
}

fn refusal(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quickstart_grows_from_one_member_to_three() {
    let place = Place::new("e2e-invite");
    let first = place.quickstart().await;
    assert!(place.ctl(&["put", "before", "kept secret"]).status.success());
    let config = place.file("encryption.yaml");

    // The second gets the configuration, the third brings it.
    let invitation = place.invite(&["--with-encryption-config", &config]);
    let (second, token) = (place.newcomer("keepd-2", &invitation.token), invitation.token.clone());
    let again = {
        let mut command = keepd();
        command.args(second.get_args());
        command
    };
    let second = place.start(second);
    let (code, text) = invitation.end().await;
    assert_eq!(code, Some(0), "{text}\n{}", place.logs());
    assert!(text.contains("keepd-2 votes"), "{text}");
    place.until("two vote", || place.voters() == 2).await;

    // It is used.
    let text = refusal(place.newcomer("keepd-9", &token));
    assert!(text.contains("no inviter answers"), "{text}");

    let invitation = place.invite(&["--ttl", "10m", "--name", "keepd-3"]);
    let text = refusal(place.newcomer("keepd-3", &invitation.token));
    assert!(text.contains("has no configuration for"), "{text}");
    let mut other = place.newcomer("keepd-4", &invitation.token);
    other.args(["--encryption-provider-config", &config]);
    let text = refusal(other);
    assert!(text.contains("this invitation is for keepd-3"), "{text}");
    let mut third = place.newcomer("keepd-3", &invitation.token);
    third.args(["--encryption-provider-config", &config]);
    let third = place.start(third);
    let (code, text) = invitation.end().await;
    assert_eq!(code, Some(0), "{text}\n{}", place.logs());
    place.until("three vote", || place.voters() == 3).await;

    // A restart with the same flags asks nobody, and one of three may go.
    drop(second);
    assert!(place.ctl(&["put", "after", "x"]).status.success());
    let second = place.start(again);
    place
        .until("the second is back", || {
            place.ctl(&["endpoint", "health", "--cluster"]).status.success()
        })
        .await;
    let found = place.ctl(&["get", "before", "--print-value-only"]);
    assert_eq!(String::from_utf8(found.stdout).unwrap().trim(), "kept secret");
    for name in ["keepd-2", "keepd-3"] {
        let plain = testkit::files::files_with(&place.dir.join(name), &[b"kept secret".to_vec()]);
        assert_eq!(plain, <[PathBuf; 0]>::default(), "nothing is plain on the disk");
    }
    let key = std::fs::read(place.dir.join("keepd-2.join/member.key")).unwrap();
    assert!(!testkit::files::contains(&std::fs::read(config).unwrap(), &key));
    drop((first, second, third));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_good_are_refused_and_named() {
    let place = Place::new("e2e-invite-bad");
    let _first = place.quickstart().await;
    let config = place.file("encryption.yaml");
    let newcomer = |name: &str, token: &str| {
        let mut command = place.newcomer(name, token);
        command.args(["--encryption-provider-config", &config]);
        command
    };
    let text = refusal(newcomer("a", "nonsense"));
    assert!(text.contains("not a token of `keepd cluster invite`"), "{text}");

    let invitation = place.invite(&[]);
    let mut changed = invitation.token.clone().into_bytes();
    let last = changed.len() - 20;
    changed[last] = if changed[last] == b'A' { b'B' } else { b'A' };
    let text = refusal(newcomer("a", &String::from_utf8(changed).unwrap()));
    assert!(text.contains("the token is damaged"), "{text}");

    // Another invitation's token, with the address of this one: its proof is another's.
    let stranger = Place::new("e2e-invite-stranger");
    let _other = stranger.quickstart().await;
    let theirs = stranger.invite(&[]);
    let text = refusal(newcomer("a", &readdressed(&theirs.token, &invitation.token)));
    assert!(text.contains("another CA than the token's"), "{text}");
    let second = place.invite(&[]);
    let text = refusal(newcomer("a", &readdressed(&second.token, &invitation.token)));
    assert!(text.contains("another invitation than the token's"), "{text}");

    // Names and hosts that are somebody else's.
    let text = refusal(newcomer("keepd-1", &invitation.token));
    assert!(text.contains("the cluster has a member of the name keepd-1"), "{text}");
    let text = refusal(newcomer("root", &invitation.token));
    assert!(text.contains("is reserved"), "{text}");
    assert_eq!(place.voters(), 1);
    let members = String::from_utf8(place.ctl(&["member", "list"]).stdout).unwrap();
    assert_eq!(members.lines().count(), 1, "nobody was added: {members}");

    let expired = place.invite(&["--ttl", "1s"]);
    let token = expired.token.clone();
    let (code, text) = expired.end().await;
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("nobody came"), "{text}");
    let text = refusal(newcomer("a", &token));
    assert!(text.contains("it has expired"), "{text}");
}

/// A token with the address of another one.
fn readdressed(token: &str, of: &str) -> String {
    // Version, digest, secret and expiry come before the addresses, a checksum behind them.
    const ADDRESSES_AT: usize = 1 + 32 + 16 + 8;
    let decoded =
        |token: &str| URL_SAFE_NO_PAD.decode(token.strip_prefix("keepd-join-").unwrap()).unwrap();
    let (mut bytes, other) = (decoded(token), decoded(of));
    bytes.truncate(ADDRESSES_AT);
    bytes.extend_from_slice(&other[ADDRESSES_AT..other.len() - 4]);
    let sum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_be_bytes());
    format!("keepd-join-{}", URL_SAFE_NO_PAD.encode(&bytes))
}
