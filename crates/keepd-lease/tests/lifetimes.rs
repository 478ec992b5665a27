//! For random histories: no lease ends before its TTL, none outlives it by more than one poll, a new
//! primary gives each what it was promised and not much more, and the replicated half never depends on
//! time.

#![expect(clippy::unwrap_used, reason = "a failure fails the test")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use keepd_lease::{Error, Lease, Lessor, Options, Renewed};
use keepd_types::LeaseId;
use proptest::prelude::*;

const POLL: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
enum Step {
    Grant(i64, i64),
    Revoke(i64),
    Attach(i64, u8),
    Detach(u8),
    Renew(i64),
    Wait(u64),
    /// So many checkpoints of the log are applied.
    Apply(usize),
    /// So many more are applied, the rest is lost, and another member leads.
    ChangeLeader(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let id = -3_i64..12;
    prop_oneof![
        4 => (id.clone(), -2_i64..8).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        1 => id.clone().prop_map(Step::Revoke),
        3 => (id.clone(), 0..8_u8).prop_map(|(id, key)| Step::Attach(id, key)),
        1 => (0..8_u8).prop_map(Step::Detach),
        4 => id.prop_map(Step::Renew),
        8 => (1..3000_u64).prop_map(Step::Wait),
        4 => (1..4_usize).prop_map(Step::Apply),
        1 => (0..4_usize).prop_map(Step::ChangeLeader),
    ]
}

fn options() -> Options {
    Options { revoke_retry: Duration::from_secs(3) }
}

fn key(number: u8) -> Bytes {
    Bytes::from(vec![b'k', number])
}

fn state(lessor: &Lessor) -> Vec<(Lease, Vec<Bytes>)> {
    let keys = |lease: &Lease| lessor.keys(lease.id).unwrap().iter().cloned().collect();
    lessor.leases().map(|lease| (lease, keys(&lease))).collect()
}

/// A primary with the deadlines that a reader of the contract would expect.
struct World {
    primary: Lessor,
    /// Applies the same commands and hears no time at all.
    follower: Lessor,
    now: Duration,
    next_poll: Duration,
    /// Ends as the primary keeps them.
    ends: BTreeMap<LeaseId, Duration>,
    /// The earliest ends that clients were told of.
    promised: BTreeMap<LeaseId, Duration>,
    /// Checkpoints that are proposed and not applied, each with the end that is promised when it is.
    log: VecDeque<(LeaseId, i64, Option<Duration>)>,
}

impl World {
    fn run(&mut self, step: Step) {
        match step {
            Step::Grant(id, ttl) => {
                let granted = self.primary.grant(LeaseId(id), ttl);
                assert_eq!(granted, self.follower.grant(LeaseId(id), ttl));
                self.primary.arm(self.now);
                if let Ok(lease) = granted {
                    let life = Duration::from_secs(u64::try_from(lease.ttl).unwrap());
                    self.ends.insert(lease.id, self.now + life);
                    self.promised.insert(lease.id, self.now + life);
                }
            }
            Step::Revoke(id) => self.revoke(LeaseId(id)),
            Step::Attach(id, number) => {
                let attached = self.primary.attach(LeaseId(id), key(number));
                assert_eq!(attached, self.follower.attach(LeaseId(id), key(number)));
                assert!(attached.is_err() || self.primary.lease_of(&key(number)) == LeaseId(id));
            }
            Step::Detach(number) => {
                assert_eq!(self.primary.detach(&key(number)), self.follower.detach(&key(number)));
                assert_eq!(self.primary.lease_of(&key(number)), LeaseId::NONE);
            }
            Step::Renew(id) => self.renew(LeaseId(id)),
            Step::Wait(millis) => {
                let until = self.now + Duration::from_millis(millis);
                while self.next_poll <= until {
                    self.now = self.next_poll;
                    self.next_poll += POLL;
                    self.poll();
                }
                self.now = until;
            }
            Step::Apply(count) => self.apply(count),
            Step::ChangeLeader(applied) => self.change_leader(applied),
        }
        assert_eq!(state(&self.primary), state(&self.follower));
    }

