//! The context of every service: the member, the value sealer, limits, admission, headers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use keepd_api::etcdserverpb::ResponseHeader;
use keepd_api::mvccpb;
use keepd_crypto::{Encryption, ValueSealer};
use keepd_machine::{ApplyError, Command};
use keepd_mvcc::{Record, View};
use keepd_node::{Completion, Handle};
use keepd_peer::{Network, PeerStatus};
use keepd_tls::ServerTls;
use keepd_types::{KeyValue, LeaseId, StoredValue, limits};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tonic::Status;

use crate::admission::Admission;
use crate::answer_places;
use crate::authorization::{Authorizer, Everyone};
use crate::client_requests::ClientRequests;
use crate::errors;
use crate::leader_watch::{LeaderLoss, LeaderWatch};
use crate::listener::TrafficBytes;
use crate::metrics::BackupMetrics;
use crate::promotions::Promotions;
use crate::slow_calls::SlowCalls;
use crate::stream_failures::StreamFailures;
use crate::unfinished::Unfinished;

/// BOUND: times that a request's values are sealed because their keys were not active any more.
pub(crate) const SEALS_MAX: usize = 3;

/// etcd's time in which a call should be answered.
const REQUEST_EXPECTED: Duration = Duration::from_millis(300);

/// Limits of requests.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `--max-request-bytes`.
    pub request_bytes_max: usize,
    /// `--max-txn-ops`.
    pub txn_ops_max: usize,
    /// `--warning-unary-request-duration`: a call with one answer that takes longer is logged.
    pub request_expected: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes_max: limits::REQUEST_BYTES_MAX,
            txn_ops_max: limits::TXN_OPS_MAX,
            request_expected: REQUEST_EXPECTED,
        }
    }
}

impl Limits {
    /// The size of the largest message that gRPC receives.
    #[must_use]
    pub const fn receive_bytes_max(&self) -> usize {
        self.request_bytes_max + limits::GRPC_OVERHEAD_BYTES
    }
}

/// Shared by all services of a member.
#[derive(Debug)]
pub struct Context {
    /// The member.
    pub node: Handle,
    /// Seals and opens values.
    pub encryption: Arc<Encryption>,
    /// Limits of requests.
    pub limits: Limits,
    /// Admission of requests to the member.
    pub(crate) admission: Admission,
    /// Requests of all connections that are not whole yet.
    pub(crate) unfinished: Arc<Unfinished>,
    /// Places for answers, shared by all streams.
    pub(crate) answer_places: Arc<Semaphore>,
    /// Decides who may call which RPC.
    pub(crate) authorizer: Box<dyn Authorizer>,
    /// Bytes that go over the client ports.
    pub(crate) client_bytes: Arc<TrafficBytes>,
    /// The network to the other members, once there is one.
    pub(crate) network: OnceLock<Network>,
    /// Names, stages and states of the feature gates, once they are said.
    pub(crate) features: OnceLock<Vec<(&'static str, &'static str, bool)>>,
    /// Facts of backups, if the server takes or watches any.
    pub(crate) backups: OnceLock<Arc<BackupMetrics>>,
    /// Calls by the version that their client names.
    pub(crate) client_requests: ClientRequests,
    /// Streams that failed.
    pub(crate) stream_failures: StreamFailures,
    /// The log of calls that take long.
    pub(crate) slow_calls: SlowCalls,
    /// Promotions of learners.
    pub(crate) promotions: Promotions,
    /// The certificates of the client ports.
    pub(crate) certificates: Mutex<Vec<Arc<ServerTls>>>,
    /// Looks for the leader on behalf of the streams whose clients want one.
    leader_watch: LeaderWatch,
    lease_ids: AtomicU64,
}

impl Context {
    /// The services' context for a member.
    #[must_use]
    pub fn new(node: Handle, encryption: Arc<Encryption>, limits: Limits) -> Arc<Self> {
        // etcd's generator: low bits of the member id, of the start time, and a counter. Only
        // uniqueness matters.
        let member = node.identity().member.0 << 48;
        let started = u64::try_from(node.env().clock.wall().as_millis()).unwrap_or(u64::MAX);
        let lease_ids = AtomicU64::new(member | ((started << 8) & 0xffff_ffff_ff00));
        Arc::new(Self {
            encryption,
            limits,
            admission: Admission::new(node.clone()),
            node,
            unfinished: Unfinished::new(limits.receive_bytes_max()),
            answer_places: answer_places::shared(),
            authorizer: Box::new(Everyone),
            client_bytes: Arc::default(),
            network: OnceLock::new(),
            features: OnceLock::new(),
            backups: OnceLock::new(),
            client_requests: ClientRequests::default(),
            stream_failures: StreamFailures::default(),
            slow_calls: SlowCalls::default(),
            promotions: Promotions::default(),
            certificates: Mutex::default(),
            leader_watch: LeaderWatch::default(),
            lease_ids,
        })
    }

    /// The other members, as the network knows them.
    pub(crate) fn peers(&self) -> Vec<PeerStatus> {
        self.network.get().map(Network::peers).unwrap_or_default()
    }

    /// The loss of the leader, from now on.
    pub(crate) fn leader_loss(&self) -> LeaderLoss {
        self.leader_watch.subscribe(&self.node)
    }

