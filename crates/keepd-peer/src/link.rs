//! The task that keeps one peer connected: dial, handshake on both lanes, watch, and again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use keepd_node::{Lane, Receiver, Refusal};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use crate::counters::count;
use crate::dial::{Connection, DialError};
use crate::frames::{FrameReader, ReadError};
use crate::handshake::{self, Failed};
use crate::peer::Peer;
use crate::protocol::{self, Kind, MESSAGES, Purpose};
use crate::queue::{LaneBody, SendQueue};
use crate::shared::Shared;

/// The first pause between attempts; doubled up to the longest, an election timeout.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// BOUND: reasons that are not logged again before the peer was connected.
const REASONS_MAX: usize = 8;
/// Time for which a peer that has said that it stops is not missed: it is being restarted.
const FAREWELL_QUIET: Duration = Duration::from_secs(60);
/// Time limit for a refusal to reach the peer.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// The reason why no connection came about.
enum NotOpened {
    Dial(DialError),
    Handshake(Failed),
}

/// A connection that messages can travel on.
struct Link {
    queue: Arc<SendQueue>,
    control: FrameReader,
    log: FrameReader,
    /// Closes the connection when it is dropped.
    _connection: Connection,
}

/// Keeps a peer connected until told to stop.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, stop: CancellationToken) {
    let (told, farewell) = (VecDeque::new(), None);
    let dialing = Dialing { shared, peer, stop: stop.clone(), told, farewell };
    stop.run_until_cancelled(dialing.run()).await;
}

struct Dialing {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    stop: CancellationToken,
    /// The reasons that the log has for this peer not to be connected.
    told: VecDeque<String>,
    /// The time at which the peer said that it stops.
    farewell: Option<Instant>,
}

/// The end of a connection.
enum Lost {
    /// The peer said that it stops.
    Farewell,
    /// The reason, for people.
    Broken(String),
}

/// Closes a link's queue, whichever way its task ends.
struct Published<'a> {
    peer: &'a Peer,
    queue: &'a Arc<SendQueue>,
    receiver: &'a dyn Receiver,
}

impl Drop for Published<'_> {
    fn drop(&mut self) {
        self.peer.disconnected(self.queue);
        self.receiver.lost(self.peer.id);
    }
}

impl Dialing {
    async fn run(mut self) {
        let Some(receiver) = self.shared.attached().await else { return };
        let mut backoff = BACKOFF_MIN;
        loop {
            if let Some((url, link)) = self.open(receiver.as_ref()).await {
                let since = Instant::now();
                self.serve(receiver.as_ref(), &url, link).await;
                if since.elapsed() > self.shared.options.election_timeout {
                    backoff = BACKOFF_MIN;
                }
            }
            tokio::time::sleep(self.shared.jittered(backoff)).await;
            backoff = (backoff * 2).min(self.shared.options.election_timeout.max(BACKOFF_MIN));
        }
    }

    /// Tries the URLs in their order.
    async fn open(&mut self, receiver: &dyn Receiver) -> Option<(String, Link)> {
        let mut reasons = Vec::new();
        for url in self.peer.urls() {
            let failed = match self.open_url(receiver, &url).await {
                Ok(link) => return Some((url, link)),
                Err(failed) => failed,
            };
            count(&self.peer.counters.dial_failures);
            reasons.push(match failed {
                NotOpened::Dial(error) => error.to_string(),
                NotOpened::Handshake(Failed::Broken(reason)) => format!("{url}: {reason}"),
                NotOpened::Handshake(Failed::Refusing(refusal)) => {
                    format!("{url}: this member refuses the peer: {refusal}")
                }
                NotOpened::Handshake(Failed::RefusedBy(refusal)) => {
                    receiver.refused_by(self.peer.id, &refusal);
                    format!("{url}: the peer refuses this member: {refusal}")
                }
            });
        }
        if reasons.is_empty() {
            reasons.push("it has no peer URL".to_owned());
        }
        self.tell(reasons.join("; "));
        None
    }

    /// Logs a reason once, not with every attempt.
    fn tell(&mut self, reason: String) {
        if self.farewell.take_if(|since| since.elapsed() >= FAREWELL_QUIET).is_some() {
            self.told.clear();
        }
        if !self.told.contains(&reason) {
            if self.farewell.is_some() {
                tracing::info!(peer = %self.peer.id, reason, "no connection to a peer that has stopped in order");
            } else {
                tracing::warn!(peer = %self.peer.id, reason, "no connection to a peer");
            }
            self.told.truncate(REASONS_MAX - 1);
            self.told.push_front(reason);
        }
    }

