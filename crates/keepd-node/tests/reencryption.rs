//! A member whose encryption goes on, whose key changes and whose encryption goes off, with the
//! power cut on the way: whatever was cut, the next start has every value and ends the re-encryption.

#![expect(clippy::panic, reason = "a failed check says at which call the power was cut")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_crypto::EncryptionConfig;
use keepd_env::sim::CrashMode;
use keepd_env::{Env, SimDisk};
use keepd_machine::Command;
use keepd_machine::command::Put;
use keepd_node::{BootError, DataDir, Error, Node, Options};
use keepd_types::{KeyRange, KeyValue, StoredValue};
use sim::fixture;
use tokio::task::JoinSet;

const KEYS: u32 = 30;
const CANARY: &str = "canary";
/// Time limit for the re-encryption of some kilobytes.
const REENCRYPTION_MAX: Duration = Duration::from_secs(30);

const ONE: &str = "{name: one, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}";
const TWO: &str = "{name: two, secret: ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=}";

/// Configuration that the member is started with, one stage after the other.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Plain,
    On,
    Changed,
    Off,
}

fn config(stage: Stage) -> Option<EncryptionConfig> {
    let providers = match stage {
        Stage::Plain => return None,
        Stage::On => format!("[{{aesgcm: {{keys: [{ONE}]}}}}, {{identity: {{}}}}]"),
        Stage::Changed => format!("[{{aesgcm: {{keys: [{TWO}, {ONE}]}}}}, {{identity: {{}}}}]"),
        Stage::Off => format!("[{{identity: {{}}}}, {{aesgcm: {{keys: [{TWO}, {ONE}]}}}}]"),
    };
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n\
         resources: [{{resources: ['*.*', 'prefix:c'], providers: {providers}}}]"
    );
    Some(EncryptionConfig::parse("test", text.as_bytes()).expect("the configuration is right"))
}

fn start(disk: &SimDisk, seed: u64, stage: Stage) -> Result<Node, BootError> {
    fixture::start(disk, seed, fixture::options(), config(stage))
}

async fn put(node: &Node, number: u32) -> Result<(), Error> {
    let handle = node.handle();
    let key = Bytes::from(format!("{CANARY}-{number}"));
    let plain = Bytes::from(format!("{CANARY} value {number}"));
    let random = &*handle.env().random;
    let sealer = handle.encryption().sealer();
    let value: StoredValue = sealer.seal(&key, plain, random).expect("it can be sealed");
    handle.propose(Command::Put(Put { key, value, ..Put::default() })).await?;
    Ok(())
}

