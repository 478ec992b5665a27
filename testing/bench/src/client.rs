//! A blocking client for what surrounds the measuring: is the server ready, how far is its
//! revision, how many keys has it. It is never part of what is measured.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use keepd_api::etcdserverpb as pb;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::{Channel, Endpoint};

/// Time limit for one request.
const REQUEST_MAX: Duration = Duration::from_secs(300);
/// BOUND: writes under way at once.
const PUTS_AT_ONCE: usize = 64;
/// BOUND: writes under way at once of a load that keeps a pace, and of somebody who waits for a
/// leader.
const PACED_AT_ONCE: usize = 1000;
/// Interval at which somebody who waits for a leader tries a write.
const ATTEMPT_EVERY: Duration = Duration::from_millis(5);

/// One connection.
pub(crate) struct Client {
    runtime: Runtime,
    kv: KvClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
    cluster: ClusterClient<Channel>,
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
        let cluster = ClusterClient::new(channel.clone());
        Ok(Self { runtime, kv: KvClient::new(channel), maintenance, cluster })
    }

    /// The current revision, by a linearizable range; succeeding means that the server is ready.
    pub(crate) fn revision(&mut self) -> Result<i64> {
        let request = pb::RangeRequest { key: Bytes::from_static(b"a"), ..Default::default() };
        let answer = self.range(request)?;
        Ok(answer.header.context("an answer without a header")?.revision)
    }

    /// The number of keys.
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

    /// The member's status, by its own account.
    pub(crate) fn status(&mut self) -> Result<pb::StatusResponse> {
        let status = self.maintenance.status(pb::StatusRequest::default());
        Ok(self.runtime.block_on(status).context("status")?.into_inner())
    }

    /// The database's size, and how much of it is in use.
    pub(crate) fn sizes(&mut self) -> Result<(i64, i64)> {
        let status = self.status()?;
        Ok((status.db_size, status.db_size_in_use))
    }

    /// Adds a learner.
    pub(crate) fn add_learner(&mut self, peer_url: &str) -> Result<()> {
        let request =
            pb::MemberAddRequest { peer_ur_ls: vec![peer_url.to_owned()], is_learner: true };
        self.runtime.block_on(self.cluster.member_add(request)).context("add a member")?;
        Ok(())
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
    pub(crate) fn put_all(&self, pairs: impl Iterator<Item = (Bytes, Bytes)>) -> Result<()> {
        self.runtime.block_on(async {
            let mut puts = JoinSet::new();
            for (key, value) in pairs {
                if puts.len() == PUTS_AT_ONCE {
                    puts.join_next().await.context("puts are under way")???;
                }
                puts.spawn(put(self.kv.clone(), key, value));
            }
            while let Some(put) = puts.join_next().await {
                put??;
            }
            Ok(())
        })
    }

    /// Writes at a steady pace until told to end, counting what is acknowledged. What cannot be
    /// begun in time is left out.
    pub(crate) fn put_at_pace(
        &self,
        per_second: u32,
        value: &Bytes,
        is_over: &AtomicBool,
        acknowledged: &AtomicU64,
    ) -> Result<()> {
        self.runtime.block_on(async {
            let mut puts = JoinSet::new();
            let mut turns = interval(Duration::from_secs(1) / per_second);
            turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut number = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                turns.tick().await;
                if puts.len() < PACED_AT_ONCE {
                    let key = Bytes::from(format!("/bench/paced/{:03}", number % 1000));
                    puts.spawn(put(self.kv.clone(), key, value.clone()));
                    number += 1;
                }
                while let Some(put) = puts.try_join_next() {
                    put??;
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        })
    }

    /// Tries writes, each on its own, until one is acknowledged.
    pub(crate) fn wait_for_write(&self) -> Result<()> {
        self.runtime.block_on(async {
            let mut puts = JoinSet::new();
            let mut turns = interval(ATTEMPT_EVERY);
            loop {
                tokio::select! {
                    _ = turns.tick() => {
                        anyhow::ensure!(puts.len() < PACED_AT_ONCE, "no write is acknowledged");
                        let (key, value) = (Bytes::from_static(b"/bench/failover"), Bytes::new());
                        puts.spawn(put(self.kv.clone(), key, value));
                    }
                    Some(put) = puts.join_next() => {
                        if put?.is_ok() {
                            return Ok(());
                        }
                    }
                }
            }
        })
    }

    fn range(&mut self, request: pb::RangeRequest) -> Result<pb::RangeResponse> {
        Ok(self.runtime.block_on(self.kv.range(request)).context("range")?.into_inner())
    }
}

async fn put(mut kv: KvClient<Channel>, key: Bytes, value: Bytes) -> Result<()> {
    let request = pb::PutRequest { key, value, ..Default::default() };
    kv.put(request).await.context("put")?;
    Ok(())
}
