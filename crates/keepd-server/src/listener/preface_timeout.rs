//! Ends a connection whose client does not even say which protocol it speaks.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::io::{InspectReader, InspectWriter};
use tokio_util::sync::CancellationToken;

use super::accept::Stream;
use super::connection_slots::Slot;

/// Time limit for receiving the protocol preface, or for an answer to less than that.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The length of the preface in HTTP/2.
const PREFACE_BYTES: usize = 24;

/// The preface of one connection.
pub(super) struct Preface {
    slot: Arc<Slot>,
    /// Bytes of it that have not come.
    missing_bytes: AtomicUsize,
    /// Cancelled once it has come, or something was answered.
    settled: CancellationToken,
}

impl Preface {
    pub(super) fn new(slot: Arc<Slot>) -> Arc<Self> {
        let (missing_bytes, settled) = (AtomicUsize::new(PREFACE_BYTES), CancellationToken::new());
        Arc::new(Self { slot, missing_bytes, settled })
    }

    /// The same stream, watched for its preface.
    pub(super) fn watch<S: Stream>(self: &Arc<Self>, stream: S) -> impl Stream + use<S> {
        let (reading, writing) = (Arc::clone(self), Arc::clone(self));
        let read = move |bytes: &[u8]| reading.received(bytes.len());
        InspectWriter::new(InspectReader::new(stream, read), move |_: &[u8]| writing.settle())
    }

    /// Completes when the client has been silent for too long, and never once it has spoken.
    pub(super) async fn timeout(&self) {
        if timeout(SILENCE_MAX, self.settled.cancelled()).await.is_ok() {
            pending::<()>().await;
        }
    }

    fn received(&self, bytes: usize) {
        let missing = self.missing_bytes.load(Ordering::Relaxed);
        if missing > 0 {
            let missing = missing.saturating_sub(bytes);
            self.missing_bytes.store(missing, Ordering::Relaxed);
            if missing == 0 {
                self.settle();
            }
        }
    }

    fn settle(&self) {
        if !self.settled.is_cancelled() {
            self.settled.cancel();
            self.slot.settled();
        }
    }
}
