//! Rules of a lone member that only a whole one can break: no nonce twice, the size of sealed
//! values, the NOSPACE alarm, a directory that was rolled back.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use keepd_crypto::ValueSealer;
use keepd_env::sim::{CrashMode, FaultPlan};
use keepd_env::{Disk, IoOp, SeededRandom, SimDisk};
use keepd_machine::command::{ALARM_NOSPACE, Alarm, DeleteRange, Put};
use keepd_machine::{ApplyError, Command, Envelope, Origin};
use keepd_node::{BootError, DataDir, Error, Handle, Node, Options};
use keepd_types::{KeyRange, MemberId, StoredValue};
use sim::fixture::{self, encryption, options};

async fn started(disk: &SimDisk, seed: u64, options: Options) -> Node {
    fixture::started(disk, seed, options, Some(encryption())).await
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("/registry/pods/default/pod-{number:04}"))
}

/// Proposes a command; its outcome.
async fn run(handle: &Handle, command: Command) -> Result<(), ApplyError> {
    let done = handle.propose(command).await.expect("the member takes commands");
    done.outcome.result.map(|_response| ())
}

async fn put(handle: &Handle, number: usize, value: Vec<u8>) -> Result<(), ApplyError> {
    let value = StoredValue::plain(value.into());
    run(handle, Command::Put(Put { key: key(number), value, ..Put::default() })).await
}

async fn delete(handle: &Handle, from: usize, to: usize) {
    let range = KeyRange::from_request(key(from), key(to));
    run(handle, Command::DeleteRange(DeleteRange { range, prev_kv: false }))
        .await
        .expect("deletes");
    let revision = handle.view().revision();
    run(handle, Command::Compact { revision }).await.expect("compacts");
}

/// The salt of a sealed file; `docs/formats/sealed-file.md`.
fn salt(content: &[u8]) -> Option<&[u8]> {
    content.starts_with(b"keepdfil").then(|| content.get(24..56))?
}

fn files(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let content = |path: PathBuf| disk.peek(&path).map(|content| (path, content));
    disk.files().into_iter().filter_map(content).collect()
}

/// etcd's directory is recognised before anything is written, the lock file included.
#[test]
fn a_directory_of_etcds_is_refused_and_left_as_it_was() {
    let wal = "/data/member/wal/0000000000000000-0000000000000000.wal";
    for names in [&["/data/member/snap/db", wal][..], &["/data/member/snap/db"], &[wal]] {
        let disk = SimDisk::new();
        for name in names {
            let path = PathBuf::from(name);
            disk.create_dir(path.parent().expect("it has one")).expect("makes the directory");
            disk.replace(&path, b"\x04\0\0\0\0\0\0\x84of etcd").expect("writes");
        }
        let before = files(&disk);
        assert_eq!(before.len(), names.len());
        let env = fixture::env(&disk, 1);
        for config in [None, Some(encryption())] {
            let error = DataDir::prepare(&env, &options(), config).expect_err("it is etcd's");
            assert!(matches!(error, BootError::EtcdDirectory { .. }), "{error}");
            assert!(error.to_string().starts_with("/data: this is etcd's data directory"));
        }
        assert_eq!(files(&disk), before);
    }
}

/// Folders that an image or a package made are no member; anything in them is.
#[test]
fn empty_folders_are_a_new_member() {
    let env = |disk: &SimDisk| fixture::env(disk, 1);
    for names in [&["member"][..], &["member/wal"], &["member/wal", "member/snap"]] {
        let disk = SimDisk::new();
        for name in names {
            disk.create_dir(&Path::new("/data").join(name)).expect("makes the directory");
        }
        let made = DataDir::prepare(&env(&disk), &options(), None).expect("a new member");
        assert!(made.is_new(), "{names:?}");
    }
    for file in ["member/KEYRING", "member/wal/x", "member/snap/x/y"] {
        let disk = SimDisk::new();
        let path = Path::new("/data").join(file);
        disk.create_dir(path.parent().expect("it has one")).expect("makes the directory");
        disk.replace(&path, b"x").expect("writes");
        let opened = DataDir::prepare(&env(&disk), &options(), None);
        assert!(!opened.is_ok_and(|opened| opened.is_new()), "{file} is something");
        assert!(disk.exists(&path).expect("looks"), "{file} is left alone");
    }
}