    fn apply(&mut self, count: usize) {
        for _ in 0..count {
            let Some((id, seconds, promise)) = self.log.pop_front() else { break };
            let applied = self.primary.checkpoint(id, seconds);
            assert_eq!(applied, self.follower.checkpoint(id, seconds));
            if let (Ok(_), Some(end)) = (applied, promise) {
                let promised = self.promised.get_mut(&id).unwrap();
                *promised = end.max(*promised);
            }
        }
    }

    fn change_leader(&mut self, applied: usize) {
        self.apply(applied);
        self.log.clear();
        self.primary.demote();
        let later = self.now + Duration::from_secs(99);
        assert!(self.primary.expired(later, 500).is_empty());
        assert!(self.primary.unrecorded(later, 500).is_empty());
        let extend = Duration::from_secs(1);
        self.primary.promote(self.now, extend);
        for Lease { id, ttl, remaining_ttl } in self.primary.leases() {
            let left = if remaining_ttl > 0 { remaining_ttl } else { ttl };
            let end = self.now + Duration::from_secs(u64::try_from(left).unwrap()) + extend;
            assert!(end >= self.promised[&id], "lease {id} will end before its time");
            self.ends.insert(id, end);
        }
    }

    fn revoke(&mut self, id: LeaseId) {
        let keys = self.primary.revoke(id);
        assert_eq!(keys, self.follower.revoke(id));
        assert_eq!(keys.is_ok(), self.ends.remove(&id).is_some());
        if let Ok(keys) = keys {
            self.promised.remove(&id);
            self.log.retain(|(of, ..)| *of != id);
            assert!(keys.is_sorted());
            assert!(keys.iter().all(|key| self.primary.lease_of(key) == LeaseId::NONE));
        }
    }

    fn renew(&mut self, id: LeaseId) {
        let renewed = self.primary.renew(id, self.now);
        match self.ends.get_mut(&id) {
            None => assert_eq!(renewed, Err(Error::NotFound(id))),
            Some(end) if *end <= self.now => assert_eq!(renewed, Err(Error::Expired(id))),
            Some(end) => {
                let Renewed { ttl, checkpoint_stale } = renewed.unwrap();
                *end = self.now + Duration::from_secs(u64::try_from(ttl).unwrap());
                if checkpoint_stale {
                    self.log.push_back((id, 0, Some(*end)));
                } else {
                    self.promised.insert(id, *end);
                }
            }
        }
    }

