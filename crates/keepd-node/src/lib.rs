//! One member: its parts and their threads, proposals, reads, alarms, quota, shutdown.
//!
//! ```text
//!  tasks --propose, read--> raft --append--> wal
//!                            |  ^             |
//!                            |  +--persisted--+
//!                            +--committed--> apply --jobs--> background
//!                                             |  |
//!                        outcomes <-----------+  +--changes--> hub --> watch streams
//! ```
//!
//! Every arrow is a type in `messages.rs` and a mailbox that its reader drains whole, so that
//! whatever gathers while a part is busy becomes its next batch. A part has a thread of its own, and
//! may also be stepped by whoever queued something for it (`driver.rs`).

mod admission;
mod ballast;
mod boot;
mod bootstrap;
mod conf_state;
mod digests;
mod driver;
mod encryption;
mod error;
mod force;
mod hand_over;
mod handle;
mod hash_check;
mod hub_handle;
mod in_place;
mod install;
mod job_scheduler;
mod join;
mod leases;
mod mailbox;
mod member;
mod membership;
mod messages;
mod metrics;
mod node;
mod open_store;
mod options;
mod peer_message;
mod publish;
mod receive;
mod recover;
mod shared;
mod shipping;
mod state_transfer;
mod survivor;
#[cfg(test)]
mod testing;
mod threads;
mod transport;
mod versions;

pub use boot::DataDir;
pub use bootstrap::Bootstrap;
pub use driver::PartName;
pub use encryption::{ActivationError, FileCounts, Reloads, ValueCounts};
pub use error::{BootError, Error};
pub use handle::{Handle, Space, Status};
pub use hash_check::HashVerdict;
pub use hub_handle::HubHandle;
pub use install::Installer;
pub use join::{JoinError, has_started, join};
pub use member::Member;
pub use messages::{Completion, LeaseTimeToLive, PeerHash, Renewal};
pub use metrics::{BackupLog, Histogram, Metrics};
pub use node::Node;
pub use options::{BALLAST_BYTES, FLUSH_INTERVAL, Options};
pub use recover::{NewCluster, RecoverError, RecoveredCluster, recover};
pub use shared::HaltReason;
pub use shipping::{LogHold, LogPage, LogUnreadable};
pub use survivor::{SurvivingLog, SurvivingStore, Survivor};
pub use transport::{
    Hello, Lane, NotReceived, PEER_MESSAGE_BYTES_MAX, PeerAddress, Receiver, Refusal,
    STATE_CHUNK_BYTES_MAX, StateSink, StateSource, Transport,
};
