//! The log that a member ships while it serves: any moment comes back, whatever was lost in between.

use std::fs;
use std::process::Command;
use std::time::Duration;

use e2e::{Client, Cluster};
use serde_json::Value;
use testkit::process::tail;
use testkit::{Keepd, TempDir};

use crate::backups::Bench;
use crate::configuration::{FIRST, sealing};
use crate::scheduled::found;

const SECRET: &str = "/registry/secrets/default/moment";

/// A member that ships its log into the bench's place.
fn shipping(bench: &Bench) -> Keepd {
    let scratch = bench.dir.join("scratch");
    bench
        .keepd()
        .args(["--backup-to", &bench.place()])
        .args(["--backup-scratch-dir", scratch.to_str().unwrap()])
        .args(["--backup-log", "--backup-log-interval", "400ms"])
}

/// The time, as an operator types it.
fn now() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%3NZ"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn listed(place: &str) -> Value {
    let words = ["backup", "list", place, "-w", "json"];
    let output = Command::new(Keepd::binary()).args(words).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Waits until a chain has begun: a base from before it is of no use.
async fn begun(keepd: &Keepd) {
    let text = "shipping the log: it begins";
    found("the first chain", || keepd.log().contains(text).then_some(())).await;
}

/// Waits until a revision is in the log that can be reached.
pub(crate) async fn shipped(place: &str, revision: i64) {
    found("the revision in the shipped log", || {
        let listed = listed(place);
        let windows = listed["logs"][0]["windows"].as_array()?;
        windows.iter().find(|it| it["until_revision"].as_i64() >= Some(revision)).map(drop)
    })
    .await;
}

