//! A sealed data directory: nothing written shows in any file, and without its key nothing starts
//! and nothing is touched.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::Client;
use testkit::files::{contains, files_with, tree};
use testkit::process::tail;
use testkit::{Keepd, TempDir};

use crate::configuration::{FIRST, SECOND, sealing};

/// Words that occur in every key, and in every value, that these tests write.
const CANARIES: [&str; 2] = ["canarykeycanarykey", "canaryvaluecanaryvalue"];
/// How long a start that must fail may take.
const REFUSAL_MAX: Duration = Duration::from_secs(30);

pub(crate) fn needles() -> Vec<Vec<u8>> {
    CANARIES.iter().map(|canary| canary.as_bytes().to_vec()).collect()
}

/// The files of a data directory whose header names no data key (see docs/formats/sealed-file.md),
/// and those in which written bytes can be read.
pub(crate) fn open_files(dir: &Path) -> Vec<PathBuf> {
    let names_no_key =
        |bytes: &[u8]| bytes.starts_with(b"keepdfil") && bytes.get(12..16) == Some(&[0; 4]);
    let plain = tree(dir).into_iter().filter(|entry| names_no_key(&entry.content));
    let mut open: Vec<PathBuf> = plain.map(|entry| entry.path).collect();
    open.extend(files_with(dir, &needles()));
    open.sort();
    open.dedup();
    open
}

/// Writes in all the ways there are; returns one key and its value.
pub(crate) async fn write_canaries(client: &Client, round: usize) -> (String, String) {
    let [key, value] = CANARIES;
    let lease = client.grant(3600).await.unwrap();
    for i in 0..200 {
        client
            .put(&format!("/registry/secrets/{key}/{i}"), &format!("{value} {round}"), 0)
            .await
            .unwrap();
        client
            .put(&format!("{key}/bare/{i}"), &format!("{value} {i} {round}"), lease)
            .await
            .unwrap();
    }
    client.put(&format!("/registry/configmaps/{key}/long"), &value.repeat(5000), 0).await.unwrap();
    let pair = |i| (format!("/registry/leases/{key}/{i}"), format!("{value} txn {round}"));
    client.put_all(&(0..50).map(pair).collect::<Vec<_>>()).await.unwrap();
    for i in 0..50 {
        client.delete(&format!("{key}/bare/{i}")).await.unwrap();
    }
    let revision = client.revision().await.unwrap();
    client.compact(revision - 100).await.unwrap();
    assert!(!client.history(revision - 10, revision).await.is_empty());
    // A wish that fails shows up in logs, if anything does.
    client.put(&format!("{key}/no-lease"), value, 123_456).await.unwrap_err();
    (format!("/registry/secrets/{key}/7"), format!("{value} {round}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_written_byte_shows_in_a_sealed_directory() {
    let dir = TempDir::new("e2e-canary");
    let config = dir.write("encryption.yaml", &sealing("key1", FIRST));
    // As much logging as there is: the log must not tell either.
    let keepd = Keepd::new(dir.path()).encryption(&config).args(["--log-level", "debug"]);
    for round in 0..3 {
        let mut server = keepd.start();
        let client = Client::ready(&mut server).await;
        let (key, value) = write_canaries(&client, round).await;
        assert_eq!(client.get(&key).await.unwrap(), Some(value));
        // While it runs, then after an orderly or a sudden end.
        assert_hidden(&keepd);
        if round == 1 {
            server.kill();
        } else {
            server.stop();
        }
        assert_hidden(&keepd);
    }
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.list("/registry/secrets/").await.unwrap().len(), 200);
    assert_hidden(&keepd);
}

fn assert_hidden(keepd: &Keepd) {
    let open = open_files(&keepd.data_dir());
    assert!(open.is_empty(), "written keys or values lie open in {open:?}");
    let log = std::fs::read(keepd.log_path()).unwrap();
    let told = needles().iter().any(|needle| contains(&log, needle));
    assert!(!told, "the log tells written keys or values");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_search_finds_what_lies_open() {
    let dir = TempDir::new("e2e-open");
    let keepd = Keepd::new(dir.path());
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    write_canaries(&client, 0).await;
    server.stop();
    for needle in needles() {
        assert!(!files_with(&keepd.data_dir(), &[needle]).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_or_missing_key_starts_nothing_and_touches_nothing() {
    let dir = TempDir::new("e2e-keys");
    let right = dir.write("right.yaml", &sealing("key1", FIRST));
    let keepd = Keepd::new(dir.path());
    let mut server = keepd.clone().encryption(&right).start();
    let client = Client::ready(&mut server).await;
    let (key, value) = write_canaries(&client, 0).await;
    assert_eq!(server.stop().signal(), Some(15));

    let before = tree(&keepd.data_dir());
    let cases = [
        ("no configuration", None),
        ("another secret by the same name", Some(sealing("key1", SECOND))),
        ("another key", Some(sealing("key2", SECOND))),
        ("a secret of 14 bytes", Some(sealing("key1", "c2VjcmV0IGlzIHNlY3VyZQ=="))),
        ("no configuration at all in the file", Some(String::from("{}"))),
    ];
    for (case, config) in cases {
        let refused = match config {
            None => keepd.clone(),
            Some(text) => keepd.clone().encryption(&dir.write("wrong.yaml", &text)),
        };
        let log_before = keepd.log().len();
        let status = refused.run(REFUSAL_MAX);
        let log = keepd.log();
        let said = tail(&log[log_before..]);
        let status = status.unwrap_or_else(|| panic!("{case}: it runs\n{said}"));
        assert!(!status.success() && status.signal().is_none(), "{case}: {status}\n{said}");
        assert!(!said.trim().is_empty(), "{case}: it does not say why");
        assert!(!said.contains(SECOND) && !said.contains(FIRST), "{case}: it tells a secret");
        assert!(!said.contains("panicked"), "{case}: {said}");
        let after = tree(&keepd.data_dir());
        assert!(before == after, "{case}: the directory was touched\n{said}");
    }

    // The missing key is named.
    let log_before = keepd.log().len();
    let _ = keepd.run(REFUSAL_MAX);
    assert!(keepd.log()[log_before..].contains("key1"), "{}", &keepd.log()[log_before..]);

    let mut server = keepd.clone().encryption(&right).start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.get(&key).await.unwrap(), Some(value));
}
