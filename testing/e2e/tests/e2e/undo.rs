//! `keepd history`, `diff` and `undo` with the real binary: from a revision and from a backup, with writers
//! beside it, killed half-way.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use e2e::Client;
use serde_json::Value;
use tokio::time::timeout;

use crate::backups::{Bench, Told};

const PREFIX: &str = "/registry/configmaps/shop/";
const ELSEWHERE: &str = "/registry/configmaps/other/one";
const KEYS: usize = 300;
const CHANGED_MEANWHILE: i32 = 4;
const DIFFERENT: i32 = 4;

fn key(number: usize) -> String {
    format!("{PREFIX}{number:04}")
}

async fn fill(client: &Client) -> i64 {
    for numbers in (0..KEYS).collect::<Vec<_>>().chunks(100) {
        let pairs: Vec<_> = numbers.iter().map(|at| (key(*at), format!("value {at}"))).collect();
        client.put_all(&pairs).await.unwrap();
    }
    client.put(ELSEWHERE, "before", 0).await.unwrap()
}

/// Deletes two thirds of the keys, changes others, and makes new ones.
async fn harm(client: &Client) {
    for number in 0..KEYS {
        if number % 3 != 0 {
            client.delete(&key(number)).await.unwrap();
        } else if number % 2 == 0 {
            client.put(&key(number), "overwritten", 0).await.unwrap();
        }
    }
    client.put(&format!("{PREFIX}new"), "new", 0).await.unwrap();
    client.put(ELSEWHERE, "after", 0).await.unwrap();
}

async fn content(client: &Client) -> BTreeMap<Bytes, Bytes> {
    let kvs = client.list(PREFIX).await.unwrap();
    kvs.into_iter().map(|kv| (kv.key, kv.value)).collect()
}

fn told(bench: &Bench, words: &[&str]) -> Told {
    let endpoint = bench.keepd().endpoint();
    Told::of(&mut bench.verb(&[words, &["--endpoints", &endpoint]].concat()))
}