pub(crate) fn restore(bench: &Bench, keepd: &Keepd, more: &[&str], code: i32) -> String {
    let (place, data_dir) = (bench.place(), keepd.data_dir());
    let words =
        ["restore", &place, "--data-dir", data_dir.to_str().unwrap(), "--yes", "--name", "one"];
    let words = [&words[..], &bench.with_config(), more].concat();
    let told = bench.backup(&words).expect(code);
    format!("{}{}", told.out, told.err)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_total_loss_any_moment_comes_back() {
    let bench = Bench::new("e2e-any-moment");
    let keepd = shipping(&bench);
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    bench.fill(&client).await;
    begun(&keepd).await;
    bench.take(&bench.with_config()).expect(0);
    let lease = client.grant(3600).await.unwrap();
    client.put(SECRET, "one", lease).await.unwrap();
    let first = client.revision().await.unwrap();
    // The moments that can be told apart.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let time = now();
    tokio::time::sleep(Duration::from_millis(600)).await;
    client.put(SECRET, "two", 0).await.unwrap();
    client.delete("/registry/secrets/default/canary-of-a-backed-up-key7").await.unwrap();
    let second = client.revision().await.unwrap();
    client.put("later", "x", 0).await.unwrap();
    let last = client.revision().await.unwrap();
    shipped(&bench.place(), last).await;
    server.kill();
    fs::remove_dir_all(keepd.data_dir()).unwrap();
    bench.assert_nothing_plain();

    let told = restore(&bench, &keepd, &["--at", "2020-01-01T00:00:00Z"], 1);
    assert!(told.contains("before the first base. Reachable: from 20"), "{told}");
    let told = restore(&bench, &keepd, &["--revision", "999999"], 1);
    assert!(told.contains("no log leads from a base to it. Reachable: from 20"), "{told}");
    let told = restore(&bench, &keepd, &["--at", "noon"], 2);
    assert!(told.contains("as in 2026-11-26T10:15:00Z"), "{told}");

    let told = restore(&bench, &keepd, &["--at", &time], 0);
    assert!(told.contains("replayed ") && told.contains("compared with the member's"), "{told}");
    // Not shipping: what follows must not be in the log that is restored from below.
    let quiet = bench.keepd();
    let mut server = quiet.start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.get(SECRET).await.unwrap().as_deref(), Some("one"));
    assert_eq!(client.leases().await.unwrap(), [lease]);
    server.stop();

    let to_second = second.to_string();
    let told = restore(&bench, &keepd, &["--revision", &to_second, "--bump-revision", "0"], 0);
    assert!(told.contains("moved aside"), "{told}");
    let mut server = quiet.start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.revision().await.unwrap(), second);
    assert_eq!(client.get(SECRET).await.unwrap().as_deref(), Some("two"));
    assert_eq!(client.get("later").await.unwrap(), None);
    assert_eq!(client.history(first, second).await.len(), 3);
    server.stop();

    // The newest state; and the restored cluster ships a log of its own.
    restore(&bench, &keepd, &[], 0);
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.get("later").await.unwrap().as_deref(), Some("x"));
    found("the chain of the restored cluster", || {
        keepd.log().contains("the shipped log begins anew").then_some(())
    })
    .await;
    bench.take(&bench.with_config()).expect(0);
    client.put("anew", "1", 0).await.unwrap();
    // What is left is shipped by the stop.
    server.stop();
    fs::remove_dir_all(keepd.data_dir()).unwrap();
    restore(&bench, &keepd, &[], 0);
    let mut server = quiet.start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.get("anew").await.unwrap().as_deref(), Some("1"));
    bench.assert_nothing_plain();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_was_away_gets_all_of_it_and_so_it_does_over_a_kill() {
    let bench = Bench::new("e2e-place-away");
    let keepd = shipping(&bench);
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    bench.fill(&client).await;
    begun(&keepd).await;
    bench.take(&bench.with_config()).expect(0);
    let (place, aside) = (bench.dir.join("place"), bench.dir.join("aside"));
    fs::rename(&place, &aside).unwrap();
    fs::write(&place, b"not a folder").unwrap();
    for number in 0..300 {
        client.put(&format!("{SECRET}{}", number % 40), &number.to_string(), 0).await.unwrap();
    }
    found("word of it", || keepd.log().contains("the log cannot be shipped now").then_some(()))
        .await;
    // Killed with what it has not shipped; the log of the member has it.
    server.kill();
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    client.put("behind", "1", 0).await.unwrap();
    let last = client.revision().await.unwrap();
    fs::remove_file(&place).unwrap();
    fs::rename(&aside, &place).unwrap();
    shipped(&bench.place(), last).await;
    server.kill();
    assert!(!keepd.log().contains("has a gap"), "{}", tail(&keepd.log()));
    fs::remove_dir_all(keepd.data_dir()).unwrap();
    restore(&bench, &keepd, &["--bump-revision", "0"], 0);
    let mut server = bench.keepd().start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.revision().await.unwrap(), last);
    assert_eq!(client.get(&format!("{SECRET}19")).await.unwrap().as_deref(), Some("299"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_leader_goes_on_with_the_log() {
    let dir = TempDir::new("e2e-three-logs");
    let place = format!("file://{}", dir.join("place").display());
    let mut cluster = Cluster::new("e2e-log", 3, &sealing("key1", FIRST)).args(&[
        "--backup-to",
        &place,
        "--backup-log",
        "--backup-log-interval",
        "400ms",
        "--backup-schedule",
        "@every 1s",
    ]);
    cluster.start_all();
    let mut clients = cluster.clients().await;
    clients[0].put("before", "1", 0).await.unwrap();
    found("a base", || {
        let listed = listed(&place);
        listed["backups"].as_array()?.iter().find(|it| it["is_proven"] == true).map(drop)
    })
    .await;
    for round in 0..2 {
        let leader = cluster.leader().await;
        for number in 0..50 {
            clients[leader].put(&format!("{SECRET}{number}"), &round.to_string(), 0).await.unwrap();
        }
        cluster.kill(leader);
        let next = cluster.leader().await;
        clients[next] = cluster.client(next).await;
        clients[next].put(&format!("after-{round}"), "1", 0).await.unwrap();
        cluster.start(leader);
        clients[leader] = cluster.client(leader).await;
    }
    let leader = cluster.leader().await;
    let last = clients[leader].revision().await.unwrap();
    shipped(&place, last).await;
    let metrics = cluster.member(leader).metrics();
    assert!(metrics.contains("keepd_backup_log_ships 1"), "{metrics}");
    for number in 0..3 {
        assert!(
            !cluster.member(number).log().contains("has a gap"),
            "{}",
            cluster.member(number).tail()
        );
    }
    for number in 0..3 {
        cluster.kill(number);
    }
    let windows = listed(&place)["logs"][0]["windows"].clone();
    assert_eq!(windows.as_array().unwrap().len(), 1, "{windows}");

    let bench = Bench::new("e2e-three-logs-restored");
    let data_dir = bench.keepd().data_dir();
    let words = ["restore", &place, "--data-dir", data_dir.to_str().unwrap(), "--yes"];
    let words = [&words[..], &bench.with_config(), &["--bump-revision", "0"]].concat();
    let told = bench.backup(&words).expect(0);
    assert!(told.out.contains("replayed ") || told.out.contains("restored "), "{}", told.out);
    let mut server = bench.keepd().start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.revision().await.unwrap(), last);
    assert_eq!(client.list(SECRET).await.unwrap().len(), 50);
    for key in ["before", "after-0", "after-1"] {
        assert_eq!(client.get(key).await.unwrap().as_deref(), Some("1"), "{key}");
    }
    server.stop();
}
