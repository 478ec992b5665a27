//! Random histories: shipped, restored to random revisions and moments, compared with what was there.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use keepd_crypto::ValueSealer;
use keepd_env::Random as _;
use keepd_env::SeededRandom;
use keepd_machine::command::{ALARM_NOSPACE, Alarm, DeleteRange, Op, Txn};
use keepd_machine::tables::ReadableKeys;
use keepd_machine::{Command, MembershipChange};
use keepd_raft::Step;
use keepd_types::{EntryKind, KeyId, KeyRange, LeaseId, MemberId, Term};

use super::world::{Seen, World};
use crate::log::shipped::Target;
use crate::{Moment, prove};

/// Histories that are tried.
const SEEDS: u64 = 200;
/// Restores of each.
const RESTORES: usize = 3;

struct History {
    world: World,
    random: SeededRandom,
    /// The first state of each revision.
    revisions: BTreeMap<i64, Seen>,
    /// The state at each moment at which something was looked at.
    moments: BTreeMap<Moment, Seen>,
}

impl History {
    fn below(&self, max: u64) -> u64 {
        self.random.next_u64() % max
    }

    fn key(&self) -> String {
        let folder = ["/registry/secrets/default", "/registry/pods/default", "x"];
        let folder = folder[usize::try_from(self.below(3)).unwrap()];
        format!("{folder}/{}", self.below(12))
    }

    fn put(&self) -> keepd_machine::command::Put {
        let value = "v".repeat(usize::try_from(self.below(60)).unwrap());
        let lease = if self.below(3) == 0 { self.below(6).cast_signed() } else { 0 };
        let mut put = self.world.put_of(&self.key(), &value, lease);
        put.ignore_lease = lease == 0 && self.below(8) == 0;
        put
    }

    fn delete(&self) -> DeleteRange {
        let key = Bytes::from(self.key());
        DeleteRange { range: KeyRange::point(key), prev_kv: false }
    }

    /// Commits something.
    fn step(&mut self) {
        let lease = LeaseId(self.below(6).cast_signed());
        let revision = self.world.view().revision();
        let command = match self.below(30) {
            0..=11 => Command::Put(self.put()),
            12..=14 => Command::DeleteRange(self.delete()),
            15 | 16 => Command::Txn(Box::new(Txn {
                compares: vec![],
                success: vec![Op::Put(self.put()), Op::DeleteRange(self.delete())],
                failure: vec![],
            })),
            17 => {
                Command::Compact { revision: 1 + self.below(revision.unsigned_abs()).cast_signed() }
            }
            18 | 19 => Command::LeaseGrant { id: lease, ttl: 60 },
            20 => Command::LeaseRevoke { id: lease },
            21 => {
                // Of a leader whose time is over it is void.
                let term = self.world.term.saturating_sub(self.below(2)).max(1);
                return self.world.propose_in(Command::LeaseExpire { id: lease }, Some(Term(term)));
            }
            22 => Command::LeaseCheckpoint {
                id: lease,
                remaining_ttl: 1 + self.below(50).cast_signed(),
            },
            23 => Command::AlarmActivate(Alarm { member: MemberId(1), kind: ALARM_NOSPACE }),
            24 | 25 => Command::AlarmDeactivate(Alarm { member: MemberId(1), kind: ALARM_NOSPACE }),
            26 => self.announce(),
            27 => return self.change_members(),
            28 => Command::CheckDigest { found: None },
            _ => {
                self.world.term += 1;
                return self.world.commit(EntryKind::Normal, Bytes::new());
            }
        };
        self.world.propose(command);
    }

    /// A member says what it reads: with the key that values are sealed under, or without.
    fn announce(&self) -> Command {
        let mut keys = ReadableKeys::default();
        keys.0.insert(KeyId(7), "other".to_owned());
        if self.below(3) > 0 {
            keys.0.extend(self.world.sealer.key_ids());
        }
        Command::SetReadableKeys { member: MemberId(1 + self.below(3)), keys }
    }

    fn change_members(&mut self) {
        let id = MemberId(2 + self.below(3));
        let (change, step) = match self.below(4) {
            0 => (
                MembershipChange::Add {
                    id,
                    peer_urls: vec![format!("http://m{}:2380", id.0)],
                    is_learner: true,
                    max_learners: 2,
                },
                Step::AddLearner(id.0),
            ),
            1 => (MembershipChange::Promote { id }, Step::Promote(id.0)),
            2 => {
                let peer_urls = vec![format!("http://n{}:2380", id.0)];
                (MembershipChange::UpdatePeerUrls { id, peer_urls }, Step::Update(id.0))
            }
            _ => (MembershipChange::Remove { id }, Step::Remove(id.0)),
        };
        self.world.change_members(change, step);
    }

