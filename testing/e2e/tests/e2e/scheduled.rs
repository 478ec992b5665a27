//! Backups that the server takes by itself: on a schedule, proven, kept by rules; one of each moment,
//! whoever is killed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::{Client, Cluster};
use serde_json::Value;
use testkit::process::tail;
use testkit::{Keepd, TempDir};

use crate::backups::{Bench, folders};
use crate::configuration::{FIRST, sealing};

const POLL: Duration = Duration::from_millis(50);
/// BOUND: looks at something that takes a while: two minutes.
const LOOKS: u32 = 2400;

/// Waits until `look` finds something.
pub(crate) async fn found<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut looks = 0;
    loop {
        if let Some(found) = look() {
            return found;
        }
        looks += 1;
        assert!(looks < LOOKS, "{what}: not in time");
        tokio::time::sleep(POLL).await;
    }
}

fn is_whole(backup: &Value) -> bool {
    backup["sidecar"].is_object() && backup["fault"].is_null()
}

/// Waits for a proven backup of a revision in the bench's place.
async fn found_proven(bench: &Bench, revision: i64) {
    let is_it = |backup: &Value| backup["is_proven"] == true && backup["revision"] == revision;
    found("a backup of all", || bench.list(&bench.place()).iter().any(is_it).then_some(())).await;
}

