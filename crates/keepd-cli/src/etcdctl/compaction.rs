//! `compaction`: gives up history up to a revision.

use keepd_api::etcdserverpb::{CompactionRequest, CompactionResponse};
use keepd_gotext::parse_int;

use super::GROUP_KV;
use super::client::{Method, Repeat, with_client};
use crate::engine::answer::print;
use crate::engine::command::{Call, Command, Flag};
use crate::engine::exit::{Exit, bad_arguments, failed};

const COMPACT: Method<CompactionRequest, CompactionResponse> =
    Method::new("/etcdserverpb.KV/Compact", Repeat::Never);

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "compaction [options] <revision>",
    short: "Compacts the event history in etcd",
    group: GROUP_KV,
    flags: &[Flag::bool(
        "physical",
        "'true' to wait for compaction to physically remove all old revisions",
    )],
    run: Some(run),
    ..Command::NONE
};

fn run(call: Call<'_>) -> Result<(), Exit> {
    if call.arguments.len() != 1 {
        return Err(bad_arguments("compaction command needs 1 argument"));
    }
    let revision = parse_int(&call.text(0), 10).map_err(failed)?;
    let request = CompactionRequest { revision, physical: call.flag("physical") };
    with_client(call, async |_, client| {
        client.ask(&COMPACT, request).await.map_err(failed)?;
        print(format!("compacted revision {revision}\n").as_bytes());
        Ok(())
    })
}
