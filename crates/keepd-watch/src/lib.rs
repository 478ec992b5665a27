//! The watch hub: synced and unsynced watchers, catch-up, progress.
//!
//! The applier hands each applied batch to the hub's thread and goes on; a slow client never makes
//! it wait. A *synced* watcher gets its events from these batches. A watcher that starts in the
//! past or whose stream did not take an event in time is *unsynced*: it is read up to date from the
//! store's own history, so nothing is dropped and nothing is queued without bound.
//!
//! The hub is sans-IO: single-threaded, no clock, no socket. Messages go into a [`Sink`] per stream
//! whose other end is the stream's task at the edge. That task opens sealed values, loads previous
//! records and splits large responses; the hub never reads a value.

mod catch_up;
mod hub;
mod interest;
mod interval;
mod message;
mod progress;
mod slab;
mod spec;
mod stream;
mod watcher;

pub use catch_up::Work;
pub use hub::{Hub, Stats};
pub use message::{CloseReason, Event, Events, Refusal, Sink, StreamMessage};
pub use spec::{Batch, Filters, Limits, StreamId, WatchId, WatchSpec};
