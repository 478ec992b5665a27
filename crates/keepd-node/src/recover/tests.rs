//! A member of three is made a cluster of its own, on a simulated disk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use keepd_crypto::FileKeys;
use keepd_env::SimDisk;
use keepd_env::sim::CrashMode;
use keepd_machine::command::{ALARM_CORRUPT, Alarm, Command, Put};
use keepd_machine::membership::{Membership, MembershipChange};
use keepd_machine::{Envelope, Origin};
use keepd_raft::Step;
use keepd_types::{Entry, HardState, LeaseId, MemberId, StoredValue};
use keepd_wal::Batch;

use super::*;
use crate::boot::{DataDir, Opened};
use crate::bootstrap::Bootstrap;
use crate::options::Options;

const OLD: &str = "/old";
const NEW: &str = "/new";
const BUMP: u64 = 1_000_000;
const ORIGIN: Origin = Origin { member: MemberId(77), boot: 1, sequence: 1 };

fn former() -> InitialCluster {
    let member = |name: &str, port: u16| (name.to_owned(), vec![format!("http://h:{port}")]);
    let members: BTreeMap<_, _> = [member("a", 3), member("b", 2), member("c", 1)].into();
    InitialCluster::new("a", members, "token").unwrap()
}

fn new_cluster() -> NewCluster {
    NewCluster { member: InitialCluster::alone("a", "http://h:3", "recovered"), bump: BUMP }
}

fn env(disk: &SimDisk) -> Env {
    Env { disk: Arc::new(disk.clone()), ..Env::simulated(1).0 }
}

fn opened(disk: &SimDisk, data_dir: &str) -> Result<Opened, BootError> {
    let bootstrap = Bootstrap::New(former());
    let options = Options { bootstrap, ..Options::new(data_dir.into()) };
    let env = env(disk);
    DataDir::prepare(&env, &options, None)?.open(&env, &options)
}

fn put(key: &'static str) -> Command {
    Command::Put(Put {
        key: Bytes::from_static(key.as_bytes()),
        value: StoredValue::plain(Bytes::from_static(b"v")),
        lease: LeaseId(0),
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    })
}

fn normal(command: Command) -> Entry {
    let data = Envelope { origin: Some(ORIGIN), decided_in: None, command }.encode();
    Entry { data, ..Entry::default() }
}

fn removal_of_c() -> Entry {
    let others = former();
    let c = others.members.iter().find(|member| member.name == "c").unwrap().id;
    let command = Command::ChangeMembership(MembershipChange::Remove { id: c });
    let context = Envelope { origin: Some(ORIGIN), decided_in: None, command }.encode();
    let change = ConfChange { steps: vec![Step::Remove(c.0)], context, ..Default::default() };
    Entry { kind: EntryKind::ConfChangeV2, data: change.encode(), ..Entry::default() }
}

/// A member of three: entries 2 to 4 are committed, 5 to 7 are not, among them a change of the
/// membership.
fn member_of_three() -> SimDisk {
    let disk = SimDisk::new();
    drop(opened(&disk, OLD).unwrap());
    let alarm = Alarm { member: former().local, kind: ALARM_CORRUPT };
    let mut entries = [
        Entry::default(),
        normal(put("committed")),
        normal(Command::AlarmActivate(alarm)),
        normal(Command::AlarmDeactivate(alarm)),
        removal_of_c(),
        normal(put("not committed")),
    ];
    for (entry, index) in entries.iter_mut().zip(2..) {
        (entry.index, entry.term) = (index, 2);
    }
    let dir = Layout::wal(&Layout::new(OLD.as_ref()).member);
    let (mut wal, _) = Wal::open(env(&disk), &dir, FileKeys::plain()).unwrap();
    let hard_state = HardState { term: 3, vote: 0, commit: 4 };
    wal.append(&Batch { entries: &entries, hard_state: Some(hard_state) }).unwrap();
    wal.close().unwrap();
    disk
}

fn run(disk: &SimDisk) -> Result<RecoveredCluster, RecoverError> {
    let env = env(disk);
    let survivor = Survivor::read(&env, OLD.as_ref(), None)?;
    recover(&env, &survivor, NEW.as_ref(), None, &new_cluster(), &mut |_| {})
}

fn files_of(disk: &SimDisk, dir: &str) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let files = disk.files().into_iter().filter(|path| path.starts_with(dir));
    files.map(|path| (path.clone(), disk.peek(&path))).collect()
}

