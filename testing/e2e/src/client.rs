//! The client: what the tests need of the protocol, on one connection.

mod members;

use std::time::Duration;

use bytes::Bytes;
use keepd_api::etcdserverpb as pb;
use keepd_api::mvccpb;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;
use testkit::Server;
use testkit::process::tail;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

/// How long a start may take, log replay included.
const START_MAX: Duration = Duration::from_secs(60);
/// How long one request may take.
const REQUEST_MAX: Duration = Duration::from_secs(20);

/// One connection to a member.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

/// One change of a key, as a watcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Bytes,
    /// The value, `None` for a delete.
    pub value: Option<Bytes>,
    /// The revision.
    pub revision: i64,
}

fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.expect("every answer has a header").revision
}

impl Client {
    /// Connects to an endpoint.
    ///
    /// # Errors
    /// If nobody listens.
    pub async fn connect(endpoint: String) -> Result<Self, tonic::transport::Error> {
        let channel = Endpoint::try_from(endpoint)?.connect().await?;
        Ok(Self { channel })
    }

    /// Connects to a member that was just started, once it answers linearizable reads.
    ///
    /// # Panics
    /// If it ends, or does not answer in time.
    pub async fn ready(server: &mut Server) -> Self {
        let pause = Duration::from_millis(20);
        let mut waited = Duration::ZERO;
        while waited < START_MAX {
            server.assert_running();
            if let Ok(client) = Self::connect(server.options().endpoint()).await
                && client.revision().await.is_ok()
            {
                return client;
            }
            sleep(pause).await;
            waited += pause;
        }
        panic!("no answer after {START_MAX:?}\n{}", tail(&server.options().log()));
    }

    /// Connects to an endpoint when it is first asked, and again whenever the connection was lost.
    ///
    /// # Errors
    /// If it is no endpoint.
    pub fn lazy(endpoint: String) -> Result<Self, tonic::transport::Error> {
        let channel = Endpoint::try_from(endpoint)?.connect_lazy();
        Ok(Self { channel })
    }

