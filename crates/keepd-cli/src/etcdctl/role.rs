//! `role`: roles and what they may read and write.

use bytes::Bytes;
use keepd_api::authpb::Permission;
use keepd_api::authpb::permission::Type;
use keepd_api::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse,
    AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse,
};
use keepd_gotext::quote;
use prost::Message as _;

use super::GROUP_AUTHENTICATION;
use super::auth::Done;
use super::client::{Client, Method, Repeat, with_client};
use super::get::prefix_end;
use crate::engine::answer::{self, Answer, Style, field_header, line};
use crate::engine::command::{Call, Command, Flag};
use crate::engine::exit::{Exit, bad_arguments, failed};
use crate::engine::json::{self, Object};

/// Adds a role.
pub(super) const ROLE_ADD: Method<AuthRoleAddRequest, AuthRoleAddResponse> =
    Method::new("/etcdserverpb.Auth/RoleAdd", Repeat::Never);
const DELETE: Method<AuthRoleDeleteRequest, AuthRoleDeleteResponse> =
    Method::new("/etcdserverpb.Auth/RoleDelete", Repeat::Never);
const GET: Method<AuthRoleGetRequest, AuthRoleGetResponse> =
    Method::new("/etcdserverpb.Auth/RoleGet", Repeat::Allowed);
const LIST: Method<AuthRoleListRequest, AuthRoleListResponse> =
    Method::new("/etcdserverpb.Auth/RoleList", Repeat::Allowed);
const GRANT: Method<AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse> =
    Method::new("/etcdserverpb.Auth/RoleGrantPermission", Repeat::Never);
const REVOKE: Method<AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse> =
    Method::new("/etcdserverpb.Auth/RoleRevokePermission", Repeat::Never);

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "role <subcommand>",
    short: "Role related commands. Use `etcdctl role --help` to see subcommands",
    long: "Role related commands",
    group: GROUP_AUTHENTICATION,
    commands: &[
        &Command {
            usage: "add <role name>",
            short: "Adds a new role",
            run: Some(add),
            ..Command::NONE
        },
        &Command {
            usage: "delete <role name>",
            short: "Deletes a role",
            run: Some(delete),
            ..Command::NONE
        },
        &Command {
            usage: "get <role name>",
            short: "Gets detailed information of a role",
            run: Some(get),
            ..Command::NONE
        },
        &Command { usage: "list", short: "Lists all roles", run: Some(list), ..Command::NONE },
        &GRANT_COMMAND,
        &REVOKE_COMMAND,
    ],
    ..Command::NONE
};

static GRANT_COMMAND: Command = Command {
    usage: "grant-permission [options] <role name> <permission type> <key> [endkey]",
    short: "Grants a key to a role",
    flags: &[
        Flag::bool("prefix", "grant a prefix permission"),
        Flag::bool(
            "from-key",
            "grant a permission of keys that are greater than or equal to the given key using \
             byte compare",
        ),
    ],
    run: Some(grant),
    ..Command::NONE
};

static REVOKE_COMMAND: Command = Command {
    usage: "revoke-permission <role name> <key> [endkey]",
    short: "Revokes a key from a role",
    flags: &[
        Flag::bool("prefix", "revoke a prefix permission"),
        Flag::bool(
            "from-key",
            "revoke a permission of keys that are greater than or equal to the given key using \
             byte compare",
        ),
    ],
    run: Some(revoke),
    ..Command::NONE
};

fn name(call: &Call<'_>, verb: &str) -> Result<String, Exit> {
    if call.arguments.len() != 1 {
        return Err(bad_arguments(format_args!(
            "role {verb} command requires role name as its argument"
        )));
    }
    Ok(call.text(0).into_owned())
}

fn add(call: Call<'_>) -> Result<(), Exit> {
    let name = name(&call, "add")?;
    with_client(call, async |_, client| {
        let request = AuthRoleAddRequest { name: name.clone() };
        let answer = client.call(&ROLE_ADD, request).await.map_err(failed)?;
        let said = format!("Role {name} created");
        let done = Done { said, header: answer.header, bytes: answer.encode_to_vec() };
        answer::show(&done, client.options.style)
    })
}

fn delete(call: Call<'_>) -> Result<(), Exit> {
    let role = name(&call, "delete")?;
    with_client(call, async |_, client| {
        let request = AuthRoleDeleteRequest { role: role.clone() };
        let answer = client.call(&DELETE, request).await.map_err(failed)?;
        let said = format!("Role {role} deleted");
        let done = Done { said, header: answer.header, bytes: answer.encode_to_vec() };
        answer::show(&done, client.options.style)
    })
}

fn get(call: Call<'_>) -> Result<(), Exit> {
    let role = name(&call, "get")?;
    with_client(call, async |_, client| {
        let answer = permissions(client, &role).await?;
        answer::show(&Permissions { role, answer }, client.options.style)
    })
}

/// Asks what a role may do.
pub(super) async fn permissions(client: &Client, role: &str) -> Result<AuthRoleGetResponse, Exit> {
    let request = AuthRoleGetRequest { role: role.to_owned() };
    client.call(&GET, request).await.map_err(failed)
}

fn list(call: Call<'_>) -> Result<(), Exit> {
    if !call.arguments.is_empty() {
        return Err(bad_arguments("role list command requires no arguments"));
    }
    with_client(call, async |_, client| {
        let answer = client.call(&LIST, AuthRoleListRequest {}).await.map_err(failed)?;
        answer::show(&answer, client.options.style)
    })
}