#[track_caller]
fn assert_recovered(disk: &SimDisk) {
    let opened = opened(disk, NEW).unwrap();
    let cluster = new_cluster().member;
    assert_eq!(opened.identity, cluster.identity());
    let store = opened.machine.store();
    let membership = Membership::of(cluster.id, |table| store.meta(table)).unwrap();
    let ids: Vec<_> = membership.members.iter().map(|member| member.id).collect();
    assert_eq!((ids, membership.removed.len()), (vec![cluster.local.0], 0));
    assert_eq!(opened.core.conf_state().voters, [cluster.local.0]);
    assert_eq!(store.revision(), 3 + i64::try_from(BUMP).unwrap());
    assert_eq!(store.compact_revision(), store.revision());
    assert_eq!(store.applied(), Applied { index: 7, term: 2 });
    assert_eq!(store.stats().keys, 2, "what was not committed too");
    assert!(opened.machine.alarms().is_empty());
    // It leads alone, in a later term than anything that it has seen.
    let mut core = opened.core;
    core.campaign().unwrap();
    assert_eq!(core.status().role, keepd_raft::Role::Leader);
    assert!(core.status().term > 3, "{:?}", core.status());
}

#[test]
fn everything_in_the_log_is_in_the_new_cluster_and_the_original_stays() {
    let disk = member_of_three();
    let before = files_of(&disk, OLD);
    let survivor = Survivor::read(&env(&disk), OLD.as_ref(), None).unwrap();
    assert_eq!((survivor.log.rank(), survivor.log.commit), ((2, 7), 4));
    let store = survivor.store.as_ref().unwrap();
    assert_eq!((store.members.len(), store.voters.len()), (3, 3));
    drop(survivor);
    let made = run(&disk).unwrap();
    assert_eq!((made.former_revision, made.replayed), (3, 6));
    assert_recovered(&disk);
    assert_eq!(files_of(&disk, OLD), before, "the original is read only");
    let again = run(&disk).unwrap_err();
    assert!(matches!(again, RecoverError::NotEmpty { .. }), "{again}");
}

#[test]
fn a_crash_leaves_no_member_or_a_whole_one() {
    let base = member_of_three();
    let mut ends = std::collections::BTreeSet::new();
    for point in base.kill().mutations() + 1.. {
        let disk = base.kill();
        disk.crash_at(point);
        let is_done = run(&disk).is_ok();
        let modes = [CrashMode::LoseUnsynced, CrashMode::WrittenBack, CrashMode::Torn { seed: 1 }];
        for image in modes.map(|mode| disk.crash(mode)) {
            let is_made = DataDir::has_member(&env(&image), NEW.as_ref()).unwrap();
            ends.insert(is_made);
            if !is_made {
                run(&image).unwrap();
            }
            assert_recovered(&image);
        }
        if is_done {
            break;
        }
    }
    assert_eq!(ends.len(), 2, "crashes before and after were tried");
}

#[test]
fn a_directory_in_use_or_without_a_member_is_refused() {
    let disk = member_of_three();
    let running = opened(&disk, OLD).unwrap();
    let error = run(&disk).unwrap_err();
    assert!(matches!(error, RecoverError::Boot(BootError::InUse { .. })), "{error}");
    drop(running);
    let error = Survivor::read(&env(&disk), "/nothing".as_ref(), None).unwrap_err();
    assert!(matches!(error, BootError::NoMember { .. }), "{error}");
}

#[test]
fn damage_is_told_from_what_can_be_mended() {
    let disk = member_of_three();
    let dir = Layout::wal(&Layout::new(OLD.as_ref()).member);
    let log = disk.files().into_iter().find(|path| path.starts_with(&dir)).unwrap();
    let len = disk.peek(&log).unwrap().len();
    assert!(disk.flip(&log, 200.min(len as u64 / 2), 1));
    let error = Survivor::read(&env(&disk), OLD.as_ref(), None).unwrap_err();
    assert!(error.is_damage(), "{error}");
    let in_use = BootError::InUse { dir: OLD.into() };
    assert!(!in_use.is_damage());
}

#[test]
fn a_copy_that_does_not_fit_is_refused_before_it_begins() {
    let disk = member_of_three();
    disk.set_capacity(Some(disk.used_bytes() + 1024));
    let error = run(&disk).unwrap_err();
    assert!(matches!(error, RecoverError::Space { .. }), "{error}");
    assert!(!disk.files().iter().any(|path| path.starts_with("/new/member.partial")));
}
