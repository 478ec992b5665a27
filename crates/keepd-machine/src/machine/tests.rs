//! The machine on a real store: etcd's rules for transactions, alarms and leases, and the rules
//! that keep sealing out of apply.

use std::path::Path;

use keepd_crypto::FileKeys;
use keepd_env::Env;
use keepd_mvcc::JobRequest;
use keepd_types::{KeyId, KeyRange, KeyValue, MemberId, PlainDigest, SealMark, StoredValue};

use super::*;
use crate::claims::{BackupClaim, BackupTask, ClaimState};
use crate::command::{Compare, DeleteRange, Guard, Put, Range, Relation, Target};
use crate::envelope::Origin;
use crate::outcome::{OpResponse, TxnResponse};

struct Bench {
    env: Env,
    machine: StateMachine,
    index: u64,
}

impl Bench {
    fn new() -> Self {
        let (env, _, _) = Env::simulated(1);
        env.disk.create_dir(Path::new("/store")).unwrap();
        let machine = open(&env);
        Self { env, machine, index: 0 }
    }

    fn apply(&mut self, command: Command) -> Result<CommandResponse, ApplyError> {
        // As every member sees it: through the log.
        let origin = Some(Origin { member: MemberId(1), boot: 2, sequence: self.index });
        self.apply_at(1, Envelope { origin, decided_in: None, command })
    }

    fn apply_at(&mut self, term: u64, envelope: Envelope) -> Result<CommandResponse, ApplyError> {
        let envelope = Envelope::decode(envelope.encode()).unwrap();
        self.index += 1;
        let outcome = self.machine.apply(Applied { index: self.index, term }, &envelope).unwrap();
        self.machine.publish();
        outcome.result
    }

    fn put(&mut self, key: &'static str, value: &'static str) {
        self.apply(Command::Put(put(key, value))).unwrap();
    }

    fn txn(&mut self, txn: Txn) -> Result<TxnResponse, ApplyError> {
        let response = self.apply(Command::Txn(Box::new(txn)))?;
        let CommandResponse::Txn(response) = response else { panic!("a txn got {response:?}") };
        Ok(response)
    }

    fn record(&self, key: &'static str) -> Option<(KeyValue, Option<SealMark>)> {
        let view = self.machine.store().views().load();
        let refs = view.range(&KeyRange::point(key.into()), 0, 1).unwrap();
        let record = view.load(refs.keys.first()?.1).unwrap();
        Some((KeyValue::decode(&record.encoded).unwrap(), record.seal))
    }

    fn restart(&mut self) {
        while self.machine.store_mut().run(JobRequest::Flush).unwrap() {}
        self.machine = open(&self.env);
    }
}

fn open_store(env: &Env) -> Store {
    let options = keepd_mvcc::Options::default();
    Store::open(env.clone(), Path::new("/store"), FileKeys::plain(), options).unwrap()
}

fn open(env: &Env) -> StateMachine {
    StateMachine::new(open_store(env), Options::default()).unwrap()
}

fn put(key: &'static str, value: &'static str) -> Put {
    Put { key: key.into(), value: StoredValue::plain(value.into()), ..Put::default() }
}

fn range(key: &'static str) -> Op {
    Op::Range(Range { range: KeyRange::point(key.into()), revision: 0, fetch_limit: 0 })
}

fn version_is(key: &'static str, version: i64) -> Compare {
    Compare::Number {
        range: KeyRange::point(key.into()),
        target: Target::Version,
        relation: Relation::Equal,
        operand: version,
    }
}

fn when(compares: Vec<Compare>, success: Vec<Op>, failure: Vec<Op>) -> Txn {
    Txn { compares, success, failure }
}

#[test]
fn nested_comparisons_see_the_state_before_the_whole_txn() {
    let mut bench = Bench::new();
    let nested = when(vec![version_is("t1", 0)], vec![range("t2")], vec![]);
    let delete = DeleteRange { range: KeyRange::point("nokey".into()), prev_kv: false };
    let ops = vec![
        Op::Put(put("t1", "x")),
        range("t1"),
        Op::Put(put("t2", "x")),
        Op::DeleteRange(delete),
        Op::Txn(Box::new(nested)),
    ];
    let response = bench.txn(when(vec![], ops, vec![])).unwrap();
    let revision = bench.machine.store().revision();
    let headers: Vec<i64> = response
        .responses
        .iter()
        .filter_map(|response| match response {
            OpResponse::Range { header_revision, .. }
            | OpResponse::Put { header_revision, .. }
            | OpResponse::DeleteRange { header_revision, .. } => Some(*header_revision),
            OpResponse::Txn(_) => None,
        })
        .collect();
    assert_eq!(headers, [revision; 4]);
    let OpResponse::Txn(nested) = &response.responses[4] else { panic!("{response:?}") };
    assert!(nested.succeeded, "t1 did not exist before");
    assert!(matches!(&nested.responses[0], OpResponse::Range { count: 1, .. }));
}

