//! A stream of a peer that was opened here, and who opened it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_node::Receiver;
use keepd_tls::PeerIdentity;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::frames::FrameReader;
use crate::handshake::GREETING_TIMEOUT;
use crate::protocol::{self, Kind};
use crate::shared::Shared;

/// Time limit for the other side to read the last answer.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// The other end of a connection that the listener has accepted, its certificate verified.
#[derive(Clone, Debug, Default)]
pub struct Remote {
    /// Its address and port.
    pub address: String,
    /// Its certificate, if it was asked for one.
    pub identity: Option<PeerIdentity>,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)?;
        let common_name = self.identity.as_ref().and_then(|it| it.common_name.as_deref());
        common_name.map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}

/// A stream that was opened, until it is served.
pub(crate) struct Opened {
    pub(crate) shared: Arc<Shared>,
    pub(crate) receiver: Arc<dyn Receiver>,
    pub(crate) remote: Remote,
    pub(crate) reader: FrameReader,
    pub(crate) answers: mpsc::Sender<Bytes>,
}

impl Opened {
    /// Sends a frame, if the other side still listens.
    pub(crate) async fn send(&self, frame: Bytes) {
        let _gone = self.answers.send(frame).await;
    }

    /// Sends the last frame and lets the other side read it: a request that is dropped with unread
    /// bytes is reset, and the reset may overtake what was said.
    pub(crate) async fn end(self, frame: Bytes) {
        self.send(frame).await;
        let Self { mut reader, answers, .. } = self;
        drop(answers);
        let draining = async { while let Ok(Some(_)) = reader.next().await {} };
        // Whether it was read or not, the stream ends here.
        let _elapsed = timeout(FAREWELL_TIMEOUT, draining).await;
    }

    /// The first frame, which must be of this kind.
    pub(crate) async fn first(&mut self, wanted: Kind) -> Result<Bytes, Bytes> {
        match timeout(GREETING_TIMEOUT, self.reader.next()).await {
            Ok(Ok(Some((kind, payload)))) if kind == wanted => Ok(payload),
            other => {
                let remote = &self.remote;
                tracing::debug!(%remote, ?other, "a stream of a peer began with something else");
                let reason = format!("{wanted:?} did not come first");
                Err(protocol::text_frame(Kind::Ended, &reason))
            }
        }
    }
}