/// A member that takes backups into the bench's place.
pub(crate) fn on_schedule(bench: &Bench, more: &[&str]) -> Keepd {
    let scratch = bench.dir.join("scratch");
    bench
        .keepd()
        .args(["--backup-to", &bench.place()])
        .args(["--backup-scratch-dir", scratch.to_str().unwrap()])
        .args(more)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_takes_proven_backups_and_its_rules_remove_old_ones() {
    let bench = Bench::new("e2e-scheduled");
    let schedule = ["--backup-schedule", "@every 2s", "--backup-keep-last", "3"];
    let drills = ["--backup-drill-schedule", "@every 2s"];
    let keepd = on_schedule(&bench, &[&schedule[..], &drills].concat());
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    bench.fill(&client).await;
    let revision = client.revision().await.unwrap();
    let mut names = BTreeSet::new();
    found("six backups", || {
        let listed = bench.list(&bench.place());
        // The three that are kept, one more before the others are judged, and one that is under way.
        assert!(listed.len() <= 5, "{listed:#?}");
        for backup in listed.iter().filter(|backup| is_whole(backup)) {
            assert_eq!(backup["is_proven"], true, "{backup}");
            assert_eq!(backup["kind"], "scheduled");
            names.insert(backup["name"].as_str().unwrap().to_owned());
        }
        (names.len() >= 6).then_some(())
    })
    .await;
    let has_all = |backup: &Value| is_whole(backup) && backup["revision"] == revision;
    assert!(bench.list(&bench.place()).iter().any(has_all), "{names:?}");
    // Older ones are proven again, now with the key that is in the configuration.
    found("a drill", || {
        let is_drilled = |it: &Value| it["sidecar"]["proven"]["with_operators_key"] == true;
        bench.list(&bench.place()).iter().any(is_drilled).then_some(())
    })
    .await;
    server.stop();
    assert!(!keepd.log().contains("\"level\":\"error\""), "{}", tail(&keepd.log()));
    assert_eq!(folders(&bench.dir.join("scratch")), [""; 0]);
    bench.assert_nothing_plain();
    let place = bench.place();
    bench.backup(&[&["drill", &place][..], &bench.with_config()].concat()).expect(0);
}

/// Whoever is killed in the middle leaves nothing that counts and nothing plain; the next start takes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_while_it_takes_a_backup_takes_it_again() {
    let bench = Bench::new("e2e-scheduled-kill");
    // Slow enough to be at work for seconds.
    let slow =
        on_schedule(&bench, &["--backup-schedule", "@every 1s", "--backup-limit-rate", "2k"]);
    let scratch = bench.dir.join("scratch");
    for millis in [0, 50, 300, 1000, 3000] {
        let mut server = slow.start();
        let client = Client::ready(&mut server).await;
        bench.fill(&client).await;
        let before = folders(&scratch);
        found("a backup under way", || {
            folders(&scratch).iter().any(|name| !before.contains(name)).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(millis)).await;
        server.kill();
        bench.assert_nothing_plain();
        for backup in bench.list(&bench.place()) {
            assert!(is_whole(&backup) || backup["fault"].is_string(), "{backup}");
            assert!(!is_whole(&backup) || backup["is_proven"] == true, "{backup}");
        }
    }
    let keepd = on_schedule(&bench, &["--backup-schedule", "@every 1s"]);
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    let revision = client.revision().await.unwrap();
    found_proven(&bench, revision).await;
    server.stop();
    assert_eq!(folders(&scratch), [""; 0], "what was left is cleared up");
    bench.assert_nothing_plain();
}

#[test]
fn a_server_without_what_it_needs_for_backups_does_not_start() {
    let bench = Bench::new("e2e-scheduled-refused");
    let place = bench.place();
    let missing = bench.dir.join("nobody.txt");
    let limit = Duration::from_secs(30);
    for (args, text) in [
        (vec!["--backup-schedule", "@daily"], "--backup-to is not: say where backups go"),
        (
            vec!["--backup-to", &place, "--backup-recipients-file", missing.to_str().unwrap()],
            "the keys of backups: ",
        ),
        (vec!["--backup-to", "s3://bucket/x?ca=/nowhere/ca.crt"], "/nowhere/ca.crt"),
    ] {
        let keepd = bench.keepd().args(&args);
        let status = keepd.run(limit);
        assert_eq!(status.and_then(|status| status.code()), Some(1), "{}", tail(&keepd.log()));
        assert!(keepd.log().contains(text), "{text}: {}", tail(&keepd.log()));
        assert!(!keepd.data_dir().join("member").exists(), "nothing was made");
    }
}

/// Three members that share a place, each with its own scratch folder.
struct Three {
    cluster: Cluster,
    dir: TempDir,
}

impl Three {
    const PERIOD_MILLIS: u64 = 5000;

    fn new() -> Self {
        let dir = TempDir::new("e2e-three-backups");
        let place = format!("file://{}", dir.join("place").display());
        let mut cluster = Cluster::new("e2e-three", 3, &sealing("key1", FIRST));
        for number in 0..3 {
            let scratch = dir.join(&format!("scratch-{number}"));
            fs::create_dir(&scratch).unwrap();
            let scratch = scratch.to_str().unwrap();
            cluster.add_args(number, &["--backup-to", &place, "--backup-scratch-dir", scratch]);
            cluster.add_args(number, &["--backup-schedule", "@every 5s"]);
            // Long enough at work to be killed there.
            cluster.add_args(number, &["--backup-limit-rate", "20k"]);
        }
        Self { cluster, dir }
    }

    /// The whole backups of the place.
    fn list(&self) -> Vec<Value> {
        let place = format!("file://{}", self.dir.join("place").display());
        let output = Command::new(Keepd::binary())
            .args(["backup", "list", &place, "-w", "json"])
            .output()
            .unwrap();
        let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
        listed["backups"].as_array().unwrap().iter().filter(|it| is_whole(it)).cloned().collect()
    }

    /// A member that is at a backup now.
    fn at_work(&self) -> Option<usize> {
        (0..3).find(|number| !self.scratch(*number).is_empty())
    }

    fn scratch(&self, number: usize) -> Vec<String> {
        folders(&self.dir.join(&format!("scratch-{number}")))
    }

    /// Empties a scratch folder, so that a look there finds who is at work.
    fn clear(&self, number: usize) {
        let scratch = self.dir.join(&format!("scratch-{number}"));
        for name in folders(&scratch) {
            fs::remove_dir_all(scratch.join(name)).unwrap();
        }
    }

    /// Waits for so many more backups; all there are have a moment of their own.
    async fn goes_on(&self, more: usize) {
        let wanted = self.list().len() + more;
        found("more backups", || (self.list().len() >= wanted).then_some(())).await;
        let all = self.list();
        let moments: BTreeSet<u64> = all.iter().map(moment).collect();
        assert_eq!(moments.len(), all.len(), "a moment has two: {all:#?}");
        assert!(all.iter().all(|backup| backup["is_proven"] == true), "{all:#?}");
    }
}

/// The number of the moment that a backup is of: the latest that was due when it was begun.
fn moment(backup: &Value) -> u64 {
    let time = backup["name"].as_str().unwrap().split('-').next().unwrap().to_owned();
    // 20261128T005336123Z
    let part = |from: usize, to: usize| time[from..to].parse::<u64>().unwrap();
    let (hour, minute, millis) = (part(9, 11), part(11, 13), part(13, 18));
    let day = part(0, 8);
    let of_day = (hour * 60 + minute) * 60_000 + millis;
    day * 100_000 + of_day / Three::PERIOD_MILLIS
}

#[tokio::test(flavor = "multi_thread")]
async fn each_moment_has_one_backup_whoever_is_killed_and_the_leader_takes_none() {
    let mut three = Three::new();
    three.cluster.start_all();
    let clients = three.cluster.clients().await;
    for number in 0..50 {
        let key = format!("/registry/secrets/default/s{number}");
        clients[0].put(&key, "canary-of-a-value", 0).await.unwrap();
    }
    let leader = three.cluster.leader().await;
    let id = clients[leader].status().await.unwrap().header.unwrap().member_id;
    let begun = three.list().len();
    three.goes_on(3).await;
    if three.cluster.leader().await == leader {
        let by_leader = format!("{id:016x}");
        let later = &three.list()[begun.max(1)..];
        let is_by_leader = |it: &Value| it["sidecar"]["member"]["id"] == by_leader.as_str();
        assert!(!later.iter().any(is_by_leader), "{later:#?}");
    }

    // Killed at work, twice; the second time it does not come back before others have gone on.
    let victim = found("one at work", || three.at_work()).await;
    three.cluster.kill(victim);
    three.clear(victim);
    three.cluster.start(victim);
    three.goes_on(2).await;
    let victim = found("one at work", || three.at_work()).await;
    three.cluster.kill(victim);
    three.clear(victim);
    three.goes_on(2).await;
    three.cluster.start(victim);
    // Orderly restarts, the leader's too.
    for number in 0..3 {
        three.cluster.stop(number);
        three.cluster.start(number);
        three.cluster.client(number).await;
    }
    three.goes_on(2).await;
    assert_every_member_knows(&three).await;
    for folder in ["place", "scratch-0", "scratch-1", "scratch-2"] {
        let needles = [b"canary-of-a-value".to_vec()];
        let plain = testkit::files::files_with(&three.dir.join(folder), &needles);
        assert!(plain.is_empty(), "{folder}: {plain:?}");
    }
}

/// One that takes none shows what the place has, too.
async fn assert_every_member_knows(three: &Three) {
    for number in 0..3 {
        found("the metrics of all members", || {
            let page = three.cluster.member(number).metrics();
            let line =
                |name: &str| page.lines().find(|line| line.starts_with(name)).map(str::to_owned);
            line("keepd_backup_last_proven_timestamp_seconds{to=\"file://")?;
            line("keepd_backup_next_due_timestamp_seconds ")?;
            line("keepd_backup_failures_total{step=\"upload\"} ")
        })
        .await;
    }
}

/// Deleted data, or another directory under the same name, is told of when it starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_less_than_the_newest_backup_warns() {
    let bench = Bench::new("e2e-scheduled-older");
    let keepd = on_schedule(&bench, &["--backup-schedule", "@every 1s"]);
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    bench.fill(&client).await;
    let revision = client.revision().await.unwrap();
    found_proven(&bench, revision).await;
    server.stop();
    let data: &Path = &keepd.data_dir();
    fs::remove_dir_all(data).unwrap();
    let watching = on_schedule(&bench, &[]);
    let mut server = watching.start();
    let _client = Client::ready(&mut server).await;
    found("the warning", || {
        let log = watching.log();
        let line = log.lines().find(|line| line.contains("has a higher revision"))?;
        assert!(line.contains(&format!("\"backup-revision\":{revision}")), "{line}");
        assert!(line.contains("keepd backup restore"), "{line}");
        Some(())
    })
    .await;
    server.stop();
}
