//! `del`: deletes a key or a range of keys.

use std::thread;
use std::time::Duration;

use keepd_api::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse};
use keepd_gotext::quote;
use prost::Message as _;

use super::GROUP_KV;
use super::client::{Method, Repeat, with_client};
use super::get::{key_and_end, only_one_of};
use crate::engine::answer::{
    self, Answer, Style, complain, field_header, field_pair, line, simple_pair,
};
use crate::engine::command::{Call, Command, Flag};
use crate::engine::exit::{Exit, bad_arguments, failed};
use crate::engine::json::{self, Object};

/// Deletes a range.
pub(super) const DELETE_RANGE: Method<DeleteRangeRequest, DeleteRangeResponse> =
    Method::new("/etcdserverpb.KV/DeleteRange", Repeat::Never);

/// Pause before a range is deleted, in which it can be interrupted.
const REGRET: Duration = Duration::from_secs(2);

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "del [options] <key> [range_end]",
    short: "Removes the specified key or range of keys [key, range_end)",
    group: GROUP_KV,
    flags: &[
        Flag::bool("prefix", "delete keys with matching prefix"),
        Flag::bool("prev-kv", "return deleted key-value pairs"),
        Flag::bool(
            "from-key",
            "delete keys that are greater than or equal to the given key using byte compare",
        ),
        Flag::bool("range", "delete range of keys"),
    ],
    run: Some(run),
    ..Command::NONE
};

fn run(call: Call<'_>) -> Result<(), Exit> {
    let request = request(&call)?;
    with_client(call, async |_, client| {
        let answer = client.ask(&DELETE_RANGE, request).await.map_err(failed)?;
        answer::show(&answer, client.options.style)
    })
}

/// The request a command line stands for; the same line works inside `txn`.
pub(super) fn request(call: &Call<'_>) -> Result<DeleteRangeRequest, Exit> {
    if call.arguments.is_empty() || call.arguments.len() > 2 {
        return Err(bad_arguments(
            "del command needs one argument as key and an optional argument as range_end",
        ));
    }
    only_one_of(call, "prefix", "from-key")?;
    let (key, range_end) = key_and_end(call)?;
    if call.arguments.len() == 2 && !call.flag("range") {
        complain(&format!(
            "Warning: Keys between {} and {} will be deleted. \
             Please interrupt the command within next 2 seconds to cancel. \
             You can provide `--range` flag to avoid the delay.",
            quote(&call.arguments[0]),
            quote(&call.arguments[1]),
        ));
        thread::sleep(REGRET);
    }
    Ok(DeleteRangeRequest { key, range_end, prev_kv: call.flag("prev-kv") })
}

/// The answer as JSON, also inside a txn's.
pub(super) fn object(answer: &DeleteRangeResponse) -> Object {
    Object::new()
        .object("header", answer.header.as_ref(), json::header)
        .int("deleted", answer.deleted)
        .list("prev_kvs", &answer.prev_kvs, |kv| json::key_value(kv).end())
}

impl Answer for DeleteRangeResponse {
    fn simple(&self, style: Style, out: &mut Vec<u8>) {
        line!(out, "{}", self.deleted);
        for kv in &self.prev_kvs {
            simple_pair(kv, style, out);
        }
    }

    fn json(&self, _style: Style) -> String {
        object(self).end()
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        field_header(self.header.as_ref(), style, out);
        line!(out, "\"Deleted\" : {}", self.deleted);
        for kv in &self.prev_kvs {
            field_pair("Prev", kv, style, out);
        }
        Ok(())
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.encode_to_vec())
    }
}