#[test]
fn a_txn_that_changes_nothing_makes_no_revision() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let before = bench.machine.store().revision();
    bench
        .txn(when(vec![version_is("a", 7)], vec![Op::Put(put("a", "2"))], vec![range("a")]))
        .unwrap();
    let gone = DeleteRange { range: KeyRange::point("b".into()), prev_kv: false };
    bench.apply(Command::DeleteRange(gone)).unwrap();
    assert_eq!(bench.machine.store().revision(), before);
}

#[test]
fn a_failed_check_leaves_nothing_behind() {
    let mut bench = Bench::new();
    let keep = Put { ignore_value: true, ..put("fresh", "") };
    let ops = vec![Op::Put(put("fresh", "1")), Op::Put(Put { key: "other".into(), ..keep })];
    let error = bench.txn(when(vec![], ops, vec![])).unwrap_err();
    assert_eq!(error, ApplyError::KeyNotFound);
    assert!(bench.record("fresh").is_none());
    assert_eq!(bench.machine.store().revision(), 1);
}

fn resolved(range: KeyRange, keys: u64, revision: i64) -> Compare {
    Compare::Resolved { range, guard: Guard { keys, revision }, result: true }
}

/// Rule 9.3: apply never opens a value; a resolved comparison stands while its guard holds.
#[test]
fn a_resolved_comparison_whose_values_changed_is_refused_for_another_try() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let seen = bench.machine.store().revision();
    let take = |range: KeyRange, keys| {
        when(vec![resolved(range, keys, seen)], vec![Op::Put(put("z", "1"))], vec![])
    };
    let (a, b) = (KeyRange::point("a".into()), KeyRange::point("b".into()));
    assert!(bench.txn(take(a.clone(), 1)).unwrap().succeeded);
    assert_eq!(bench.txn(take(a.clone(), 0)), Err(ApplyError::GuardMissed));
    assert!(bench.txn(take(b.clone(), 0)).unwrap().succeeded, "others have changed since");
    bench.put("a", "1");
    bench.put("b", "1");
    assert_eq!(bench.txn(take(a, 1)), Err(ApplyError::GuardMissed), "the same value, but newer");
    assert_eq!(bench.txn(take(b, 0)), Err(ApplyError::GuardMissed));
}

/// Rule 9.3, for ranges: no change among the compared keys goes unseen.
#[test]
fn the_guard_of_a_range_sees_every_change_in_it() {
    let range = || KeyRange::from_request("a".into(), "d".into());
    let changes: [&[(&str, bool)]; 6] = [
        &[("a", true)],
        &[("c", true)],
        &[("b", false)],
        &[("b", false), ("b", true)],
        &[("b", false), ("c", true)],
        &[("c", true), ("b", false)],
    ];
    for change in changes {
        let mut bench = Bench::new();
        bench.put("a", "1");
        bench.put("b", "1");
        bench.put("d", "1");
        let compare = resolved(range(), 2, bench.machine.store().revision());
        let look = || when(vec![compare.clone()], vec![], vec![]);
        bench.put("d", "2");
        assert!(bench.txn(look()).unwrap().succeeded, "what lies outside does not matter");
        for (key, is_put) in change {
            if *is_put {
                bench.put(key, "1");
            } else {
                let range = KeyRange::point((*key).to_owned().into());
                let delete = DeleteRange { range, prev_kv: false };
                bench.apply(Command::DeleteRange(delete)).unwrap();
            }
        }
        assert_eq!(bench.txn(look()), Err(ApplyError::GuardMissed), "{change:?}");
    }
}

/// A condition that is checked before a transaction need not hold in it any more.
#[test]
fn keeping_what_the_same_transaction_has_deleted_keeps_nothing() {
    let mut bench = Bench::new();
    bench.put("k", "1");
    let all = KeyRange::from_request("a".into(), "\0".into());
    let delete = Op::DeleteRange(DeleteRange { range: all, prev_kv: false });
    let keep =
        Op::Put(Put { key: "k".into(), ignore_value: true, ignore_lease: true, ..Put::default() });
    assert!(bench.txn(when(vec![], vec![delete, keep], vec![])).unwrap().succeeded);
    let (kv, _) = bench.record("k").unwrap();
    assert_eq!((kv.value.as_ref(), kv.version), (b"".as_ref(), 1));
}

