//! A blocking client for what surrounds the measuring: is the server ready, how far is its
//! revision, how many keys has it. It is never part of what is measured.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use keepd_api::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

/// How long one request may take.
const REQUEST_MAX: Duration = Duration::from_secs(300);
/// Writes under way at once.
const PUTS_AT_ONCE: usize = 64;

/// One connection.
pub(crate) struct Client {
    runtime: Runtime,
    kv: KvClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
}

impl Client {
    /// Connects; fails at once if nobody listens.
    pub(crate) fn connect(address: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::new(format!("http://{address}"))?.timeout(REQUEST_MAX);
        let channel = runtime
            .block_on(endpoint.connect())
            .with_context(|| format!("connect to {address}"))?;
        let maintenance = MaintenanceClient::new(channel.clone());
        Ok(Self { runtime, kv: KvClient::new(channel), maintenance })
    }

    /// The current revision, by a linearizable range; succeeding means that the server is ready.
    pub(crate) fn revision(&mut self) -> Result<i64> {
        let request = pb::RangeRequest { key: Bytes::from_static(b"a"), ..Default::default() };
        let answer = self.range(request)?;
        Ok(answer.header.context("an answer without a header")?.revision)
    }

    /// How many keys there are.
    pub(crate) fn count(&mut self) -> Result<i64> {
        let all = Bytes::from_static(b"\0");
        let request = pb::RangeRequest {
            key: all.clone(),
            range_end: all,
            count_only: true,
            ..Default::default()
        };
        Ok(self.range(request)?.count)
    }

    /// The database's size, and how much of it is in use.
    pub(crate) fn sizes(&mut self) -> Result<(i64, i64)> {
        let status = self.maintenance.status(pb::StatusRequest::default());
        let status = self.runtime.block_on(status).context("status")?.into_inner();
        Ok((status.db_size, status.db_size_in_use))
    }

    /// Compacts up to a revision.
    pub(crate) fn compact(&mut self, revision: i64) -> Result<()> {
        let request = pb::CompactionRequest { revision, ..Default::default() };
        self.runtime.block_on(self.kv.compact(request)).context("compact")?;
        Ok(())
    }

    /// Gives free space back.
    pub(crate) fn defragment(&mut self) -> Result<()> {
        let request = pb::DefragmentRequest::default();
        self.runtime.block_on(self.maintenance.defragment(request)).context("defragment")?;
        Ok(())
    }

    /// Writes keys, a bounded number at a time.
    pub(crate) fn put_all(&self, keys: impl Iterator<Item = Bytes>, value: &Bytes) -> Result<()> {
        let kv = &self.kv;
        self.runtime.block_on(async {
            let mut puts = JoinSet::new();
            for key in keys {
                if puts.len() == PUTS_AT_ONCE {
                    puts.join_next().await.context("puts are under way")???;
                }
                let request = pb::PutRequest { key, value: value.clone(), ..Default::default() };
                let mut kv = kv.clone();
                puts.spawn(async move {
                    kv.put(request).await.context("put")?;
                    anyhow::Ok(())
                });
            }
            while let Some(put) = puts.join_next().await {
                put??;
            }
            Ok(())
        })
    }

    fn range(&mut self, request: pb::RangeRequest) -> Result<pb::RangeResponse> {
        Ok(self.runtime.block_on(self.kv.range(request)).context("range")?.into_inner())
    }
}
