//! The Auth service of a store without users, where authentication is off.
//!
//! Requests that only read are answered as etcd answers them without users, and so are those that
//! name a user or a role: there is none. Requests that would make a user or a role are refused until
//! users are built, because their client would rely on them.

use std::sync::Arc;

use keepd_api::Error as Api;
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
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse,
};
use tonic::Status;

use crate::context::Context;
use crate::grpc::call::Call;

fn not_yet<R>() -> Result<R, Status> {
    Err(Status::unimplemented("keepd: users and roles are not built yet; authentication is off"))
}

pub(crate) async fn enable(
    _context: &Arc<Context>,
    _call: Call<AuthEnableRequest>,
) -> Result<AuthEnableResponse, Status> {
    not_yet()
}

pub(crate) async fn disable(
    context: &Arc<Context>,
    _call: Call<AuthDisableRequest>,
) -> Result<AuthDisableResponse, Status> {
    let header = Some(context.current_header());
    Ok(AuthDisableResponse { header })
}

pub(crate) async fn status(
    context: &Arc<Context>,
    _call: Call<AuthStatusRequest>,
) -> Result<AuthStatusResponse, Status> {
    let header = Some(context.current_header());
    Ok(AuthStatusResponse { header, enabled: false, auth_revision: 1 })
}

pub(crate) async fn authenticate(
    _context: &Arc<Context>,
    _call: Call<AuthenticateRequest>,
) -> Result<AuthenticateResponse, Status> {
    Err(Api::AuthNotEnabled.into())
}

pub(crate) async fn user_add(
    _context: &Arc<Context>,
    _call: Call<AuthUserAddRequest>,
) -> Result<AuthUserAddResponse, Status> {
    not_yet()
}

pub(crate) async fn user_get(
    _context: &Arc<Context>,
    _call: Call<AuthUserGetRequest>,
) -> Result<AuthUserGetResponse, Status> {
    Err(Api::UserNotFound.into())
}

pub(crate) async fn user_list(
    context: &Arc<Context>,
    _call: Call<AuthUserListRequest>,
) -> Result<AuthUserListResponse, Status> {
    let header = Some(context.current_header());
    Ok(AuthUserListResponse { header, users: Vec::new() })
}

pub(crate) async fn user_delete(
    _context: &Arc<Context>,
    _call: Call<AuthUserDeleteRequest>,
) -> Result<AuthUserDeleteResponse, Status> {
    Err(Api::UserNotFound.into())
}

pub(crate) async fn user_change_password(
    _context: &Arc<Context>,
    _call: Call<AuthUserChangePasswordRequest>,
) -> Result<AuthUserChangePasswordResponse, Status> {
    Err(Api::UserNotFound.into())
}

pub(crate) async fn user_grant_role(
    _context: &Arc<Context>,
    _call: Call<AuthUserGrantRoleRequest>,
) -> Result<AuthUserGrantRoleResponse, Status> {
    not_yet()
}

pub(crate) async fn user_revoke_role(
    _context: &Arc<Context>,
    _call: Call<AuthUserRevokeRoleRequest>,
) -> Result<AuthUserRevokeRoleResponse, Status> {
    Err(Api::UserNotFound.into())
}

pub(crate) async fn role_add(
    _context: &Arc<Context>,
    _call: Call<AuthRoleAddRequest>,
) -> Result<AuthRoleAddResponse, Status> {
    not_yet()
}

pub(crate) async fn role_get(
    _context: &Arc<Context>,
    _call: Call<AuthRoleGetRequest>,
) -> Result<AuthRoleGetResponse, Status> {
    Err(Api::RoleNotFound.into())
}

pub(crate) async fn role_list(
    context: &Arc<Context>,
    _call: Call<AuthRoleListRequest>,
) -> Result<AuthRoleListResponse, Status> {
    let header = Some(context.current_header());
    Ok(AuthRoleListResponse { header, roles: Vec::new() })
}

pub(crate) async fn role_delete(
    _context: &Arc<Context>,
    _call: Call<AuthRoleDeleteRequest>,
) -> Result<AuthRoleDeleteResponse, Status> {
    Err(Api::RoleNotFound.into())
}

pub(crate) async fn role_grant_permission(
    _context: &Arc<Context>,
    _call: Call<AuthRoleGrantPermissionRequest>,
) -> Result<AuthRoleGrantPermissionResponse, Status> {
    not_yet()
}

pub(crate) async fn role_revoke_permission(
    _context: &Arc<Context>,
    _call: Call<AuthRoleRevokePermissionRequest>,
) -> Result<AuthRoleRevokePermissionResponse, Status> {
    Err(Api::RoleNotFound.into())
}
