//! One member: threads, proposals, reads, alarms, quota, shutdown.
//!
//! ```text
//!  tasks --propose, read--> raft thread --append--> wal thread
//!                            |   ^                      |
//!                            |   +------- persisted ----+
//!                            +--committed--> apply thread --jobs--> background threads
//!                                             |  |
//!                        outcomes <-----------+  +--changes--> hub thread --> watch streams
//! ```
//!
//! Every arrow is a type in `messages.rs` and an inbox that its reader drains whole, so that whatever gathers while a thread is
//! busy becomes its next batch.

mod apply_thread;
mod background;
mod ballast;
mod boot;
mod encryption;
mod error;
mod growth;
mod handle;
mod housekeeping;
mod hub_thread;
mod in_place;
mod inbox;
mod leadership;
mod messages;
mod metrics;
mod node;
mod options;
mod raft_thread;
mod room;
mod shared;
mod unapplied;
mod wal_thread;

pub use boot::DataDir;
pub use encryption::{FileCounts, Reloads, ValueCounts};
pub use error::{BootError, Error};
pub use handle::{Handle, Space, Status};
pub use hub_thread::HubHandle;
pub use messages::{Completion, LeaseTimeToLive, Renewal};
pub use metrics::{Histogram, Metrics};
pub use node::Node;
pub use options::{BALLAST_BYTES, FLUSH_INTERVAL, Options};
pub use shared::HaltReason;
