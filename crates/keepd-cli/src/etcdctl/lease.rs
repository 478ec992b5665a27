//! `lease`: grants, revokes, lists and keeps alive leases.

use std::time::Duration;

use keepd_api::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, ResponseHeader,
};
use keepd_gotext::{parse_int, quote};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;

use super::GROUP_KV;
use super::client::{Client, Failure, Method, Repeat, may_go_on, with_client};
use crate::engine::answer::{self, Answer, Format, Style, field_header, lease_hex, line, print};
use crate::engine::command::{Call, Command, Flag};
use crate::engine::exit::{BAD_CONNECTION, Exit, bad_arguments, failed};
use crate::engine::json::{self, Object};

/// Pause before a broken stream is opened again.
const PAUSE: Duration = Duration::from_millis(100);

/// Grants a lease.
pub(super) const GRANT: Method<LeaseGrantRequest, LeaseGrantResponse> =
    Method::new("/etcdserverpb.Lease/LeaseGrant", Repeat::Allowed);
const REVOKE: Method<LeaseRevokeRequest, LeaseRevokeResponse> =
    Method::new("/etcdserverpb.Lease/LeaseRevoke", Repeat::Allowed);
const TIME_TO_LIVE: Method<LeaseTimeToLiveRequest, LeaseTimeToLiveResponse> =
    Method::new("/etcdserverpb.Lease/LeaseTimeToLive", Repeat::Allowed);
const LEASES: Method<LeaseLeasesRequest, LeaseLeasesResponse> =
    Method::new("/etcdserverpb.Lease/LeaseLeases", Repeat::Allowed);
const KEEP_ALIVE: Method<LeaseKeepAliveRequest, LeaseKeepAliveResponse> =
    Method::new("/etcdserverpb.Lease/LeaseKeepAlive", Repeat::Allowed);

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "lease <subcommand>",
    short: "Lease related commands. Use `etcdctl lease --help` to see subcommands",
    long: "Lease related commands",
    group: GROUP_KV,
    commands: &[
        &Command {
            usage: "grant <ttl>",
            short: "Creates leases",
            run: Some(grant),
            ..Command::NONE
        },
        &Command {
            usage: "revoke <leaseID>",
            short: "Revokes leases",
            run: Some(revoke),
            ..Command::NONE
        },
        &Command {
            usage: "timetolive <leaseID> [options]",
            short: "Get lease information",
            flags: &[Flag::bool("keys", "Get keys attached to this lease")],
            run: Some(time_to_live),
            ..Command::NONE
        },
        &Command {
            usage: "list",
            short: "List all active leases",
            run: Some(list),
            ..Command::NONE
        },
        &Command {
            usage: "keep-alive [options] <leaseID>",
            short: "Keeps leases alive (renew)",
            flags: &[Flag::bool(
                "once",
                "Resets the keep-alive time to its original value and cobrautl.Exits immediately",
            )],
            run: Some(keep_alive),
            ..Command::NONE
        },
    ],
    ..Command::NONE
};

fn lease_id(call: &Call<'_>, missing: &str) -> Result<i64, Exit> {
    if call.arguments.len() != 1 {
        return Err(bad_arguments(missing));
    }
    parse_int(&call.text(0), 16)
        .map_err(|why| bad_arguments(format_args!("bad lease ID arg ({why}), expecting ID in Hex")))
}

fn bad_connection(failure: Failure) -> Exit {
    Exit::new(BAD_CONNECTION, failure)
}

fn grant(call: Call<'_>) -> Result<(), Exit> {
    if call.arguments.len() != 1 {
        return Err(bad_arguments("lease grant command needs TTL argument"));
    }
    let ttl = parse_int(&call.text(0), 10)
        .map_err(|why| bad_arguments(format_args!("bad TTL ({why})")))?;
    with_client(call, async |_, client| {
        let answer = client.ask(&GRANT, LeaseGrantRequest { ttl, id: 0 }).await;
        let answer =
            answer.map_err(|failure| failed(format_args!("failed to grant lease ({failure})")))?;
        answer::show(&answer, client.options.style)
    })
}