/// Rule 9.9: a value that is kept travels with its mark.
#[test]
fn a_kept_value_keeps_its_seal() {
    let mut bench = Bench::new();
    let seal = Some(SealMark { key_id: KeyId(7), plain: PlainDigest { len: 5, crc32c: 9 } });
    let value = StoredValue { bytes: "ciphertext".into(), seal };
    bench.apply(Command::Put(Put { key: "s".into(), value, ..Put::default() })).unwrap();
    let keep = Put { key: "s".into(), ignore_value: true, ..Put::default() };
    bench.apply(Command::Put(keep)).unwrap();
    let (kv, kept) = bench.record("s").unwrap();
    assert_eq!((kv.version, kv.value.as_ref(), kept), (2, b"ciphertext".as_ref(), seal));
}

#[test]
fn alarms_refuse_what_they_must_and_survive_a_restart() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let nospace = Alarm { member: MemberId(5), kind: ALARM_NOSPACE };
    bench.apply(Command::AlarmActivate(nospace)).unwrap();
    bench.restart();
    assert_eq!(bench.machine.alarms(), [nospace]);
    let refused = |bench: &mut Bench, command| bench.apply(command).unwrap_err();
    assert_eq!(refused(&mut bench, Command::Put(put("a", "2"))), ApplyError::NoSpace);
    let grant = Command::LeaseGrant { id: LeaseId(1), ttl: 5 };
    assert_eq!(refused(&mut bench, grant), ApplyError::NoSpace);
    // Also on the branch that is not taken.
    let txn = when(vec![version_is("a", 1)], vec![], vec![Op::Put(put("a", "2"))]);
    assert_eq!(bench.txn(txn), Err(ApplyError::NoSpace));
    let delete = DeleteRange { range: KeyRange::point("a".into()), prev_kv: false };
    bench.apply(Command::DeleteRange(delete.clone())).unwrap();
    let corrupt = Alarm { member: MemberId(5), kind: ALARM_CORRUPT };
    bench.apply(Command::AlarmActivate(corrupt)).unwrap();
    assert_eq!(refused(&mut bench, Command::DeleteRange(delete)), ApplyError::Corrupt);
    for alarm in [corrupt, nospace] {
        assert_eq!(
            bench.apply(Command::AlarmDeactivate(alarm)),
            Ok(CommandResponse::Alarms(vec![alarm]))
        );
    }
    bench.put("a", "3");
}

#[test]
fn leases_follow_their_keys_through_restarts() {
    let mut bench = Bench::new();
    for id in [1, 2] {
        let grant = Command::LeaseGrant { id: LeaseId(id), ttl: 60 };
        assert_eq!(
            bench.apply(grant),
            Ok(CommandResponse::LeaseGrant { id: LeaseId(id), ttl: 60 })
        );
    }
    let leased = |key, lease| Command::Put(Put { lease: LeaseId(lease), ..put(key, "v") });
    for (key, lease) in [("a", 1), ("b", 1), ("c", 1), ("b", 2), ("c", 0)] {
        bench.apply(leased(key, lease)).unwrap();
    }
    assert_eq!(bench.apply(leased("d", 9)), Err(ApplyError::LeaseNotFound));
    bench.restart();
    let before = bench.machine.store().revision();
    bench.apply(Command::LeaseRevoke { id: LeaseId(1) }).unwrap();
    assert_eq!(bench.machine.store().revision(), before + 1);
    let alive = ["a", "b", "c"].map(|key| bench.record(key).is_some());
    assert_eq!(alive, [false, true, true], "b moved to another lease, c was detached");
    assert_eq!(
        bench.apply(Command::LeaseRevoke { id: LeaseId(1) }),
        Err(ApplyError::LeaseNotFound)
    );
    bench.restart();
    assert_eq!(bench.machine.lessor().len(), 1);
}

