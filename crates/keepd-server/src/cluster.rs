//! The Cluster service of a cluster of one: the member list. Membership changes come with clusters.

use std::sync::Arc;

use keepd_api::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, ResponseHeader,
};
use keepd_machine::{membership, tables};
use keepd_mvcc::View;
use tonic::Status;

use crate::context::Context;
use crate::grpc::call::Call;

/// The members that a view knows, by id.
pub(crate) fn members(view: &View) -> Vec<Member> {
    // A malformed table ends the member's start, and nothing malformed is ever written into it.
    let members = membership::members(view.meta(tables::MEMBERS)).unwrap_or_default();
    let told = |member: membership::Member| Member {
        id: member.id,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    };
    members.into_iter().map(told).collect()
}

fn not_yet<T>(what: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("keepd: {what} comes with clusters of several members")))
}

pub(crate) async fn member_list(
    context: &Arc<Context>,
    call: Call<MemberListRequest>,
) -> Result<MemberListResponse, Status> {
    let view = context.view(!call.request.linearizable).await?;
    // Cluster answers show no revision.
    let header = Some(ResponseHeader { revision: 0, ..context.header(0) });
    Ok(MemberListResponse { header, members: members(&view) })
}

pub(crate) async fn member_add(
    _context: &Arc<Context>,
    _call: Call<MemberAddRequest>,
) -> Result<MemberAddResponse, Status> {
    not_yet("adding members")
}

pub(crate) async fn member_remove(
    _context: &Arc<Context>,
    _call: Call<MemberRemoveRequest>,
) -> Result<MemberRemoveResponse, Status> {
    not_yet("removing members")
}

pub(crate) async fn member_update(
    _context: &Arc<Context>,
    _call: Call<MemberUpdateRequest>,
) -> Result<MemberUpdateResponse, Status> {
    not_yet("changing members")
}

pub(crate) async fn member_promote(
    _context: &Arc<Context>,
    _call: Call<MemberPromoteRequest>,
) -> Result<MemberPromoteResponse, Status> {
    not_yet("promoting members")
}
