//! A session: a lease that is kept alive, and a place in a queue of keys under a prefix.
//!
//! Locks and elections are the same queue. Everyone puts a key `prefix/lease` and waits until all
//! keys made before it are gone; the oldest key has the lock or the leadership. The layout is that of
//! etcd's client library and of its lock and election services, so all of them exclude each other.
//! A client that dies loses its lease, and with it its key.

use std::time::Duration;

use bytes::Bytes;
use keepd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keepd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use keepd_api::etcdserverpb::request_op::Request;
use keepd_api::etcdserverpb::response_op::Response;
use keepd_api::etcdserverpb::watch_request::RequestUnion;
use keepd_api::etcdserverpb::{
    Compare, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseOp,
    TxnRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use keepd_api::mvccpb::Event;
use keepd_api::mvccpb::event::EventType;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::client::{Client, Failure, may_go_on};
use super::get::{RANGE, prefix_end};
use super::lease::{GRANT, renewals};
use super::txn::TXN;
use super::watch::WATCH;

/// Pause before a broken stream is opened again.
const PAUSE: Duration = Duration::from_millis(100);

/// A lease, as long as someone polls [`Session::expired`].
pub(super) struct Session<'a> {
    client: &'a Client,
    lease: i64,
}

/// A place in a queue.
#[derive(Debug)]
pub(super) struct Turn {
    /// The key that holds the place.
    pub(super) key: Bytes,
    /// The revision that made the key.
    pub(super) create_revision: i64,
    /// The store's revision when its key became the oldest.
    pub(super) revision: i64,
}

impl<'a> Session<'a> {
    /// Takes out a lease.
    pub(super) async fn open(client: &'a Client, ttl: i64) -> Result<Self, Failure> {
        let granted = client.call(&GRANT, LeaseGrantRequest { ttl, id: 0 }).await?;
        Ok(Self { client, lease: granted.id })
    }