/// Rule 9.5: no start, orderly or not, writes into a file that was there before it, and no two
/// files share a salt, so no key and nonce come twice.
#[tokio::test(flavor = "multi_thread")]
async fn no_start_writes_into_a_file_of_an_earlier_one() {
    let mut disk = SimDisk::new();
    let mut salts = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for round in 0..12_u64 {
        let before = files(&disk);
        let node = started(&disk, 2 * round, options()).await;
        let handle = node.handle();
        if round % 4 == 3 {
            let after = 5 + round;
            disk.fail(FaultPlan::once(Some(IoOp::Write), after, ErrorKind::StorageFull));
        }
        for number in 0..20 {
            let value = StoredValue::plain(Bytes::from(vec![1; 300]));
            let command = Command::Put(Put { key: key(number), value, ..Put::default() });
            if handle.propose(command).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let torn = disk.crash(CrashMode::Torn { seed: round });
        node.stop();
        disk.heal();
        for (path, content) in files(&disk) {
            // A header of zeros never reached the disk.
            let Some(salt) = salt(&content) else { continue };
            kinds.insert(content[10]);
            match before.get(&path) {
                // The end that a start wrote anew elsewhere is cut off.
                Some(old) => {
                    assert!(old.starts_with(&content), "{} was written to", path.display());
                }
                None => assert!(salts.insert(salt.to_vec()), "{}: its salt", path.display()),
            }
        }
        if round % 2 == 1 {
            // The power was cut before the orderly end: what it wrote is forgotten.
            disk = torn;
            for content in files(&disk).values() {
                salts.extend(salt(content).map(<[u8]>::to_vec));
            }
        }
    }
    assert_eq!(kinds, BTreeSet::from([1, 2, 3, 4]), "log, manifest, segment and checkpoint");
}

/// Rule 9.9: limits count plaintext, so sealing takes nothing from what a client may write.
#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_value_is_measured_by_its_plaintext() {
    let disk = SimDisk::new();
    let node = started(&disk, 1, options()).await;
    let sealer = ValueSealer::new(&encryption());
    let random = SeededRandom::new(2);
    let sized = |seal: bool, len: usize| {
        let (key, plain) = (key(0), Bytes::from(vec![7; len]));
        let value = if seal {
            sealer.seal(&key, plain, &random).expect("the key seals")
        } else {
            StoredValue::plain(plain)
        };
        assert_eq!(value.seal.is_some(), seal);
        Command::Put(Put { key, value, ..Put::default() })
    };
    let max = options().request_bytes_max;
    let encoded_len = |command: Command| {
        let origin = Some(Origin { member: MemberId(1), boot: 2, sequence: 3 });
        let envelope = Envelope { origin, decided_in: None, command };
        envelope.encode().len() - envelope.header_len()
    };
    let overhead = encoded_len(sized(false, max)) - max;
    for seal in [false, true] {
        let largest = sized(seal, max - overhead);
        assert_eq!(
            encoded_len(largest.clone()) > max,
            seal,
            "a sealed one is longer than the limit"
        );
        node.handle().propose(largest).await.expect("the largest value is taken");
        let refused = node.handle().propose(sized(seal, max - overhead + 1)).await;
        assert!(matches!(refused, Err(Error::TooLarge)), "sealed: {seal}");
    }
    node.stop();
}

