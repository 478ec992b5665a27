//! A full disk stops nothing for good: what cannot be written is not acknowledged, reads, deletions
//! and compactions go on, and so does everything once there is space, without a restart.

use std::io::ErrorKind;
use std::time::Duration;

use keepd_env::sim::{CrashMode, FaultPlan};
use keepd_env::{Disk, IoOp, SimDisk};
use keepd_machine::command::{ALARM_NOSPACE, Alarm, Put};
use keepd_machine::{ApplyError, Command};
use keepd_node::{BootError, Node, Options};
use keepd_types::{KeyRange, StoredValue};
use tokio::task::JoinSet;

use super::{
    BALLAST, Known, base, check, command, compare, options, script, start, start_with, write,
};

/// Calls that a full disk refuses.
const CALLS: [IoOp; 4] = [IoOp::Create, IoOp::Write, IoOp::Resize, IoOp::Rename];
/// Members that run at the same time.
const AT_ONCE: usize = 8;
/// How long the disk stays full while a client waits.
const STALL: Duration = Duration::from_millis(300);

/// How many calls of one kind the script makes on a copy of `base`.
async fn count(base: &SimDisk, op: IoOp) -> u64 {
    let disk = base.kill();
    disk.record_calls();
    let node = start(&disk, 3).expect("the disk works");
    script(&node, &mut Known::default()).await.expect("the disk works");
    node.stop();
    let calls = disk.recorded_calls();
    calls.iter().filter(|call| call.op == op).count().try_into().expect("few calls")
}

/// Runs the script with one fault and compares, in the member at hand and after a power cut.
async fn survive(base: SimDisk, plan: FaultPlan, seed: u64) {
    let context = format!("the disk is full at {plan:?}");
    let disk = base.kill();
    disk.fail(plan);
    let node = match start(&disk, seed) {
        Ok(node) => node,
        // Without a ballast left a start is refused, clearly and for now.
        Err(error) => {
            assert!(matches!(error, BootError::Full { .. }), "{context}: {error}");
            disk.heal();
            start(&disk, seed + 1).unwrap_or_else(|error| panic!("{context}: {error}"))
        }
    };
    let healer = tokio::spawn({
        let disk = disk.clone();
        async move {
            tokio::time::sleep(STALL).await;
            disk.heal();
        }
    });
    let mut known = Known::default();
    script(&node, &mut known).await.unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(node.handle().halted().borrow().is_none(), "{context}: the member has stopped");
    compare(&node, &known, &context);
    healer.await.expect("it only heals");
    check(&disk.crash(CrashMode::LoseUnsynced), seed + 2, &known, &context).await;
    node.stop();
}

