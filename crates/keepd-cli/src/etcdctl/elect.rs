//! `elect`: takes part in an election until told to end, or watches who wins.

use keepd_api::etcdserverpb::range_request::SortOrder;
use keepd_api::etcdserverpb::request_op::Request;
use keepd_api::etcdserverpb::{
    DeleteRangeRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader, TxnRequest,
};
use keepd_api::mvccpb::KeyValue;
use keepd_api::mvccpb::event::EventType;

use super::GROUP_CONCURRENCY;
use super::client::{Client, Failure, with_client};
use super::get::{RANGE, prefix_end};
use super::session::{Changes, Session, Turn, by_age, told_to_end, was_created_at};
use super::txn::TXN;
use crate::engine::answer;
use crate::engine::command::{Call, Command, Flag};
use crate::engine::exit::{Exit, bad_arguments, failed};

/// Seconds until the lease of a dead candidate ends.
const TTL: i64 = 60;

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "elect <election-name> [proposal]",
    short: "Observes and participates in leader election",
    group: GROUP_CONCURRENCY,
    flags: &[Flag::bool("listen", "observation mode").or('l')],
    run: Some(run),
    ..Command::NONE
};

fn run(call: Call<'_>) -> Result<(), Exit> {
    let listens = call.flag("listen");
    match call.arguments.len() {
        1 if listens => {}
        1 => return Err(bad_arguments("no proposal argument but -l not set")),
        2 if listens => return Err(bad_arguments("proposal given but -l is set")),
        2 => {}
        _ => {
            return Err(bad_arguments(
                "elect takes one election name argument and an optional proposal argument",
            ));
        }
    }
    with_client(call, async |call, client| {
        let prefix = [&call.arguments[0][..], b"/"].concat();
        if listens {
            return tokio::select! {
                ended = observe(client, &prefix) => ended,
                () = told_to_end() => Ok(()),
            };
        }
        campaign(client, &prefix, call.arguments[1].clone()).await
    })
}

async fn campaign(client: &Client, prefix: &[u8], proposal: bytes::Bytes) -> Result<(), Exit> {
    let session = Session::open(client, TTL).await.map_err(failed)?;
    let expired = || failed("elect: session expired");
    let turn = tokio::select! {
        turn = session.take_turn(prefix, proposal) => turn.map_err(failed)?,
        () = session.expired() => return Err(expired()),
        () = told_to_end() => {
            let key = session.key(prefix);
            let request = RangeRequest { key: key.clone(), ..RangeRequest::default() };
            let own = client.call(&RANGE, request).await.map_err(failed)?;
            if let Some(kv) = own.kvs.first() {
                let turn = Turn { key, create_revision: kv.create_revision, revision: 0 };
                resign(client, &turn).await.map_err(failed)?;
            }
            return Err(failed("context canceled"));
        }
    };
    let request = RangeRequest { key: turn.key.clone(), ..RangeRequest::default() };
    let answer = client.call(&RANGE, request).await.map_err(failed)?;
    answer::show(&answer, client.options.style)?;
    tokio::select! {
        () = told_to_end() => resign(client, &turn).await.map_err(failed),
        () = session.expired() => Err(expired()),
    }
}

/// Resigns, unless somebody else has created the key anew meanwhile.
async fn resign(client: &Client, turn: &Turn) -> Result<(), Failure> {
    let delete = DeleteRangeRequest { key: turn.key.clone(), ..DeleteRangeRequest::default() };
    let request = TxnRequest {
        compare: vec![was_created_at(&turn.key, turn.create_revision)],
        success: vec![RequestOp { request: Some(Request::RequestDeleteRange(delete)) }],
        failure: Vec::new(),
    };
    client.call(&TXN, request).await.map(drop)
}

async fn observe(client: &Client, prefix: &[u8]) -> Result<(), Exit> {
    loop {
        let answer = client.call(&RANGE, by_age(prefix, SortOrder::Ascend)).await;
        let mut answer = answer.map_err(failed)?;
        let revision = answer.header.unwrap_or_default().revision;
        let (revision, leader) = match answer.kvs.pop() {
            Some(leader) => (revision, leader),
            None => first_candidate(client, prefix, revision + 1).await.map_err(failed)?,
        };
        let key = leader.key.clone();
        show(client, answer.header, leader)?;
        let mut changes = Changes::of(client, key, bytes::Bytes::new(), revision + 1);
        loop {
            let (revision, event) = changes.next().await.map_err(failed)?;
            if event.r#type() == EventType::Delete {
                break;
            }
            let header = answer.header.map(|header| ResponseHeader { revision, ..header });
            show(client, header, event.kv.unwrap_or_default())?;
        }
    }
}

async fn first_candidate(
    client: &Client,
    prefix: &[u8],
    revision: i64,
) -> Result<(i64, KeyValue), Failure> {
    let key = bytes::Bytes::copy_from_slice(prefix);
    let mut changes = Changes::of(client, key, prefix_end(prefix), revision);
    loop {
        let (revision, event) = changes.next().await?;
        if event.r#type() == EventType::Put {
            return Ok((revision, event.kv.unwrap_or_default()));
        }
    }
}

fn show(client: &Client, header: Option<ResponseHeader>, leader: KeyValue) -> Result<(), Exit> {
    let answer = RangeResponse { header, kvs: vec![leader], ..RangeResponse::default() };
    answer::show(&answer, client.options.style)
}