/// Rule 9.21: the member clears its alarm by a command, once there is clearly room again; what is
/// refused meanwhile depends on the alarm alone and not on the member's bytes.
#[tokio::test(flavor = "multi_thread")]
async fn nospace_ends_by_a_command_when_there_is_clearly_room() {
    const VALUE: usize = 8 * 1024;
    let disk = SimDisk::new();
    let options = Options { quota_bytes: Some(400_000), ..options() };
    let node = started(&disk, 1, options.clone()).await;
    let handle = node.handle();
    let cost = i64::try_from(VALUE).expect("small");
    let mut count = 0;
    while handle.admits(cost) {
        put(&handle, count, vec![1; VALUE]).await.expect("there is room");
        count += 1;
        assert!(count < 100, "the quota is reached");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let alarm = Alarm { member: handle.identity().member, kind: ALARM_NOSPACE };
    run(&handle, Command::AlarmActivate(alarm)).await.expect("alarms are raised");
    assert_eq!(put(&handle, count, vec![1]).await, Err(ApplyError::NoSpace));

    // There is room for one more, but not clearly.
    delete(&handle, 0, 2).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(handle.admits(cost), "{:?}", handle.space());
    assert_eq!(handle.alarms().as_slice(), [alarm], "{:?}", handle.space());
    assert_eq!(put(&handle, count, vec![1]).await, Err(ApplyError::NoSpace));

    let before = handle.status().commit_index;
    delete(&handle, 2, count / 2).await;
    for _ in 0..1000 {
        if handle.alarms().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(handle.alarms().is_empty(), "the alarm stands: {:?}", handle.space());
    // The delete, the compaction and the end of the alarm.
    assert_eq!(handle.status().commit_index, before + 3);
    put(&handle, count, vec![1; VALUE]).await.expect("writes go on");
    node.stop();

    // It is in the log: a restart that replays it comes to the same.
    let node = started(&disk, 2, options).await;
    assert!(node.handle().alarms().is_empty());
    node.stop();
}

/// Rule 9.23: nobody can tell a lone member that its directory was rolled back; it goes on from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lone_member_accepts_a_directory_that_was_rolled_back() {
    let disk = SimDisk::new();
    let node = started(&disk, 1, options()).await;
    put(&node.handle(), 1, vec![1]).await.expect("puts");
    let revision = node.handle().view().revision();
    let identity = node.handle().identity();
    node.stop();
    let old = disk.kill();

    let node = started(&disk, 2, options()).await;
    put(&node.handle(), 2, vec![2]).await.expect("puts");
    let (later, term) = (node.handle().view().revision(), node.handle().term());
    node.stop();
    assert_eq!(later, revision + 1);

    let node = started(&old, 3, options()).await;
    assert_eq!(node.handle().identity(), identity);
    assert_eq!(node.handle().view().revision(), revision);
    assert_eq!(node.handle().term(), term, "the same term, elected anew");
    put(&node.handle(), 3, vec![3]).await.expect("puts");
    let view = node.handle().view();
    assert_eq!(view.count(&KeyRange::point(key(2)), 0), Ok(0));
    assert_eq!(view.count(&KeyRange::point(key(3)), 0), Ok(1));
    node.stop();
}

/// A physical compaction is answered when its hash can be compared, however busy the member is.
#[tokio::test(flavor = "multi_thread")]
async fn the_hash_of_a_physical_compaction_is_known_when_it_is_answered() {
    const CLIENTS: usize = 4;
    /// As many as are remembered.
    const REMEMBERED: usize = 10;
    let disk = SimDisk::new();
    let node = started(&disk, 1, options()).await;
    let compacted = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (handle, compacted) = (node.handle(), Arc::clone(&compacted));
        clients.spawn(async move {
            for round in 0..60 {
                put(&handle, client, vec![1; 10 * round]).await.expect("puts");
                let revision = handle.view().revision();
                let before = compacted.load(Ordering::SeqCst);
                if run(&handle, Command::Compact { revision }).await.is_ok() {
                    compacted.fetch_add(1, Ordering::SeqCst);
                    handle.settle_compactions().await.expect("compactions end");
                    let is_known = handle.compaction_hash(revision).is_some();
                    // Each client may have one more on its way.
                    let behind = compacted.load(Ordering::SeqCst) + CLIENTS - before;
                    assert!(is_known || behind > REMEMBERED, "none for {revision}");
                }
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("the client ends");
    }
    let compacted = compacted.load(Ordering::SeqCst);
    assert!(compacted > 60, "only {compacted} compactions were not overtaken");
    node.stop();
}