    /// A header that shows `revision`.
    pub(crate) fn header(&self, revision: i64) -> ResponseHeader {
        let identity = self.node.identity();
        ResponseHeader {
            cluster_id: identity.cluster.0,
            member_id: identity.member.0,
            revision,
            raft_term: self.node.term(),
        }
    }

    /// A header that shows the current revision.
    pub(crate) fn current_header(&self) -> ResponseHeader {
        self.header(self.node.view().revision())
    }

    /// A positive lease id that was not given out before.
    pub(crate) fn next_lease_id(&self) -> LeaseId {
        loop {
            let id = self.lease_ids.fetch_add(1, Ordering::Relaxed) & 0x7fff_ffff_ffff_ffff;
            if id != 0 {
                return LeaseId(id.cast_signed());
            }
        }
    }

    /// The newest view if the read is serializable, else one that holds every write acknowledged
    /// before this call.
    pub(crate) async fn view(&self, is_serializable: bool) -> Result<Arc<View>, Status> {
        if is_serializable {
            return Ok(self.node.view());
        }
        self.node.linearizable_view().await.map_err(errors::node)
    }

    /// Proposes a command and waits until it is applied here.
    pub(crate) async fn propose(&self, command: Command) -> Result<Completion, Status> {
        self.node.propose(command).await.map_err(errors::node)
    }

    /// Proposes a command whose values `make` seals, and again if their keys were not active any more
    /// when it was applied. Then the member has learned of the active ones.
    pub(crate) async fn propose_sealed(
        &self,
        make: impl Fn() -> Result<Command, Status>,
    ) -> Result<Completion, Status> {
        for _ in 1..SEALS_MAX {
            let done = self.propose(make()?).await?;
            if done.outcome.result != Err(ApplyError::KeyNotActive) {
                return Ok(done);
            }
        }
        self.propose(make()?).await
    }

    /// Seals a value if its key's resource asks for it.
    pub(crate) fn seal(&self, key: &[u8], value: Bytes) -> Result<StoredValue, Status> {
        let sealer = self.encryption.sealer();
        sealer
            .seal(key, value, self.node.env().random.as_ref())
            .map_err(|error| errors::seal(&error))
    }

    /// The encoded `KeyValue` that a client sees.
    pub(crate) fn client_bytes(&self, record: Record) -> Result<Bytes, Status> {
        if record.seal.is_none() {
            return Ok(record.encoded);
        }
        let kv = self.client_kv(record)?;
        let mut out = Vec::with_capacity(kv.encoded_len());
        kv.encode(&mut out);
        Ok(out.into())
    }

    /// The `KeyValue` that a client sees.
    pub(crate) fn client_kv(&self, record: Record) -> Result<KeyValue, Status> {
        open_record(&self.encryption.sealer(), record)
    }

    /// Loads a record and opens it.
    pub(crate) fn load(
        &self,
        view: &View,
        revision: keepd_types::Revision,
    ) -> Result<mvccpb::KeyValue, Status> {
        let record = view.load(revision).map_err(errors::store)?;
        Ok(to_proto(self.client_kv(record)?))
    }
}

fn open_record(sealer: &ValueSealer, record: Record) -> Result<KeyValue, Status> {
    let mut kv = KeyValue::decode(&record.encoded).map_err(errors::record)?;
    if let Some(seal) = record.seal {
        let stored = StoredValue { bytes: kv.value, seal: Some(seal) };
        kv.value = sealer.open(&kv.key, &stored).map_err(|error| errors::open(&kv.key, &error))?;
    }
    Ok(kv)
}

/// The protocol's type of a record.
pub(crate) fn to_proto(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease.0,
    }
}

#[cfg(test)]
mod tests {
    use keepd_crypto::EncryptionConfig;
    use keepd_env::SeededRandom;
    use tonic::Code;

    use super::*;

    const CONFIG: &[u8] = b"
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - secretbox: {keys: [{name: k, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}
";

    /// Rule 9.3: whatever was committed stays; the answer is an error that tells neither the
    /// ciphertext nor nothing, and never an empty or sealed value.
    #[test]
    fn a_record_that_cannot_be_opened_is_an_error_and_never_ciphertext() {
        let config = EncryptionConfig::parse("test", CONFIG).unwrap();
        let sealer = ValueSealer::new(&config);
        let key = Bytes::from_static(b"/registry/secrets/default/db");
        let stored = sealer.seal(&key, "plain".into(), &SeededRandom::new(1)).unwrap();
        let record = |change: fn(&mut Vec<u8>)| {
            let mut value = stored.bytes.to_vec();
            change(&mut value);
            let kv = KeyValue { key: key.clone(), value: value.into(), ..KeyValue::default() };
            let mut encoded = Vec::new();
            kv.encode(&mut encoded);
            Record { encoded: encoded.into(), tombstone: false, seal: stored.seal }
        };
        assert_eq!(open_record(&sealer, record(|_| ())).unwrap().value, "plain");

        let damaged = open_record(&sealer, record(|value| value[40] ^= 1)).unwrap_err();
        let keyless = open_record(&ValueSealer::none(), record(|_| ())).unwrap_err();
        for status in [damaged, keyless] {
            assert_eq!(status.code(), Code::Internal);
            assert!(status.message().contains("could not be opened"), "{status}");
            assert!(!status.message().contains("k8s:enc:"), "{status}");
        }
    }
}
