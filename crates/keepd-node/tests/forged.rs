//! Files that somebody without a key put into the data directory of a member whose configuration
//! seals everything: none of them is served, and nothing is changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_crypto::{ConfigOptions, EncryptionConfig};
use keepd_env::{Disk, Env, SimDisk};
use keepd_machine::Command;
use keepd_machine::command::Put;
use keepd_node::{BootError, DataDir, Node, Options};
use keepd_types::{KeyRange, StoredValue};
use sim::fixture;

const SEALING: &str = "";
const MIGRATING: &str = ", {identity: {}}";
const FORGED: &str = "/registry/secrets/kube-system/forged";
/// Time limit for the re-encryption of some kilobytes.
const REENCRYPTION_MAX: Duration = Duration::from_secs(30);

fn config(last: &str, options: ConfigOptions) -> EncryptionConfig {
    let text = format!(
        "apiVersion: v1\nkind: EncryptionConfig\nresources:\n\
         - resources: ['*.*', 'prefix:']\n  \
           providers: [{{secretbox: {{keys: [{{name: k, secret: \
         MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}}]}}}}{last}]"
    );
    EncryptionConfig::parse_with("test", text.as_bytes(), options).expect("it is right")
}

fn sealing() -> EncryptionConfig {
    config(SEALING, ConfigOptions::default())
}

fn vouched() -> EncryptionConfig {
    let options = ConfigOptions { trust_plain_data: true, ..ConfigOptions::default() };
    config(SEALING, options)
}

fn start(disk: &SimDisk, config: Option<EncryptionConfig>) -> Result<Node, BootError> {
    fixture::start(disk, disk.mutations(), fixture::options(), config)
}

/// A member with one value, in an orderly state.
async fn member(config: Option<EncryptionConfig>, key: &'static str) -> SimDisk {
    let disk = SimDisk::new();
    let node = start(&disk, config).expect("the disk works");
    node.ready().await.expect("the member leads");
    let handle = node.handle();
    handle.activate_encryption().await.expect("the member runs");
    let (key, value) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(b"of an attacker"));
    let random = &*handle.env().random;
    let value: StoredValue = handle.encryption().sealer().seal(&key, value, random).expect("seals");
    handle
        .propose(Command::Put(Put { key, value, ..Put::default() }))
        .await
        .expect("it can be written");
    reencrypt(&node).await;
    node.stop();
    disk
}

/// Waits until every file is as the configuration wants it.
async fn reencrypt(node: &Node) {
    let handle = node.handle();
    handle.activate_encryption().await.expect("the member runs");
    let mut waited = Duration::ZERO;
    while !handle.file_counts().is_complete {
        assert!(waited < REENCRYPTION_MAX, "the files are not re-encrypted");
        tokio::time::sleep(Duration::from_millis(20)).await;
        waited += Duration::from_millis(20);
    }
}

fn content(disk: &SimDisk) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    disk.files().into_iter().map(|path| (path.clone(), disk.peek(&path))).collect()
}

/// `genuine` with the files of `forger` in place of its own, where `takes` says so.
fn forged(genuine: &SimDisk, forger: &SimDisk, takes: impl Fn(&str) -> bool) -> SimDisk {
    let disk = SimDisk::new();
    let of = |source: &SimDisk, wanted: &dyn Fn(&str) -> bool| {
        for (path, bytes) in content(source) {
            let name = path.strip_prefix("/data/member").unwrap_or_else(|_| Path::new("LOCK"));
            if wanted(name.to_str().expect("names are unicode")) {
                disk.create_dir(path.parent().expect("it has one")).expect("makes it");
                disk.replace(&path, &bytes.expect("it is there")).expect("writes");
            }
        }
    };
    of(genuine, &|name| !takes(name));
    of(forger, &takes);
    disk
}