#[test]
fn a_revision_inside_a_txn_has_bounds_of_its_own() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let at = |revision| {
        let range = Range { range: KeyRange::point("a".into()), revision, fetch_limit: 0 };
        when(vec![], vec![Op::Range(range), Op::Put(put("z", "z"))], vec![])
    };
    assert!(bench.txn(at(-1)).is_ok());
    assert_eq!(bench.txn(at(-2)), Err(ApplyError::Compacted));
    // The revision that this very txn would make is in the future.
    let next = bench.machine.store().revision() + 1;
    assert_eq!(bench.txn(at(next)), Err(ApplyError::FutureRevision));
    bench.apply(Command::Compact { revision: 2 }).unwrap();
    assert_eq!(bench.txn(at(-1)), Err(ApplyError::Compacted));
    assert_eq!(bench.apply(Command::Compact { revision: 2 }), Err(ApplyError::Compacted));
}

/// The machine in memory knows no better than the tables: only a restart shows what they say.
#[test]
fn a_deleted_key_does_not_come_back_to_its_lease_with_a_restart() {
    let mut bench = Bench::new();
    let lease = LeaseId(7);
    bench.apply(Command::LeaseGrant { id: lease, ttl: 60 }).unwrap();
    for key in ["by-delete", "by-put", "stays"] {
        bench.apply(Command::Put(Put { lease, ..put(key, "v") })).unwrap();
    }
    let delete = DeleteRange { range: KeyRange::point("by-delete".into()), prev_kv: false };
    bench.apply(Command::DeleteRange(delete)).unwrap();
    for key in ["by-delete", "by-put"] {
        bench.put(key, "without a lease");
    }
    bench.restart();
    bench.apply(Command::LeaseRevoke { id: lease }).unwrap();
    let left = |bench: &Bench, key| bench.record(key).is_some();
    assert!(left(&bench, "by-delete") && left(&bench, "by-put") && !left(&bench, "stays"));
}

#[test]
fn comparisons_of_a_range_hold_if_every_key_passes_and_lease_is_its_own() {
    let mut bench = Bench::new();
    bench.apply(Command::LeaseGrant { id: LeaseId(7), ttl: 60 }).unwrap();
    for key in ["a", "b", "c"] {
        bench.apply(Command::Put(Put { lease: LeaseId(7), ..put(key, "v") })).unwrap();
    }
    bench.put("b", "again, without a lease");
    let mut holds = |target, relation, operand, end: &'static str| {
        let range = KeyRange::from_request("a".into(), end.into());
        let compare = Compare::Number { range, target, relation, operand };
        let txn = bench.txn(when(vec![version_is("none", 0), compare], vec![], vec![])).unwrap();
        txn.succeeded
    };
    use Relation::{Any, Equal, Greater, NotEqual};
    use Target::{Lease, Unknown, Version};
    assert!(holds(Version, Greater, 0, "z") && !holds(Version, Equal, 1, "z"));
    assert!(holds(Version, Equal, 1, "b") && holds(Version, Any, 9, "z"));
    assert!(holds(Lease, Equal, 7, "b") && !holds(Lease, Equal, 7, "z"));
    assert!(!holds(Lease, NotEqual, 0, "c"), "b is in it");
    assert!(holds(Unknown, Equal, 5, "z") && !holds(Unknown, NotEqual, 5, "z"));
}

/// Between the decision and the commit another member may have led and renewed the lease
/// (etcd#15247).
#[test]
fn what_a_leader_decided_in_another_term_is_void() {
    let mut bench = Bench::new();
    let id = LeaseId(1);
    bench.apply(Command::LeaseGrant { id, ttl: 60 }).unwrap();
    bench.apply(Command::Put(Put { lease: id, ..put("k", "v") })).unwrap();
    let origin = Some(Origin { member: MemberId(1), boot: 2, sequence: 9 });
    let checkpoint = Command::LeaseCheckpoint { id, remaining_ttl: 7 };
    for command in [Command::LeaseExpire { id }, checkpoint.clone()] {
        let late = Envelope { origin, decided_in: Some(Term(5)), command };
        assert_eq!(bench.apply_at(7, late), Err(ApplyError::OtherTerm));
    }
    assert_eq!(bench.machine.lessor().get(id).map(|lease| lease.remaining_ttl), Some(0));
    assert!(bench.record("k").is_some());
    let in_time = |command| Envelope { origin, decided_in: Some(Term(7)), command };
    bench.apply_at(7, in_time(checkpoint)).unwrap();
    assert_eq!(bench.machine.lessor().get(id).map(|lease| lease.remaining_ttl), Some(7));
    bench.apply_at(7, in_time(Command::LeaseExpire { id })).unwrap();
    assert!(bench.record("k").is_none());
}

