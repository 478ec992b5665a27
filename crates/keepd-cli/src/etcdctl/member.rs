//! `member`: lists the members and changes the membership.

use std::fmt::Write as _;

use keepd_api::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, ResponseHeader,
};
use keepd_gotext::{parse_uint, quote};
use prost::Message as _;

use super::GROUP_CLUSTER;
use super::client::{Method, Repeat, with_client};
use super::get::is_serializable;
use crate::engine::answer::{self, Answer, Format, Style, field_header, id, line, print};
use crate::engine::command::{Call, Command, Flag};
use crate::engine::exit::{Exit, bad_arguments, failed};
use crate::engine::json::{self, Object};
use crate::engine::table;

const LIST: Method<MemberListRequest, MemberListResponse> =
    Method::new("/etcdserverpb.Cluster/MemberList", Repeat::Allowed);
const ADD: Method<MemberAddRequest, MemberAddResponse> =
    Method::new("/etcdserverpb.Cluster/MemberAdd", Repeat::Never);
const REMOVE: Method<MemberRemoveRequest, MemberRemoveResponse> =
    Method::new("/etcdserverpb.Cluster/MemberRemove", Repeat::Never);
const UPDATE: Method<MemberUpdateRequest, MemberUpdateResponse> =
    Method::new("/etcdserverpb.Cluster/MemberUpdate", Repeat::Never);
const PROMOTE: Method<MemberPromoteRequest, MemberPromoteResponse> =
    Method::new("/etcdserverpb.Cluster/MemberPromote", Repeat::Never);

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "member <subcommand>",
    short: "Membership related commands. Use `etcdctl member --help` to see subcommands",
    long: "Membership related commands",
    group: GROUP_CLUSTER,
    commands: &[&ADD_COMMAND, &REMOVE_COMMAND, &UPDATE_COMMAND, &LIST_COMMAND, &PROMOTE_COMMAND],
    ..Command::NONE
};

static ADD_COMMAND: Command = Command {
    usage: "add <memberName> [options]",
    short: "Adds a member into the cluster",
    flags: &[
        Flag::text("peer-urls", "", "comma separated peer URLs for the new member."),
        Flag::bool("learner", "indicates if the new member is raft learner"),
    ],
    run: Some(add),
    ..Command::NONE
};

static REMOVE_COMMAND: Command = Command {
    usage: "remove <memberID>",
    short: "Removes a member from the cluster",
    run: Some(remove),
    ..Command::NONE
};

static UPDATE_COMMAND: Command = Command {
    usage: "update <memberID> [options]",
    short: "Updates a member in the cluster",
    flags: &[Flag::text("peer-urls", "", "comma separated peer URLs for the updated member.")],
    run: Some(update),
    ..Command::NONE
};

static LIST_COMMAND: Command = Command {
    usage: "list",
    short: "Lists all members in the cluster",
    long: "When --write-out is set to simple, this command prints out comma-separated member \
           lists for each endpoint.
The items in the lists are ID, Status, Name, Peer Addrs, Client Addrs, Is Learner.
",
    flags: &[Flag::text("consistency", "l", "Linearizable(l) or Serializable(s)")],
    run: Some(list),
    ..Command::NONE
};

static PROMOTE_COMMAND: Command = Command {
    usage: "promote <memberID>",
    short: "Promotes a non-voting member in the cluster",
    long: "Promotes a non-voting learner member to a voting one in the cluster.
",
    run: Some(promote),
    ..Command::NONE
};

fn list(call: Call<'_>) -> Result<(), Exit> {
    let request = MemberListRequest { linearizable: !is_serializable(&call)? };
    with_client(call, async |_, client| {
        let answer = client.ask(&LIST, request).await.map_err(failed)?;
        answer::show(&answer, client.options.style)
    })
}

fn peer_urls(call: &Call<'_>) -> Result<Vec<String>, Exit> {
    let urls = call.string("peer-urls");
    if urls.is_empty() {
        return Err(bad_arguments("member peer urls not provided"));
    }
    Ok(urls.split(',').map(str::to_owned).collect())
}

