//! `Maintenance.Snapshot`: a bbolt image made on the fly from one view; nothing touches the disk.

use std::sync::Arc;

use keepd_api::etcdserverpb::SnapshotResponse;
use keepd_backup::Export;
use tonic::Status;

use crate::blocking;
use crate::context::Context;
use crate::response_stream::{self, Receiver, Sender};

/// Blobs made ahead of a slow client.
const BLOBS_AHEAD_MAX: usize = 8;

/// Streams the image of the current view. A client that goes away ends the work.
pub(crate) fn stream(context: &Context) -> Receiver<SnapshotResponse> {
    let (view, sealer) = (context.node.view(), context.node.encryption().sealer());
    let (blobs, reading) = response_stream::channel(BLOBS_AHEAD_MAX);
    tokio::spawn(async move {
        if let Err(status) = send(view, sealer, &blobs).await {
            // The client may have gone away.
            let _ = blobs.send(Err(status)).await;
        }
    });
    reading
}

/// Makes one blob after the other; no thread is held while the client takes its time.
async fn send(
    view: Arc<keepd_mvcc::View>,
    sealer: Arc<keepd_crypto::ValueSealer>,
    blobs: &Sender<SnapshotResponse>,
) -> Result<(), Status> {
    let mut export = step(move || Export::new(view, sealer)).await?;
    while let Ok(room) = blobs.reserve().await {
        let blob;
        (export, blob) = step(move || {
            let blob = export.next_blob()?;
            Ok((export, blob))
        })
        .await?;
        let Some(blob) = blob else { return Ok(()) };
        room.send(Ok(SnapshotResponse {
            header: None,
            // What is left of the image, the digest not counted.
            remaining_bytes: export.remaining_bytes().saturating_sub(32),
            blob,
            version: export.version().to_owned(),
        }));
    }
    Ok(())
}

/// Runs a step of the export on a blocking thread.
async fn step<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, keepd_backup::Error> + Send + 'static,
) -> Result<T, Status> {
    blocking::run(work).await?.map_err(|error| {
        tracing::error!(%error, "a snapshot could not be made");
        Status::internal(format!("keepd: the snapshot failed: {error}"))
    })
}
