//! The Cluster service: the member list and its changes.
//!
//! A change is checked here as far as this member can see (`cluster/checks.rs`), travels through the
//! log like any command, and is judged again where it is applied: the answer is that judgement.

mod checks;

use std::sync::Arc;

use keepd_api::Error as Api;
use keepd_api::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, ResponseHeader,
};
use keepd_gotext::{Url, parse_url};
use keepd_machine::{CommandResponse, MembershipChange, membership, tables};
use keepd_mvcc::View;
use keepd_types::MemberId;
use tonic::Status;

use self::checks::Voters;
use crate::context::Context;
use crate::errors;
use crate::grpc::call::Call;

/// The members that a view knows, by id.
pub(crate) fn members(view: &View) -> Vec<Member> {
    to_proto(known(view))
}

fn known(view: &View) -> Vec<membership::Member> {
    // A malformed table ends the member's start, and nothing malformed is ever written into it.
    membership::members(view.meta(tables::MEMBERS)).unwrap_or_default()
}

fn to_proto(members: Vec<membership::Member>) -> Vec<Member> {
    let told = |member: membership::Member| Member {
        id: member.id,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    };
    members.into_iter().map(told).collect()
}

/// Cluster answers show no revision.
fn header(context: &Context) -> Option<ResponseHeader> {
    Some(context.header(0))
}

/// Asks this member's view of the voters, unless `--strict-reconfig-check` is off.
fn check(
    context: &Context,
    ask: impl FnOnce(&[membership::Member], Voters<'_>) -> Result<(), Api>,
) -> Result<(), Status> {
    if !context.node.options().strict_reconfig_check {
        return Ok(());
    }
    let members = known(&context.node.view());
    let voters = Voters::of(&members, context.node.identity().member);
    ask(&members, voters).map_err(Status::from)
}

/// Makes a change and tells the members after it.
async fn change(context: &Context, change: MembershipChange) -> Result<Vec<Member>, Status> {
    let done = context.node.change_membership(change).await.map_err(errors::node)?;
    match done.outcome.result.map_err(errors::apply)? {
        CommandResponse::Members(members) => Ok(to_proto(members)),
        CommandResponse::Put { .. }
        | CommandResponse::DeleteRange { .. }
        | CommandResponse::Txn(_)
        | CommandResponse::LeaseGrant { .. }
        | CommandResponse::Alarms(_)
        | CommandResponse::Done => Ok(members(&done.view)),
    }
}

pub(crate) async fn member_list(
    context: &Arc<Context>,
    call: Call<MemberListRequest>,
) -> Result<MemberListResponse, Status> {
    let view = context.view(!call.request.linearizable).await?;
    Ok(MemberListResponse { header: header(context), members: members(&view) })
}

/// Peer URLs as etcd takes them: at least one, each whole, sorted.
fn peer_urls(texts: &[String]) -> Result<Vec<String>, Status> {
    let urls: Result<Vec<Url>, String> = texts.iter().map(|text| parse_url(text)).collect();
    let urls = urls.ok().filter(|urls| !urls.is_empty()).ok_or(Api::BadMemberUrls)?;
    let mut urls: Vec<String> = urls.iter().map(|url| url.as_str().to_owned()).collect();
    urls.sort();
    Ok(urls)
}

pub(crate) async fn member_add(
    context: &Arc<Context>,
    call: Call<MemberAddRequest>,
) -> Result<MemberAddResponse, Status> {
    let node = &context.node;
    let (peer_urls, is_learner) = (peer_urls(&call.request.peer_ur_ls)?, call.request.is_learner);
    if !node.has_network() {
        // Nobody could join, and a second voter would be a quorum lost.
        return Err(Status::unimplemented("keepd: this member has no network to other members"));
    }
    check(context, |_, voters| voters.may_add(is_learner, |peer| node.connected_for(peer)))?;
    // As in etcd, the time makes it another id than any earlier member at these URLs had.
    let now = node.env().clock.wall().as_secs();
    let id = MemberId::from_peer_urls(&peer_urls, "", Some(now));
    let max_learners = u32::try_from(node.options().learners_max).unwrap_or(u32::MAX);
    let add = MembershipChange::Add { id, peer_urls: peer_urls.clone(), is_learner, max_learners };
    let members = change(context, add).await?;
    let member = Member { id: id.0, peer_ur_ls: peer_urls, is_learner, ..Member::default() };
    Ok(MemberAddResponse { header: header(context), member: Some(member), members })
}

pub(crate) async fn member_remove(
    context: &Arc<Context>,
    call: Call<MemberRemoveRequest>,
) -> Result<MemberRemoveResponse, Status> {
    let (node, id) = (&context.node, MemberId(call.request.id));
    check(context, |members, voters| {
        if members.iter().any(|member| member.id == id.0 && member.is_learner) {
            return Ok(());
        }
        voters.may_remove(id, |peer| node.connected_for(peer))
    })?;
    let members = change(context, MembershipChange::Remove { id }).await?;
    Ok(MemberRemoveResponse { header: header(context), members })
}

pub(crate) async fn member_update(
    context: &Arc<Context>,
    call: Call<MemberUpdateRequest>,
) -> Result<MemberUpdateResponse, Status> {
    // etcd looks at these URLs no closer.
    let MemberUpdateRequest { id, peer_ur_ls: peer_urls } = call.request;
    let update = MembershipChange::UpdatePeerUrls { id: MemberId(id), peer_urls };
    let members = change(context, update).await?;
    Ok(MemberUpdateResponse { header: header(context), members })
}

pub(crate) async fn member_promote(
    context: &Arc<Context>,
    call: Call<MemberPromoteRequest>,
) -> Result<MemberPromoteResponse, Status> {
    let result = promote(context, call).await;
    context.promotions.count(&result);
    result
}

async fn promote(
    context: &Context,
    call: Call<MemberPromoteRequest>,
) -> Result<MemberPromoteResponse, Status> {
    let id = MemberId(call.request.id);
    let replicated = context.node.replicated().await.map_err(errors::node)?;
    checks::in_sync(&replicated, id)?;
    check(context, |_, voters| voters.may_promote())?;
    let members = change(context, MembershipChange::Promote { id }).await?;
    Ok(MemberPromoteResponse { header: header(context), members })
}

#[cfg(test)]
mod tests;
