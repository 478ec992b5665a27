//! `move-leader` and `downgrade`: commands for the cluster as a whole.

use keepd_api::etcdserverpb::downgrade_request::DowngradeAction;
use keepd_api::etcdserverpb::{
    DowngradeRequest, DowngradeResponse, MoveLeaderRequest, MoveLeaderResponse, StatusRequest,
};
use keepd_gotext::parse_uint;
use prost::Message as _;

use super::GROUP_CLUSTER;
use super::client::{Client, Method, Repeat, run, with_client};
use super::endpoint::STATUS;
use super::global::Options;
use crate::engine::answer::{self, Answer, Style, line};
use crate::engine::command::{Call, Command};
use crate::engine::exit::{Exit, bad_arguments, failed};
use crate::engine::json::{self, Object};

const MOVE_LEADER: Method<MoveLeaderRequest, MoveLeaderResponse> =
    Method::new("/etcdserverpb.Maintenance/MoveLeader", Repeat::Allowed);
const DOWNGRADE: Method<DowngradeRequest, DowngradeResponse> =
    Method::new("/etcdserverpb.Maintenance/Downgrade", Repeat::Never);

/// Hands leadership to a member.
pub(super) static MOVE_LEADER_COMMAND: Command = Command {
    usage: "move-leader <transferee-member-id>",
    short: "Transfers leadership to another etcd cluster member.",
    group: GROUP_CLUSTER,
    run: Some(move_leader),
    ..Command::NONE
};

/// Prepares for an older version.
pub(super) static DOWNGRADE_COMMAND: Command = Command {
    usage: "downgrade <TARGET_VERSION>",
    short: "Downgrade related commands. Use `etcdctl downgrade --help` to see subcommands",
    long: "Downgrade related commands",
    group: GROUP_CLUSTER,
    commands: &[
        &Command {
            usage: "validate <TARGET_VERSION>",
            short: "Validate downgrade capability before starting downgrade",
            run: Some(validate),
            ..Command::NONE
        },
        &Command {
            usage: "enable <TARGET_VERSION>",
            short: "Start a downgrade action to cluster",
            run: Some(enable),
            ..Command::NONE
        },
        &Command {
            usage: "cancel",
            short: "Cancel the ongoing downgrade action to cluster",
            run: Some(cancel),
            ..Command::NONE
        },
    ],
    ..Command::NONE
};

fn move_leader(mut call: Call<'_>) -> Result<(), Exit> {
    if call.arguments.len() != 1 {
        return Err(bad_arguments("move-leader command needs 1 argument"));
    }
    let target = parse_uint(&call.text(0), 16, u64::MAX).map_err(bad_arguments)?;
    let options = Options::read(&mut call)?;
    run(async move {
        for endpoint in &options.endpoints {
            let client = Client::new(options.only(endpoint)).await?;
            let status = client.ask(&STATUS, StatusRequest {}).await.map_err(failed)?;
            if status.header.unwrap_or_default().member_id != status.leader {
                continue;
            }
            // Only the leader itself can be asked to step down.
            let request = MoveLeaderRequest { target_id: target };
            let answer = client.ask(&MOVE_LEADER, request).await.map_err(failed)?;
            return answer::show(&Moved { from: status.leader, to: target, answer }, options.style);
        }
        let endpoints = options.endpoints.join(" ");
        Err(bad_arguments(format_args!("no leader endpoint given at [{endpoints}]")))
    })
}

struct Moved {
    from: u64,
    to: u64,
    answer: MoveLeaderResponse,
}

impl Answer for Moved {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        line!(out, "Leadership transferred from {:x} to {:x}", self.from, self.to);
    }

    fn json(&self, _style: Style) -> String {
        Object::new().object("header", self.answer.header.as_ref(), json::header).end()
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.answer.encode_to_vec())
    }
}

fn validate(call: Call<'_>) -> Result<(), Exit> {
    let version = target_version(&call)?;
    downgrade(call, DowngradeAction::Validate, "validate", version)
}

fn enable(call: Call<'_>) -> Result<(), Exit> {
    let version = target_version(&call)?;
    downgrade(call, DowngradeAction::Enable, "enable", version)
}

fn cancel(call: Call<'_>) -> Result<(), Exit> {
    downgrade(call, DowngradeAction::Cancel, "cancel", String::new())
}

fn target_version(call: &Call<'_>) -> Result<String, Exit> {
    match call.arguments.len() {
        0 => Err(bad_arguments("TARGET_VERSION not provided")),
        1 if call.arguments[0].is_empty() => Err(bad_arguments("target version not provided")),
        1 => Ok(call.text(0).into_owned()),
        _ => Err(bad_arguments("too many arguments")),
    }
}

fn downgrade(
    call: Call<'_>,
    action: DowngradeAction,
    verb: &'static str,
    version: String,
) -> Result<(), Exit> {
    with_client(call, async |_, client| {
        let request = DowngradeRequest { action: action.into(), version };
        let answer = client.ask(&DOWNGRADE, request).await.map_err(failed)?;
        answer::show(&Downgraded { verb, answer }, client.options.style)
    })
}

struct Downgraded {
    verb: &'static str,
    answer: DowngradeResponse,
}

impl Answer for Downgraded {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        let version = &self.answer.version;
        line!(out, "Downgrade {} success, cluster version {version}", self.verb);
    }

    fn json(&self, _style: Style) -> String {
        Object::new()
            .object("header", self.answer.header.as_ref(), json::header)
            .text("version", &self.answer.version)
            .end()
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.answer.encode_to_vec())
    }
}
