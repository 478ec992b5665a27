//! A whole member on a simulated disk: the power is cut at every mutating call of a scripted run,
//! the process is killed at each of them, started, and the power cut then; every sync and every write
//! fails once; and each time the next start must have what was acknowledged. [`full_disk`]: the disk is full at each of them, and the member goes on.

#![expect(clippy::panic, reason = "a failed check says at which call the power was cut")]

mod full_disk;
mod given_back;
mod install;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use keepd_env::sim::{CrashMode, FaultPlan};
use keepd_env::{IoOp, SimDisk};
use keepd_machine::command::{DeleteRange, Put};
use keepd_machine::{ApplyError, Command};
use keepd_node::{BootError, Error, Handle, Node, Options};
use keepd_types::{KeyRange, KeyValue, StoredValue};
use sim::fixture::{self, options};

const BALLAST: &str = "/data/member/BALLAST";

fn start(disk: &SimDisk, seed: u64) -> Result<Node, BootError> {
    start_with(disk, seed, options())
}

fn start_with(disk: &SimDisk, seed: u64, options: Options) -> Result<Node, BootError> {
    fixture::start(disk, seed, options, Some(fixture::encryption()))
}

/// What a client knows: acknowledged values, and those that may or may not be there.
#[derive(Clone, Default)]
struct Known {
    values: BTreeMap<String, Option<i64>>,
    uncertain: Option<(String, Option<i64>)>,
    revision: i64,
}

/// How often what the full disk refused is tried again, and how long after.
const TRIES_MAX: usize = 400;
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// Proposes until the disk is not in the way; the revision.
async fn write(handle: &Handle, command: &Command) -> Result<i64, Error> {
    for _ in 0..TRIES_MAX {
        let done = handle.propose(command.clone()).await?;
        match done.outcome.result {
            Err(ApplyError::NoSpace) => tokio::time::sleep(TRY_AGAIN).await,
            result => {
                result.expect("the command is right");
                return Ok(done.outcome.revision);
            }
        }
    }
    panic!("the NOSPACE alarm stands for ever");
}

/// Writes until something fails.
async fn script(node: &Node, known: &mut Known) -> Result<(), Error> {
    node.ready().await?;
    let handle = node.handle();
    for i in 0..24_i64 {
        let key = format!("key-{}", i % 7);
        let value = (i % 5 != 4).then_some(i);
        known.uncertain = Some((key.clone(), value));
        known.revision = write(&handle, &command(&key, value)).await?;
        known.values.insert(key, value);
        known.uncertain = None;
        if i == 12 {
            write(&handle, &Command::Compact { revision: known.revision - 3 }).await?;
        }
        if i % 6 == 5 {
            // Lets a flush happen, so that its calls are among those that are cut.
            tokio::time::sleep(Duration::from_millis(8)).await;
        }
    }
    Ok(())
}

fn command(key: &str, value: Option<i64>) -> Command {
    let key = Bytes::copy_from_slice(key.as_bytes());
    match value {
        Some(i) => {
            let value = StoredValue::plain(Bytes::from(format!("value {i}")));
            Command::Put(Put { key, value, ..Put::default() })
        }
        None => Command::DeleteRange(DeleteRange { range: KeyRange::point(key), prev_kv: false }),
    }
}

/// Starts on an image and compares with what the client knows; the member must also still work.
async fn check(image: &SimDisk, seed: u64, known: &Known, context: &str) {
    let node = start(image, seed).unwrap_or_else(|error| panic!("{context}: {error}"));
    node.ready().await.unwrap_or_else(|error| panic!("{context}: {error}"));
    compare(&node, known, context);
    let done = write(&node.handle(), &command("after", Some(1))).await;
    done.unwrap_or_else(|error| panic!("{context}: {error}"));
    node.stop();
}

/// Reads what the client knows.
fn compare(node: &Node, known: &Known, context: &str) {
    let view = node.handle().view();
    assert!(view.revision() >= known.revision, "{context}: the revision went back");
    for (key, expected) in &known.values {
        let range = KeyRange::point(Bytes::copy_from_slice(key.as_bytes()));
        let refs = view.range(&range, 0, 1).expect("the current revision is readable");
        let found = refs.keys.first().map(|(_, revision)| {
            let record = view.load(*revision).expect("a live record is readable");
            KeyValue::decode(&record.encoded).expect("a stored record decodes").value
        });
        let value = |i: &Option<i64>| i.map(|i| Bytes::from(format!("value {i}")));
        let uncertain = known.uncertain.as_ref().filter(|(name, _)| name == key);
        let may_be = uncertain.is_some_and(|(_, i)| value(i) == found);
        assert!(found == value(expected) || may_be, "{context}: {key} is {found:?}");
    }
}

