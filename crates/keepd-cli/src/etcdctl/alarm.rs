//! `alarm`: lists the alarms raised, and clears them.

use keepd_api::etcdserverpb::alarm_request::AlarmAction;
use keepd_api::etcdserverpb::{AlarmMember, AlarmRequest, AlarmResponse, AlarmType};
use prost::Message as _;

use super::GROUP_CLUSTER;
use super::client::{Client, Failure, Method, Repeat, with_client};
use crate::engine::answer::{self, Answer, Style, field_header, id, line};
use crate::engine::command::{Call, Command};
use crate::engine::exit::{Exit, bad_arguments, failed};
use crate::engine::json::{self, Object};

/// Lists, raises and clears alarms.
pub(super) const ALARM: Method<AlarmRequest, AlarmResponse> =
    Method::new("/etcdserverpb.Maintenance/Alarm", Repeat::Allowed);

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "alarm <subcommand>",
    short: "Alarm related commands. Use `etcdctl alarm --help` to see subcommands",
    long: "Alarm related commands",
    group: GROUP_CLUSTER,
    commands: &[&DISARM, &LIST],
    ..Command::NONE
};

static DISARM: Command =
    Command { usage: "disarm", short: "Disarms all alarms", run: Some(disarm), ..Command::NONE };

static LIST: Command =
    Command { usage: "list", short: "Lists all alarms", run: Some(list), ..Command::NONE };

/// The request that lists all alarms of all members.
pub(super) fn list_request() -> AlarmRequest {
    AlarmRequest { action: AlarmAction::Get.into(), member_id: 0, alarm: AlarmType::None.into() }
}

fn list(call: Call<'_>) -> Result<(), Exit> {
    if !call.arguments.is_empty() {
        return Err(bad_arguments("alarm list command accepts no arguments"));
    }
    with_client(call, async |_, client| {
        let answer = client.ask(&ALARM, list_request()).await.map_err(failed)?;
        answer::show(&answer, client.options.style)
    })
}

fn disarm(call: Call<'_>) -> Result<(), Exit> {
    if !call.arguments.is_empty() {
        return Err(bad_arguments("alarm disarm command accepts no arguments"));
    }
    with_client(call, async |_, client| {
        let all = disarm_all(client);
        let answer = client.within(client.options.command_timeout, all).await.map_err(failed)?;
        answer::show(&answer, client.options.style)
    })
}

/// Clears what is raised, one alarm at a time: a request for member 0 clears nothing.
async fn disarm_all(client: &Client) -> Result<AlarmResponse, Failure> {
    let raised = client.call(&ALARM, list_request()).await?;
    let mut cleared = AlarmResponse::default();
    for alarm in raised.alarms {
        let request = AlarmRequest {
            action: AlarmAction::Deactivate.into(),
            member_id: alarm.member_id,
            alarm: alarm.alarm,
        };
        cleared.alarms.extend(client.call(&ALARM, request).await?.alarms);
    }
    Ok(cleared)
}

fn alarm_name(alarm: &AlarmMember) -> &'static str {
    alarm.alarm().as_str_name()
}

impl Answer for AlarmResponse {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        for alarm in &self.alarms {
            // The text form of protobuf, which leaves zero fields out.
            let mut parts = Vec::new();
            if alarm.member_id != 0 {
                parts.push(format!("memberID:{}", alarm.member_id));
            }
            if alarm.alarm != 0 {
                parts.push(format!("alarm:{}", alarm_name(alarm)));
            }
            line!(out, "{}", parts.join(" "));
        }
    }

    fn json(&self, _style: Style) -> String {
        Object::new()
            .object("header", self.header.as_ref(), json::header)
            .list("alarms", &self.alarms, |alarm| {
                Object::new()
                    .uint("memberID", alarm.member_id)
                    .int("alarm", alarm.alarm.into())
                    .end()
            })
            .end()
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        field_header(self.header.as_ref(), style, out);
        for alarm in &self.alarms {
            line!(out, "\"MemberID\" : {}", id(alarm.member_id, style));
            line!(out, "\"AlarmType\" : {}", alarm_name(alarm));
            line!(out, "");
        }
        Ok(())
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.encode_to_vec())
    }
}
