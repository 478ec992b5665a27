//! `auth`: turns authentication on and off.

use keepd_api::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse,
    AuthRoleAddRequest, AuthStatusRequest, AuthStatusResponse, AuthUserGrantRoleRequest,
    ResponseHeader,
};
use prost::Message as _;

use super::GROUP_AUTHENTICATION;
use super::client::{Client, Failure, Method, Repeat, with_client};
use super::role::ROLE_ADD;
use super::user::GRANT_ROLE;
use crate::engine::answer::{self, Answer, Style, field_header, line, print};
use crate::engine::command::{Call, Command};
use crate::engine::exit::{Exit, bad_arguments, failed};
use crate::engine::json::{self, Object};

const ENABLE: Method<AuthEnableRequest, AuthEnableResponse> =
    Method::new("/etcdserverpb.Auth/AuthEnable", Repeat::Never);
const DISABLE: Method<AuthDisableRequest, AuthDisableResponse> =
    Method::new("/etcdserverpb.Auth/AuthDisable", Repeat::Never);
const STATUS: Method<AuthStatusRequest, AuthStatusResponse> =
    Method::new("/etcdserverpb.Auth/AuthStatus", Repeat::Allowed);

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "auth <enable or disable>",
    short: "Enable or disable authentication. Use `etcdctl auth --help` to see subcommands",
    long: "Enable or disable authentication",
    group: GROUP_AUTHENTICATION,
    commands: &[
        &Command {
            usage: "enable",
            short: "Enables authentication",
            run: Some(enable),
            ..Command::NONE
        },
        &Command {
            usage: "disable",
            short: "Disables authentication",
            run: Some(disable),
            ..Command::NONE
        },
        &Command {
            usage: "status",
            short: "Returns authentication status",
            run: Some(status),
            ..Command::NONE
        },
    ],
    ..Command::NONE
};

/// An answer without content.
pub(super) struct Done {
    /// The text of the format `simple`.
    pub(super) said: String,
    /// The answer's header.
    pub(super) header: Option<ResponseHeader>,
    /// The answer, encoded.
    pub(super) bytes: Vec<u8>,
}

impl Answer for Done {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        line!(out, "{}", self.said);
    }

    fn json(&self, _style: Style) -> String {
        Object::new().object("header", self.header.as_ref(), json::header).end()
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        field_header(self.header.as_ref(), style, out);
        Ok(())
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.bytes.clone())
    }
}

fn without_arguments(call: &Call<'_>, name: &str) -> Result<(), Exit> {
    if call.arguments.is_empty() {
        return Ok(());
    }
    Err(bad_arguments(format_args!("auth {name} command does not accept any arguments")))
}

fn enable(call: Call<'_>) -> Result<(), Exit> {
    without_arguments(&call, "enable")?;
    with_client(call, async |_, client| {
        let limit = client.options.command_timeout;
        client.within(limit, enable_with_root(client)).await.map_err(failed)?;
        print(b"Authentication Enabled\n");
        Ok(())
    })
}

/// A user root without the role root gets it first.
async fn enable_with_root(client: &Client) -> Result<(), Failure> {
    let missing = keepd_api::Error::RootRoleNotExist.text();
    match client.call(&ENABLE, AuthEnableRequest {}).await {
        Err(Failure::Status(status)) if status.message() == missing => {}
        ended => return ended.map(drop),
    }
    let root = || "root".to_owned();
    client.call(&ROLE_ADD, AuthRoleAddRequest { name: root() }).await?;
    let grant = AuthUserGrantRoleRequest { user: root(), role: root() };
    client.call(&GRANT_ROLE, grant).await?;
    client.call(&ENABLE, AuthEnableRequest {}).await.map(drop)
}

fn disable(call: Call<'_>) -> Result<(), Exit> {
    without_arguments(&call, "disable")?;
    with_client(call, async |_, client| {
        client.ask(&DISABLE, AuthDisableRequest {}).await.map_err(failed)?;
        print(b"Authentication Disabled\n");
        Ok(())
    })
}

fn status(call: Call<'_>) -> Result<(), Exit> {
    without_arguments(&call, "status")?;
    with_client(call, async |_, client| {
        let answer = client.ask(&STATUS, AuthStatusRequest {}).await.map_err(failed)?;
        answer::show(&answer, client.options.style)
    })
}

impl Answer for AuthStatusResponse {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        line!(out, "Authentication Status: {}", self.enabled);
        line!(out, "AuthRevision: {}", self.auth_revision);
    }

    fn json(&self, _style: Style) -> String {
        Object::new()
            .object("header", self.header.as_ref(), json::header)
            .bool("enabled", self.enabled)
            .uint("authRevision", self.auth_revision)
            .end()
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.encode_to_vec())
    }
}
