//! The floor: a tonic server that answers puts and ranges with fixed messages.
//!
//! It has keepd's allocator, runtime settings and HTTP/2 windows, and nothing else: no log, no
//! disk, no store. What it costs is what every server on this library costs.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use keepd_api::etcdserverpb as pb;
use keepd_api::mvccpb;
use pb::kv_server::{Kv, KvServer};
use tonic::{Request, Response, Status};

use crate::load::{LOAD_KEY_BYTES, LOAD_VALUE_BYTES};

/// As keepd's listeners have them.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// Serves until it is killed.
pub(crate) fn serve(listen: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let server = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(KvServer::new(Echo::new()))
        .serve(listen);
    runtime.block_on(server).with_context(|| format!("serve on {listen}"))
}

struct Echo {
    put: pb::PutResponse,
    range: pb::RangeResponse,
}

impl Echo {
    fn new() -> Self {
        let header = pb::ResponseHeader {
            cluster_id: 0x1234_5678_9abc_def0,
            member_id: 0x1234_5678_9abc_def0,
            revision: 1_000_000,
            raft_term: 2,
        };
        let kv = mvccpb::KeyValue {
            key: Bytes::from(vec![b'k'; LOAD_KEY_BYTES]),
            value: Bytes::from(vec![b'v'; LOAD_VALUE_BYTES]),
            create_revision: 2,
            mod_revision: 1_000_000,
            version: 1_000,
            ..Default::default()
        };
        let (header, kvs) = (Some(header), vec![kv]);
        let range = pb::RangeResponse { header, kvs, count: 1, ..Default::default() };
        Self { put: pb::PutResponse { header, prev_kv: None }, range }
    }
}

#[tonic::async_trait]
impl Kv for Echo {
    type RangeStreamStream = tokio_stream::Empty<Result<pb::RangeStreamResponse, Status>>;

    async fn range(
        &self,
        _: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        Ok(Response::new(self.range.clone()))
    }

    async fn put(&self, _: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        Ok(Response::new(self.put.clone()))
    }

    async fn range_stream(
        &self,
        _: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(not_measured())
    }

    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        Err(not_measured())
    }

    async fn txn(&self, _: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        Err(not_measured())
    }

    async fn compact(
        &self,
        _: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        Err(not_measured())
    }
}

fn not_measured() -> Status {
    Status::unimplemented("the floor answers puts and ranges only")
}
