//! The parts of a member, and who steps them.
//!
//! A part is a state with one mailbox and a function that reacts to a batch of events. Each part
//! has a thread that sleeps until something is queued or the time for its next step has come. A
//! thread that queued an event and would otherwise only wake the other one may have the part
//! react ([`Driver::react`]), as long as no other thread does: waking a thread costs more than
//! most steps. A test steps all parts of a member, or of several, in one thread.
//!
//! ```text
//!   client's task --try_push_quietly--> mailbox --+-- the part's own thread: run
//!   log's thread  --push_quietly-----> mailbox --+-- whoever queued:        react
//! ```
//!
//! INVARIANT: events are taken from the mailbox under the lock of the part, so a part sees them in
//! the order in which they were queued, whoever steps it. Whoever held the lock looks into the
//! mailbox again after giving it back, so an event whose producer found the lock taken is not left.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::mailbox::Mailbox;
use crate::shared::Shared;

/// BOUND: batches that a thread takes for another one before it goes back to its own work.
const BATCHES_MAX: usize = 8;

/// The parts of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PartName {
    /// Proposals, elections, replication.
    Raft,
    /// The log.
    Wal,
    /// The state machine.
    Apply,
    /// Watches.
    Hub,
    /// Entries of the log for followers that lag.
    LogReader,
    /// Flushes of the store.
    Flush,
    /// Rewrites of the store's segments.
    Rewrite,
    /// Everything else that takes long.
    Background,
}

impl PartName {
    /// All parts, in the order in which they come to a stop.
    pub const ALL: [Self; 8] = [
        Self::Raft,
        Self::Wal,
        Self::Apply,
        Self::Hub,
        Self::LogReader,
        Self::Flush,
        Self::Rewrite,
        Self::Background,
    ];

    /// The name of the part's thread.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Wal => "wal",
            Self::Apply => "apply",
            Self::Hub => "watch-hub",
            Self::LogReader => "log-reader",
            Self::Flush => "flush",
            Self::Rewrite => "rewrite",
            Self::Background => "background",
        }
    }
}

/// A part of the member.
pub(crate) trait Part: Send {
    /// The events that it reacts to.
    type Event: Send;

    /// Reacts to a batch of events, all of which it takes.
    fn react(&mut self, batch: &mut Vec<Self::Event>, now: Duration);

    /// Does what time has made due, on the part's own thread.
    fn turn(&mut self, now: Duration) -> Next;

    /// Whether a thread of another part may take the time to react to an event.
    fn is_brief(_event: &Self::Event) -> bool {
        true
    }

    /// Ends the part in order.
    fn finish(self)
    where
        Self: Sized,
    {
    }

    /// Wakes the threads of parts that a step gave something to without waking them.
    fn hand_over(_shared: &Shared) {}
}

/// The time of a part's next turn if nothing is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// At this time.
    At(Duration),
    /// Never: it has ended.
    End,
}

/// A part of any kind, as whoever steps it sees it.
pub(crate) trait Stepped: Send + Sync {
    /// Its name.
    fn name(&self) -> PartName;

    /// Has the part react to everything that is queued and take its turn; when it wants the next one,
    /// `None` once it has ended.
    fn step(&self) -> Option<Duration>;

    /// The loop of the part's own thread; ends with the part or when the member halts.
    fn run(&self);

    /// Whether events are queued for the part.
    fn has_events(&self) -> bool;
}

/// A part that any thread may step while no other does.
pub(crate) struct Driver<P: Part> {
    name: PartName,
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox<P::Event>>,
    slot: Mutex<Slot<P>>,
}

struct Slot<P: Part> {
    /// `None` once it has ended.
    part: Option<P>,
    /// Reused between steps.
    batch: Vec<P::Event>,
}

impl<P: Part> fmt::Debug for Driver<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.name.as_str()).finish_non_exhaustive()
    }
}

impl<P: Part> Driver<P> {
    pub(crate) fn new(
        name: PartName,
        shared: &Arc<Shared>,
        mailbox: &Arc<Mailbox<P::Event>>,
        part: P,
    ) -> Arc<Self> {
        let slot = Slot { part: Some(part), batch: Vec::new() };
        let (shared, mailbox) = (Arc::clone(shared), Arc::clone(mailbox));
        Arc::new(Self { name, shared, mailbox, slot: Mutex::new(slot) })
    }

    /// Has the part react on the calling thread until its mailbox is empty, unless another thread
    /// does so. Leaves events that may take long to the part's own thread.
    pub(crate) fn react(&self) {
        self.react_quietly();
        P::hand_over(&self.shared);
    }

    /// As [`Self::react`]; the caller takes care of those whom the part gave something to.
    pub(crate) fn react_quietly(&self) {
        let _guard = HaltOnPanic(&self.shared, self.name);
        for _ in 0..BATCHES_MAX {
            if self.mailbox.is_empty() {
                return;
            }
            let Some(mut slot) = self.slot.try_lock() else { return };
            if !slot.react(&self.shared, &self.mailbox, P::is_brief) {
                break;
            }
        }
        self.mailbox.wake();
    }
}

impl<P: Part> Stepped for Driver<P> {
    fn name(&self) -> PartName {
        self.name
    }

    fn step(&self) -> Option<Duration> {
        let _guard = HaltOnPanic(&self.shared, self.name);
        let next = self.slot.lock().step(&self.shared, &self.mailbox);
        P::hand_over(&self.shared);
        next
    }