/// Every `stride`th call of each kind fails.
async fn survive_each(is_sticky: bool, stride: usize) {
    let (base, _) = base().await;
    let mut running = JoinSet::new();
    for op in CALLS {
        let calls = count(&base, op).await;
        for n in (0..calls).step_by(stride) {
            let plan = FaultPlan::once(Some(op), n, ErrorKind::StorageFull);
            let plan = FaultPlan { sticky: is_sticky, ..plan };
            if running.len() == AT_ONCE {
                running.join_next().await.expect("some run").expect("it survives");
            }
            running.spawn(survive(base.clone(), plan, 1000 + 10 * n));
        }
    }
    while let Some(done) = running.join_next().await {
        done.expect("it survives");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_once_costs_the_ballast_and_nothing_else() {
    survive_each(false, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stays_full_delays_the_member_and_does_not_stop_it() {
    survive_each(true, 2).await;
}

fn nospace(node: &Node) -> Alarm {
    Alarm { member: node.handle().identity().member, kind: ALARM_NOSPACE }
}

async fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within ten seconds");
}

/// Puts large values, as the server does, until the member refuses them; how many it took.
async fn fill(node: &Node) -> i64 {
    for i in 0..1000 {
        let value = StoredValue::plain(vec![7; 100_000].into());
        let put = Put { key: format!("large-{i}").into(), value, ..Put::default() };
        // Without this more would be in the log than the store finds space for.
        if !node.handle().admits(100_000) {
            wait_for("the alarm", || !node.handle().alarms().is_empty()).await;
            return i;
        }
        let done = node.handle().propose(Command::Put(put)).await.expect("it is answered");
        match done.outcome.result {
            Ok(_) => {}
            Err(ApplyError::NoSpace) => return i,
            Err(error) => panic!("put {i}: {error}"),
        }
    }
    panic!("the disk never fills");
}

/// Enough for what these tests write on a full disk; the margin beside it is 4 MiB.
fn with_large_ballast() -> Options {
    Options { ballast_bytes: 6 << 20, ..options() }
}

/// Bytes of the store's segments on the disk.
fn stored_bytes(disk: &SimDisk) -> usize {
    let files = disk.files();
    let segments = files.iter().filter(|path| path.extension().is_some_and(|it| it == "kd"));
    segments.filter_map(|path| disk.peek(path)).map(|content| content.len()).sum()
}

/// A member whose disk is full: the alarm stands, and others have taken what was left free.
async fn full_member() -> (SimDisk, Node) {
    let disk = SimDisk::new();
    // On a small file system the ballast would be small.
    disk.poke("/others".as_ref(), &vec![0; 100 << 20]);
    // Before the start: a member looks at the disk twice a second, and this one fills it sooner.
    disk.set_capacity(Some(116 << 20));
    let node = start_with(&disk, 1, with_large_ballast()).expect("a fresh disk works");
    node.ready().await.expect("a fresh member works");
    wait_for("the ballast", || disk.peek(BALLAST.as_ref()).is_some()).await;
    let count = fill(&node).await;
    assert!(count > 10, "only {count} values fit");
    let live_bytes = node.handle().space().live_bytes;
    let live_bytes = usize::try_from(live_bytes).expect("it is not negative");
    wait_for("the last flush", || stored_bytes(&disk) >= live_bytes).await;
    disk.set_capacity(Some(disk.used_bytes()));
    assert_eq!(node.handle().alarms().as_slice(), [nospace(&node)]);
    assert!(node.handle().space().is_disk_full && !node.handle().admits(1));
    (disk, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_reads_deletions_and_compactions_work_until_there_is_space() {
    let (disk, node) = full_member().await;
    let handle = node.handle();
    assert!(handle.view().count(&KeyRange::from_request("l".into(), "m".into()), 0).is_ok());
    for i in 0..10 {
        write(&handle, &command(&format!("large-{i}"), None)).await.expect("deletions work");
    }
    let revision = handle.view().revision();
    write(&handle, &Command::Compact { revision }).await.expect("compactions work");
    handle.settle_compactions().await.expect("compactions end");
    let put = handle.propose(command("small", Some(1))).await.expect("it is answered");
    assert_eq!(put.outcome.result.map(|_| ()), Err(ApplyError::NoSpace));

    disk.set_capacity(Some(disk.used_bytes() + (40 << 20)));
    wait_for("the end of the alarm", || handle.alarms().is_empty()).await;
    assert!(handle.admits(1) && disk.peek(BALLAST.as_ref()).is_some());
    write(&handle, &command("small", Some(1))).await.expect("puts work");
    assert!(handle.halted().borrow().is_none());
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_full_disk_works_or_says_what_to_do() {
    let (disk, node) = full_member().await;
    node.stop();
    let _is_gone = disk.remove(BALLAST.as_ref()).is_ok();
    disk.set_capacity(Some(disk.used_bytes() + 100));
    let refused = start_with(&disk, 2, with_large_ballast()).expect_err("nothing can be written");
    let text = refused.to_string();
    assert!(matches!(refused, BootError::Full { .. }), "{text}");
    assert!(text.starts_with("/data/member: the file system is full, "), "{text}");

    // Enough for a start, and not for the ballast.
    disk.set_capacity(Some(disk.used_bytes() + (3 << 20)));
    let node = start_with(&disk, 3, with_large_ballast()).expect("there is space");
    node.ready().await.expect("it leads");
    wait_for("the alarm", || node.handle().space().is_disk_full).await;
    write(&node.handle(), &command("large-0", None)).await.expect("deletions work");
    wait_for("the alarm", || node.handle().alarms().contains(&nospace(&node))).await;

    disk.set_capacity(None);
    wait_for("the end of the alarm", || node.handle().alarms().is_empty()).await;
    write(&node.handle(), &command("small", Some(1))).await.expect("puts work");
    node.stop();

    // With a ballast to throw off, the same disk lets the member start.
    disk.set_capacity(Some(disk.used_bytes() + 1000));
    let node = start_with(&disk, 4, with_large_ballast()).expect("the ballast makes room");
    node.ready().await.expect("it leads");
    write(&node.handle(), &command("large-1", None)).await.expect("deletions work");
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_waits_for_space_stops_when_told_to() {
    let (base, _) = base().await;
    let node = start(&base, 2).expect("the disk works");
    node.ready().await.expect("it leads");
    write(&node.handle(), &command("before", Some(1))).await.expect("puts work");
    for op in CALLS {
        let plan = FaultPlan::once(Some(op), 0, ErrorKind::StorageFull);
        base.fail(FaultPlan { sticky: true, ..plan });
    }
    let handle = node.handle();
    let waiting = tokio::spawn(async move { handle.propose(command("waits", Some(2))).await });
    tokio::time::sleep(STALL).await;
    assert!(!waiting.is_finished(), "nothing is acknowledged");
    let view = node.handle().linearizable_view().await.expect("reads are served");
    assert_eq!(view.count(&KeyRange::point("before".into()), 0), Ok(1));
    tokio::task::spawn_blocking(move || node.stop()).await.expect("it stops");
    assert!(waiting.await.expect("it is answered").is_err());

    base.heal();
    let known = Known { values: [("before".to_owned(), Some(1))].into(), ..Known::default() };
    check(&base.crash(CrashMode::LoseUnsynced), 9, &known, "stopped on a full disk").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_file_descriptors_goes_on_and_catches_up() {
    let (base, _) = base().await;
    let node = start(&base, 2).expect("the disk works");
    node.ready().await.expect("it leads");
    let handle = node.handle();
    write(&handle, &command("before", Some(1))).await.expect("puts work");
    handle.reclaim().await.expect("it ends");
    base.withhold_descriptors(true);
    // The next flush is to begin a file, and a rewrite and a checkpoint, too.
    let mut revision = 0;
    for i in 0..20 {
        revision = write(&handle, &command("key", Some(i))).await.expect("the log is open");
    }
    write(&handle, &Command::Compact { revision }).await.expect("the log is open");
    let reclaiming = tokio::spawn({
        let handle = handle.clone();
        async move { handle.reclaim().await }
    });
    tokio::time::sleep(STALL).await;
    assert!(handle.halted().borrow().is_none(), "want of a descriptor is no reason to stop");
    assert!(!reclaiming.is_finished() && !handle.space().is_disk_full);
    let view = handle.linearizable_view().await.expect("reads are served");
    assert_eq!(view.count(&KeyRange::point("key".into()), 0), Ok(1));
    // More than the log's file takes: the next one cannot be created.
    let mut large = JoinSet::new();
    for i in 0..80 {
        let handle = handle.clone();
        let value = StoredValue::plain(vec![7; 1_000_000].into());
        let put = Put { key: format!("large{i}").into(), value, ..Put::default() };
        large.spawn(async move { handle.propose(Command::Put(put)).await.map(|_done| ()) });
    }
    tokio::time::sleep(STALL).await;
    assert!(handle.halted().borrow().is_none(), "nor is it in the log");

    base.withhold_descriptors(false);
    while let Some(answer) = large.join_next().await {
        answer.expect("it does not panic").expect("it is written in the end");
    }
    let reclaimed = tokio::time::timeout(Duration::from_secs(10), reclaiming).await;
    reclaimed.expect("it catches up").expect("it does not panic").expect("it ends");
    assert!(handle.halted().borrow().is_none());
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_few_large_entries_fills_no_disk_that_has_room_for_its_bound() {
    let disk = SimDisk::new();
    let node = start_with(&disk, 1, with_large_ballast()).expect("a fresh disk works");
    node.ready().await.expect("a fresh member works");
    let handle = node.handle();
    wait_for("the ballast", || disk.peek(BALLAST.as_ref()).is_some()).await;
    disk.set_capacity(Some(disk.used_bytes() + (100 << 20)));
    // Without their lease they fail: only the log holds them.
    for i in 0..250 {
        let value = StoredValue::plain(vec![7; 1_000_000].into());
        let put =
            Put { key: "large".into(), value, lease: keepd_types::LeaseId(77), ..Put::default() };
        let done = handle.propose(Command::Put(put)).await;
        let done = done.unwrap_or_else(|error| panic!("put {i}: {error}"));
        assert!(done.outcome.result.is_err(), "put {i}");
    }
    wait_for("the end of the alarm", || handle.alarms().is_empty()).await;
    write(&handle, &command("small", Some(1))).await.expect("puts work");
    assert!(handle.halted().borrow().is_none());
    node.stop();
}
