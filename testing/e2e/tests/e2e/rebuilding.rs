//! A member whose data is damaged gets the state of the others by one command: `keepd member rebuild`.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use e2e::{Cluster, Load};
use testkit::Keepd;
use tokio::time::{Duration, Instant, sleep};

use crate::configuration::{FIRST, only_sealing};

const PATIENCE: Duration = Duration::from_secs(90);

struct Rebuild {
    data_dir: String,
    endpoints: String,
    config: String,
}

impl Rebuild {
    fn new(cluster: &Cluster, number: usize) -> Self {
        let data_dir = cluster.member(number).data_dir();
        let config = data_dir.parent().unwrap().join("encryption.yaml");
        let others = (0..cluster.size()).filter(|other| *other != number);
        let endpoints: Vec<String> = others.map(|other| cluster.endpoint(other)).collect();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (data_dir, config) = (text(&data_dir), text(&config));
        Self { data_dir, endpoints: endpoints.join(","), config }
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(Keepd::binary());
        command
            .args(["member", "rebuild", "--data-dir", &self.data_dir])
            .args(["--endpoints", &self.endpoints])
            .args(["--encryption-provider-config", &self.config])
            .args(more)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, more: &[&str]) -> Output {
        self.command(more).output().unwrap()
    }
}

fn told(output: &Output) -> String {
    String::from_utf8([output.stdout.as_slice(), output.stderr.as_slice()].concat()).unwrap()
}

/// Waits for its end; what it told.
async fn ended(mut child: Child) -> (Option<i32>, String) {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            let mut text = String::new();
            child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            return (status.code(), text);
        }
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
            let mut text = String::new();
            child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            assert!(began.elapsed() <= PATIENCE, "it goes on: {text}");
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Changes every file of the log and of the store.
fn damage(data_dir: &Path) {
    for folder in ["member/wal", "member/store"] {
        for entry in std::fs::read_dir(data_dir.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            for at in (60..bytes.len()).step_by(500) {
                bytes[at] ^= 1;
            }
            std::fs::write(&path, bytes).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_member_gets_the_state_of_the_others() {
    let mut cluster = Cluster::new("e2e-rebuild", 3, &only_sealing("key1", FIRST));
    cluster.start_all();
    cluster.clients().await;
    let endpoints: Vec<String> = (0..3).map(|number| cluster.endpoint(number)).collect();
    let load = Load::start("rebuild", &endpoints, 3);
    load.goes_on(200).await;
    let lost = (cluster.leader().await + 1) % 3;
    let name = format!("m{lost}");
    let rebuild = Rebuild::new(&cluster, lost);
    let output = rebuild.run(&["--yes"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("in use by another process"), "{}", told(&output));

    cluster.kill(lost);
    damage(&cluster.member(lost).data_dir());
    cluster.start(lost);
    assert_eq!(cluster.wait(lost).code(), Some(1), "it does not start with this");
    let output = rebuild.run(&["--yes"]);
    assert!(told(&output).contains("give --name"), "{}", told(&output));
    let output = rebuild.run(&["--name", &name]);
    assert_eq!(output.status.code(), Some(3), "there is no terminal to ask: {}", told(&output));
    // Without one of the others there would be no majority to remove it.
    cluster.signal((lost + 1) % 3, "STOP");
    let output = rebuild.run(&["--yes", "--name", &name]);
    cluster.signal((lost + 1) % 3, "CONT");
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(!cluster.member(lost).data_dir().join("rebuild.json").exists());
    load.goes_on(100).await;

    // Interrupted after the directory is made, and run again.
    let output = rebuild.run(&["--yes", "--name", &name, "--no-wait"]);
    assert!(output.status.success(), "{}", told(&output));
    let waiting = rebuild.command(&[]).stderr(Stdio::piped()).spawn().unwrap();
    // The flags that it always had.
    cluster.start(lost);
    let (code, text) = ended(waiting).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&format!("{name} votes")), "{text}");
    assert!(text.contains("member.before-rebuild-"), "{text}");
    load.goes_on(100).await;
    // Its vote counts.
    cluster.kill((lost + 1) % 3);
    load.goes_on(100).await;
    cluster.start((lost + 1) % 3);
    let writes = load.stop().await;
    for client in cluster.clients().await {
        writes.check(&client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_rebuild_goes_on_from_every_step() {
    let mut cluster = Cluster::new("e2e-rebuild-again", 3, &only_sealing("key1", FIRST));
    cluster.start_all();
    let clients = cluster.clients().await;
    clients[0].put("a", "b", 0).await.unwrap();
    let lost = (cluster.leader().await + 1) % 3;
    let rebuild = Rebuild::new(&cluster, lost);
    cluster.kill(lost);
    // Killed at different moments, from before the first question to after the last change.
    for millis in [5, 20, 60, 120, 250, 500, 1000] {
        let mut child =
            rebuild.command(&["--yes", "--no-wait"]).stderr(Stdio::piped()).spawn().unwrap();
        sleep(Duration::from_millis(millis)).await;
        let _ended = child.kill();
        child.wait().unwrap();
    }
    let waiting = rebuild.command(&["--yes"]).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    let member = cluster.member(lost).data_dir().join("member");
    let record = cluster.member(lost).data_dir().join("rebuild.json");
    let is_made = || {
        let text = std::fs::read_to_string(&record).unwrap_or_default();
        member.exists() && text.contains("\"is_made\":true")
    };
    while !is_made() {
        assert!(began.elapsed() < PATIENCE, "the directory is not made");
        sleep(Duration::from_millis(50)).await;
    }
    cluster.start(lost);
    let (code, text) = ended(waiting).await;
    assert_eq!(code, Some(0), "{text}");
    let client = cluster.client(lost).await;
    assert_eq!(client.get("a").await.unwrap().as_deref(), Some("b"));
    let members = client.members().await.unwrap();
    assert_eq!(members.len(), 3, "{members:?}");
    assert!(members.iter().all(|member| !member.is_learner), "{members:?}");
}
