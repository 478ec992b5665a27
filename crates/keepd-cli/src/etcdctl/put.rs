//! `put`: writes one key.

use std::io::{self, Read as _};

use bytes::Bytes;
use keepd_api::etcdserverpb::{PutRequest, PutResponse};
use keepd_gotext::parse_int;
use prost::Message as _;

use super::GROUP_KV;
use super::client::{Method, Repeat, with_client};
use crate::engine::answer::{self, Answer, Style, field_header, field_pair, line, simple_pair};
use crate::engine::command::{Call, Command, Flag};
use crate::engine::exit::{Exit, bad_arguments, failed};
use crate::engine::json::{self, Object};

const PUT: Method<PutRequest, PutResponse> = Method::new("/etcdserverpb.KV/Put", Repeat::Never);

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "put [options] <key> <value> (<value> can also be given from stdin)",
    short: "Puts the given key into the store",
    long: "
Puts the given key into the store.

When <value> begins with '-', <value> is interpreted as a flag.
Insert '--' for workaround:

$ put <key> -- <value>
$ put -- <key> <value>

If <value> isn't given as a command line argument and '--ignore-value' is not specified,
this command tries to read the value from standard input.

If <lease> isn't given as a command line argument and '--ignore-lease' is not specified,
this command tries to read the value from standard input.

For example,
$ cat file | put <key>
will store the content of the file to <key>.
",
    group: GROUP_KV,
    flags: &[
        Flag::text("lease", "0", "lease ID (in hexadecimal) to attach to the key"),
        Flag::bool("prev-kv", "return the previous key-value pair before modification"),
        Flag::bool("ignore-value", "updates the key using its current value"),
        Flag::bool("ignore-lease", "updates the key using its current lease"),
    ],
    run: Some(run),
    ..Command::NONE
};

fn run(call: Call<'_>) -> Result<(), Exit> {
    let request = request(&call, standard_input)?;
    with_client(call, async |_, client| {
        let answer = client.ask(&PUT, request).await.map_err(failed)?;
        answer::show(&answer, client.options.style)
    })
}

/// The request a command line stands for; the same line works inside `txn`. A value that is not
/// an argument comes from `input`.
pub(super) fn request(
    call: &Call<'_>,
    input: impl FnOnce() -> Option<Bytes>,
) -> Result<PutRequest, Exit> {
    let incomplete =
        || bad_arguments("put command needs 1 argument and input from stdin or 2 arguments");
    let key = call.arguments.first().ok_or_else(incomplete)?.clone();
    let ignore_value = call.flag("ignore-value");
    if ignore_value && call.arguments.len() > 1 {
        return Err(bad_arguments("put command needs only 1 argument when 'ignore-value' is set"));
    }
    let value = match call.arguments.get(1) {
        _ if ignore_value => Bytes::new(),
        Some(value) => value.clone(),
        None => input().ok_or_else(incomplete)?,
    };
    let lease = parse_int(call.string("lease"), 16)
        .map_err(|why| bad_arguments(format_args!("bad lease ID ({why}), expecting ID in Hex")))?;
    Ok(PutRequest {
        key,
        value,
        lease,
        prev_kv: call.flag("prev-kv"),
        ignore_value,
        ignore_lease: call.flag("ignore-lease"),
    })
}

/// All of standard input; nothing when it is empty.
fn standard_input() -> Option<Bytes> {
    let mut input = Vec::new();
    io::stdin().lock().read_to_end(&mut input).ok()?;
    (!input.is_empty()).then(|| input.into())
}

/// The answer as JSON, also inside a txn's.
pub(super) fn object(answer: &PutResponse) -> Object {
    Object::new().object("header", answer.header.as_ref(), json::header).object(
        "prev_kv",
        answer.prev_kv.as_ref(),
        json::key_value,
    )
}

impl Answer for PutResponse {
    fn simple(&self, style: Style, out: &mut Vec<u8>) {
        line!(out, "OK");
        if let Some(kv) = &self.prev_kv {
            simple_pair(kv, style, out);
        }
    }

    fn json(&self, _style: Style) -> String {
        object(self).end()
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        field_header(self.header.as_ref(), style, out);
        if let Some(kv) = &self.prev_kv {
            field_pair("Prev", kv, style, out);
        }
        Ok(())
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.encode_to_vec())
    }
}