/// A version that knows less than the cluster writes meets nothing of it: it stops before.
#[test]
fn a_version_of_an_older_level_stops_at_what_it_does_not_know() {
    let (env, _, _) = Env::simulated(1);
    env.disk.create_dir(Path::new("/store")).unwrap();
    let feature_level = levels::DOWNGRADE;
    let options = Options { feature_level, ..Options::default() };
    let mut older = StateMachine::new(open_store(&env), options).unwrap();
    let origin = Some(Origin { member: MemberId(1), boot: 2, sequence: 9 });
    let entry = |command| Envelope { origin, decided_in: Some(Term(1)), command }.encode();
    let apply = |older: &mut StateMachine, index, command| {
        older.apply_entry(Applied { index, term: 1 }, entry(command)).map(drop)
    };
    apply(&mut older, 1, Command::SetDowngrade { target: None }).unwrap();
    let raise = |level| Command::SetFeatureLevel { level, asked: BTreeSet::new() };
    apply(&mut older, 2, raise(feature_level)).unwrap();
    let (level, known) = (levels::DIGEST_CHECK, feature_level);
    let unknown = apply(&mut older, 3, Command::CheckDigest { found: None }).unwrap_err();
    let source = CommandError::Level { level, known };
    assert!(matches!(unknown, Halt::Command { index: 3, source: it } if it == source), "{unknown}");
    let risen = apply(&mut older, 3, raise(level)).unwrap_err();
    let text = risen.to_string();
    assert!(matches!(risen, Halt::FeatureLevel { level: 3, known: 2 }), "{text}");
    assert!(text.contains("start a version that reads level 3"), "{text}");
    // Another one that finds it in the store does not even begin.
    older.publish();
    older.store_mut().run(JobRequest::Flush).unwrap();
    drop(older);
    let refused = StateMachine::new(open_store(&env), options).unwrap_err();
    assert!(matches!(refused, Halt::FeatureLevel { level: 3, known: 2 }), "{refused}");
    open(&env);
}

/// The level is raised in the name of those that were asked, and never falls.
#[test]
fn a_feature_level_rises_if_every_member_was_asked() {
    let mut bench = Bench::new();
    let origin = Some(Origin { member: MemberId(1), boot: 2, sequence: 9 });
    let own = |bench: &Bench| {
        let members = membership::members(bench.machine.store().meta(tables::MEMBERS)).unwrap();
        members.iter().map(|member| MemberId(member.id)).collect::<BTreeSet<_>>()
    };
    for id in [7, 8] {
        let store = bench.machine.store_mut();
        Member { id, ..Member::default() }.store(store);
    }
    let level = |bench: &Bench| {
        ClusterFacts::of(bench.machine.store().meta(tables::CLUSTER)).unwrap().feature_level
    };
    let raise = |bench: &mut Bench, level, asked: &BTreeSet<MemberId>, decided_in| {
        let command = Command::SetFeatureLevel { level, asked: asked.clone() };
        let envelope = Envelope { origin, decided_in: Some(Term(decided_in)), command };
        bench.apply_at(3, envelope)
    };
    let all = own(&bench);
    let mut some = all.clone();
    some.remove(&MemberId(8));
    assert_eq!(level(&bench), 1);
    raise(&mut bench, 2, &some, 3).unwrap();
    assert_eq!(level(&bench), 1, "one was not asked");
    assert_eq!(raise(&mut bench, 2, &all, 2), Err(ApplyError::OtherTerm));
    raise(&mut bench, 3, &all, 3).unwrap();
    assert_eq!(level(&bench), 3);
    raise(&mut bench, 2, &all, 3).unwrap();
    assert_eq!(level(&bench), 3, "it never falls");
    let target = Some("3.6.0".to_owned());
    bench
        .apply_at(
            3,
            Envelope {
                origin,
                decided_in: None,
                command: Command::SetDowngrade { target: target.clone() },
            },
        )
        .unwrap();
    let facts =
        |bench: &Bench| ClusterFacts::of(bench.machine.store().meta(tables::CLUSTER)).unwrap();
    assert_eq!(facts(&bench).downgrade, target);
    bench
        .apply_at(
            3,
            Envelope { origin, decided_in: None, command: Command::SetDowngrade { target: None } },
        )
        .unwrap();
    assert_eq!(facts(&bench).downgrade, None);
}