async fn serves_forged(disk: &SimDisk, config: EncryptionConfig) -> Result<bool, BootError> {
    let node = start(disk, Some(config))?;
    node.ready().await.expect("the member leads");
    let view = node.handle().view();
    let found = view.range(&KeyRange::point(Bytes::from_static(FORGED.as_bytes())), 0, 1);
    let count = found.expect("it is readable").keys.len();
    node.stop();
    Ok(count > 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_plain_file_is_served_under_a_configuration_that_seals_everything() {
    let genuine = member(Some(sealing()), "/registry/pods/default/a").await;
    let forger = member(None, FORGED).await;
    type Takes = fn(&str) -> bool;
    let cases: [(&str, Takes); 5] = [
        ("a plain directory", |_| true),
        ("store and log beside the keyring", |name| !name.starts_with("KEYRING")),
        ("the store", |name| name.starts_with("store")),
        ("the log", |name| name.starts_with("wal")),
        ("a checkpoint or segment", |name| name.starts_with("store/") && !name.contains("MANI")),
    ];
    for (what, takes) in cases {
        for with in [sealing(), vouched()] {
            let is_vouched_for =
                what == "a plain directory" && with.refuses_plain_files().is_none();
            let disk = forged(&genuine, &forger, takes);
            let before = content(&disk);
            let outcome = serves_forged(&disk, with).await;
            if is_vouched_for {
                assert!(outcome.expect("it is what the flag is for"), "{what}");
                continue;
            }
            let error = outcome.expect_err(what).to_string();
            assert!(error.contains("plain"), "{what}: {error}");
            assert_eq!(content(&disk).len(), before.len(), "{what}: nothing is removed");
        }
    }
}

/// The keyring of an ongoing re-encryption says that plain files are left, and a copy of it may be
/// kept; the configuration has to say so too.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_keyring_brings_no_plain_file_back() {
    let disk = member(None, "/registry/pods/default/a").await;
    let migrating = || config(MIGRATING, ConfigOptions::default());
    let env = Env { disk: Arc::new(disk.clone()), ..Env::simulated(5).0 };
    let options = Options::new(PathBuf::from("/data"));
    drop(DataDir::prepare(&env, &options, Some(migrating())).expect("it is taken"));
    let during = disk.peek(Path::new("/data/member/KEYRING")).expect("it was made");
    let node = start(&disk, Some(migrating())).expect("it is taken");
    node.ready().await.expect("the member leads");
    reencrypt(&node).await;
    node.stop();

    let forger = member(None, FORGED).await;
    let disk = forged(&disk, &forger, |name| !name.starts_with("KEYRING"));
    let previous = disk.peek(Path::new("/data/member/KEYRING.prev"));
    for keyring in previous.into_iter().chain([during]) {
        disk.replace(Path::new("/data/member/KEYRING"), &keyring).expect("writes");
        let error = serves_forged(&disk, sealing()).await.expect_err("it is forged").to_string();
        assert!(error.contains("the file is plain"), "{error}");
    }
}

/// The flag holds for the first encryption of a directory, over as many starts as that takes.
#[tokio::test(flavor = "multi_thread")]
async fn the_operators_word_holds_until_everything_is_sealed() {
    let disk = member(None, FORGED).await;
    let error = start(&disk, Some(sealing())).expect_err("it is plain");
    assert!(matches!(error, BootError::Keyring(_)), "{error}");
    let node = start(&disk, Some(vouched())).expect("it is vouched for");
    node.ready().await.expect("the member leads");
    reencrypt(&node).await;
    node.stop();
    assert!(disk.find(FORGED.as_bytes()).is_none(), "everything is sealed");
    assert!(serves_forged(&disk, sealing()).await.expect("it is sealed now"));
    // Spent: what is put there later is refused with the flag as well.
    let forger = member(None, FORGED).await;
    let disk = forged(&disk, &forger, |name| !name.starts_with("KEYRING"));
    let error = serves_forged(&disk, vouched()).await.expect_err("it is forged").to_string();
    assert!(error.contains("known to be sealed"), "{error}");
}