/// Peer addresses are checked here, before the cluster is asked to take them.
fn check_schemes(urls: &[String]) -> Result<(), Exit> {
    for url in urls {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        if !["http", "https", "unix", "unixs"].contains(&scheme) {
            return Err(failed(format_args!(
                "URL scheme must be http, https, unix, or unixs: {url}"
            )));
        }
    }
    Ok(())
}

fn add(call: Call<'_>) -> Result<(), Exit> {
    if call.arguments.is_empty() {
        return Err(bad_arguments("member name not provided"));
    }
    if call.arguments.len() > 1 {
        let mut text = "too many arguments".to_owned();
        for position in 0..call.arguments.len() {
            let argument = call.text(position);
            if argument.to_lowercase().starts_with("http") {
                write!(text, ", did you mean --peer-urls={argument}")
                    .expect("a string takes everything");
            }
        }
        return Err(bad_arguments(text));
    }
    let urls = peer_urls(&call)?;
    with_client(call, async |call, client| {
        check_schemes(&urls)?;
        let request =
            MemberAddRequest { peer_ur_ls: urls.clone(), is_learner: call.flag("learner") };
        let answer = client.ask(&ADD, request).await.map_err(failed)?;
        let added = Added(&answer);
        answer::show(&added, client.options.style)?;
        if client.options.style.format == Format::Simple {
            print(added.environment(&call.text(0), call.string("peer-urls")).as_bytes());
        }
        Ok(())
    })
}

/// Reads the member id a command is about.
pub(super) fn member_id(call: &Call<'_>, missing: &str) -> Result<u64, Exit> {
    if call.arguments.len() != 1 {
        return Err(bad_arguments(missing));
    }
    parse_uint(&call.text(0), 16, u64::MAX).map_err(|why| {
        bad_arguments(format_args!("bad member ID arg ({why}), expecting ID in Hex"))
    })
}

fn remove(call: Call<'_>) -> Result<(), Exit> {
    let id = member_id(&call, "member ID is not provided")?;
    with_client(call, async |_, client| {
        let answer = client.ask(&REMOVE, MemberRemoveRequest { id }).await.map_err(failed)?;
        let bytes = answer.encode_to_vec();
        let (header, members) = (answer.header, answer.members);
        let changed = Changed { id, verb: "removed from", header, members, bytes };
        answer::show(&changed, client.options.style)
    })
}

fn update(call: Call<'_>) -> Result<(), Exit> {
    let id = member_id(&call, "member ID is not provided")?;
    let urls = peer_urls(&call)?;
    with_client(call, async |_, client| {
        check_schemes(&urls)?;
        let request = MemberUpdateRequest { id, peer_ur_ls: urls.clone() };
        let answer = client.ask(&UPDATE, request).await.map_err(failed)?;
        let bytes = answer.encode_to_vec();
        let (header, members) = (answer.header, answer.members);
        let changed = Changed { id, verb: "updated in", header, members, bytes };
        answer::show(&changed, client.options.style)
    })
}

fn promote(call: Call<'_>) -> Result<(), Exit> {
    let id = member_id(&call, "member ID is not provided")?;
    with_client(call, async |_, client| {
        let answer = client.ask(&PROMOTE, MemberPromoteRequest { id }).await.map_err(failed)?;
        let bytes = answer.encode_to_vec();
        let (header, members) = (answer.header, answer.members);
        let changed = Changed { id, verb: "promoted in", header, members, bytes };
        answer::show(&changed, client.options.style)
    })
}

/// With `--hex`, ids are strings here, and only here.
fn header_object(header: &ResponseHeader, style: Style) -> Object {
    if !style.hex {
        return json::header(header);
    }
    Object::new()
        .always("cluster_id", &format!("\"{:x}\"", header.cluster_id))
        .always("member_id", &format!("\"{:x}\"", header.member_id))
        .int("revision", header.revision)
        .uint("raft_term", header.raft_term)
}