fn revoke(call: Call<'_>) -> Result<(), Exit> {
    let id = lease_id(&call, "lease revoke command needs 1 argument")?;
    with_client(call, async |_, client| {
        let answer = client.ask(&REVOKE, LeaseRevokeRequest { id }).await;
        let answer =
            answer.map_err(|failure| failed(format_args!("failed to revoke lease ({failure})")))?;
        answer::show(&Revoked { id, answer }, client.options.style)
    })
}

fn time_to_live(call: Call<'_>) -> Result<(), Exit> {
    let id = lease_id(&call, "lease timetolive command needs lease ID as argument")?;
    with_client(call, async |call, client| {
        let keys = call.flag("keys");
        let request = LeaseTimeToLiveRequest { id, keys };
        let answer = client.call(&TIME_TO_LIVE, request).await.map_err(bad_connection)?;
        answer::show(&TimeToLive { answer, keys }, client.options.style)
    })
}

fn list(call: Call<'_>) -> Result<(), Exit> {
    with_client(call, async |_, client| {
        let answer = client.call(&LEASES, LeaseLeasesRequest {}).await.map_err(bad_connection)?;
        answer::show(&answer, client.options.style)
    })
}

fn keep_alive(call: Call<'_>) -> Result<(), Exit> {
    let id = lease_id(&call, "lease keep-alive command needs lease ID as argument")?;
    with_client(call, async |call, client| {
        if call.flag("once") {
            let answer = renewals(client, id, async |_| false).await.map_err(bad_connection)?;
            let answer = answer
                .filter(|answer| answer.ttl > 0)
                .ok_or_else(|| Exit::new(BAD_CONNECTION, keepd_api::Error::LeaseNotFound.text()))?;
            return answer::show(&answer, client.options.style);
        }
        let style = client.options.style;
        loop {
            let ended = renewals(client, id, async |answer| {
                answer.ttl > 0 && answer::show(answer, style).is_ok()
            })
            .await;
            match ended {
                Ok(Some(answer)) if answer.ttl > 0 => answer::show(&answer, style)?,
                Ok(Some(_)) => break,
                Ok(None) => {}
                Err(Failure::Status(status)) if may_go_on(status.clone()).is_ok() => {}
                Err(failure) => return Err(bad_connection(failure)),
            }
            // The stream broke: another member can renew just as well.
            client.turn();
            sleep(PAUSE).await;
        }
        if style.format == Format::Simple {
            print(format!("lease {} expired or revoked.\n", lease_hex(id)).as_bytes());
        }
        Ok(())
    })
}

/// Renews a lease every third of its time as long as `goes_on` says so; the last answer.
pub(super) async fn renewals(
    client: &Client,
    id: i64,
    goes_on: impl AsyncFn(&LeaseKeepAliveResponse) -> bool,
) -> Result<Option<LeaseKeepAliveResponse>, Failure> {
    let (requests_tx, requests_rx) = mpsc::channel(1);
    let ask = async || requests_tx.send(LeaseKeepAliveRequest { id }).await;
    // The channel is open and empty, so the first request is taken at once.
    let _stream_gone = ask().await;
    let mut answers = client.duplex(&KEEP_ALIVE, ReceiverStream::new(requests_rx), false).await?;
    loop {
        let Some(answer) = answers.message().await.map_err(Failure::Status)? else {
            return Ok(None);
        };
        if !goes_on(&answer).await {
            return Ok(Some(answer));
        }
        let third = u64::try_from(answer.ttl).unwrap_or(0) * 1000 / 3;
        sleep(Duration::from_millis(third.max(500))).await;
        if ask().await.is_err() {
            return Ok(None);
        }
    }
}

/// Go's client keeps the header's fields beside the others; no header is an empty one.
fn inlined(header: Option<&ResponseHeader>) -> Object {
    header.map(json::header).unwrap_or_default()
}

/// `protobuf` writes the header alone, because that is the message Go's client embeds.
fn header_bytes(header: Option<&ResponseHeader>) -> Vec<u8> {
    header.copied().unwrap_or_default().encode_to_vec()
}

