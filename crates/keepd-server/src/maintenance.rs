//! The Maintenance service.

use std::sync::Arc;

use keepd_api::Error as Api;
use keepd_api::etcdserverpb::alarm_request::AlarmAction;
use keepd_api::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest,
    MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use keepd_machine::command::Alarm;
use keepd_machine::{Command, CommandResponse};
use keepd_types::MemberId;
use tonic::Status;

use crate::context::Context;
use crate::grpc::call::Call;
use crate::response_stream::Receiver;
use crate::{errors, snapshot, versions};

/// BOUND: damaged places that one status names.
const DAMAGES_TOLD_MAX: usize = 16;

async fn change_alarm(context: &Context, command: Command) -> Result<Vec<Alarm>, Status> {
    let done = context.propose(command).await?;
    match done.outcome.result.map_err(errors::apply)? {
        CommandResponse::Alarms(alarms) => Ok(alarms),
        CommandResponse::Put { .. }
        | CommandResponse::DeleteRange { .. }
        | CommandResponse::Txn(_)
        | CommandResponse::LeaseGrant { .. }
        | CommandResponse::Members(_)
        | CommandResponse::Done => Ok(Vec::new()),
    }
}

fn to_proto(alarm: Alarm) -> AlarmMember {
    AlarmMember { member_id: alarm.member.0, alarm: i32::from(alarm.kind) }
}

pub(crate) async fn alarm(
    context: &Arc<Context>,
    call: Call<AlarmRequest>,
) -> Result<AlarmResponse, Status> {
    let request = call.request;
    let kind = u8::try_from(request.alarm).unwrap_or(u8::MAX);
    let alarm = Alarm { member: MemberId(request.member_id), kind };
    let known = AlarmType::try_from(request.alarm).is_ok();
    let alarms = match AlarmAction::try_from(request.action) {
        Ok(AlarmAction::Get) => {
            context.view(false).await?;
            let raised = context.node.alarms();
            let wanted = |alarm: &Alarm| kind == 0 || alarm.kind == kind;
            raised.iter().copied().filter(wanted).collect()
        }
        Ok(AlarmAction::Activate | AlarmAction::Deactivate) if kind == 0 => Vec::new(),
        Ok(AlarmAction::Activate) if known => {
            change_alarm(context, Command::AlarmActivate(alarm)).await?
        }
        Ok(AlarmAction::Deactivate) if known => {
            change_alarm(context, Command::AlarmDeactivate(alarm)).await?
        }
        _ => return Err(Status::invalid_argument("keepd: unknown alarm action or type")),
    };
    let header = Some(context.current_header());
    let alarms = alarms.into_iter().map(to_proto).collect();
    Ok(AlarmResponse { header, alarms })
}

pub(crate) async fn status(
    context: &Arc<Context>,
    _call: Call<StatusRequest>,
) -> Result<StatusResponse, Status> {
    let node = &context.node;
    let (status, space) = (node.status(), node.space());
    let mut errors = Vec::new();
    if status.leader == 0 {
        errors.push(Api::NoLeader.text().to_owned());
    }
    if !node.env().disk.is_synced() {
        errors.push(crate::UNSYNCED.to_owned());
    }
    if let Some(stall) = node.stall() {
        errors.push(format!("keepd: {stall}"));
    }
    for alarm in node.alarms().iter() {
        let (member, name) = (alarm.member.0, alarm.name());
        errors.push(format!("memberID:{member} alarm:{name}"));
    }
    for damage in node.damages().list().iter().take(DAMAGES_TOLD_MAX) {
        errors.push(format!("keepd: {damage}"));
    }
    Ok(StatusResponse {
        header: Some(context.current_header()),
        version: keepd_api::SERVER_VERSION.to_owned(),
        db_size: space.disk_bytes,
        leader: status.leader,
        raft_index: status.commit_index,
        raft_term: status.term,
        raft_applied_index: status.applied_index,
        errors,
        db_size_in_use: space.live_bytes,
        is_learner: node.is_learner(),
        storage_version: versions::storage(&node.cluster_facts()).to_owned(),
        db_size_quota: space.quota_bytes.unwrap_or(-1),
        downgrade_info: Some(versions::downgrade_info(&node.cluster_facts())),
    })
}

pub(crate) async fn defragment(
    context: &Arc<Context>,
    _call: Call<DefragmentRequest>,
) -> Result<DefragmentResponse, Status> {
    // In a task of its own it goes on after the client's deadline, as in etcd.
    let node = context.node.clone();
    let reclaimed = tokio::spawn(async move { node.reclaim().await }).await;
    reclaimed.unwrap_or(Err(keepd_node::Error::Stopped)).map_err(errors::node)?;
    // etcd leaves the header out.
    Ok(DefragmentResponse { header: None })
}

pub(crate) async fn hash(
    context: &Arc<Context>,
    _call: Call<HashRequest>,
) -> Result<HashResponse, Status> {
    let view = context.node.view();
    let header = Some(context.header(view.revision()));
    let hash = context.admission.hashes.run(move || view.hash()).await?.map_err(errors::store)?;
    Ok(HashResponse { header, hash })
}

pub(crate) async fn hash_kv(
    context: &Arc<Context>,
    call: Call<HashKvRequest>,
) -> Result<HashKvResponse, Status> {
    let revision = call.request.revision;
    let view = context.node.view();
    let header = Some(context.header(view.revision()));
    // The hash of a past compaction comes first, before any check of the revision.
    let hash = match context.node.compaction_hash(revision) {
        Some(hash) => hash,
        None => {
            let hash = context.admission.hashes.run(move || view.hash_kv(revision)).await?;
            hash.map_err(errors::store)?
        }
    };
    Ok(HashKvResponse {
        header,
        hash: hash.hash,
        compact_revision: hash.compact_revision,
        hash_revision: hash.revision,
    })
}

pub(crate) async fn snapshot(
    context: &Arc<Context>,
    _call: Call<SnapshotRequest>,
) -> Result<Receiver<SnapshotResponse>, Status> {
    Ok(snapshot::stream(context))
}

pub(crate) async fn move_leader(
    context: &Arc<Context>,
    call: Call<MoveLeaderRequest>,
) -> Result<MoveLeaderResponse, Status> {
    let (own, target) = (context.node.identity().member.0, call.request.target_id);
    if context.node.status().leader != own {
        return Err(Api::NotLeader.into());
    }
    if target != own {
        context.node.move_leader(MemberId(target)).await.map_err(errors::node)?;
    }
    // etcd leaves the header out.
    Ok(MoveLeaderResponse { header: None })
}
