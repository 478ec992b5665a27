//! Pauses between attempts to send a member the state: one that refuses it is not sent it again and
//! again.

use std::collections::BTreeMap;
use std::time::Duration;

use keepd_types::MemberId;

/// The pause after a first failure.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// BOUND: members whose failures are remembered. A cluster has a few.
const MEMBERS_MAX: usize = 1024;

/// Members to whom sending the state has failed: the end of the pause, and its length.
#[derive(Debug, Default)]
pub(super) struct States(BTreeMap<MemberId, (Duration, Duration)>);

impl States {
    /// Whether a state may be sent now.
    pub(super) fn may_send(&self, to: MemberId, now: Duration) -> bool {
        self.0.get(&to).is_none_or(|(until, _)| now >= *until)
    }

    /// A state has arrived.
    pub(super) fn arrived(&mut self, to: MemberId) {
        self.0.remove(&to);
    }

    /// A state was refused, or the link broke: the pause doubles each time.
    pub(super) fn failed(&mut self, to: MemberId, now: Duration) {
        if self.0.len() >= MEMBERS_MAX && !self.0.contains_key(&to) {
            self.0.clear();
        }
        let before = self.0.get(&to).map(|(_, pause)| *pause);
        let pause = before.map_or(PAUSE_MIN, |pause| (pause * 2).min(PAUSE_MAX));
        self.0.insert(to, (now + pause, pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_refuses_states_is_sent_fewer_and_fewer() {
        let (mut states, to) = (States::default(), MemberId(7));
        let (mut now, mut sent) = (Duration::ZERO, 0);
        while now < Duration::from_secs(60) {
            if states.may_send(to, now) {
                sent += 1;
                states.failed(to, now);
            }
            now += Duration::from_millis(100);
        }
        assert!((8..=12).contains(&sent), "{sent}");
        assert!(states.may_send(MemberId(8), now));
        states.arrived(to);
        assert!(states.may_send(to, now));
    }
}
