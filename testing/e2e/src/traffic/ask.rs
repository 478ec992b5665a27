//! One request of a client, as a call of the protocol.

use std::time::Duration;

use bytes::Bytes;
use histories::history::{Outcome, Pair, Request, Response};
use keepd_api::etcdserverpb as pb;
use keepd_api::mvccpb;
use keepd_types::{KeyRange, LeaseId};
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op;
use tonic::{Code, Status};

use crate::client::Client;

/// Time that a member has for a request.
const MEMBER_TIME: Duration = Duration::from_secs(4);

/// Asks for it, and says what came of it.
pub(super) async fn perform(client: &Client, request: &Request) -> Outcome {
    match answer(client, request).await {
        Ok(response) => Outcome::Ok(response),
        Err(status) if is_certain(request, &status) => Outcome::Failed(status.to_string()),
        Err(status) => Outcome::Unknown(status.to_string()),
    }
}

/// Whether a request that failed so has had no effect and will have none. A code that also means that
/// an answer was lost does not say so.
fn is_certain(request: &Request, status: &Status) -> bool {
    matches!(request, Request::Read { .. })
        || matches!(
            status.code(),
            Code::InvalidArgument
                | Code::NotFound
                | Code::OutOfRange
                | Code::FailedPrecondition
                | Code::ResourceExhausted
        )
}

/// Gives the member less time for it than the client has.
fn limited<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(MEMBER_TIME);
    request
}

async fn answer(client: &Client, request: &Request) -> Result<Response, Status> {
    let revision = |header: Option<pb::ResponseHeader>| {
        header.map(|it| it.revision).ok_or_else(|| Status::internal("an answer without a header"))
    };
    let done = |header| Ok(Response::Done { revision: revision(header)? });
    match request {
        Request::Put { key, value, lease } => {
            let put = pb::PutRequest {
                key: key.clone(),
                value: value.clone(),
                lease: lease.0,
                ..Default::default()
            };
            done(client.kv().put(limited(put)).await?.into_inner().header)
        }
        Request::Delete { key } => {
            let delete = pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
            let answer = client.kv().delete_range(limited(delete)).await?.into_inner();
            let revision = revision(answer.header)?;
            Ok(Response::Deleted { revision, count: answer.deleted })
        }
        Request::Read { range, at, is_serializable } => {
            let range = pb::RangeRequest {
                revision: *at,
                serializable: *is_serializable,
                ..range_request(range)
            };
            let answer = client.kv().range(limited(range)).await?.into_inner();
            let pairs = answer.kvs.into_iter().map(pair).collect();
            Ok(Response::Read { revision: revision(answer.header)?, pairs })
        }
        Request::Swap { key, expected, value } => {
            let answer = client.kv().txn(limited(swap(key, *expected, value))).await?.into_inner();
            let revision = revision(answer.header)?;
            Ok(Response::Swapped { revision, is_swapped: answer.succeeded })
        }
        Request::Compact { revision } => {
            let compact = pb::CompactionRequest { revision: *revision, physical: false };
            done(client.kv().compact(limited(compact)).await?.into_inner().header)
        }
        Request::Grant { id, ttl } => {
            let grant = pb::LeaseGrantRequest { id: id.0, ttl: *ttl };
            done(client.lease().lease_grant(limited(grant)).await?.into_inner().header)
        }
        Request::Renew { id } => match client.keep_alive(id.0).await? {
            1.. => Ok(Response::Renewed),
            _ => Ok(Response::Gone),
        },
        Request::Revoke { id } => {
            let revoke = pb::LeaseRevokeRequest { id: id.0 };
            done(client.lease().lease_revoke(limited(revoke)).await?.into_inner().header)
        }
        Request::Other(what) => Err(Status::unimplemented(*what)),
    }
}

/// A put under the condition that the key is as expected; else a read.
fn swap(key: &Bytes, expected: i64, value: &Bytes) -> pb::TxnRequest {
    let compare = pb::Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Mod as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(expected)),
        ..Default::default()
    };
    let put = pb::PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
    let read = range_request(&KeyRange::point(key.clone()));
    let op = |request| pb::RequestOp { request: Some(request) };
    pb::TxnRequest {
        compare: vec![compare],
        success: vec![op(request_op::Request::RequestPut(put))],
        failure: vec![op(request_op::Request::RequestRange(read))],
    }
}

/// A range as the protocol has it, which knows no empty key.
pub(super) fn range_request(range: &KeyRange) -> pb::RangeRequest {
    let (key, range_end) = bounds(range);
    pb::RangeRequest { key, range_end, ..Default::default() }
}

pub(super) fn bounds(range: &KeyRange) -> (Bytes, Bytes) {
    let key = if range.start.is_empty() { Bytes::from_static(&[0]) } else { range.start.clone() };
    (key, range.range_end())
}

pub(super) fn pair(kv: mvccpb::KeyValue) -> Pair {
    Pair {
        key: kv.key,
        value: kv.value,
        mod_revision: kv.mod_revision,
        create_revision: kv.create_revision,
        version: kv.version,
        lease: LeaseId(kv.lease),
    }
}
