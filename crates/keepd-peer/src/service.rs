//! The accepting side: what a peer listener hands its requests to.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use keepd_node::{Lane, Refusal};
use keepd_types::MemberId;

use crate::frames::{FrameBody, FrameReader, QueuedBody, one_frame};
use crate::handshake;
use crate::opened::{Opened, Remote};
use crate::peer::Peer;
use crate::protocol::{self, CONTENT_TYPE, Greeting, Kind, MEMBERSHIP, MESSAGES, Purpose, STATE};
use crate::shared::Shared;
use crate::{etcd, inbound, state};

/// BOUND: frames of an answer that wait to be sent.
const ANSWERS_MAX: usize = 8;

/// Answers the requests of peers.
#[derive(Clone)]
pub struct PeerService(Arc<Shared>);

impl fmt::Debug for PeerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerService").finish_non_exhaustive()
    }
}

impl PeerService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Answers one request. Streams go on in tasks of their own, which end with the connection or when
    /// the network is shut down.
    #[must_use]
    pub fn call(&self, request: Request<Incoming>, remote: Remote) -> Response<FrameBody> {
        let path = request.uri().path();
        let is_known = [MESSAGES, STATE, MEMBERSHIP].contains(&path);
        if !is_known {
            return etcd::answer(path)
                .unwrap_or_else(|| plain(StatusCode::NOT_FOUND, "404 page not found"));
        }
        let content_type = request.headers().get(http::header::CONTENT_TYPE);
        if request.method() != Method::POST
            || request.version() != Version::HTTP_2
            || content_type.is_none_or(|it| it.as_bytes() != CONTENT_TYPE.as_bytes())
        {
            return plain(StatusCode::BAD_REQUEST, "only members of keepd talk here");
        }
        let Some(receiver) = self.0.receiver().filter(|_| !self.0.stop.is_cancelled()) else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "this member starts or stops");
        };
        let is_membership = path == MEMBERSHIP;
        let expects_state = path == STATE;
        let (answers, body) = QueuedBody::channel(ANSWERS_MAX);
        let shared = Arc::clone(&self.0);
        let reader = FrameReader::new(request.into_body());
        let opened = Opened { shared, receiver, remote, reader, answers };
        self.0.spawn(async move {
            if is_membership {
                opened.membership().await;
            } else {
                opened.stream(expects_state).await;
            }
        });
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        response
    }
}

impl Opened {
    async fn membership(mut self) {
        let answer = match self.first(Kind::AskMembership).await {
            Ok(payload) if payload.first() == Some(&protocol::VERSION) => {
                let membership = self.receiver.membership();
                if membership.len() > Kind::Membership.bytes_max() {
                    protocol::text_frame(Kind::Ended, "the membership is over its bound")
                } else {
                    protocol::frame(Kind::Membership, &membership)
                }
            }
            Ok(payload) => {
                let version = payload.first().copied().unwrap_or_default();
                let refusal = handshake::unreadable(protocol::NoGreeting::Version(version));
                protocol::refused_frame(&refusal)
            }
            Err(answer) => answer,
        };
        self.end(answer).await;
    }

    async fn stream(mut self, expects_state: bool) {
        match self.greeted(expects_state).await {
            Ok((peer, purpose)) => {
                let own = handshake::own_greeting(self.receiver.hello(), peer.id, purpose);
                self.send(own.frame()).await;
                self.serve(&peer, purpose).await;
            }
            Err(answer) => self.end(answer).await,
        }
    }

    /// Reads and judges the greeting: the member, or the frame that refuses it.
    async fn greeted(&mut self, expects_state: bool) -> Result<(Arc<Peer>, Purpose), Bytes> {
        let payload = self.first(Kind::Greeting).await?;
        let greeting = Greeting::decode(&payload)
            .map_err(|error| self.refused(MemberId(0), &handshake::unreadable(error)))?;
        let (from, purpose) = (greeting.hello.member, greeting.purpose);
        if (purpose == Purpose::State) != expects_state {
            return Err(protocol::text_frame(Kind::Ended, "the greeting is of another path"));
        }
        handshake::judge(self.receiver.as_ref(), &greeting)
            .map_err(|refusal| self.refused(from, &refusal))?;
        let peer = self.shared.peer_or_new(from);
        let peer = peer.ok_or_else(|| protocol::text_frame(Kind::Ended, "too many members"))?;
        self.shared.is_welcome(from);
        Ok((peer, purpose))
    }

    async fn serve(mut self, peer: &Arc<Peer>, purpose: Purpose) {
        let answer = match purpose {
            Purpose::Control => inbound::serve(&mut self, peer, Lane::Control).await,
            Purpose::Log => inbound::serve(&mut self, peer, Lane::Log).await,
            Purpose::State => {
                let receiver = Arc::clone(&self.receiver);
                Some(state::receive(&self.shared, receiver, peer, &mut self.reader).await)
            }
        };
        if let Some(answer) = answer {
            self.end(answer).await;
        }
    }

    fn refused(&self, from: MemberId, refusal: &Refusal) -> Bytes {
        if self.shared.is_new_refusal(from, &refusal.reason) {
            let (remote, reason) = (&self.remote, &refusal.reason);
            tracing::warn!(peer = %from, %remote, reason, "refused a peer");
        }
        protocol::refused_frame(refusal)
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<FrameBody> {
    let mut response = Response::new(one_frame(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response
}