fn member_object(member: &Member, style: Style) -> Object {
    let object = if style.hex {
        Object::new().always("ID", &format!("\"{:x}\"", member.id))
    } else {
        Object::new().uint("ID", member.id)
    };
    object
        .text("name", &member.name)
        .texts("peerURLs", &member.peer_ur_ls)
        .texts("clientURLs", &member.client_ur_ls)
        .bool("isLearner", member.is_learner)
}

fn members_object(
    header: Option<&ResponseHeader>,
    added: Option<&Member>,
    members: &[Member],
    style: Style,
) -> String {
    Object::new()
        .object("header", header, |header| header_object(header, style))
        .object("member", added, |member| member_object(member, style))
        .list("members", members, |member| member_object(member, style).end())
        .end()
}

/// An added member, with what a process of it must be started with.
struct Added<'a>(&'a MemberAddResponse);

impl Added<'_> {
    fn environment(&self, name: &str, urls: &str) -> String {
        let added = self.0.member.as_ref().map(|member| member.id);
        let mut cluster = Vec::new();
        for member in &self.0.members {
            let name = if Some(member.id) == added { name } else { &member.name };
            cluster.extend(member.peer_ur_ls.iter().map(|url| format!("{name}={url}")));
        }
        format!(
            "\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_ADVERTISE_PEER_URLS={}\n\
             ETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
            quote(name),
            quote(cluster.join(",")),
            quote(urls),
        )
    }
}

impl Answer for Added<'_> {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        let member = self.0.member.clone().unwrap_or_default();
        let cluster = self.0.header.unwrap_or_default().cluster_id;
        let role = if member.is_learner { " as learner " } else { " " };
        line!(out, "Member {:16x} added{role}to cluster {cluster:16x}", member.id);
    }

    fn json(&self, style: Style) -> String {
        let answer = self.0;
        members_object(answer.header.as_ref(), answer.member.as_ref(), &answer.members, style)
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.0.encode_to_vec())
    }
}

/// A member removed, updated or promoted.
struct Changed {
    id: u64,
    verb: &'static str,
    header: Option<ResponseHeader>,
    members: Vec<Member>,
    bytes: Vec<u8>,
}

impl Answer for Changed {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        let cluster = self.header.unwrap_or_default().cluster_id;
        line!(out, "Member {:16x} {} cluster {cluster:16x}", self.id, self.verb);
    }

    fn json(&self, style: Style) -> String {
        members_object(self.header.as_ref(), None, &self.members, style)
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.bytes.clone())
    }
}

fn rows(members: &[Member]) -> Vec<Vec<String>> {
    let row = |member: &Member| {
        let status = if member.name.is_empty() { "unstarted" } else { "started" };
        vec![
            format!("{:x}", member.id),
            status.to_owned(),
            member.name.clone(),
            member.peer_ur_ls.join(","),
            member.client_ur_ls.join(","),
            member.is_learner.to_string(),
        ]
    };
    members.iter().map(row).collect()
}

impl Answer for MemberListResponse {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        for row in rows(&self.members) {
            line!(out, "{}", row.join(", "));
        }
    }

    fn json(&self, style: Style) -> String {
        members_object(self.header.as_ref(), None, &self.members, style)
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        field_header(self.header.as_ref(), style, out);
        for member in &self.members {
            line!(out, "\"ID\" : {}", id(member.id, style));
            line!(out, "\"Name\" : {}", quote(&member.name));
            for url in &member.peer_ur_ls {
                line!(out, "\"PeerURL\" : {}", quote(url));
            }
            for url in &member.client_ur_ls {
                line!(out, "\"ClientURL\" : {}", quote(url));
            }
            line!(out, "\"IsLearner\" : {}", member.is_learner);
            line!(out, "");
        }
        Ok(())
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.encode_to_vec())
    }

    fn table(&self) -> Result<String, Exit> {
        let titles = ["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"];
        Ok(table::draw(&titles, &rows(&self.members)))
    }
}
