//! The queues into the parts of a member.

use std::sync::Arc;

use keepd_raft::Fetch;
use tokio::sync::Semaphore;

use crate::mailbox::Mailbox;
use crate::messages::{ApplyEvent, HUB_REQUEST_BYTES_MAX, HubEvent, RaftEvent, WalEvent};

/// Bytes of client requests that may wait for the Raft part.
const PROPOSE_QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// Lease and wait requests that may wait for the apply part.
const APPLY_QUEUE_WEIGHT: usize = 100_000;
/// Bytes of applied changes that may wait for the watch hub before it must catch up from the store.
const HUB_QUEUE_BYTES: usize = 64 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Mailboxes {
    pub(crate) raft: Arc<Mailbox<RaftEvent>>,
    /// BOUND: by what Raft leaves uncommitted.
    pub(crate) wal: Arc<Mailbox<WalEvent>>,
    pub(crate) apply: Arc<Mailbox<ApplyEvent>>,
    pub(crate) hub: Arc<Mailbox<HubEvent>>,
    /// BOUND: fetches that the core has out at once.
    pub(crate) log_reader: Arc<Mailbox<Fetch>>,
    /// Bytes that requests to the hub may have under way.
    pub(crate) hub_requests: Arc<Semaphore>,
}

impl Mailboxes {
    pub(crate) fn new() -> Self {
        Self {
            raft: Arc::new(Mailbox::new(PROPOSE_QUEUE_BYTES)),
            wal: Arc::new(Mailbox::new(usize::MAX)),
            apply: Arc::new(Mailbox::new(APPLY_QUEUE_WEIGHT)),
            hub: Arc::new(Mailbox::new(HUB_QUEUE_BYTES)),
            log_reader: Arc::new(Mailbox::new(usize::MAX)),
            hub_requests: Arc::new(Semaphore::new(HUB_REQUEST_BYTES_MAX as usize)),
        }
    }

    /// Drops what is queued and refuses everything from now on.
    pub(crate) fn close(&self) {
        self.raft.close();
        self.wal.close();
        self.apply.close();
        self.hub.close();
        self.log_reader.close();
    }
}
