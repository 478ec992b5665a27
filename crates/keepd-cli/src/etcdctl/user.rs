//! `user`: users, their passwords and their roles.

use std::io;

use keepd_api::authpb::UserAddOptions;
use keepd_api::etcdserverpb::{
    AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest,
    AuthUserChangePasswordResponse, AuthUserDeleteRequest, AuthUserDeleteResponse,
    AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
    AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse,
};
use prost::Message as _;

use super::GROUP_AUTHENTICATION;
use super::auth::Done;
use super::client::{Method, Repeat, with_client};
use super::global::ask;
use super::role::{self, Permissions};
use crate::engine::answer::{self, Answer, Style, line, print};
use crate::engine::command::{Call, Command, Flag};
use crate::engine::exit::{Exit, bad_arguments, failed};
use crate::engine::json::{self, Object};

const ADD: Method<AuthUserAddRequest, AuthUserAddResponse> =
    Method::new("/etcdserverpb.Auth/UserAdd", Repeat::Never);
const DELETE: Method<AuthUserDeleteRequest, AuthUserDeleteResponse> =
    Method::new("/etcdserverpb.Auth/UserDelete", Repeat::Never);
const GET: Method<AuthUserGetRequest, AuthUserGetResponse> =
    Method::new("/etcdserverpb.Auth/UserGet", Repeat::Allowed);
const LIST: Method<AuthUserListRequest, AuthUserListResponse> =
    Method::new("/etcdserverpb.Auth/UserList", Repeat::Allowed);
const CHANGE_PASSWORD: Method<AuthUserChangePasswordRequest, AuthUserChangePasswordResponse> =
    Method::new("/etcdserverpb.Auth/UserChangePassword", Repeat::Never);
/// Grants a role to a user.
pub(super) const GRANT_ROLE: Method<AuthUserGrantRoleRequest, AuthUserGrantRoleResponse> =
    Method::new("/etcdserverpb.Auth/UserGrantRole", Repeat::Never);
const REVOKE_ROLE: Method<AuthUserRevokeRoleRequest, AuthUserRevokeRoleResponse> =
    Method::new("/etcdserverpb.Auth/UserRevokeRole", Repeat::Never);

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "user <subcommand>",
    short: "User related commands. Use `etcdctl user --help` to see subcommands",
    long: "User related commands",
    group: GROUP_AUTHENTICATION,
    commands: &[
        &ADD_COMMAND,
        &Command {
            usage: "delete <user name>",
            short: "Deletes a user",
            run: Some(delete),
            ..Command::NONE
        },
        &Command {
            usage: "get <user name> [options]",
            short: "Gets detailed information of a user",
            flags: &[Flag::bool("detail", "Show permissions of roles granted to the user")],
            run: Some(get),
            ..Command::NONE
        },
        &Command { usage: "list", short: "Lists all users", run: Some(list), ..Command::NONE },
        &Command {
            usage: "passwd <user name> [options]",
            short: "Changes password of user",
            flags: &[Flag::bool(
                "interactive",
                "If true, read password from stdin instead of interactive terminal",
            )
            .unless_given("true")],
            run: Some(change_password),
            ..Command::NONE
        },
        &Command {
            usage: "grant-role <user name> <role name>",
            short: "Grants a role to a user",
            run: Some(grant_role),
            ..Command::NONE
        },
        &Command {
            usage: "revoke-role <user name> <role name>",
            short: "Revokes a role from a user",
            run: Some(revoke_role),
            ..Command::NONE
        },
    ],
    ..Command::NONE
};

static ADD_COMMAND: Command = Command {
    usage: "add <user name or user:password> [options]",
    short: "Adds a new user",
    flags: &[
        Flag::bool("interactive", "Read password from stdin instead of interactive terminal")
            .unless_given("true"),
        Flag::text("new-user-password", "", "Supply password from the command line flag"),
        Flag::bool("no-password", "Create a user without password (CN based auth only)"),
    ],
    run: Some(add),
    ..Command::NONE
};

/// The arguments as text, if there are as many as wanted.
fn arguments<const N: usize>(call: &Call<'_>, otherwise: &str) -> Result<[String; N], Exit> {
    if call.arguments.len() != N {
        return Err(bad_arguments(otherwise));
    }
    Ok(std::array::from_fn(|position| call.text(position).into_owned()))
}

/// Asks for a password twice, or reads a word from standard input.
fn read_password(call: &Call<'_>, name: &str) -> Result<String, Exit> {
    if !call.flag("interactive") {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map_err(failed)?;
        return Ok(line.split_whitespace().next().unwrap_or_default().to_owned());
    }
    let failed_to_ask = |exit: Exit| {
        let why = exit.text.unwrap_or_default();
        bad_arguments(format_args!("failed to ask password: {why}"))
    };
    let password = ask(&format!("Password of {name}: ")).map_err(failed_to_ask)?;
    if password.is_empty() {
        return Err(bad_arguments("empty password"));
    }
    let again = ask(&format!("Type password of {name} again for confirmation: "));
    if again.map_err(failed_to_ask)? != password {
        return Err(bad_arguments("given passwords are different"));
    }
    Ok(password)
}

