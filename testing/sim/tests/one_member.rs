//! A whole member in one thread: reads, writes, watches and leases in the member's own time, the same
//! run for the same seed, and nothing acknowledged lost by kills and power cuts at any step.

#![expect(clippy::panic, reason = "a failed check names its seed")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use keepd_env::sim::CrashMode;
use keepd_machine::Command;
use keepd_machine::command::{DeleteRange, Put};
use keepd_node::{Error, Handle};
use keepd_types::{KeyRange, KeyValue, LeaseId, StoredValue};
use keepd_watch::{StreamMessage, WatchSpec};
use sim::fixture::Told;
use sim::{Client, SimMember};

/// Seeds of a run of the tests.
const SEEDS: u64 = 150;
/// Writes of each client between two crashes.
const WRITES: u64 = 12;
const CLIENTS: u64 = 3;
/// Crashes of a run.
const CRASHES: u64 = 4;

fn put(key: &str, value: &str, lease: LeaseId) -> Command {
    let value = StoredValue::plain(Bytes::copy_from_slice(value.as_bytes()));
    Command::Put(Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value,
        lease,
        ..Put::default()
    })
}

fn delete(key: &str) -> Command {
    let range = KeyRange::point(Bytes::copy_from_slice(key.as_bytes()));
    Command::DeleteRange(DeleteRange { range, prev_kv: false })
}

fn get(handle: &Handle, key: &str) -> Option<String> {
    let view = handle.view();
    let range = KeyRange::point(Bytes::copy_from_slice(key.as_bytes()));
    let refs = view.range(&range, 0, 1).expect("the current revision is readable");
    let (_, revision) = refs.keys.first()?;
    let record = view.load(*revision).expect("a live record is readable");
    let value = KeyValue::decode(&record.encoded).expect("a stored record decodes").value;
    Some(String::from_utf8(value.to_vec()).expect("the tests write text"))
}

#[test]
fn a_whole_member_serves_in_one_thread_and_in_its_own_time() {
    let mut member = SimMember::new(7);
    member.start_and_lead();
    let (handle, delivered) = (member.handle(), Told::default());
    let sink = Box::new(delivered.clone());
    let client = async {
        let hub = handle.hub();
        let stream = hub.open_stream(sink, Duration::from_secs(600)).await.unwrap();
        let all = KeyRange { start: Bytes::new(), end: keepd_types::RangeEnd::Open };
        hub.create(stream, WatchSpec::new(all, 0)).await.unwrap();
        while delivered.0.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        let grant = Command::LeaseGrant { id: LeaseId(5), ttl: 3600 };
        handle.propose(grant).await.unwrap().outcome.result.unwrap();
        handle.propose(put("leased", "1", LeaseId(5))).await.unwrap();
        handle.propose(put("kept", "2", LeaseId(0))).await.unwrap();
        handle.linearizable_view().await.unwrap();
    };
    member.run(vec![Box::pin(client)]);
    assert_eq!(get(&handle, "leased").as_deref(), Some("1"));
    member.run_for(Duration::from_secs(3590));
    assert_eq!(get(&handle, "leased").as_deref(), Some("1"), "its time is not over");
    member.run_for(Duration::from_secs(20));
    assert_eq!(get(&handle, "leased"), None, "the lease has ended");
    assert_eq!(get(&handle, "kept").as_deref(), Some("2"));
    let events: usize = delivered.0.lock().iter().map(events_of).sum();
    assert_eq!(events, 3, "two puts, and the delete when the lease ended");
    assert!(member.disk().find(b"kept").is_none(), "nothing is readable on the disk");
    member.stop();
    member.start_and_lead();
    assert_eq!(get(&member.handle(), "kept").as_deref(), Some("2"), "after a restart");
}

fn events_of(message: &StreamMessage) -> usize {
    match message {
        StreamMessage::Events(events) => events.len(),
        _ => 0,
    }
}

/// The values that a client was told of, and the one of which it was not.
#[derive(Default)]
struct Known {
    values: BTreeMap<String, Option<String>>,
    uncertain: Option<(String, Option<String>)>,
}

impl Known {
    fn acknowledge(&mut self, key: String, value: Option<String>) {
        self.values.insert(key, value);
        self.uncertain = None;
    }
}

/// Writes keys of its own until it has written enough or the member ends.
async fn client(handle: Handle, id: u64, round: u64, known: &RefCell<Known>) {
    for write in 0..WRITES {
        let key = format!("client {id} key {}", write % 4);
        let value = (write % 5 != 4).then(|| format!("{round}.{write}"));
        known.borrow_mut().uncertain = Some((key.clone(), value.clone()));
        let command = match &value {
            Some(value) => put(&key, value, LeaseId(0)),
            None => delete(&key),
        };
        match handle.propose(command).await {
            Ok(done) => {
                done.outcome.result.expect("nothing is wrong with the command");
                known.borrow_mut().acknowledge(key, value);
                let revision = done.outcome.revision;
                if write % 6 == 5 {
                    // Others may have compacted further.
                    let _ = handle.propose(Command::Compact { revision: revision - 2 }).await;
                }
            }
            Err(Error::Stopped) => return,
            Err(error) => panic!("a lone member does not refuse a write: {error}"),
        }
    }
}

fn check(member: &SimMember, known: &mut Known) {
    let handle = member.handle();
    for (key, value) in &mut known.values {
        let found = get(&handle, key);
        let uncertain = known.uncertain.as_ref().filter(|(name, _)| name == key);
        let may_be = uncertain.is_some_and(|(_, value)| *value == found);
        assert!(
            found == *value || may_be,
            "{}: {key} is {found:?}, not {value:?}",
            member.context()
        );
        *value = found;
    }
    known.uncertain = None;
}

/// Clients write while the member is killed and loses power at steps that the seed chooses.
fn run(seed: u64) -> SimMember {
    let mut member = SimMember::new(seed);
    member.start_and_lead();
    let known: Vec<RefCell<Known>> = (0..CLIENTS).map(|_| RefCell::default()).collect();
    for round in 0..CRASHES {
        let handle = member.handle();
        let clients = (0..).zip(&known).map(|(id, known)| -> Client<'_> {
            Box::pin(client(handle.clone(), id, round, known))
        });
        let mut steps = 20 + member.draw(400);
        member.run_while(clients.collect(), |_| {
            steps -= 1;
            steps > 0
        });
        let choice = member.draw(1 << 32);
        match member.draw(6) {
            0 => member.cut_power(CrashMode::LoseUnsynced),
            1 => member.cut_power(CrashMode::WrittenBack),
            2 => member.cut_power(CrashMode::Random { seed: choice }),
            3 => member.cut_power(CrashMode::Torn { seed: choice }),
            4 => member.stop(),
            _ => member.kill(),
        }
        member.start_and_lead();
        for known in &known {
            check(&member, &mut known.borrow_mut());
        }
    }
    member
}

#[test]
fn nothing_acknowledged_is_lost_by_crashes_at_any_step() {
    for seed in 0..sim::seeds(SEEDS) {
        run(seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (first, second) = (run(3), run(3));
    assert_eq!(first.context(), second.context());
    assert_eq!(first.trace(), second.trace());
    for path in first.disk().files() {
        assert_eq!(first.disk().peek(&path), second.disk().peek(&path), "{}", path.display());
    }
    assert_ne!(first.trace(), run(4).trace(), "another seed gives another run");
}