fn undo(bench: &Bench, to: &str, more: &[&str]) -> Told {
    told(bench, &[&["undo", "--to", to, "--prefix", PREFIX], more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_and_changed_comes_back_and_nothing_else_is_touched() {
    let bench = Bench::new("e2e-undo");
    let keepd = bench.keepd();
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    let revision = fill(&client).await.to_string();
    let before = content(&client).await;
    bench.take(&bench.with_config()).expect(0);
    harm(&client).await;
    let harmed = content(&client).await;

    let dry = undo(&bench, &revision, &[]).expect(0);
    let counts = "200 would be put back, 50 would be changed back, 0 would be deleted";
    assert!(dry.out.contains(counts), "{}", dry.out);
    assert!(dry.out.contains(&format!("put back {}", key(1))), "{}", dry.out);
    assert!(dry.err.contains("nothing was changed"), "{}", dry.err);
    assert_eq!(content(&client).await, harmed);

    let done = undo(&bench, &revision, &["--yes"]).expect(0);
    assert!(done.out.contains("200 were put back, 50 were changed back"), "{}", done.out);
    assert!(done.out.contains("1 were made since and stay"), "{}", done.out);
    let mut with_new = before.clone();
    with_new.insert(format!("{PREFIX}new").into(), "new".into());
    assert_eq!(content(&client).await, with_new);
    assert_eq!(client.get(ELSEWHERE).await.unwrap().as_deref(), Some("after"));

    // One's own key is told from the history, its deletion too.
    let history = told(&bench, &["history", &key(1), "-w", "json", "--values"]).expect(0).json();
    let versions = history["versions"].as_array().unwrap();
    let puts: Vec<bool> = versions.iter().map(|version| !version["put"].is_null()).collect();
    assert_eq!(puts, [true, false, true], "{history}");
    let first = versions[0]["revision"].to_string();
    let value = told(&bench, &["history", &key(1), "--value-of", &first]).expect(0);
    assert_eq!(value.out, "value 1");
    let table = told(&bench, &["history", &key(1)]).expect(0).out;
    assert!(table.contains("deleted") && table.contains("cluster"), "{table}");

    let words = ["diff", &revision, "--prefix", PREFIX, "--exit-code"];
    let differs = told(&bench, &words).expect(DIFFERENT);
    assert!(differs.out.starts_with(&format!("+ {PREFIX}new")), "{}", differs.out);
    assert_eq!(differs.out.lines().count(), 1, "{}", differs.out);
    undo(&bench, &revision, &["--delete-created", "--yes"]).expect(0);
    assert_eq!(content(&client).await, before);
    told(&bench, &words).expect(0);

    // What is compacted is in the backup.
    harm(&client).await;
    let now = client.revision().await.unwrap();
    client.compact(now).await.unwrap();
    let compacted = undo(&bench, &revision, &["--yes"]).expect(1);
    assert!(
        compacted.err.contains("is compacted: name a later one, or a backup"),
        "{}",
        compacted.err
    );
    let from = bench.place();
    let from = [&["--from", &from][..], &bench.with_config()].concat();
    let more = [&from[..], &["--delete-created", "--yes"]].concat();
    undo(&bench, "latest", &more).expect(0);
    assert_eq!(content(&client).await, before);
    let words = [&["diff", "latest", "now", "--prefix", PREFIX, "-w", "json"][..], &from].concat();
    assert_eq!(told(&bench, &words).expect(0).out, "");
    let first = key(1);
    let words = [&["history", &first, "-w", "json"][..], &from].concat();
    let history = told(&bench, &words).expect(0).json();
    let places: Vec<&Value> =
        history["versions"].as_array().unwrap().iter().map(|it| &it["place"]).collect();
    assert!(places[0].as_str().unwrap().starts_with("backup 20"), "{history}");
    assert_eq!(places.last().unwrap().as_str(), Some("cluster"), "{history}");
    bench.assert_nothing_plain();
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_before_anything_is_changed() {
    let bench = Bench::new("e2e-undo-mistakes");
    let mut server = bench.keepd().start();
    let client = Client::ready(&mut server).await;
    let now = fill(&client).await;
    for (words, text) in [
        (vec!["undo", "--to", "2", "--yes"], "name what to put back"),
        (vec!["undo", "--to", "latest", "--prefix", "/"], "give their place with --from URL"),
        (vec!["undo", "--to", "2026-11-28T10:15:00Z", "--prefix", "/"], "--from URL"),
        (vec!["undo", "--to", "0", "--prefix", "/"], "revisions begin at 1"),
        (vec!["undo", "--to", "999999", "--prefix", "/"], "has not been yet"),
        (vec!["undo", "--to", "2", "--namespace", "a/b"], "no name of a namespace"),
        (vec!["diff", "nonsense"], "nonsense is not now and no revision"),
        (vec!["history", ""], "at least one byte"),
    ] {
        let told = told(&bench, &words).expect(1);
        assert!(told.err.contains(text), "{words:?}: {}", told.err);
    }
    assert_eq!(client.revision().await.unwrap(), now);
    server.stop();
}

/// A key that somebody goes on changing is never overwritten with what it was, even by a stale comparison.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_meanwhile_is_left_alone() {
    let bench = Bench::new("e2e-undo-meanwhile");
    let mut server = bench.keepd().start();
    let client = Client::ready(&mut server).await;
    // The last key of the prefix: the others are written before it.
    let contended = format!("{PREFIX}z");
    client.put(&contended, "old", 0).await.unwrap();
    let revision = fill(&client).await.to_string();
    harm(&client).await;
    let start = client.put(&contended, "0", 0).await.unwrap();
    let ends = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (client, ends, contended) = (client.clone(), Arc::clone(&ends), contended.clone());
        async move {
            let mut number = 1_u64;
            while !ends.load(Ordering::Relaxed) {
                client.put(&contended, &number.to_string(), 0).await.unwrap();
                number += 1;
            }
        }
    });
    let done = tokio::task::block_in_place(|| undo(&bench, &revision, &["--yes"]));
    let done = done.expect(CHANGED_MEANWHILE);
    ends.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    assert!(done.err.contains(&format!("left alone: {contended}")), "{}", done.err);
    let end = client.revision().await.unwrap();
    let changes = client.history(start, end).await;
    let old = changes.iter().filter(|it| it.value.as_deref() == Some(b"old")).count();
    assert_eq!(old, 0, "the writer's value was overwritten");
    for number in 0..KEYS {
        assert_eq!(client.get(&key(number)).await.unwrap(), Some(format!("value {number}")));
    }
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_one_goes_on_when_it_is_run_again() {
    let bench = Bench::new("e2e-undo-killed");
    let mut server = bench.keepd().start();
    let client = Client::ready(&mut server).await;
    let revision = fill(&client).await;
    let before = content(&client).await;
    harm(&client).await;
    let endpoint = bench.keepd().endpoint();
    let to = revision.to_string();
    let words = ["undo", "--to", &to, "--prefix", PREFIX, "--delete-created", "--yes"];
    let words = [&words[..], &["--endpoints", &endpoint]].concat();
    let begin = client.revision().await.unwrap();
    let mut child = bench.verb(&words).stdout(Stdio::null()).spawn().unwrap();
    let begun = async {
        while client.revision().await.unwrap() < begin + 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(60), begun).await.expect("it writes");
    // It may have been faster; the second run has nothing to do then.
    let _ended = child.kill();
    child.wait().unwrap();
    Told::of(&mut bench.verb(&words)).expect(0);
    assert_eq!(content(&client).await, before);
    server.stop();
}
