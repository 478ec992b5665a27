//! The encryption configuration while the server runs: keys come, change and go by reloads, and the
//! status tells when.

use std::process::Command;
use std::time::Duration;

use e2e::Client;
use testkit::files::{files_with, tree};
use testkit::process::tail;
use testkit::{Keepd, Server, TempDir};

use crate::configuration::{FIRST, SECOND, changing, reload, sealing, unsealing};
use crate::sealed::{needles, open_files, write_canaries};

/// Time limit for a reload and the re-encryption of some hundred kilobytes.
const CONVERSION_MAX: Duration = Duration::from_secs(60);
const RELOADING: [&str; 1] = ["--encryption-provider-config-automatic-reload=true"];

/// Runs `keepd encryption` and returns what it prints, and whether it succeeded.
fn keepd_encryption(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(Keepd::binary()).arg("encryption").args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn status(keepd: &Keepd) -> String {
    let endpoint = keepd.endpoint();
    let (done, text) =
        keepd_encryption(&["status", "--endpoint", &endpoint, "--values", "-w", "json"]);
    assert!(done, "{text}");
    // Compact and without spaces: the tests look for parts.
    text
}

/// Waits until the status has every part.
async fn until(server: &mut Server, keepd: &Keepd, parts: &[&str]) -> String {
    let pause = Duration::from_millis(250);
    let mut waited = Duration::ZERO;
    loop {
        server.assert_running();
        let now = status(keepd);
        if parts.iter().all(|part| now.contains(part)) {
            return now;
        }
        assert!(waited < CONVERSION_MAX, "no {parts:?} in {now}\n{}", tail(&keepd.log()));
        tokio::time::sleep(pause).await;
        waited += pause;
    }
}

const SETTLED: &str = "\"settled\":true";

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_changed_and_encryption_ended_while_the_server_runs() {
    let dir = TempDir::new("e2e-reload");
    let config = dir.write("live.yaml", &sealing("key1", FIRST));
    let keepd = Keepd::new(dir.path()).encryption(&config).args(RELOADING);
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    let (key, value) = write_canaries(&client, 0).await;
    let revision = client.revision().await.unwrap();
    let first = until(&mut server, &keepd, &[SETTLED, "\"successes\":0"]).await;
    assert!(first.contains("aesgcm:key1") && first.contains("\"sealing\":true"), "{first}");

    // Dropping the key that everything lies under is refused with the count; the old file holds.
    reload(&config, &sealing("key2", SECOND));
    let refused = until(&mut server, &keepd, &["\"failures\":1"]).await;
    assert!(refused.contains("keys that are in use: aesgcm:key1"), "{refused}");
    assert_eq!(client.get(&key).await.unwrap(), Some(value.clone()));

    // The new key in front: stored values are re-encrypted, without a revision or an event.
    let both = changing(&[("key2", SECOND), ("key1", FIRST)]);
    reload(&config, &both);
    let taken = until(&mut server, &keepd, &["\"successes\":1"]).await;
    assert!(taken.contains("\"last_error\":null"), "{taken}");
    let moved = until(&mut server, &keepd, &[SETTLED, "\"stale\":0}}"]).await;
    assert!(!moved.contains("\"name\":\"aesgcm:key1\",\"values\""), "{moved}");
    assert_eq!(client.revision().await.unwrap(), revision);
    assert_eq!(client.get(&key).await.unwrap(), Some(value.clone()));

    // Now the old one may go, and a restart with the new one alone works.
    reload(&config, &sealing("key2", SECOND));
    until(&mut server, &keepd, &["\"successes\":2", SETTLED]).await;
    let (_, second) = write_canaries(&client, 1).await;
    server.stop();
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.get(&key).await.unwrap(), Some(second.clone()));
    assert!(open_files(&keepd.data_dir()).is_empty());

    // Identity first: plain again until nothing needs the key.
    reload(&config, &unsealing("key2", SECOND));
    until(&mut server, &keepd, &["\"configuration_may_go\":true"]).await;
    assert_eq!(client.get(&key).await.unwrap(), Some(second.clone()));
    server.stop();
    let plain = Keepd::new(dir.path());
    let mut server = plain.start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.get(&key).await.unwrap(), Some(second));
    assert_eq!(client.list("/registry/secrets/").await.unwrap().len(), 200);
    assert!(!files_with(&plain.data_dir(), &needles()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_not_right_changes_nothing_while_the_server_runs() {
    let dir = TempDir::new("e2e-reload-wrong");
    let config = dir.write("live.yaml", &sealing("key1", FIRST));
    let keepd = Keepd::new(dir.path()).encryption(&config).args(RELOADING);
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    let (key, value) = write_canaries(&client, 0).await;
    reload(&config, "kind: [");
    until(&mut server, &keepd, &["\"failures\":1", "\"successes\":0"]).await;
    assert_eq!(client.get(&key).await.unwrap(), Some(value));
    client.put(&key, "later", 0).await.unwrap();
    assert!(files_with(&keepd.data_dir(), &[b"later".to_vec()]).is_empty());
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_key_in_use_names_it_with_the_count_and_touches_nothing() {
    let dir = TempDir::new("e2e-missing-key");
    let two_rules = sealing("key1", FIRST).replace("\"*.*\"", "\"secrets\"")
        + "- resources: [\"*.*\"]\n  providers:\n  - aesgcm:\n      keys:\n      \
           - {name: key2, secret: "
        + SECOND
        + "}\n";
    let config = dir.write("two.yaml", &two_rules);
    let keepd = Keepd::new(dir.path());
    let mut server = keepd.clone().encryption(&config).start();
    let client = Client::ready(&mut server).await;
    client.put("/registry/secrets/a/b", "one", 0).await.unwrap();
    client.put("/registry/secrets/a/c", "two", 0).await.unwrap();
    client.put("/registry/configmaps/a/b", "three", 0).await.unwrap();
    // Some of it lies in the log alone.
    server.kill();

    let before = tree(&keepd.data_dir());
    let lacking = dir.write("lacking.yaml", &sealing("key2", SECOND));
    let refused = keepd.clone().encryption(&lacking).run(Duration::from_secs(30));
    assert!(refused.is_some_and(|status| !status.success()), "{}", tail(&keepd.log()));
    let log = keepd.log();
    assert!(log.contains("aesgcm:key1") && log.contains("by 2 values"), "{}", tail(&log));
    assert!(before == tree(&keepd.data_dir()), "the directory was touched");

    let mut server = keepd.clone().encryption(&config).start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.get("/registry/secrets/a/c").await.unwrap(), Some("two".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_during_reencryption_lose_nothing() {
    let dir = TempDir::new("e2e-reencrypt-kill");
    let plain = Keepd::new(dir.path());
    let mut server = plain.start();
    let client = Client::ready(&mut server).await;
    let (key, mut value) = write_canaries(&client, 0).await;
    server.kill();
    let configs = [
        sealing("key1", FIRST),
        changing(&[("key2", SECOND), ("key1", FIRST)]),
        changing(&[("key1", FIRST), ("key2", SECOND)]),
        changing(&[("key2", SECOND), ("key1", FIRST)])
            .replace("providers:\n", "providers:\n  - identity: {}\n"),
    ];
    for round in 1..13_usize {
        let config = dir.write("now.yaml", &configs[(round / 2) % configs.len()]);
        let mut server = plain.clone().encryption(&config).start();
        let client = Client::ready(&mut server).await;
        assert_eq!(client.get(&key).await.unwrap(), Some(value), "round {round}");
        assert_eq!(client.list("/registry/secrets/").await.unwrap().len(), 200, "round {round}");
        (_, value) = write_canaries(&client, round).await;
        tokio::time::sleep(Duration::from_millis(150 * (round as u64 % 7))).await;
        server.kill();
    }
}

#[test]
fn a_configuration_is_verified_without_a_server() {
    let dir = TempDir::new("e2e-verify");
    let good = dir.write("good.yaml", &sealing("key1", FIRST));
    let (done, text) = keepd_encryption(&["verify", good.to_str().unwrap()]);
    assert!(done && text.contains("*.*: sealed under aesgcm:key1"), "{text}");
    let bad = dir.write("bad.yaml", &sealing("key1", "c2hvcnQ="));
    let (done, text) = keepd_encryption(&["verify", bad.to_str().unwrap()]);
    assert!(!done && text.contains("remedy:") && !text.contains("c2hvcnQ="), "{text}");
}
