//! The Auth service of a store without users, where authentication is off.
//!
//! What only looks is answered as etcd does with no users, and so is what needs a user or a role
//! that is there: none is. Whatever would make one is refused until users are built, because a
//! client that was told of a user would rely on it.

use std::sync::Arc;

use keepd_api::Error as Api;
use keepd_api::etcdserverpb::auth_server::Auth;
use keepd_api::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse,
    AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse,
    AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest,
    AuthStatusResponse, AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest,
    AuthUserChangePasswordResponse, AuthUserDeleteRequest, AuthUserDeleteResponse,
    AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
    AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse, ResponseHeader,
};
use tonic::{Request, Response, Status};

use crate::context::Context;

/// The Auth service.
#[derive(Clone, Debug)]
pub(crate) struct AuthService {
    context: Arc<Context>,
}

impl AuthService {
    pub(crate) const fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    fn done<Q, R>(
        &self,
        request: &Request<Q>,
        answer: impl FnOnce(Option<ResponseHeader>) -> R,
    ) -> Result<Response<R>, Status> {
        self.context.admit(request.metadata())?;
        Ok(Response::new(answer(Some(self.context.current_header()))))
    }

    fn refused<Q, R>(&self, request: &Request<Q>, error: Api) -> Result<Response<R>, Status> {
        self.context.admit(request.metadata())?;
        Err(error.into())
    }
}

fn not_yet<R>() -> Result<Response<R>, Status> {
    Err(Status::unimplemented("keepd: users and roles are not built yet; authentication is off"))
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(
        &self,
        _request: Request<AuthEnableRequest>,
    ) -> Result<Response<AuthEnableResponse>, Status> {
        not_yet()
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        self.done(&request, |header| AuthDisableResponse { header })
    }

    async fn auth_status(
        &self,
        request: Request<AuthStatusRequest>,
    ) -> Result<Response<AuthStatusResponse>, Status> {
        self.done(&request, |header| AuthStatusResponse {
            header,
            enabled: false,
            auth_revision: 1,
        })
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        self.refused(&request, Api::AuthNotEnabled)
    }

    async fn user_add(
        &self,
        _request: Request<AuthUserAddRequest>,
    ) -> Result<Response<AuthUserAddResponse>, Status> {
        not_yet()
    }

    async fn user_get(
        &self,
        request: Request<AuthUserGetRequest>,
    ) -> Result<Response<AuthUserGetResponse>, Status> {
        self.refused(&request, Api::UserNotFound)
    }

    async fn user_list(
        &self,
        request: Request<AuthUserListRequest>,
    ) -> Result<Response<AuthUserListResponse>, Status> {
        self.done(&request, |header| AuthUserListResponse { header, users: Vec::new() })
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        self.refused(&request, Api::UserNotFound)
    }

    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        self.refused(&request, Api::UserNotFound)
    }

    async fn user_grant_role(
        &self,
        _request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        not_yet()
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        self.refused(&request, Api::UserNotFound)
    }

    async fn role_add(
        &self,
        _request: Request<AuthRoleAddRequest>,
    ) -> Result<Response<AuthRoleAddResponse>, Status> {
        not_yet()
    }

    async fn role_get(
        &self,
        request: Request<AuthRoleGetRequest>,
    ) -> Result<Response<AuthRoleGetResponse>, Status> {
        self.refused(&request, Api::RoleNotFound)
    }

    async fn role_list(
        &self,
        request: Request<AuthRoleListRequest>,
    ) -> Result<Response<AuthRoleListResponse>, Status> {
        self.done(&request, |header| AuthRoleListResponse { header, roles: Vec::new() })
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        self.refused(&request, Api::RoleNotFound)
    }

    async fn role_grant_permission(
        &self,
        _request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        not_yet()
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        self.refused(&request, Api::RoleNotFound)
    }
}
