//! Output of the hub: messages for a stream's task, and the sink that takes them.
//!
//! Every message becomes one `WatchResponse`, or one group of fragments:
//!
//! | message | watch_id | created | canceled | compact_revision | cancel_reason | header.revision |
//! |---|---|---|---|---|---|---|
//! | `Created` | given | true | | | | given |
//! | `Refused` | -1 | true | true | | the refusal's text | given |
//! | `Events` | given | | | | | given |
//! | `Canceled` | given | | true | | | given |
//! | `Compacted` | given | | true | given | | 0 |
//! | `Progress` | given, -1 for all | | | | | given |

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use keepd_mvcc::{Change, View};
use thiserror::Error;

use crate::WatchId;

/// One message to a stream.
#[derive(Clone, Debug)]
pub enum StreamMessage {
    /// A watcher was created; always before its first event.
    Created {
        /// Its id.
        watch_id: WatchId,
        /// The store's revision at that moment.
        header_revision: i64,
    },
    /// A create request was refused; the stream goes on.
    Refused {
        /// The store's revision at that moment.
        header_revision: i64,
        /// The reason.
        refusal: Refusal,
    },
    /// Events of one watcher.
    Events(Events),
    /// A watcher was cancelled by its client; nothing of it follows.
    Canceled {
        /// Its id.
        watch_id: WatchId,
        /// The store's revision at that moment.
        header_revision: i64,
    },
    /// A watcher needs history that is gone; nothing of it follows.
    Compacted {
        /// Its id.
        watch_id: WatchId,
        /// The compact revision.
        compact_revision: i64,
    },
    /// A watcher needs history that cannot be read; nothing of it follows.
    Unreadable {
        /// Its id.
        watch_id: WatchId,
    },
    /// All events up to the revision precede this message.
    Progress {
        /// The watcher, or [`WatchId::NONE`] for all of the stream.
        watch_id: WatchId,
        /// The revision.
        header_revision: i64,
    },
}

impl StreamMessage {
    /// Whether it answers a request.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Created { .. } | Self::Refused { .. } | Self::Canceled { .. } => true,
            Self::Progress { watch_id, .. } => *watch_id == WatchId::NONE,
            Self::Events(_) | Self::Compacted { .. } | Self::Unreadable { .. } => false,
        }
    }
}

/// A change that watchers get, and what the edge has made of it, once for all of them.
#[derive(Clone, Debug)]
pub struct Event {
    /// The change.
    pub change: Change,
    encodings: Arc<Encodings>,
}

/// An event as clients read it: without the previous record, and with it.
#[derive(Debug, Default)]
struct Encodings {
    alone: OnceLock<Bytes>,
    with_prev: OnceLock<Bytes>,
}

impl Event {
    pub(crate) fn new(change: Change) -> Self {
        Self { change, encodings: Arc::default() }
    }

    /// All changes of a slice.
    pub(crate) fn all(changes: impl IntoIterator<Item = Change>) -> Arc<[Self]> {
        changes.into_iter().map(Self::new).collect()
    }

    /// The event's bytes, made by `encode` unless they have been kept for another watcher. Two that
    /// ask at the same moment may both make them.
    ///
    /// # Errors
    ///
    /// Those of `encode`, of which nothing is kept.
    pub fn encoded<E>(
        &self,
        with_prev: bool,
        encode: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        let Encodings { alone, with_prev: joined } = &*self.encodings;
        let kept = if with_prev { joined } else { alone };
        if let Some(bytes) = kept.get() {
            return Ok(bytes.clone());
        }
        let bytes = encode()?;
        Ok(kept.get_or_init(|| bytes).clone())
    }
}

/// Events of one watcher: a live revision, or a part of the history.
#[derive(Clone)]
pub struct Events {
    /// The watcher.
    pub watch_id: WatchId,
    /// The events' revision if live, the store's if replayed: then it says nothing about progress.
    pub header_revision: i64,
    /// Present if the watcher wants previous records: where [`Change::prev`] can be loaded.
    pub view: Option<Arc<View>>,
    /// Whether the edge may split the response.
    pub fragment: bool,
    shared: Arc<[Event]>,
    picked: Picked,
}

/// Positions in a shared slice of events.
#[derive(Clone, Debug)]
enum Picked {
    /// Neighbours: the common case, which costs no allocation.
    Run { first: u32, count: u32 },
    /// Anything else, ascending.
    List(Box<[u32]>),
}

/// A slice this long, of which less than a quarter is picked, is not pinned but copied from.
const SPARSE_FROM: usize = 16;

