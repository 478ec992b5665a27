//! The clock of one member: it runs faster or slower than the simulation's, and its wall time jumps.

use std::sync::Arc;
use std::time::Duration;

use keepd_env::{Clock, ManualClock};
use parking_lot::Mutex;

/// A rate of one, in parts.
const PARTS: u128 = 1_000_000;
/// The wall time at the start of a simulation: a fixed date, so that nothing depends on the day.
const WALL_START: Duration = Duration::from_secs(1_790_000_000);
const WALL_JUMP_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[derive(Clone, Copy, Debug)]
struct Skew {
    /// The simulation's time at which the rate was set, and the member's at that moment.
    since: (Duration, Duration),
    /// Parts of a million of the simulation's pace.
    rate: u128,
    /// Added to the wall time, and taken from it.
    wall: (Duration, Duration),
}

/// The clock of one member; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct SimClock {
    global: ManualClock,
    skew: Arc<Mutex<Skew>>,
}

impl SimClock {
    /// A clock that goes as the simulation's does.
    pub(crate) fn new(global: ManualClock) -> Self {
        let since = (Duration::ZERO, Duration::ZERO);
        let skew = Skew { since, rate: PARTS, wall: (Duration::ZERO, Duration::ZERO) };
        Self { global, skew: Arc::new(Mutex::new(skew)) }
    }

    /// The simulation's time.
    pub(crate) fn global(&self) -> Duration {
        self.global.monotonic()
    }

    /// Lets the simulation's time pass.
    pub(crate) fn advance(&self, by: Duration) {
        self.global.advance(by);
    }

    /// Goes on at so many parts of a million of the simulation's pace.
    pub(crate) fn set_rate(&self, parts: u32) {
        assert!(parts > 0, "a clock that stands still ends nothing");
        let since = (self.global.monotonic(), self.monotonic());
        let mut skew = self.skew.lock();
        (skew.since, skew.rate) = (since, u128::from(parts));
    }

    /// Moves the wall time, forward and back.
    pub(crate) fn jump_wall(&self, forward: Duration, back: Duration) {
        let mut skew = self.skew.lock();
        skew.wall = (forward.min(WALL_JUMP_MAX), back.min(WALL_JUMP_MAX));
    }

    /// The first time of the simulation at which this clock shows `local`.
    pub(crate) fn global_at(&self, local: Duration) -> Duration {
        let Skew { since: (global, own), rate, .. } = *self.skew.lock();
        let left = local.saturating_sub(own).as_nanos() * PARTS;
        global + nanos(left.div_ceil(rate))
    }
}

impl Clock for SimClock {
    fn monotonic(&self) -> Duration {
        let now = self.global.monotonic();
        let Skew { since: (global, own), rate, .. } = *self.skew.lock();
        own + nanos((now - global).as_nanos() * rate / PARTS)
    }

    fn wall(&self) -> Duration {
        let (forward, back) = self.skew.lock().wall;
        (WALL_START + self.monotonic() + forward).saturating_sub(back)
    }

    /// Moves the simulation: whoever sleeps is the only one who runs.
    fn sleep(&self, time: Duration) {
        let rate = self.skew.lock().rate;
        self.global.advance(nanos((time.as_nanos() * PARTS).div_ceil(rate)));
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).expect("a simulation lasts less than 584 years"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_drifts_is_due_when_it_shows_the_time() {
        let global = ManualClock::new();
        let clock = SimClock::new(global.clone());
        for rate in [1_000_000, 950_000, 1_070_001] {
            clock.set_rate(rate);
            let due = clock.monotonic() + Duration::from_nanos(1_234_567_891);
            let at = clock.global_at(due);
            global.advance(at - global.monotonic() - Duration::from_nanos(2));
            assert!(clock.monotonic() < due);
            global.advance(Duration::from_nanos(2));
            assert!(clock.monotonic() >= due, "at {rate} parts of a million");
        }
    }

    #[test]
    fn the_wall_time_jumps_and_the_monotonic_does_not() {
        let global = ManualClock::new();
        let clock = SimClock::new(global.clone());
        global.advance(Duration::from_secs(5));
        let (wall, monotonic) = (clock.wall(), clock.monotonic());
        clock.jump_wall(Duration::ZERO, Duration::from_secs(3600));
        assert_eq!(clock.wall(), wall - Duration::from_secs(3600));
        assert_eq!(clock.monotonic(), monotonic);
    }
}