    /// Takes down what is there, for the moment and the revision.
    fn look(&mut self) {
        let seen = self.world.seen();
        self.revisions.entry(seen.revision).or_insert_with(|| seen.clone());
        self.moments.insert(prove::now(&self.world.env), seen);
    }
}

fn live(seed: u64) -> History {
    let world = World::new(seed, seed.is_multiple_of(2));
    let random = SeededRandom::new(seed);
    let mut history =
        History { world, random, revisions: BTreeMap::new(), moments: BTreeMap::new() };
    let mut shipper = history.world.shipper(1, 200 + usize::try_from(history.below(4000)).unwrap());
    history.look();
    shipper.tick().unwrap();
    history.world.base();
    let steps = 40 + history.below(120);
    for _ in 0..steps {
        let pause = Duration::from_millis(50 + history.below(900));
        history.world.clock.advance(pause);
        history.step();
        history.look();
        if history.below(4) > 0 {
            shipper.tick().unwrap();
        }
        match history.below(40) {
            0 => history.world.base(),
            // Another process takes over.
            1 => shipper = history.world.shipper(1, 500),
            _ => {}
        }
    }
    history.world.clock.advance(Duration::from_secs(5));
    history.look();
    shipper.tick().unwrap();
    shipper.finish().unwrap();
    assert_eq!(shipper.behind(), Duration::ZERO);
    history
}

fn drill(seed: u64) {
    let mut history = live(seed);
    let last = history.world.seen();
    let (seen, _) = history.world.restore(Target::Latest).unwrap();
    assert_eq!(seen, last, "seed {seed}, latest");
    let revisions: Vec<i64> = history.revisions.keys().copied().collect();
    for _ in 0..RESTORES {
        let at = usize::try_from(history.below(revisions.len() as u64)).unwrap();
        let revision = revisions[at];
        let (seen, _) = history.world.restore(Target::Revision(revision)).unwrap();
        assert_eq!(seen, history.revisions[&revision], "seed {seed}, revision {revision}");
    }
    let window = *history.world.shipped().windows(&history.world.bases()).last().unwrap();
    let span = (window.until.millis() - window.from.millis()).unsigned_abs();
    let time = window.from.millis() + history.below(span + 1).cast_signed();
    let (seen, replayed) = history.world.restore(Target::At(Moment::of_millis(time))).unwrap();
    let is_compared = replayed.compared > 0 || replayed.entries == 0;
    assert!(is_compared, "seed {seed}: it was compared with the source, {replayed:?}");
    // The stamps are those of ticks, which come between the looks.
    let time = Moment::of_millis(time);
    let at_once = history.moments.range(..=time).next_back().map(|(_, seen)| seen);
    let known = history.moments.range(..=time).rev().any(|(_, it)| *it == seen);
    assert!(known && at_once.is_some_and(|it| it.revision >= seen.revision), "seed {seed}, {time}");
}

fn drills(from: u64, to: u64) {
    for seed in from..to {
        drill(seed);
    }
}

#[test]
fn two_hundred_histories_come_back_key_by_key_and_by_hash() {
    let quarter = SEEDS / 4;
    std::thread::scope(|scope| {
        for part in 0..4 {
            scope.spawn(move || drills(part * quarter, (part + 1) * quarter));
        }
    });
}

#[test]
fn what_is_sealed_stays_so_on_the_way() {
    let mut world = World::new(4, true);
    let mut shipper = world.shipper(1, 1 << 20);
    shipper.tick().unwrap();
    world.base();
    world.put("/registry/secrets/default/a", "canary-of-the-value");
    shipper.finish().unwrap();
    let (seen, _) = world.restore(Target::Latest).unwrap();
    assert_eq!(seen, world.seen());
    for key in world.batches() {
        let bytes = world.bytes_of(&key);
        assert!(!testkit::files::contains(&bytes, b"canary"), "{key}");
    }
    // Without the configuration nothing is restored that nobody could read.
    world.config = None;
    let error = world.restore(Target::Latest).unwrap_err().to_string();
    assert!(error.contains("--encryption-provider-config"), "{error}");
    // Nor with another one.
    let other = keepd_crypto::quickstart_config(&SeededRandom::new(99));
    let other = keepd_crypto::EncryptionConfig::parse("other.yaml", other.as_bytes()).unwrap();
    world.sealer = std::sync::Arc::new(ValueSealer::new(&other));
    world.config = Some(other);
    let error = world.restore(Target::Latest).unwrap_err().to_string();
    assert!(error.contains("which the encryption configuration lacks"), "{error}");
}
