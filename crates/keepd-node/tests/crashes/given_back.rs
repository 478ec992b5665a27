//! A disk that the member filled by itself is given back: everything is deleted and compacted, and
//! within a stated time puts are accepted again and the space is there, with a restart before each
//! step.

use std::time::Duration;

use keepd_env::{Clock, SimDisk, SystemClock};
use keepd_machine::command::{DeleteRange, Put};
use keepd_machine::{ApplyError, Command};
use keepd_node::{Handle, Node, Options};
use keepd_types::{KeyRange, StoredValue};
use tokio::task::JoinSet;

use super::{BALLAST, options, start_with, write};

/// The size of the file system.
const CAPACITY: u64 = 60 << 20;
/// What of it may be in use when everything is deleted: ballast, a log file, a checkpoint or two.
const EMPTY_BYTES_MAX: u64 = 12 << 20;
/// How long after the last step puts are accepted again, and the space is back.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests under way at the same time.
const AT_ONCE: usize = 32;
const VALUE_BYTES: usize = 16 * 1024;

/// What happens to the member before a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restart {
    Never,
    Stop,
    Kill,
}

/// A member on its own file system, and what it runs on.
struct Member {
    disk: SimDisk,
    node: Option<Node>,
    starts: u64,
}

fn with_default_ballast() -> Options {
    // A sixteenth of the file system.
    Options { ballast_bytes: keepd_node::BALLAST_BYTES, ..options() }
}

impl Member {
    async fn start() -> Self {
        let disk = SimDisk::new();
        disk.set_capacity(Some(CAPACITY));
        let mut member = Self { disk, node: None, starts: 0 };
        member.run().await;
        member
    }

    async fn run(&mut self) {
        self.starts += 1;
        let node = start_with(&self.disk, self.starts, with_default_ballast());
        let node = node.unwrap_or_else(|error| panic!("start {}: {error}", self.starts));
        node.ready().await.expect("it leads");
        self.node = Some(node);
    }

    async fn restart(&mut self, how: Restart) {
        if how == Restart::Never {
            return;
        }
        let node = self.node.take().expect("it runs");
        if how == Restart::Kill {
            self.disk = self.disk.kill();
            self.disk.set_capacity(Some(CAPACITY));
        }
        node.stop();
        self.run().await;
    }

    fn handle(&self) -> Handle {
        self.node.as_ref().expect("it runs").handle()
    }
}

/// Puts until the member refuses them; how many it took.
async fn fill(handle: &Handle) -> u64 {
    let mut running = JoinSet::new();
    let (mut taken, mut next) = (0, 0);
    loop {
        let is_open = handle.admits(i64::try_from(VALUE_BYTES).expect("a small number"));
        if is_open && running.len() < AT_ONCE {
            let value = StoredValue::plain(vec![7; VALUE_BYTES].into());
            let put = Put { key: format!("key-{next:06}").into(), value, ..Put::default() };
            let handle = handle.clone();
            running.spawn(async move { handle.propose(Command::Put(put)).await });
            next += 1;
            continue;
        }
        match running.join_next().await {
            Some(done) => {
                let done = done.expect("it does not panic").expect("it is answered");
                match done.outcome.result {
                    Ok(_) => taken += 1,
                    Err(error) => assert_eq!(error, ApplyError::NoSpace),
                }
            }
            None if !is_open => return taken,
            None => {}
        }
    }
}

fn delete_all() -> Command {
    let range = KeyRange::from_request("key".into(), "kez".into());
    Command::DeleteRange(DeleteRange { range, prev_kv: false })
}

async fn wait_until_given_back(member: &Member, context: &str) {
    let handle = member.handle();
    let clock = SystemClock::new();
    let asked = clock.monotonic();
    loop {
        let is_open = handle.alarms().is_empty() && handle.admits(1000);
        let space = handle.space();
        let used = member.disk.used_bytes();
        let live = u64::try_from(space.live_bytes).expect("no negative number");
        let on_disk = u64::try_from(space.disk_bytes).expect("no negative number");
        if is_open && used < EMPTY_BYTES_MAX && on_disk < EMPTY_BYTES_MAX {
            return;
        }
        assert!(
            clock.monotonic() - asked < PATIENCE,
            "{context}: open {is_open}, {live} bytes live, {on_disk} in files, {used} used: {:?}",
            member.disk.files()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Fills, deletes, compacts, and fills again.
async fn give_back(how: Restart, defragments: bool) {
    let context = format!("{how:?}, defrag {defragments}");
    let mut member = Member::start().await;
    let first = fill(&member.handle()).await;
    let bytes = first * VALUE_BYTES as u64;
    assert!(bytes > CAPACITY / 4, "{context}: only {bytes} bytes fit");

    let ballast = member.disk.peek(BALLAST.as_ref()).expect("growth leaves the ballast");
    assert_eq!(ballast.len() as u64, CAPACITY / 16, "{context}");

    member.restart(how).await;
    let revision = write(&member.handle(), &delete_all()).await.expect("deletions work");
    member.restart(how).await;
    let handle = member.handle();
    write(&handle, &Command::Compact { revision }).await.expect("compactions work");
    member.restart(how).await;
    let handle = member.handle();
    handle.settle_compactions().await.expect("compactions end");
    if defragments {
        tokio::time::timeout(PATIENCE, handle.reclaim())
            .await
            .unwrap_or_else(|_| panic!("{context}: defragmentation does not end"))
            .expect("it is answered");
    }
    wait_until_given_back(&member, &context).await;
    member.restart(how).await;
    wait_until_given_back(&member, &context).await;

    let second = fill(&member.handle()).await;
    assert!(second * 10 > first * 8, "{context}: {first} values fitted, now {second}");
    assert!(member.handle().halted().borrow().is_none(), "{context}");
    member.node.take().expect("it runs").stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_filled_is_given_back() {
    give_back(Restart::Never, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_filled_is_given_back_over_orderly_stops() {
    give_back(Restart::Stop, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_filled_is_given_back_over_kills() {
    give_back(Restart::Kill, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_filled_is_given_back_by_defragmenting() {
    give_back(Restart::Never, true).await;
}