    fn poll(&mut self) {
        for id in self.primary.expired(self.now, 500) {
            assert!(self.ends[&id] <= self.now, "lease {id} ended before its time");
            self.revoke(id);
        }
        for (id, seconds) in self.primary.unrecorded(self.now, 500) {
            let Lease { ttl, remaining_ttl, .. } = self.primary.get(id).unwrap();
            assert!(0 < seconds && seconds < ttl, "a full lease needs no checkpoint");
            assert!(remaining_ttl == 0 || seconds < remaining_ttl, "the time left only falls");
            self.log.push_back((id, seconds, None));
        }
        for (id, end) in &self.ends {
            assert!(*end > self.now, "lease {id} outlived its time");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_lease_ends_early_or_lives_on(steps in proptest::collection::vec(step(), 1..200)) {
        let now = Duration::from_secs(7);
        let mut primary = Lessor::new(options());
        primary.promote(now, Duration::ZERO);
        let follower = Lessor::new(options());
        let mut world = World {
            primary,
            follower,
            now,
            next_poll: now + POLL,
            ends: BTreeMap::new(),
            promised: BTreeMap::new(),
            log: VecDeque::new(),
        };
        for step in steps {
            world.run(step);
        }
    }

    /// However often the primary changes: each change costs the time since the last checkpoint, which
    /// is five minutes or half the lease at most, and the extension.
    #[test]
    fn a_change_of_the_primary_lengthens_a_lease_by_little(
        ttl in 2_i64..4000, tenures in proptest::collection::vec(1_u64..2000, 0..8),
    ) {
        let (id, extend) = (LeaseId(1), Duration::from_secs(1));
        let mut lessor = Lessor::new(options());
        let mut now = Duration::from_secs(7);
        lessor.promote(now, extend);
        lessor.grant(id, ttl).unwrap();
        lessor.arm(now);
        let full = Duration::from_secs(u64::try_from(ttl).unwrap());
        let granted = now;
        let lost = Duration::from_secs(300).min(full / 2) + POLL + Duration::from_secs(1);
        let mut latest = now + full + POLL;
        let mut tenures = tenures.into_iter();
        let mut tenure_end = tenures.next().map(|tenure| now + Duration::from_secs(tenure));
        let mut checkpoints = 0;
        loop {
            now += POLL;
            if lessor.expired(now, 1) == [id] {
                break;
            }
            for (id, seconds) in lessor.unrecorded(now, 1) {
                checkpoints += 1;
                lessor.checkpoint(id, seconds).unwrap();
            }
            if tenure_end.is_some_and(|end| end <= now) {
                lessor.demote();
                lessor.promote(now, extend);
                latest += lost + extend;
                tenure_end = tenures.next().map(|tenure| now + Duration::from_secs(tenure));
            }
            prop_assert!(now < latest, "it lives on");
        }
        prop_assert!(now >= granted + full, "it ended early");
        let lived = (now - granted).as_secs();
        prop_assert!(checkpoints <= 2 + lived / 300, "{checkpoints} in {lived} s");
    }

    #[test]
    fn a_promotion_spreads_and_shortens_none(ttls in proptest::collection::vec(2_i64..20, 1001..4000)) {
        let mut lessor = Lessor::new(options());
        for (id, ttl) in (1..).zip(&ttls) {
            lessor.grant(LeaseId(id), *ttl).unwrap();
        }
        lessor.promote(Duration::ZERO, Duration::ZERO);
        let mut now = Duration::ZERO;
        let mut recent = VecDeque::new();
        while !lessor.is_empty() {
            now += Duration::from_millis(250);
            let expired = lessor.expired(now, usize::MAX);
            for id in &expired {
                let lease = lessor.get(*id).unwrap();
                prop_assert!(now >= Duration::from_secs(u64::try_from(lease.ttl).unwrap()));
                lessor.revoke(*id).unwrap();
            }
            recent.push_back(expired.len());
            if recent.len() > 4 {
                recent.pop_front();
            }
            // Four polls see the leases of one second.
            prop_assert!(recent.iter().sum::<usize>() <= 750);
            prop_assert!(now < Duration::from_secs(20 + 6));
        }
    }
}

/// A checkpoint is under way when the lease is renewed: the renewal promises nothing before the next
/// primary knows of it.
#[test]
fn a_renewal_during_a_checkpoint_is_recorded_behind_it() {
    let (id, second) = (LeaseId(1), Duration::from_secs(1));
    let mut lessor = Lessor::new(options());
    lessor.promote(Duration::ZERO, Duration::ZERO);
    lessor.grant(id, 100).unwrap();
    lessor.arm(Duration::ZERO);
    assert!(!lessor.renew(id, second).unwrap().checkpoint_stale);
    assert!(lessor.unrecorded(50 * second, 9).is_empty(), "it was renewed since");
    assert_eq!(lessor.unrecorded(51 * second, 9), [(id, 50)]);
    assert!(lessor.unrecorded(51 * second, 9).is_empty(), "once");
    assert!(lessor.renew(id, 52 * second).unwrap().checkpoint_stale, "50 s are on their way");
    assert!(lessor.renew(id, 53 * second).unwrap().checkpoint_stale, "so are they still");
    assert!(lessor.unrecorded(110 * second, 9).is_empty(), "not while a renewal is on its way");
    lessor.checkpoint(id, 50).unwrap();
    assert!(lessor.renew(id, 111 * second).unwrap().checkpoint_stale);
    lessor.checkpoint(id, 0).unwrap();
    assert!(!lessor.renew(id, 112 * second).unwrap().checkpoint_stale);
    assert_eq!(lessor.unrecorded(170 * second, 9), [(id, 42)]);
}

/// A snapshot of another program may bring one.
#[test]
fn a_lease_with_a_negative_ttl_takes_a_checkpoint() {
    let mut lessor = Lessor::new(options());
    lessor.restore(Lease { id: LeaseId(1), ttl: -5, remaining_ttl: 0 });
    assert_eq!(lessor.checkpoint(LeaseId(1), 3).unwrap().remaining_ttl, 0);
}
