//! The state of a running cluster at a revision, over the client API: keepd's or etcd's.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::Context as _;
use bytes::Bytes;
use keepd_api::etcdserverpb as pb;
use keepd_types::KeyRange;
use pb::kv_client::KvClient;
use pb::request_op::Request;
use pb::response_op::Response;
use tonic::transport::Channel;

use super::state::{Content, Head, State};
use crate::admin::{AskError, Cluster};

/// BOUND: bytes of an answer: eight values of the largest size that servers are commonly told to take.
pub(super) const ANSWER_BYTES_MAX: usize = 256 << 20;
/// etcd's text for a revision that is compacted.
const COMPACTED: keepd_api::Error = keepd_api::Error::Compacted;

/// A cluster whose keys are read and written.
#[derive(Clone)]
pub(super) struct Live {
    cluster: Rc<RefCell<Cluster>>,
    runtime: tokio::runtime::Handle,
    id: u64,
    /// Its revision when it was first asked.
    now: i64,
}

/// Its state at a revision.
pub(super) struct LiveState {
    live: Live,
    revision: i64,
}

impl Live {
    /// Asks the cluster who it is.
    pub(super) fn new(cluster: Cluster, runtime: tokio::runtime::Handle) -> anyhow::Result<Self> {
        let cluster = Rc::new(RefCell::new(cluster));
        let mut live = Self { cluster, runtime, id: 0, now: 0 };
        let any = pb::RangeRequest { key: "a".into(), count_only: true, ..Default::default() };
        let header = live.range(any).context("asking the cluster")?.header.unwrap_or_default();
        (live.id, live.now) = (header.cluster_id, header.revision);
        Ok(live)
    }

    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    /// The state at a revision; now if none is given.
    pub(super) fn at(&self, revision: Option<i64>) -> anyhow::Result<LiveState> {
        let revision = revision.unwrap_or(self.now);
        anyhow::ensure!(
            revision <= self.now,
            "the cluster is at revision {}: {revision} has not been yet",
            self.now
        );
        let state = LiveState { live: self.clone(), revision };
        // A compacted one is refused before anything is printed.
        state.heads(&KeyRange::point("a".into()), 1)?;
        Ok(state)
    }

    pub(super) fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, AskError> {
        self.ask(async move |mut client: KvClient<Channel>| client.range(request).await)
    }

    pub(super) fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, AskError> {
        self.ask(async move |mut client: KvClient<Channel>| client.txn(request).await)
    }

    /// Whether a lease is there.
    pub(super) fn has_lease(&self, id: i64) -> Result<bool, AskError> {
        let mut cluster = self.cluster.borrow_mut();
        let asked = cluster.ask(async |channel| {
            let request = pb::LeaseTimeToLiveRequest { id, keys: false };
            pb::lease_client::LeaseClient::new(channel).lease_time_to_live(request).await
        });
        Ok(self.runtime.block_on(asked)?.ttl > 0)
    }

    /// The connection to a member, for streams.
    pub(super) fn channel(&self) -> Result<Channel, AskError> {
        self.runtime.block_on(self.cluster.borrow_mut().channel())
    }

    pub(super) const fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }

    pub(super) const fn revision(&self) -> i64 {
        self.now
    }

    fn ask<A>(
        &self,
        call: impl AsyncFnOnce(KvClient<Channel>) -> Result<tonic::Response<A>, tonic::Status>,
    ) -> Result<A, AskError> {
        let mut cluster = self.cluster.borrow_mut();
        let asked = cluster.ask(async |channel| {
            call(KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)).await
        });
        self.runtime.block_on(asked)
    }
}

impl LiveState {
    fn refused(&self, error: AskError) -> anyhow::Error {
        if error.is(COMPACTED) {
            return anyhow::anyhow!(
                "revision {} is compacted: name a later one, or a backup (keepd backup list URL) with --from \
                 URL",
                self.revision
            );
        }
        error.into()
    }

    fn get(&self, key: Bytes, range_end: Bytes) -> pb::RangeRequest {
        pb::RangeRequest { key, range_end, revision: self.revision, ..Default::default() }
    }
}

impl State for LiveState {
    fn heads(&self, range: &KeyRange, limit: usize) -> anyhow::Result<Vec<Head>> {
        let limit = i64::try_from(limit)?;
        let request = self.get(range.start.clone(), range.range_end());
        let request = pb::RangeRequest { limit, keys_only: true, ..request };
        let answer = self.live.range(request).map_err(|error| self.refused(error))?;
        let head = |kv: keepd_api::mvccpb::KeyValue| Head {
            key: kv.key,
            mod_revision: kv.mod_revision,
            version: kv.version,
        };
        Ok(answer.kvs.into_iter().map(head).collect())
    }

    fn contents(&self, heads: &[Head]) -> anyhow::Result<Vec<Content>> {
        let get = |head: &Head| pb::RequestOp {
            request: Some(Request::RequestRange(self.get(head.key.clone(), Bytes::new()))),
        };
        let request =
            pb::TxnRequest { success: heads.iter().map(get).collect(), ..Default::default() };
        let answer = self.live.txn(request).map_err(|error| self.refused(error))?;
        let content = |op: pb::ResponseOp| {
            let Some(Response::ResponseRange(range)) = op.response else { return None };
            let kv = range.kvs.into_iter().next()?;
            Some(Content { value: kv.value, lease: kv.lease })
        };
        Ok(answer.responses.into_iter().filter_map(content).collect())
    }

    fn history(&self) -> Option<u64> {
        Some(self.live.id)
    }

    fn name(&self) -> String {
        format!("revision {}", self.revision)
    }
}