    async fn open_url(&self, receiver: &dyn Receiver, url: &str) -> Result<Link, NotOpened> {
        let dialer = &self.shared.dialer;
        let mut connection = dialer.connect(url).await.map_err(NotOpened::Dial)?;
        let queue = SendQueue::new();
        let control = self.open_lane(receiver, &mut connection, &queue, Lane::Control).await?;
        let log = self.open_lane(receiver, &mut connection, &queue, Lane::Log).await?;
        Ok(Link { queue, control, log, _connection: connection })
    }

    async fn open_lane(
        &self,
        receiver: &dyn Receiver,
        connection: &mut Connection,
        queue: &Arc<SendQueue>,
        lane: Lane,
    ) -> Result<FrameReader, NotOpened> {
        let (to, limit) = (self.peer.id, self.shared.dialer.timeout);
        let purpose = match lane {
            Lane::Control => Purpose::Control,
            Lane::Log => Purpose::Log,
        };
        let greeting = handshake::own_greeting(receiver.hello(), to, purpose).frame();
        let counters = Arc::clone(&self.peer.counters);
        let body = LaneBody::new(Arc::clone(queue), lane, greeting, counters).boxed_unsync();
        let mut reader = connection.call(MESSAGES, body).await.map_err(NotOpened::Dial)?;
        match handshake::answered(&mut reader, receiver, to, limit).await {
            Ok(_hello) => Ok(reader),
            Err(Failed::Refusing(refusal)) => {
                queue.refuse(lane, &refusal);
                // The peer ends the stream when it has read it.
                let _elapsed = timeout(FAREWELL_TIMEOUT, reader.next()).await;
                Err(NotOpened::Handshake(Failed::Refusing(refusal)))
            }
            Err(failed) => Err(NotOpened::Handshake(failed)),
        }
    }

    /// Lets messages travel until the connection ends.
    async fn serve(&mut self, receiver: &dyn Receiver, url: &str, mut link: Link) {
        let queue = Arc::clone(&link.queue);
        if !self.peer.connected(&queue, &self.stop) {
            return;
        }
        let peer = Arc::clone(&self.peer);
        let published = Published { peer: &peer, queue: &queue, receiver };
        self.told.clear();
        self.farewell = None;
        tracing::info!(peer = %peer.id, url, "connected to a peer");
        let lost = self.watch(receiver, &mut link).await;
        count(&peer.counters.disconnects);
        match lost {
            Lost::Farewell => {
                self.farewell = Some(Instant::now());
                tracing::info!(peer = %peer.id, url, "a peer stops in order");
            }
            Lost::Broken(reason) => {
                count(&peer.counters.sent_failures);
                tracing::warn!(peer = %peer.id, url, reason, "lost the connection to a peer");
            }
        }
        drop(published);
    }

    /// Pings, and reads what the peer answers, until the end.
    async fn watch(&self, receiver: &dyn Receiver, link: &mut Link) -> Lost {
        let mut pings = tokio::time::interval(self.shared.options.ping_interval());
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut number, mut pinged) = (0, Instant::now());
        loop {
            let (lane, answer) = tokio::select! {
                answer = link.control.next() => (Lane::Control, answer),
                answer = link.log.next() => (Lane::Log, answer),
                _ = pings.tick() => {
                    (number, pinged) = (number + 1, Instant::now());
                    link.queue.ping(Lane::Control, number);
                    link.queue.ping(Lane::Log, number);
                    continue;
                }
            };
            match self.judge(receiver, answer) {
                Ok(pong) if lane == Lane::Control && pong == number => {
                    self.peer.counters.round_trip(pinged.elapsed());
                }
                Ok(_late) => {}
                Err(lost) => return lost,
            }
        }
    }

    /// The number of a pong, or the end of the connection.
    fn judge(
        &self,
        receiver: &dyn Receiver,
        answer: Result<Option<(Kind, bytes::Bytes)>, ReadError>,
    ) -> Result<u64, Lost> {
        let reason = match answer {
            Ok(Some((Kind::Pong, payload))) => match protocol::number(&payload) {
                Some(number) => return Ok(number),
                None => "a pong without its number".to_owned(),
            },
            Ok(Some((Kind::Ended, payload))) => match protocol::text(&payload) {
                reason if reason == protocol::STOPPING => return Err(Lost::Farewell),
                reason => format!("the peer ended it: {reason}"),
            },
            Ok(Some((Kind::Refused, payload))) => {
                let refusal: Refusal = protocol::refusal(&payload);
                receiver.refused_by(self.peer.id, &refusal);
                format!("the peer refuses this member: {refusal}")
            }
            Ok(Some((kind, _))) => format!("the peer answered with {kind:?}"),
            Ok(None) => "the peer closed it".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(Lost::Broken(reason))
    }
}
