//! The majority is gone for good: `keepd recover` makes a new cluster of what is left.

use std::path::Path;
use std::process::{Command, Output};

use e2e::{Client, Cluster, Load, granted};
use testkit::files::tree;
use testkit::{Keepd, TempDir};

use crate::configuration::{FIRST, only_sealing};

const BUMP: i64 = 1_000_000_000;

fn keepd(dir: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(Keepd::binary());
    let command = command.args(words).current_dir(dir).stdin(std::process::Stdio::null());
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(both).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_the_longest_log_had_is_lost_and_the_others_join_again() {
    let mut cluster = Cluster::new("e2e-recover", 3, &only_sealing("key1", FIRST));
    cluster.start_all();
    cluster.clients().await;
    let endpoints: Vec<String> = (0..3).map(|number| cluster.endpoint(number)).collect();
    let load = Load::start("recover", &endpoints, 4);
    load.goes_on(300).await;
    // The survivor is a follower that every acknowledged write has reached.
    let survivor = (cluster.leader().await + 1) % 3;
    let writes = load.stop().await;
    let client = cluster.client(survivor).await;
    let revision = client.put("last", "acknowledged", 0).await.unwrap();
    client.revision().await.unwrap();
    let others: Vec<usize> = (0..3).filter(|number| *number != survivor).collect();
    for &number in &others {
        cluster.kill(number);
    }
    let data_dir = cluster.member(survivor).data_dir();
    let dir = data_dir.to_str().unwrap();
    let work = TempDir::new("e2e-recover-work");
    let config = data_dir.parent().unwrap().join("encryption.yaml");
    let config = config.to_str().unwrap();
    let recover = |more: &[&str]| {
        let words = [&["recover", dir, "--encryption-provider-config", config], more].concat();
        keepd(work.path(), &words)
    };

    let output = recover(&["--yes"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("in use by another process"), "{}", text(&output));
    cluster.kill(survivor);
    let output = keepd(work.path(), &["recover", dir, "--yes"]);
    assert!(text(&output).contains("sealed and needs one of these keys"), "{}", text(&output));
    let output = recover(&[]);
    assert_eq!(output.status.code(), Some(3), "there is no terminal to ask");
    let told = text(&output);
    assert!(told.contains("2 of 3 voting members"), "{told}");
    assert!(!Path::new(&format!("{dir}.recovered")).exists());
    let files = tree(&data_dir);

    let output = recover(&["--yes", "-w", "json"]);
    assert!(output.status.success(), "{}", text(&output));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(tree(&data_dir), files, "the original is not touched");
    assert_ne!(answer["new"]["cluster_id"], answer["cluster_id"]);
    let made = answer["made"]["revision"].as_i64().unwrap();
    assert!(made >= revision + BUMP, "{answer}");

    // The operator puts it in the former place, and starts it as ever.
    std::fs::rename(&data_dir, format!("{dir}.former")).unwrap();
    std::fs::rename(format!("{dir}.recovered"), &data_dir).unwrap();
    cluster.start(survivor);
    let alone = cluster.client(survivor).await;
    assert_eq!(alone.members().await.unwrap().len(), 1);
    assert_eq!(alone.get("last").await.unwrap().as_deref(), Some("acknowledged"));
    assert!(alone.revision().await.unwrap() >= made);
    writes.check(&alone).await;
    alone.put("after", "recovery", 0).await.unwrap();

    // A former member that comes back as it was is refused; with an empty directory it joins.
    for number in others {
        rejoin(&mut cluster, &alone, number).await;
    }
    for client in cluster.clients().await {
        assert_eq!(client.get("after").await.unwrap().as_deref(), Some("recovery"));
        writes.check(&client).await;
    }
    // They vote: without the one that went on the cluster goes on.
    cluster.kill(survivor);
    let left = (survivor + 1) % 3;
    let client = cluster.client(left).await;
    granted("write", async || client.put("without", "it", 0).await).await;
}

async fn rejoin(cluster: &mut Cluster, through: &Client, number: usize) {
    cluster.wipe(number);
    let peer_url = cluster.member(number).peer_url.clone();
    let id = granted("add", async || through.add_member(&peer_url, true).await).await;
    let mut named = Vec::new();
    for member in through.members().await.unwrap() {
        let name = if member.id == id { format!("m{number}") } else { member.name };
        named.extend(member.peer_ur_ls.iter().map(|url| format!("{name}={url}")));
    }
    let named = named.join(",");
    let args = ["--initial-cluster", &named, "--initial-cluster-state", "existing"];
    cluster.add_args(number, &args);
    cluster.start(number);
    cluster.answering(number).await;
    granted("promote", async || through.promote_member(id).await).await;
    cluster.client(number).await;
}

#[test]
fn a_directory_that_is_none_is_refused() {
    let dir = TempDir::new("e2e-recover-none");
    let output = keepd(dir.path(), &["recover", "nothing", "--yes"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("holds no member of keepd"), "{}", text(&output));
    let output = keepd(dir.path(), &["recover"]);
    assert_eq!(output.status.code(), Some(2));
}
