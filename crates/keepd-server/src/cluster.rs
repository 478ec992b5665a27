//! The Cluster service of a cluster of one: the member list. Membership changes come with clusters.

use std::sync::Arc;

use keepd_api::etcdserverpb::cluster_server::Cluster;
use keepd_api::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, ResponseHeader,
};
use keepd_machine::{membership, tables};
use keepd_mvcc::View;
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::errors;

/// The Cluster service.
#[derive(Clone, Debug)]
pub(crate) struct ClusterService {
    context: Arc<Context>,
}

impl ClusterService {
    pub(crate) const fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

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

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let context = &self.context;
        context.admit(request.metadata())?;
        let view = if request.into_inner().linearizable {
            context.node.linearizable_view().await.map_err(errors::node)?
        } else {
            context.node.view()
        };
        // Cluster answers show no revision.
        let header = Some(ResponseHeader { revision: 0, ..context.header(0) });
        Ok(Response::new(MemberListResponse { header, members: members(&view) }))
    }

    async fn member_add(
        &self,
        _request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        not_yet("adding members")
    }

    async fn member_remove(
        &self,
        _request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        not_yet("removing members")
    }

    async fn member_update(
        &self,
        _request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        not_yet("changing members")
    }

    async fn member_promote(
        &self,
        _request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        not_yet("promoting members")
    }
}