    /// Keeps the lease alive; returns when it is lost.
    pub(super) async fn expired(&self) {
        loop {
            match renewals(self.client, self.lease, async |answer| answer.ttl > 0).await {
                Ok(Some(_)) => return,
                Ok(None) | Err(_) => {
                    self.client.turn();
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// The key of this session under a prefix.
    pub(super) fn key(&self, prefix: &[u8]) -> Bytes {
        let lease = if self.lease < 0 {
            format!("-{:x}", self.lease.unsigned_abs())
        } else {
            format!("{:x}", self.lease)
        };
        [prefix, lease.as_bytes()].concat().into()
    }

    /// Joins the queue under a prefix and waits until its key is the oldest.
    pub(super) async fn take_turn(&self, prefix: &[u8], value: Bytes) -> Result<Turn, Failure> {
        let key = self.key(prefix);
        let answer = self.client.call(&TXN, self.queue_up(prefix, &key, value)).await?;
        let queued = answer.header.unwrap_or_default().revision;
        let mut answers = answer.responses.into_iter().map(range_of);
        let own = answers.next().unwrap_or_default();
        let create_revision = match own.kvs.first() {
            Some(kv) if !answer.succeeded => kv.create_revision,
            _ => queued,
        };
        let mut turn = Turn { key, create_revision, revision: queued };
        let oldest = answers.next().unwrap_or_default();
        if oldest.kvs.first().is_none_or(|kv| kv.create_revision == create_revision) {
            return Ok(turn);
        }
        turn.revision = self.wait_for_those_before(prefix, create_revision).await?;
        Ok(turn)
    }

    fn queue_up(&self, prefix: &[u8], key: &Bytes, value: Bytes) -> TxnRequest {
        let op = |request| RequestOp { request: Some(request) };
        let put =
            PutRequest { key: key.clone(), value, lease: self.lease, ..PutRequest::default() };
        let own = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let oldest = Request::RequestRange(by_age(prefix, SortOrder::Ascend));
        TxnRequest {
            compare: vec![was_created_at(key, 0)],
            success: vec![op(Request::RequestPut(put)), op(oldest.clone())],
            failure: vec![op(Request::RequestRange(own)), op(oldest)],
        }
    }

    /// Waits until all older keys are gone, each time for the newest of them, so that one deletion
    /// wakes one client.
    async fn wait_for_those_before(
        &self,
        prefix: &[u8],
        create_revision: i64,
    ) -> Result<i64, Failure> {
        loop {
            let request = RangeRequest {
                max_create_revision: create_revision - 1,
                ..by_age(prefix, SortOrder::Descend)
            };
            let answer = self.client.call(&RANGE, request).await?;
            let revision = answer.header.unwrap_or_default().revision;
            let Some(before) = answer.kvs.into_iter().next() else { return Ok(revision) };
            let mut changes = Changes::of(self.client, before.key, Bytes::new(), revision);
            while changes.next().await?.1.r#type() != EventType::Delete {}
        }
    }
}

/// The condition that a key was made at a revision; 0 is one that is not there.
pub(super) fn was_created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

/// The first key under a prefix by age.
pub(super) fn by_age(prefix: &[u8], order: SortOrder) -> RangeRequest {
    RangeRequest {
        key: Bytes::copy_from_slice(prefix),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: order.into(),
        sort_target: SortTarget::Create.into(),
        ..RangeRequest::default()
    }
}

fn range_of(response: ResponseOp) -> RangeResponse {
    match response.response {
        Some(Response::ResponseRange(answer)) => answer,
        _ => RangeResponse::default(),
    }
}

/// The changes of a range, one after the other, over broken streams.
pub(super) struct Changes<'a> {
    client: &'a Client,
    create: WatchCreateRequest,
    stream: Option<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>)>,
    ready: std::collections::VecDeque<(i64, Event)>,
}

impl<'a> Changes<'a> {
    /// From a revision on.
    pub(super) fn of(client: &'a Client, key: Bytes, range_end: Bytes, revision: i64) -> Self {
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: revision,
            ..WatchCreateRequest::default()
        };
        Self { client, create, stream: None, ready: std::collections::VecDeque::new() }
    }

    /// The next change, with the store's revision.
    pub(super) async fn next(&mut self) -> Result<(i64, Event), Failure> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Ok(change);
            }
            let Some((_, answers)) = &mut self.stream else {
                self.open().await?;
                continue;
            };
            match answers.message().await {
                Ok(Some(answer)) if answer.canceled => {
                    let reason = match answer.compact_revision {
                        0 => answer.cancel_reason,
                        _ => keepd_api::Error::Compacted.text().to_owned(),
                    };
                    return Err(Failure::Refused(reason));
                }
                Ok(Some(answer)) => {
                    let revision = answer.header.unwrap_or_default().revision;
                    let events = answer.events.into_iter();
                    self.ready.extend(events.map(|event| (revision, event)));
                    if !self.ready.is_empty() {
                        self.create.start_revision = revision + 1;
                    }
                }
                ended => {
                    if let Err(status) = ended {
                        may_go_on(status).map_err(Failure::Status)?;
                    }
                    self.stream = None;
                    self.client.turn();
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn open(&mut self) -> Result<(), Failure> {
        let (requests_tx, requests_rx) = mpsc::channel(1);
        let union = RequestUnion::CreateRequest(self.create.clone());
        let request = WatchRequest { request_union: Some(union) };
        requests_tx.try_send(request).map_err(|_full| {
            Failure::Status(Status::internal("a new channel takes one request"))
        })?;
        let requests = ReceiverStream::new(requests_rx);
        let answers = self.client.duplex(&WATCH, requests, true).await?;
        self.stream = Some((requests_tx, answers));
        Ok(())
    }
}

/// Returns when a signal ends the process.
pub(super) async fn told_to_end() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the signals end the process themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