/// Of members that see the same state one wins, whatever their clocks say.
#[test]
fn a_claim_of_backup_work_replaces_the_one_that_it_names() {
    let mut bench = Bench::new();
    let origin = Some(Origin { member: MemberId(1), boot: 2, sequence: 9 });
    let mut claim = |task, after, moment, member| {
        let claim =
            BackupClaim { moment, attempt: 1, member: MemberId(member), state: ClaimState::Held };
        let command = Command::ClaimBackup { task, after, claim };
        bench.apply_at(3, Envelope { origin, decided_in: None, command }).unwrap();
        let (number, found) =
            claims::current(bench.machine.store().meta(tables::CLUSTER), task).unwrap();
        (number, found.moment, found.member.0)
    };
    let (take, drill) = (BackupTask::Take, BackupTask::Drill);
    assert_eq!(claim(take, 0, 100, 7), (1, 100, 7));
    assert_eq!(claim(take, 0, 100, 8), (1, 100, 7), "it saw what is gone");
    assert_eq!(claim(take, 1, i64::MAX, 8), (2, i64::MAX, 8));
    assert_eq!(claim(take, 2, 101, 7), (3, 101, 7), "a clock that was wrong stops nobody");
    assert_eq!(claim(take, 9, 102, 7), (3, 101, 7), "a number that never was");
    assert_eq!(claim(drill, 0, 5, 8), (1, 5, 8), "each work has its own");
}

#[test]
#[should_panic(expected = "entries are applied in order, each once")]
fn an_entry_that_comes_twice_stops_the_member() {
    let mut bench = Bench::new();
    bench.put("k", "v");
    bench.index -= 1;
    bench.put("k", "v");
}

#[test]
fn a_state_of_another_member_brings_its_leases_and_alarms() {
    let mut theirs = Bench::new();
    for lease in [5, 6] {
        theirs.apply(Command::LeaseGrant { id: LeaseId(lease), ttl: 100 }).unwrap();
    }
    theirs.apply(Command::Put(Put { lease: LeaseId(6), ..put("a", "theirs") })).unwrap();
    // They have come further than this member, whatever it has not published.
    for value in ["more", "and more"] {
        theirs.apply(Command::Put(put("d", value))).unwrap();
    }
    let alarm = Alarm { member: MemberId(9), kind: ALARM_NOSPACE };
    theirs.apply(Command::AlarmActivate(alarm)).unwrap();
    theirs.machine.store_mut().run(JobRequest::Flush).unwrap();

    let mut ours = Bench::new();
    ours.apply(Command::LeaseGrant { id: LeaseId(7), ttl: 100 }).unwrap();
    ours.apply(Command::Put(Put { lease: LeaseId(7), ..put("b", "ours") })).unwrap();
    // Applied and not published.
    ours.index += 1;
    let at = Applied { index: ours.index, term: 1 };
    let command = Command::Put(put("c", "ours"));
    ours.machine.apply(at, &Envelope { origin: None, decided_in: None, command }).unwrap();

    let view = theirs.machine.store().views().load();
    let dir = Path::new("/staged");
    let options = keepd_mvcc::Options::default();
    let mut writer =
        keepd_mvcc::StateWriter::create(ours.env.clone(), dir, FileKeys::plain(), options).unwrap();
    let mut reader = keepd_mvcc::StateReader::new(Arc::clone(&view));
    while let Some(chunk) = reader.next_chunk().unwrap() {
        writer.push(&chunk).unwrap();
    }
    writer.finish().unwrap();
    let disk = Arc::clone(&ours.env.disk);
    let installed = ours.machine.install(|| {
        disk.remove_dir_all(Path::new("/store"))?;
        Ok(disk.rename(dir, Path::new("/store"))?)
    });
    assert_eq!(installed.unwrap().applied(), view.applied());
    assert_eq!(ours.machine.lessor().len(), 2);
    assert_eq!(ours.machine.lessor().attached(), 1);
    assert!(ours.machine.has_alarm(ALARM_NOSPACE));
    assert!(ours.record("a").is_some() && ours.record("b").is_none() && ours.record("c").is_none());
    // Both members go on alike, and so does a restart of this one.
    ours.index = view.applied().index;
    for bench in [&mut theirs, &mut ours] {
        bench.apply(Command::LeaseRevoke { id: LeaseId(6) }).unwrap();
        assert!(bench.record("a").is_none());
        bench.machine.store_mut().run(JobRequest::Flush).unwrap();
    }
    let hash = |machine: &StateMachine| machine.store().views().load().hash().unwrap();
    assert_eq!(hash(&ours.machine), hash(&theirs.machine));
    assert_eq!(hash(&open(&ours.env)), hash(&theirs.machine));
}