impl Events {
    /// The events at `positions` (ascending, at least one) of `all`.
    pub(crate) fn new(watch_id: WatchId, all: &Arc<[Event]>, positions: &[u32]) -> Self {
        assert!(!positions.is_empty(), "a response without events is not sent");
        let at = |position: u32| position as usize;
        let (shared, picked) = if all.len() >= SPARSE_FROM && positions.len() * 4 < all.len() {
            let copy: Arc<[Event]> =
                positions.iter().map(|position| all[at(*position)].clone()).collect();
            let count = u32::try_from(copy.len()).expect("fewer than the positions, which are");
            (copy, Picked::Run { first: 0, count })
        } else if at(positions[positions.len() - 1] - positions[0]) == positions.len() - 1 {
            let count = u32::try_from(positions.len()).expect("positions are 32 bits wide");
            (Arc::clone(all), Picked::Run { first: positions[0], count })
        } else {
            (Arc::clone(all), Picked::List(positions.into()))
        };
        Self { watch_id, header_revision: 0, view: None, fragment: false, shared, picked }
    }

    /// The events in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Event> {
        (0..self.len()).map(|i| &self.shared[self.position(i)])
    }

    /// The changes in order.
    pub fn changes(&self) -> impl ExactSizeIterator<Item = &Change> {
        self.iter().map(|event| &event.change)
    }

    /// The number of events; never 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always an event")]
    pub fn len(&self) -> usize {
        match &self.picked {
            Picked::Run { count, .. } => *count as usize,
            Picked::List(positions) => positions.len(),
        }
    }

    /// About how much memory the events keep from being freed: what a sink may bound its queue by.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let each = |change: &Change| change.record.encoded.len() + size_of::<Change>();
        self.changes().map(each).sum()
    }

    fn position(&self, i: usize) -> usize {
        match &self.picked {
            Picked::Run { first, .. } => *first as usize + i,
            Picked::List(positions) => positions[i] as usize,
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("watch_id", &self.watch_id)
            .field("header_revision", &self.header_revision)
            .field("prev_kv", &self.view.is_some())
            .field("fragment", &self.fragment)
            .field("events", &self.changes().collect::<Vec<_>>())
            .finish()
    }
}

/// Refusal of a create request; the text is the response's `cancel_reason`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A negative start revision.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    NegativeStart,
    /// The permission check refused.
    #[error("{0}")]
    Denied(String),
    /// No key can be in the range.
    #[error("mvcc: watcher range is empty")]
    EmptyRange,
    /// The chosen id is in use on this stream.
    #[error("mvcc: duplicate watch ID provided on the WatchStream")]
    DuplicateId,
    /// [`crate::Limits::watchers_max`] is reached.
    #[error("etcdserver: too many requests")]
    TooManyWatchers,
}

/// Reason for which the hub has closed a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client took nothing for [`crate::Limits::stall_max`].
    Stalled,
}

/// The hub's end of a stream's bounded queue.
///
/// Answers are what a client asked for: whoever hands a request to the hub has kept a place for its
/// answer, so that they are never too many, and never wait for events that are not read.
pub trait Sink: Send {
    /// Takes the answer to one request.
    fn answer(&mut self, message: StreamMessage);

    /// One request gets no answer: the place that was kept for it is free.
    fn unanswered(&mut self);

    /// Takes a message, or gives it back if it has no capacity (or nobody is at the other end: the edge
    /// then closes the stream).
    fn try_send(&mut self, message: StreamMessage) -> Result<(), StreamMessage>;

    /// Whether the next message would be taken. Replayed responses can be large, so a sink may
    /// bound its queue by [`Events::bytes`] as well as by the number of messages; empty, it takes
    /// any.
    fn has_capacity(&self) -> bool;

    /// Ends the stream for a reason of the hub.
    fn close(&mut self, reason: CloseReason);
}

#[cfg(test)]
mod tests {
    use keepd_mvcc::{ChangeKind, Record};
    use keepd_types::Revision;

    use super::*;

    fn event() -> Event {
        let encoded = Bytes::from_static(b"record");
        Event::new(Change {
            revision: Revision::first(7),
            kind: ChangeKind::Put,
            key: Bytes::from_static(b"key"),
            created: true,
            record: Record { encoded, tombstone: false, seal: None },
            prev: None,
        })
    }

    #[test]
    fn an_event_is_encoded_once_for_all_its_watchers() {
        let shared = Arc::from([event()]);
        let watchers = [1, 2, 3].map(|id| Events::new(WatchId(id), &shared, &[0]));
        let mut made = 0;
        for events in &watchers {
            for with_prev in [false, true] {
                let bytes = events.iter().next().unwrap().encoded(with_prev, || {
                    made += 1;
                    Ok::<_, ()>(Bytes::from(vec![u8::from(with_prev)]))
                });
                assert_eq!(bytes.unwrap(), [u8::from(with_prev)][..]);
            }
        }
        assert_eq!(made, 2, "once alone, once with the previous record");
    }

    #[test]
    fn an_event_that_could_not_be_encoded_is_tried_again() {
        let event = event();
        assert_eq!(event.encoded(false, || Err("no key")), Err("no key"));
        assert_eq!(event.encoded(false, || Ok::<_, ()>(Bytes::new())), Ok(Bytes::new()));
    }
}