/// The range some arguments and flags stand for. Permissions know no empty key: everything begins
/// at the zero byte.
fn range(call: &Call<'_>, keys: &[Bytes]) -> Result<(Bytes, Bytes), Exit> {
    let (prefix, from_key) = (call.flag("prefix"), call.flag("from-key"));
    let everything = Bytes::from_static(b"\0");
    let exclusive = "--from-key and --prefix flags are mutually exclusive";
    let end = match keys {
        [] => return Err(bad_arguments("a key is missing")),
        [_] if prefix && from_key => return Err(bad_arguments(exclusive)),
        [key, ..] if key.is_empty() => {
            if prefix && from_key {
                return Err(bad_arguments(exclusive));
            }
            let end = if prefix || from_key { everything.clone() } else { Bytes::new() };
            return Ok((everything, end));
        }
        [key] if prefix => prefix_end(key),
        [_] if from_key => everything,
        [_] => Bytes::new(),
        _ if prefix => {
            return Err(bad_arguments("unexpected endkey argument with --prefix flag"));
        }
        _ if from_key => {
            return Err(bad_arguments("unexpected endkey argument with --from-key flag"));
        }
        [_, end, ..] => end.clone(),
    };
    Ok((keys[0].clone(), end))
}

fn grant(call: Call<'_>) -> Result<(), Exit> {
    if call.arguments.len() < 3 {
        return Err(bad_arguments(
            "role grant command requires role name, permission type, and key [endkey] as its \
             argument",
        ));
    }
    let kind = call.text(1).to_uppercase();
    let kind = Type::from_str_name(&kind)
        .ok_or_else(|| bad_arguments(format_args!("invalid permission type: {}", call.text(1))))?;
    let (key, range_end) = range(&call, &call.arguments[2..])?;
    let name = call.text(0).into_owned();
    with_client(call, async |_, client| {
        let perm = Permission { perm_type: kind.into(), key, range_end };
        let request = AuthRoleGrantPermissionRequest { name: name.clone(), perm: Some(perm) };
        let answer = client.call(&GRANT, request).await.map_err(failed)?;
        let said = format!("Role {name} updated");
        let done = Done { said, header: answer.header, bytes: answer.encode_to_vec() };
        answer::show(&done, client.options.style)
    })
}

fn revoke(call: Call<'_>) -> Result<(), Exit> {
    if call.arguments.len() < 2 {
        return Err(bad_arguments(
            "role revoke-permission command requires role name and key [endkey] as its argument",
        ));
    }
    let (key, range_end) = range(&call, &call.arguments[1..])?;
    let (role, typed_key) = (call.text(0).into_owned(), call.text(1).into_owned());
    let end = String::from_utf8_lossy(&range_end).into_owned();
    with_client(call, async |_, client| {
        let request = AuthRoleRevokePermissionRequest { role: role.clone(), key, range_end };
        let answer = client.call(&REVOKE, request).await.map_err(failed)?;
        let what = match end.as_str() {
            "" => format!("key {typed_key}"),
            "\0" => format!("range [{typed_key}, <open ended>"),
            end => format!("range [{typed_key}, {end})"),
        };
        let said = format!("Permission of {what} is revoked from role {role}");
        let done = Done { said, header: answer.header, bytes: answer.encode_to_vec() };
        answer::show(&done, client.options.style)
    })
}

/// The permissions of a role, as printed.
pub(super) struct Permissions {
    /// The role's name.
    pub(super) role: String,
    /// The server's answer.
    pub(super) answer: AuthRoleGetResponse,
}

fn permission_line(permission: &Permission, out: &mut Vec<u8>) {
    let key = String::from_utf8_lossy(&permission.key);
    let end = String::from_utf8_lossy(&permission.range_end);
    let is_prefix = !key.is_empty() && prefix_end(&permission.key) == permission.range_end;
    let prefix = if is_prefix { format!(" (prefix {key})") } else { String::new() };
    match end.as_ref() {
        "" => line!(out, "\t{key}"),
        "\0" => line!(out, "\t[{key}, <open ended>{prefix}"),
        end => line!(out, "\t[{key}, {end}){prefix}"),
    }
}

impl Answer for Permissions {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        let permissions = &self.answer.perm;
        let unlimited = self.role == "root" && permissions.is_empty();
        line!(out, "Role {}", self.role);
        for (title, kind) in [("KV Read:", Type::Read), ("KV Write:", Type::Write)] {
            line!(out, "{title}");
            if unlimited {
                line!(out, "\t[, <open ended>");
            }
            for permission in permissions {
                if permission.perm_type() == kind || permission.perm_type() == Type::Readwrite {
                    permission_line(permission, out);
                }
            }
        }
    }

    fn json(&self, _style: Style) -> String {
        Object::new()
            .object("header", self.answer.header.as_ref(), json::header)
            .list("perm", &self.answer.perm, |permission| {
                Object::new()
                    .int("permType", permission.perm_type.into())
                    .bytes("key", &permission.key)
                    .bytes("range_end", &permission.range_end)
                    .end()
            })
            .end()
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        field_header(self.answer.header.as_ref(), style, out);
        for permission in &self.answer.perm {
            line!(out, "\"PermType\" :  {}", permission.perm_type().as_str_name());
            line!(out, "\"Key\" : {}", quote(&permission.key));
            line!(out, "\"RangeEnd\" : {}", quote(&permission.range_end));
        }
        Ok(())
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.answer.encode_to_vec())
    }
}

impl Answer for AuthRoleListResponse {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        for role in &self.roles {
            line!(out, "{role}");
        }
    }

    fn json(&self, _style: Style) -> String {
        Object::new()
            .object("header", self.header.as_ref(), json::header)
            .texts("roles", &self.roles)
            .end()
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        field_header(self.header.as_ref(), style, out);
        let roles = self.roles.iter().map(|role| format!(" {}", quote(role)));
        line!(out, "\"Roles\" :{}", roles.collect::<String>());
        Ok(())
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.encode_to_vec())
    }
}
