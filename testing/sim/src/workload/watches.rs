//! Clients that watch: from now or from an old revision, at one member after the other, some of them
//! slowly.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use histories::requests;
use histories::watches::{Seen, Watch};

use keepd_watch::{CloseReason, Sink, StreamMessage, WatchSpec};
use parking_lot::Mutex;

use super::{Host, Phase, World};
use crate::truth;

/// BOUND: messages that a watch's queue holds beside answers.
const QUEUE_MAX: u64 = 6;
const FAILED_PAUSE: Duration = Duration::from_millis(100);
/// The longest time that a client stays with one member.
const STAY_MAX: Duration = Duration::from_secs(6);
/// The longest time between two looks of a slow client.
const LOOK_MAX: Duration = Duration::from_millis(400);
/// Time in which a stream is opened.
const OPEN_TIME: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<StreamMessage>,
    capacity: usize,
    is_closed: bool,
}

/// The hub's end of a watch's queue.
struct QueueSink(Arc<Mutex<Queue>>);

impl Sink for QueueSink {
    fn answer(&mut self, message: StreamMessage) {
        self.0.lock().messages.push_back(message);
    }

    fn unanswered(&mut self) {}

    fn try_send(&mut self, message: StreamMessage) -> Result<(), StreamMessage> {
        let mut queue = self.0.lock();
        if queue.messages.len() >= queue.capacity {
            return Err(message);
        }
        queue.messages.push_back(message);
        Ok(())
    }

    fn has_capacity(&self) -> bool {
        let queue = self.0.lock();
        queue.messages.len() < queue.capacity
    }

    fn close(&mut self, _reason: CloseReason) {
        self.0.lock().is_closed = true;
    }
}

/// Watches until the run is over.
pub(super) async fn client(world: Rc<World>) {
    let watch = {
        let mut watches = world.watches.borrow_mut();
        watches.push(Watch { range: requests::watched(&*world), seen: VecDeque::new(), member: 0 });
        watches.len() - 1
    };
    // The revision to go on from; 0 is from now.
    let mut next = 0;
    while world.phase.get() != Phase::Over {
        let Some((member, host)) = world.any_host() else {
            world.pause(FAILED_PAUSE).await;
            continue;
        };
        world.watches.borrow_mut()[watch].member = member;
        let stay = Stay { world: &world, watch, member, host: &host };
        if stay.watch(&mut next).await.is_none() {
            world.pause(FAILED_PAUSE).await;
        }
        if world.is_unsafe() && next > 0 && world.draw(5) == 0 {
            // Another watch of the same keys, which begins in the past.
            next = 1 + i64::try_from(world.draw(next.unsigned_abs())).expect("it is smaller");
        }
    }
}

/// A watch's time at one member.
struct Stay<'a> {
    world: &'a World,
    watch: usize,
    member: usize,
    host: &'a Host,
}

impl Stay<'_> {
    /// Watches for a while; `None` if the stream was not opened.
    async fn watch(&self, next: &mut i64) -> Option<()> {
        let Self { world, watch, member, host } = *self;
        let handle = host.handle.clone()?;
        let capacity = usize::try_from(1 + world.draw(QUEUE_MAX)).expect("a small number");
        let queue = Arc::new(Mutex::new(Queue { capacity, ..Queue::default() }));
        let sink = Box::new(QueueSink(Arc::clone(&queue)));
        let hub = handle.hub();
        let open = hub.open_stream(sink, Duration::from_secs(600));
        let stream = world.within(member, OPEN_TIME, open).await?.ok()?;
        let range = world.watches.borrow()[watch].range.clone();
        let spec = WatchSpec::new(range, *next);
        world.within(member, OPEN_TIME, hub.create(stream, spec)).await?.ok()?;
        let is_slow = world.draw(3) == 0;
        let end = world.now() + world.draw_time(STAY_MAX);
        while world.phase.get() != Phase::Over
            && (world.now() < end || world.phase.get() == Phase::Settling)
            && world.is_same_start(member, host.start)
            && !queue.lock().is_closed
        {
            let mut is_over = false;
            while let Some(message) = self.take(&queue) {
                is_over |= self.see(message, next);
                if is_slow {
                    break;
                }
            }
            if is_over {
                break;
            }
            if world.draw(40) == 0 {
                // It may have ended by itself.
                let _asked = world.within(member, OPEN_TIME, hub.progress(stream)).await;
            }
            let look = if is_slow && world.is_unsafe() { LOOK_MAX } else { LOOK_MAX / 20 };
            world.pause(world.draw_time(look)).await;
        }
        hub.close_stream(stream);
        self.tell(Seen::Left);
        Some(())
    }

    fn take(&self, queue: &Mutex<Queue>) -> Option<StreamMessage> {
        let is_paused = self.world.hosts.borrow()[self.member].is_paused;
        if is_paused { None } else { queue.lock().messages.pop_front() }
    }

    /// Takes a message in; whether it ends the watch.
    fn see(&self, message: StreamMessage, next: &mut i64) -> bool {
        let is_over = matches!(
            message,
            StreamMessage::Compacted { .. }
                | StreamMessage::Unreadable { .. }
                | StreamMessage::Refused { .. }
        );
        match message {
            StreamMessage::Created { header_revision, .. } => {
                if *next == 0 {
                    *next = header_revision + 1;
                }
                self.tell(Seen::Begun(*next));
            }
            StreamMessage::Events(events) => {
                let last = events.changes().last().map_or(0, |change| change.revision.main);
                *next = (*next).max(last + 1);
                let sealer = self.host.handle.as_ref().expect("it runs").encryption().sealer();
                let shown = self.world.history.borrow_mut().moment(self.world.now());
                let facts = events.changes().map(|change| truth::fact(change, &sealer, shown));
                self.tell(facts.collect::<Result<_, _>>().map_or_else(Seen::Garbled, Seen::Facts));
            }
            StreamMessage::Progress { header_revision, .. } => {
                self.tell(Seen::Progress(header_revision));
            }
            StreamMessage::Compacted { compact_revision, .. } => {
                self.tell(Seen::Compacted(compact_revision));
                *next = compact_revision + 1;
            }
            StreamMessage::Unreadable { .. } => self.tell(Seen::Unreadable),
            StreamMessage::Refused { refusal, .. } => {
                self.world.note(format_args!("watch {}: refused: {refusal}", self.watch));
            }
            StreamMessage::Canceled { .. } => {}
        }
        is_over
    }

    fn tell(&self, seen: Seen) {
        let (watch, member) = (self.watch, self.member);
        match &seen {
            Seen::Facts(facts) => {
                let list: Vec<_> = facts.iter().map(|fact| fact.revision.main).collect();
                self.world.note(format_args!("watch {watch} at m{member}: events of {list:?}"));
            }
            other => self.world.note(format_args!("watch {watch} at m{member}: {other:?}")),
        }
        self.world.watches.borrow_mut()[watch].seen.push_back(seen);
    }
}
