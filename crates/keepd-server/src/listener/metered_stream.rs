//! A connection's bytes, counted as they go over the wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::io::{InspectReader, InspectWriter};

use super::accept::BoxedStream;

/// Bytes that clients sent and were sent, TLS included.
#[derive(Debug, Default)]
pub struct TrafficBytes {
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
}

/// The same stream, counted in `traffic`.
pub(super) fn metered(stream: BoxedStream, traffic: Arc<TrafficBytes>) -> BoxedStream {
    let sent_traffic = Arc::clone(&traffic);
    let received = move |bytes: &[u8]| {
        traffic.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    };
    let sent = move |bytes: &[u8]| {
        sent_traffic.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    };
    Box::new(InspectWriter::new(InspectReader::new(stream, received), sent))
}