/// Runs until every file is as the configuration wants it.
async fn reencrypt(node: &Node) -> Result<(), Error> {
    node.ready().await?;
    let handle = node.handle();
    handle.encryption_is_active().await?;
    let mut waited = Duration::ZERO;
    while !handle.file_counts().is_complete {
        if handle.halted().borrow().is_some() || waited > REENCRYPTION_MAX {
            return Err(Error::Stopped);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        waited += Duration::from_millis(20);
    }
    Ok(())
}

fn check(node: &Node, context: &str) {
    let handle = node.handle();
    let (view, sealer) = (handle.view(), handle.encryption().sealer());
    for number in 0..KEYS {
        let key = Bytes::from(format!("{CANARY}-{number}"));
        let refs = view.range(&KeyRange::point(key.clone()), 0, 1).expect("it is readable");
        let Some((_, revision)) = refs.keys.first() else { panic!("{context}: no {number}") };
        let record = view.load(*revision).expect("a live record is readable");
        let kv = KeyValue::decode(&record.encoded).expect("a stored record decodes");
        let stored = StoredValue { bytes: kv.value, seal: record.seal };
        let plain = sealer.open(&key, &stored);
        let plain = plain.unwrap_or_else(|error| panic!("{context}: {number}: {error}"));
        assert_eq!(plain, format!("{CANARY} value {number}"), "{context}");
    }
}

/// A disk with a member that has come through all stages before `stage`, and what it then takes to
/// come through that one.
async fn before(stage: Stage) -> (SimDisk, u64) {
    let disk = SimDisk::new();
    let stages = [Stage::Plain, Stage::On, Stage::Changed, Stage::Off];
    for (seed, earlier) in (1..).zip(stages) {
        let is_last = std::mem::discriminant(&earlier) == std::mem::discriminant(&stage);
        let copy = disk.kill();
        let on = if is_last { &copy } else { &disk };
        let node = start(on, seed, earlier).expect("the disk works");
        reencrypt(&node).await.unwrap_or_else(|error| panic!("{earlier:?}: {error}"));
        if matches!(earlier, Stage::Plain) {
            for number in 0..KEYS {
                put(&node, number).await.expect("it can be written");
            }
        }
        check(&node, &format!("{earlier:?}"));
        node.stop();
        if is_last {
            return (disk, copy.mutations());
        }
    }
    panic!("{stage:?} is one of the stages");
}

/// A re-encryption mostly waits for the next turn of a member, so those of all cuts run at once.
async fn cut_power_during(stage: Stage) {
    let (base, calls) = before(stage).await;
    assert!(calls > 15, "{stage:?} changes the disk only {calls} times");
    let mut cuts = JoinSet::new();
    for n in (0..calls).step_by(usize::try_from(calls / 8).expect("few calls")) {
        let disk = base.kill();
        disk.crash_at(n);
        cuts.spawn(survive_a_cut(disk, stage, n, format!("{stage:?} cut at call {n} of {calls}")));
    }
    while let Some(done) = cuts.join_next().await {
        done.expect("it survives");
    }
}

async fn power_is_cut(disk: &SimDisk, n: u64) {
    while disk.mutations() <= n {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn survive_a_cut(disk: SimDisk, stage: Stage, n: u64, context: String) {
    if let Ok(node) = start(&disk, 100 + n, stage) {
        // A member that only failed to write its keyring would try for ever.
        tokio::select! {
            _ended = reencrypt(&node) => {}
            () = power_is_cut(&disk, n) => {}
        }
        node.stop();
    }
    // The process is killed, and the power goes when the next one has started.
    let killed = disk.kill();
    let node = start(&killed, 500 + n, stage).unwrap_or_else(|it| panic!("{context}: {it}"));
    let modes = [CrashMode::LoseUnsynced, CrashMode::Random { seed: n }];
    let mode = modes[usize::from(n.is_multiple_of(2))];
    let images = [disk.crash(mode), killed.crash(mode)];
    node.stop();
    for image in images {
        go_on(image, stage, n, &context).await;
    }
}

async fn go_on(image: SimDisk, stage: Stage, n: u64, context: &str) {
    let node = start(&image, 900 + n, stage).unwrap_or_else(|it| panic!("{context}: {it}"));
    reencrypt(&node).await.unwrap_or_else(|error| panic!("{context}: {error}"));
    check(&node, context);
    node.stop();
    let lies_open = image.find(CANARY.as_bytes());
    assert_eq!(lies_open.is_some(), matches!(stage, Stage::Off), "{context}: {lies_open:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_while_encryption_goes_on_lose_nothing() {
    cut_power_during(Stage::On).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_while_the_key_changes_lose_nothing() {
    cut_power_during(Stage::Changed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_while_encryption_goes_off_lose_nothing() {
    cut_power_during(Stage::Off).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_the_new_key_alone_is_refused_until_the_values_have_followed() {
    let (disk, _) = before(Stage::Changed).await;
    let text = "apiVersion: v1\nkind: EncryptionConfig\n\
                resources: [{resources: ['*.*', 'prefix:c'], providers: [{aesgcm: {keys: [TWO]}}]}]";
    let alone = EncryptionConfig::parse("test", text.replace("TWO", TWO).as_bytes());
    let alone = alone.expect("the configuration is right");
    let env = Env { disk: Arc::new(disk.clone()), ..Env::simulated(5).0 };
    let options = Options::new(PathBuf::from("/data"));
    // Nothing of it is known to the keyring yet.
    let refused = DataDir::prepare(&env, &options, Some(alone.clone()));
    assert!(matches!(refused, Err(BootError::Keyring(_))), "{refused:?}");

    // Both keys, but cut before anything is rewritten.
    let both = config(Stage::Changed);
    drop(DataDir::prepare(&env, &options, both).expect("both keys open it"));
    let content =
        || -> Vec<_> { disk.files().into_iter().map(|path| (disk.peek(&path), path)).collect() };
    let before = content();
    let refused = DataDir::prepare(&env, &options, Some(alone.clone()));
    let Err(BootError::KeysInUse { keys }) = refused else { panic!("{refused:?}") };
    assert!(keys.starts_with("aesgcm:one (id ") && keys.ends_with(") by 30 values"), "{keys}");
    assert!(content() == before, "a refused start changes no file");

    let node = start(&disk, 9, Stage::Changed).expect("both keys open it");
    reencrypt(&node).await.expect("the values are re-encrypted");
    node.stop();
    DataDir::prepare(&env, &options, Some(alone)).expect("no value needs the old key");
}