/// Name and password as the arguments, the flags or the terminal give them.
fn credentials(call: &Call<'_>, argument: String) -> Result<(String, String), Exit> {
    let given = call.string("new-user-password");
    if call.flag("no-password") {
        return Ok((argument, String::new()));
    }
    if !given.is_empty() {
        return Ok((argument, given.to_owned()));
    }
    match argument.split_once(':') {
        Some(("", _)) => Err(bad_arguments("empty user name is not allowed")),
        Some((name, password)) => Ok((name.to_owned(), password.to_owned())),
        None => {
            let password = read_password(call, &argument)?;
            Ok((argument, password))
        }
    }
}

fn add(call: Call<'_>) -> Result<(), Exit> {
    let [argument] = arguments(&call, "user add command requires user name as its argument")?;
    let (name, password) = credentials(&call, argument)?;
    let request = AuthUserAddRequest {
        name: name.clone(),
        password,
        options: Some(UserAddOptions { no_password: call.flag("no-password") }),
        hashed_password: String::new(),
    };
    with_client(call, async |_, client| {
        let answer = client.call(&ADD, request).await.map_err(failed)?;
        let said = format!("User {name} created");
        let done = Done { said, header: answer.header, bytes: answer.encode_to_vec() };
        answer::show(&done, client.options.style)
    })
}

fn delete(call: Call<'_>) -> Result<(), Exit> {
    let [name] = arguments(&call, "user delete command requires user name as its argument")?;
    with_client(call, async |_, client| {
        let request = AuthUserDeleteRequest { name: name.clone() };
        let answer = client.call(&DELETE, request).await.map_err(failed)?;
        let said = format!("User {name} deleted");
        let done = Done { said, header: answer.header, bytes: answer.encode_to_vec() };
        answer::show(&done, client.options.style)
    })
}

fn get(call: Call<'_>) -> Result<(), Exit> {
    let [name] = arguments(&call, "user get command requires user name as its argument")?;
    with_client(call, async |call, client| {
        let request = AuthUserGetRequest { name: name.clone() };
        let answer = client.call(&GET, request).await.map_err(failed)?;
        if !call.flag("detail") {
            return answer::show(&Roles { user: name, answer }, client.options.style);
        }
        print(format!("User: {name}\n").as_bytes());
        for role in answer.roles {
            print(b"\n");
            let permissions = role::permissions(client, &role).await?;
            answer::show(&Permissions { role, answer: permissions }, client.options.style)?;
        }
        Ok(())
    })
}

fn list(call: Call<'_>) -> Result<(), Exit> {
    let [] = arguments(&call, "user list command requires no arguments")?;
    with_client(call, async |_, client| {
        let answer = client.call(&LIST, AuthUserListRequest {}).await.map_err(failed)?;
        answer::show(&answer, client.options.style)
    })
}

fn change_password(call: Call<'_>) -> Result<(), Exit> {
    let [name] = arguments(&call, "user passwd command requires user name as its argument")?;
    let password = read_password(&call, &name)?;
    with_client(call, async |_, client| {
        let request =
            AuthUserChangePasswordRequest { name, password, hashed_password: String::new() };
        let answer = client.call(&CHANGE_PASSWORD, request).await.map_err(failed)?;
        let said = "Password updated".to_owned();
        let done = Done { said, header: answer.header, bytes: answer.encode_to_vec() };
        answer::show(&done, client.options.style)
    })
}

fn grant_role(call: Call<'_>) -> Result<(), Exit> {
    let missing = "user grant command requires user name and role name as its argument";
    let [user, role] = arguments(&call, missing)?;
    with_client(call, async |_, client| {
        let request = AuthUserGrantRoleRequest { user: user.clone(), role: role.clone() };
        let answer = client.call(&GRANT_ROLE, request).await.map_err(failed)?;
        let said = format!("Role {role} is granted to user {user}");
        let done = Done { said, header: answer.header, bytes: answer.encode_to_vec() };
        answer::show(&done, client.options.style)
    })
}

fn revoke_role(call: Call<'_>) -> Result<(), Exit> {
    let missing = "user revoke-role requires user name and role name as its argument";
    let [user, role] = arguments(&call, missing)?;
    with_client(call, async |_, client| {
        let request = AuthUserRevokeRoleRequest { name: user.clone(), role: role.clone() };
        let answer = client.call(&REVOKE_ROLE, request).await.map_err(failed)?;
        let said = format!("Role {role} is revoked from user {user}");
        let done = Done { said, header: answer.header, bytes: answer.encode_to_vec() };
        answer::show(&done, client.options.style)
    })
}

struct Roles {
    user: String,
    answer: AuthUserGetResponse,
}

impl Answer for Roles {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        line!(out, "User: {}", self.user);
        let roles: String = self.answer.roles.iter().flat_map(|role| [" ", role]).collect();
        line!(out, "Roles:{roles}");
    }

    fn json(&self, _style: Style) -> String {
        Object::new()
            .object("header", self.answer.header.as_ref(), json::header)
            .texts("roles", &self.answer.roles)
            .end()
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.answer.encode_to_vec())
    }
}

impl Answer for AuthUserListResponse {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        for user in &self.users {
            line!(out, "{user}");
        }
    }

    fn json(&self, _style: Style) -> String {
        Object::new()
            .object("header", self.header.as_ref(), json::header)
            .texts("users", &self.users)
            .end()
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.encode_to_vec())
    }
}