fn field_id(id: i64, style: Style, out: &mut Vec<u8>) {
    if style.hex {
        line!(out, "\"ID\" : {}", lease_hex(id));
    } else {
        line!(out, "\"ID\" : {id}");
    }
}

impl Answer for LeaseGrantResponse {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        line!(out, "lease {} granted with TTL({}s)", lease_hex(self.id), self.ttl);
    }

    fn json(&self, _style: Style) -> String {
        inlined(self.header.as_ref())
            .always("ID", &self.id.to_string())
            .always("TTL", &self.ttl.to_string())
            .always("Error", &json::string(&self.error))
            .end()
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        field_header(self.header.as_ref(), style, out);
        field_id(self.id, style, out);
        line!(out, "\"TTL\" : {}", self.ttl);
        Ok(())
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(header_bytes(self.header.as_ref()))
    }
}

struct Revoked {
    id: i64,
    answer: LeaseRevokeResponse,
}

impl Answer for Revoked {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        line!(out, "lease {} revoked", lease_hex(self.id));
    }

    fn json(&self, _style: Style) -> String {
        Object::new().object("header", self.answer.header.as_ref(), json::header).end()
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        field_header(self.answer.header.as_ref(), style, out);
        Ok(())
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.answer.encode_to_vec())
    }
}

struct TimeToLive {
    answer: LeaseTimeToLiveResponse,
    keys: bool,
}

impl Answer for TimeToLive {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        let LeaseTimeToLiveResponse { id, ttl, granted_ttl, keys, .. } = &self.answer;
        let id = lease_hex(*id);
        if *granted_ttl == 0 && *ttl == -1 {
            line!(out, "lease {id} already expired");
            return;
        }
        out.extend_from_slice(
            format!("lease {id} granted with TTL({granted_ttl}s), remaining({ttl}s)").as_bytes(),
        );
        if self.keys {
            out.extend_from_slice(b", attached keys([");
            out.extend_from_slice(&keys.join(&b' '));
            out.extend_from_slice(b"])");
        }
        line!(out, "");
    }

    fn json(&self, _style: Style) -> String {
        let LeaseTimeToLiveResponse { header, id, ttl, granted_ttl, keys } = &self.answer;
        let keys = match keys.as_slice() {
            [] => "null".to_owned(),
            keys => json::array(keys.iter().map(|key| json::bytes(key))),
        };
        inlined(header.as_ref())
            .always("id", &id.to_string())
            .always("ttl", &ttl.to_string())
            .always("granted-ttl", &granted_ttl.to_string())
            .always("keys", &keys)
            .end()
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        field_header(self.answer.header.as_ref(), style, out);
        field_id(self.answer.id, style, out);
        line!(out, "\"TTL\" : {}", self.answer.ttl);
        line!(out, "\"GrantedTTL\" : {}", self.answer.granted_ttl);
        for key in &self.answer.keys {
            line!(out, "\"Key\" : {}", quote(key));
        }
        Ok(())
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(header_bytes(self.answer.header.as_ref()))
    }
}

impl Answer for LeaseLeasesResponse {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        line!(out, "found {} leases", self.leases.len());
        for lease in &self.leases {
            line!(out, "{}", lease_hex(lease.id));
        }
    }

    fn json(&self, _style: Style) -> String {
        let leases =
            self.leases.iter().map(|lease| Object::new().always("id", &lease.id.to_string()).end());
        inlined(self.header.as_ref()).always("leases", &json::array(leases)).end()
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        field_header(self.header.as_ref(), style, out);
        for lease in &self.leases {
            field_id(lease.id, style, out);
        }
        Ok(())
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(header_bytes(self.header.as_ref()))
    }
}

impl Answer for LeaseKeepAliveResponse {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        line!(out, "lease {} keepalived with TTL({})", lease_hex(self.id), self.ttl);
    }

    fn json(&self, _style: Style) -> String {
        inlined(self.header.as_ref())
            .always("ID", &self.id.to_string())
            .always("TTL", &self.ttl.to_string())
            .end()
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        field_header(self.header.as_ref(), style, out);
        field_id(self.id, style, out);
        line!(out, "\"TTL\" : {}", self.ttl);
        Ok(())
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(header_bytes(self.header.as_ref()))
    }
}