    fn run(&self) {
        while let Some(next) = self.step() {
            self.mailbox.wait(next.saturating_sub(self.shared.env.clock.monotonic()));
        }
    }

    fn has_events(&self) -> bool {
        !self.mailbox.is_empty()
    }
}

impl<P: Part> Slot<P> {
    fn step(&mut self, shared: &Shared, mailbox: &Mailbox<P::Event>) -> Option<Duration> {
        self.react(shared, mailbox, |_| true);
        if shared.is_halted() {
            // What is half done must not reach a file.
            self.part = None;
        }
        match self.part.as_mut()?.turn(shared.env.clock.monotonic()) {
            Next::At(next) => Some(next),
            Next::End => {
                self.part.take()?.finish();
                None
            }
        }
    }

    /// Reacts to what is queued if all of it is `wanted`; whether it was.
    fn react(
        &mut self,
        shared: &Shared,
        mailbox: &Mailbox<P::Event>,
        wanted: impl Fn(&P::Event) -> bool,
    ) -> bool {
        if shared.is_halted() {
            // Dropping the part tells those who wait for it.
            self.part = None;
        }
        let Some(part) = self.part.as_mut() else { return false };
        if !mailbox.drain_if(&mut self.batch, wanted) {
            return false;
        }
        part.react(&mut self.batch, shared.env.clock.monotonic());
        assert!(self.batch.is_empty(), "a part takes all events of a batch");
        true
    }
}

/// Halts the member if a part panics, on its own thread or on another: a broken invariant in one part
/// must not leave the others serving.
struct HaltOnPanic<'a>(&'a Shared, PartName);

impl Drop for HaltOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.halt(format_args!("the {} thread panicked", self.1.as_str()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    /// Remembers what it was given.
    struct Recorder {
        seen: Arc<Mutex<Vec<u64>>>,
        is_closed: fn(&[u64]) -> bool,
    }

    impl Part for Recorder {
        type Event = u64;
        fn react(&mut self, batch: &mut Vec<u64>, _now: Duration) {
            assert!(!batch.contains(&FAULT), "a broken invariant");
            self.seen.lock().append(batch);
        }

        fn turn(&mut self, now: Duration) -> Next {
            if (self.is_closed)(&self.seen.lock()) {
                return Next::End;
            }
            Next::At(now + Duration::from_secs(3600))
        }

        fn is_brief(event: &u64) -> bool {
            *event != LONG
        }
    }

    const LONG: u64 = u64::MAX;
    /// Makes the part panic.
    const FAULT: u64 = u64::MAX - 1;

    type Recorded = (Arc<Driver<Recorder>>, Arc<Mailbox<u64>>, Arc<Mutex<Vec<u64>>>);

    fn recorder(is_closed: fn(&[u64]) -> bool) -> Recorded {
        let shared = testing::member().shared;
        let (mailbox, seen) = (Arc::new(Mailbox::new(usize::MAX)), Arc::default());
        let part = Recorder { seen: Arc::clone(&seen), is_closed };
        (Driver::new(PartName::Apply, &shared, &mailbox, part), mailbox, seen)
    }

    #[test]
    fn whoever_queues_an_event_may_have_the_part_react() {
        let (driver, mailbox, seen) = recorder(|_| false);
        mailbox.push_quietly(1);
        driver.react();
        assert_eq!(*seen.lock(), [1]);
        mailbox.push_quietly(2);
        mailbox.push_quietly(LONG);
        driver.react();
        assert_eq!(*seen.lock(), [1], "what takes long is left to the part's own thread");
        driver.step();
        assert_eq!(*seen.lock(), [1, 2, LONG]);
    }

    #[test]
    fn no_event_is_left_when_many_threads_queue_and_react() {
        const EVENTS: u64 = 20_000;
        const THREADS: u64 = 4;
        let (driver, mailbox, seen) =
            recorder(|seen| seen.len() == usize::try_from(EVENTS * THREADS).expect("few"));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (driver, mailbox) = (&driver, &mailbox);
                scope.spawn(move || {
                    for event in 0..EVENTS {
                        mailbox.push_quietly(thread * EVENTS + event);
                        driver.react();
                    }
                });
            }
        });
        assert!(mailbox.is_empty(), "the last one to queue an event found it taken or took it");
        let seen = seen.lock();
        for thread in 0..THREADS {
            let own = seen.iter().filter(|event| **event / EVENTS == thread);
            assert!(own.copied().eq(thread * EVENTS..(thread + 1) * EVENTS), "in order");
        }
    }

    #[test]
    fn a_part_that_ended_takes_nothing() {
        let (driver, mailbox, _) = recorder(|seen| !seen.is_empty());
        assert!(driver.step().is_some());
        mailbox.push_quietly(1);
        assert_eq!(driver.step(), None);
        mailbox.push_quietly(2);
        driver.react();
        assert!(!mailbox.is_empty());
    }

    #[test]
    fn a_part_that_panics_halts_the_member_whoever_steps_it() {
        let steps: [fn(&Driver<Recorder>); 2] = [Driver::react, |driver| {
            driver.step();
        }];
        for step in steps {
            let (driver, mailbox, _) = recorder(|_| false);
            mailbox.push_quietly(FAULT);
            let stepped = std::thread::scope(|scope| scope.spawn(|| step(&driver)).join());
            assert!(stepped.is_err());
            let halted = driver.shared.halted().borrow().clone();
            assert_eq!(halted.expect("it has a reason").0, "the apply thread panicked");
        }
    }
}
