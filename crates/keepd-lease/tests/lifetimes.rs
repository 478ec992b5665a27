//! For random histories: no lease ends before its TTL, none outlives it by more than one poll, and
//! the replicated half never depends on time.

#![expect(clippy::unwrap_used, reason = "a failure fails the test")]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use keepd_lease::{Error, Lease, Lessor, Options};
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
    ChangeLeader,
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
        1 => Just(Step::ChangeLeader),
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
    ends: BTreeMap<LeaseId, Duration>,
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
            Step::ChangeLeader => {
                self.primary.demote();
                assert!(self.primary.expired(self.now + Duration::from_secs(99), 500).is_empty());
                let extend = Duration::from_secs(1);
                self.primary.promote(self.now, extend);
                for lease in self.primary.leases() {
                    let life = Duration::from_secs(u64::try_from(lease.ttl).unwrap());
                    self.ends.insert(lease.id, self.now + life + extend);
                }
            }
        }
        assert_eq!(state(&self.primary), state(&self.follower));
    }

    fn revoke(&mut self, id: LeaseId) {
        let keys = self.primary.revoke(id);
        assert_eq!(keys, self.follower.revoke(id));
        assert_eq!(keys.is_ok(), self.ends.remove(&id).is_some());
        if let Ok(keys) = keys {
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
                let ttl = u64::try_from(renewed.unwrap().ttl).unwrap();
                *end = self.now + Duration::from_secs(ttl);
            }
        }
    }

    fn poll(&mut self) {
        for id in self.primary.expired(self.now, 500) {
            assert!(self.ends[&id] <= self.now, "lease {id} ended before its time");
            self.revoke(id);
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
        let mut world =
            World { primary, follower, now, next_poll: now + POLL, ends: BTreeMap::new() };
        for step in steps {
            world.run(step);
        }
    }

    #[test]
    fn a_promotion_spreads_and_shortens_none(ttls in proptest::collection::vec(2_i64..20, 1001..4000)) {
        let mut lessor = Lessor::new(options());
        for (id, ttl) in (1..).zip(&ttls) {
            lessor.grant(LeaseId(id), *ttl).unwrap();
        }
        lessor.promote(Duration::ZERO, Duration::ZERO);
        let mut now = Duration::ZERO;
        let mut recent = std::collections::VecDeque::new();
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

/// A snapshot of another program may bring one.
#[test]
fn a_lease_with_a_negative_ttl_takes_a_checkpoint() {
    let mut lessor = Lessor::new(options());
    lessor.restore(Lease { id: LeaseId(1), ttl: -5, remaining_ttl: 0 });
    assert_eq!(lessor.checkpoint(LeaseId(1), 3).unwrap().remaining_ttl, 0);
}