    /// Asks over a channel that somebody else has made.
    #[must_use]
    pub const fn over(channel: Channel) -> Self {
        Self { channel }
    }

    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    pub(crate) fn watcher(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// The store's revision, by a linearizable read.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn revision(&self) -> Result<i64, Status> {
        let range = pb::RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            count_only: true,
            ..Default::default()
        };
        Ok(revision(self.kv().range(limited(range)).await?.into_inner().header))
    }

    /// Writes a key; returns the revision.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn put(&self, key: &str, value: &str, lease: i64) -> Result<i64, Status> {
        let put = pb::PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            lease,
            ..Default::default()
        };
        Ok(revision(self.kv().put(limited(put)).await?.into_inner().header))
    }

    /// Deletes a key; returns the revision.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn delete(&self, key: &str) -> Result<i64, Status> {
        let delete = pb::DeleteRangeRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            ..Default::default()
        };
        Ok(revision(self.kv().delete_range(limited(delete)).await?.into_inner().header))
    }

    /// Writes several keys in one txn; returns the revision.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn put_all(&self, pairs: &[(String, String)]) -> Result<i64, Status> {
        let put = |(key, value): &(String, String)| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
                key: Bytes::copy_from_slice(key.as_bytes()),
                value: Bytes::copy_from_slice(value.as_bytes()),
                ..Default::default()
            })),
        };
        let txn = pb::TxnRequest { success: pairs.iter().map(put).collect(), ..Default::default() };
        Ok(revision(self.kv().txn(limited(txn)).await?.into_inner().header))
    }

    /// All keys that begin with `prefix`.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn list(&self, prefix: &str) -> Result<Vec<mvccpb::KeyValue>, Status> {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().expect("a prefix is not empty") += 1;
        let range = pb::RangeRequest {
            key: Bytes::copy_from_slice(prefix.as_bytes()),
            range_end: end.into(),
            ..Default::default()
        };
        Ok(self.kv().range(limited(range)).await?.into_inner().kvs)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn get(&self, key: &str) -> Result<Option<String>, Status> {
        let range =
            pb::RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() };
        let kvs = self.kv().range(limited(range)).await?.into_inner().kvs;
        Ok(kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
    }

    /// Compacts physically.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn compact(&self, revision: i64) -> Result<(), Status> {
        let compact = pb::CompactionRequest { revision, physical: true };
        self.kv().compact(limited(compact)).await?;
        Ok(())
    }

    /// Rewrites what is dead out of the store.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn defragment(&self) -> Result<(), Status> {
        let mut maintenance = MaintenanceClient::new(self.channel.clone());
        maintenance.defragment(limited(pb::DefragmentRequest {})).await?;
        Ok(())
    }

    /// Grants a lease; returns its id.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn grant(&self, ttl: i64) -> Result<i64, Status> {
        let mut leases = self.lease();
        let grant = pb::LeaseGrantRequest { ttl, id: 0 };
        Ok(leases.lease_grant(limited(grant)).await?.into_inner().id)
    }

    /// The ids of all leases.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn leases(&self) -> Result<Vec<i64>, Status> {
        let mut leases = self.lease();
        let answer = leases.lease_leases(limited(pb::LeaseLeasesRequest {})).await?.into_inner();
        Ok(answer.leases.into_iter().map(|lease| lease.id).collect())
    }

    /// Renews a lease; returns the TTL, 0 if there is no such lease.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn keep_alive(&self, id: i64) -> Result<i64, Status> {
        let mut leases = self.lease();
        let requests = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
        let mut answers = leases.lease_keep_alive(requests).await?.into_inner();
        let answer = answers.message().await?;
        answer.map(|answer| answer.ttl).ok_or_else(|| Status::unavailable("the stream ended"))
    }

    /// A watch of every key from `start` on. Whoever does not poll it is a slow client.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn watch(&self, start: i64) -> Result<Watch, Status> {
        let create = pb::WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: start,
            ..Default::default()
        };
        let union = pb::watch_request::RequestUnion::CreateRequest(create);
        // The client's half of the stream ends here; the watch goes on.
        let requests = tokio_stream::once(pb::WatchRequest { request_union: Some(union) });
        Ok(Watch { responses: self.watcher().watch(requests).await?.into_inner() })
    }

    /// Every event of every key from `start` up to `end`, as one watcher gets them.
    ///
    /// # Panics
    /// If the watch ends or no event at `end` comes in time.
    pub async fn history(&self, start: i64, end: i64) -> Vec<Event> {
        self.watch(start).await.expect("watches open").until(end).await
    }
}

/// A watch of every key.
#[derive(Debug)]
pub struct Watch {
    responses: Streaming<pb::WatchResponse>,
}

impl Watch {
    /// Every event up to that of revision `end`.
    ///
    /// # Panics
    /// If the watch ends or no event at `end` comes in time.
    pub async fn until(&mut self, end: i64) -> Vec<Event> {
        let mut events = Vec::new();
        while events.last().is_none_or(|event: &Event| event.revision < end) {
            let next = timeout(REQUEST_MAX, self.next()).await;
            let next = next.expect("the events come in time").expect("the watch goes on");
            events.extend(next);
        }
        events
    }

    /// The events of the next answer.
    ///
    /// # Errors
    /// If the watch ends.
    pub async fn next(&mut self) -> Result<Vec<Event>, Status> {
        let response = self.responses.message().await?;
        let response = response.ok_or_else(|| Status::unavailable("the watch ended"))?;
        if response.canceled {
            return Err(Status::aborted(format!("the watch was cancelled: {response:?}")));
        }
        let events = response.events.into_iter().map(|event| {
            let kv = event.kv.expect("an event has a key");
            let is_put = event.r#type == mvccpb::event::EventType::Put as i32;
            let value = is_put.then_some(kv.value);
            Event { key: kv.key, value, revision: kv.mod_revision }
        });
        Ok(events.collect())
    }
}

fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(REQUEST_MAX);
    request
}