/// Runs the script on a copy of `base` prepared by `fault`; the crashed image and the knowledge.
async fn run(base: &SimDisk, seed: u64, fault: impl Fn(&SimDisk)) -> (SimDisk, Known) {
    let disk = base.kill();
    fault(&disk);
    let mut known = Known::default();
    if let Ok(node) = start(&disk, seed) {
        let _ = tokio::time::timeout(Duration::from_secs(20), script(&node, &mut known)).await;
        node.stop();
    }
    (disk, known)
}

/// A disk with a fresh member, and how many mutating calls the script makes on it.
async fn base() -> (SimDisk, u64) {
    let disk = SimDisk::new();
    let node = start(&disk, 1).expect("a fresh disk works");
    node.ready().await.expect("a fresh member works");
    while disk.peek(Path::new(BALLAST)).is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    node.stop();
    let (ran, known) = run(&disk, 2, |_| {}).await;
    assert!(known.uncertain.is_none() && known.values.len() == 7, "the script ends by itself");
    (disk, ran.mutations())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_call_loses_nothing_acknowledged() {
    let (base, calls) = base().await;
    for n in 0..calls {
        let (disk, known) = run(&base, 100 + n, |disk| disk.crash_at(n)).await;
        let modes = [
            CrashMode::LoseUnsynced,
            CrashMode::Torn { seed: n },
            CrashMode::Random { seed: n },
            CrashMode::WrittenBack,
        ];
        let mode = modes[usize::try_from(n).expect("few calls") % modes.len()];
        let image = disk.crash(mode);
        check(&image, 7000 + n, &known, &format!("cut at call {n} of {calls}, {mode:?}")).await;
    }
}

/// Starts on what a killed process left, acknowledges more, and cuts the power at once and after a
/// flush: each time the next start has it all.
async fn check_killed(killed: &SimDisk, seed: u64, mut known: Known, context: &str) -> usize {
    let node = start(killed, seed).unwrap_or_else(|error| panic!("{context}: {error}"));
    node.ready().await.unwrap_or_else(|error| panic!("{context}: {error}"));
    compare(&node, &known, context);
    let mut images = Vec::new();
    for (key, pause) in [("after", 0), ("again", 10)] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let done = write(&node.handle(), &command(key, Some(1))).await;
        known.revision = done.unwrap_or_else(|error| panic!("{context}: {error}"));
        known.values.insert(key.to_owned(), Some(1));
        images.push((killed.crash(CrashMode::LoseUnsynced), known.clone()));
        images.push((killed.crash(CrashMode::Random { seed }), known.clone()));
    }
    node.stop();
    let count = images.len();
    for (image, known) in images {
        check(&image, seed + 1, &known, &format!("{context}, then a start and a power cut")).await;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_call_then_a_start_then_a_power_cut_loses_nothing_acknowledged() {
    let (base, calls) = base().await;
    let mut cuts = 0;
    for n in 0..calls {
        let (disk, known) = run(&base, 100 + n, |disk| disk.crash_at(n)).await;
        let context = format!("killed at call {n} of {calls}");
        cuts += check_killed(&disk.kill(), 20_000 + n, known, &context).await;
    }
    assert!(cuts > 300, "{cuts} power cuts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_member_is_made_then_a_start_then_a_power_cut_leaves_a_member() {
    for n in 0.. {
        let disk = SimDisk::new();
        disk.crash_at(n);
        let made = start(&disk, 1);
        let is_made = made.is_ok();
        made.map(Node::stop).ok();
        let context = format!("killed at call {n} of a first start");
        check_killed(&disk.kill(), 30_000 + n, Known::default(), &context).await;
        if is_made {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_a_start_takes_nothing_for_durable_that_it_reads() {
    let (base, calls) = base().await;
    for n in 0..calls / 2 {
        let plan = FaultPlan::once(Some(IoOp::Sync), n, ErrorKind::Other);
        let (disk, known) = run(&base, 300 + n, |disk| disk.fail(plan)).await;
        let context = format!("sync {n} failed");
        check_killed(&disk.kill(), 40_000 + n, known, &context).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_or_write_stops_the_member_and_loses_nothing_acknowledged() {
    let (base, calls) = base().await;
    let faults = [
        (IoOp::Sync, ErrorKind::Other),
        (IoOp::Sync, ErrorKind::StorageFull),
        (IoOp::Write, ErrorKind::Other),
    ];
    for (op, kind) in faults {
        for n in (0..calls / 2).step_by(3) {
            let plan = FaultPlan::once(Some(op), n, kind);
            let (disk, known) = run(&base, 300 + n, |disk| disk.fail(plan)).await;
            disk.heal();
            let image = disk.crash(CrashMode::LoseUnsynced);
            check(&image, 9000 + n, &known, &format!("{op} fails with {kind} at {n}")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_written_is_found_on_the_disk() {
    let (base, _) = base().await;
    let (disk, _) = run(&base, 5, |_| {}).await;
    for needle in [b"value 3".as_slice(), b"key-3".as_slice()] {
        assert_eq!(disk.find(needle), None, "{}", needle.escape_ascii());
    }
}
