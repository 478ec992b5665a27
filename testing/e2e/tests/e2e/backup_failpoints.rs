//! A build that ends at once in the middle of removing, proving and shipping: nothing that was proven is
//! lost, the next start goes on, and the log has no gap.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use e2e::Client;
use testkit::Keepd;
use testkit::process::tail;
use tokio::time::sleep;

use crate::any_moment::{restore, shipped};
use crate::backups::Bench;
use crate::failpoints::{REACHED_MAX, SIGABRT, ask};
use crate::scheduled::{found, on_schedule};

const PLACES: [&str; 8] = [
    "backupBeforePrune",
    "backupPruneHalf",
    "backupAfterPrune",
    "backupLogPruned",
    "backupBeforeNoteProof",
    "backupAfterNoteProof",
    "shipBeforeUpload",
    "shipAfterUpload",
];

/// Writes rising numbers until the member is gone; the last that was acknowledged.
async fn write(client: Client, from: u64) -> u64 {
    let mut number = from;
    while client.put("number", &(number + 1).to_string(), 0).await.is_ok() {
        number += 1;
        sleep(Duration::from_millis(20)).await;
    }
    number
}

/// The newest proven backup; names begin with the time.
fn newest_proven(bench: &Bench) -> Option<String> {
    let listed = bench.list(&bench.place());
    let proven = listed.iter().filter(|backup| backup["is_proven"] == true);
    proven.map(|backup| backup["name"].as_str().unwrap().to_owned()).max()
}

async fn number(client: &Client) -> u64 {
    client.get("number").await.unwrap().map_or(0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_ends_while_it_removes_proves_or_ships_loses_nothing_proven() {
    let Some(program) = Keepd::failpoints_binary() else {
        eprintln!("SKIPPED: there is no build of keepd with failpoints");
        return;
    };
    let bench = Bench::new("e2e-backup-failpoints");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let schedule = ["--backup-schedule", "@every 1s", "--backup-keep-last", "2"];
    let more = ["--backup-drill-schedule", "@every 1s", "--backup-log"];
    let words = [&schedule[..], &more, &["--backup-log-interval", "200ms"]].concat();
    let keepd = on_schedule(&bench, &words).program(&program).env("GOFAIL_HTTP", &address);
    let mut written = 0;
    for place in PLACES {
        let mut server = keepd.start();
        let client = Client::ready(&mut server).await;
        let kept = number(&client).await;
        // The write that was under way may have been made.
        assert!((written..=written + 1).contains(&kept), "{place}: {kept} of {written}");
        bench.fill(&client).await;
        shipped(&bench.place(), client.revision().await.unwrap()).await;
        let proven = found("a proven backup", || newest_proven(&bench)).await;
        let writer = tokio::spawn(write(client.clone(), kept));
        // The process may end before it has answered.
        let _answer = ask(&address, "PUT", place, "panic");
        let status = tokio::task::block_in_place(|| server.wait(REACHED_MAX));
        let signal = status.and_then(|status| status.signal());
        assert_eq!(signal, Some(SIGABRT), "{place} is not reached\n{}", tail(&keepd.log()));
        written = writer.await.unwrap();
        assert!(newest_proven(&bench).is_some_and(|newest| newest >= proven), "{place}: {proven}");
        bench.assert_nothing_plain();
    }
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    client.put("last", "x", 0).await.unwrap();
    let (revision, last) = (client.revision().await.unwrap(), number(&client).await);
    shipped(&bench.place(), revision).await;
    server.kill();
    let log = keepd.log();
    assert!(!log.contains("the shipped log has a gap"), "{}", tail(&log));
    assert!(!log.contains("the shipped log begins anew"), "{}", tail(&log));
    fs::remove_dir_all(keepd.data_dir()).unwrap();
    let quiet = bench.keepd();
    restore(&bench, &quiet, &["--bump-revision", "0"], 0);
    let mut server = quiet.start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.get("last").await.unwrap().as_deref(), Some("x"));
    assert_eq!((client.revision().await.unwrap(), number(&client).await), (revision, last));
    server.stop();
}
