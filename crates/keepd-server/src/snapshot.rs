//! `Maintenance.Snapshot`: a bbolt image made on the fly from one view; nothing touches the disk.

use std::sync::Arc;

use futures_util::Stream;
use keepd_api::etcdserverpb::SnapshotResponse;
use keepd_backup::Export;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::context::Context;

/// Blobs made ahead of a slow client.
const BLOBS_AHEAD_MAX: usize = 8;

/// Streams the image of the current view. A client that goes away ends the work.
pub(crate) fn stream(
    context: &Arc<Context>,
) -> impl Stream<Item = Result<SnapshotResponse, Status>> + Send + use<> {
    let view = context.node.view();
    let (blobs, receiver) = mpsc::channel(BLOBS_AHEAD_MAX);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = send(view, &blobs) {
            tracing::error!(%error, "a snapshot could not be made");
            let status = Status::internal(format!("keepd: the snapshot failed: {error}"));
            // The client may have gone away.
            let _ = blobs.blocking_send(Err(status));
        }
    });
    ReceiverStream::new(receiver)
}

fn send(
    view: Arc<keepd_mvcc::View>,
    blobs: &mpsc::Sender<Result<SnapshotResponse, Status>>,
) -> Result<(), keepd_backup::Error> {
    let mut export = Export::new(view)?;
    while let Some(blob) = export.next_blob()? {
        let response = SnapshotResponse {
            header: None,
            // What is left of the image, the digest not counted.
            remaining_bytes: export.remaining_bytes().saturating_sub(32),
            blob,
            version: export.version().to_owned(),
        };
        if blobs.blocking_send(Ok(response)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
