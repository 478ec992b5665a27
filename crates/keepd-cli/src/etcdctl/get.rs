//! `get`: reads a key or a range of keys.

use bytes::Bytes;
use keepd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use keepd_api::etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse};
use keepd_gotext::quote;
use prost::Message as _;

use super::GROUP_KV;
use super::client::{Client, Failure, Method, Repeat, with_client};
use crate::engine::answer::{
    self, Answer, Format, Style, field_header, field_pair, line, simple_pair,
};
use crate::engine::command::{Call, Command, Flag};
use crate::engine::exit::{BAD_FEATURE, Exit, bad_arguments, failed};
use crate::engine::json::{self, Object};

/// Reads a range.
pub(super) const RANGE: Method<RangeRequest, RangeResponse> =
    Method::new("/etcdserverpb.KV/Range", Repeat::Allowed);
const RANGE_STREAM: Method<RangeRequest, RangeStreamResponse> =
    Method::new("/etcdserverpb.KV/RangeStream", Repeat::Never);

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "get [options] <key> [range_end]",
    short: "Gets the key or a range of keys",
    group: GROUP_KV,
    flags: &[
        Flag::text("consistency", "l", "Linearizable(l) or Serializable(s)"),
        Flag::text("order", "", "Order of results; ASCEND or DESCEND (ASCEND by default)"),
        Flag::text("sort-by", "", "Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION"),
        Flag::int("limit", "Maximum number of results"),
        Flag::bool("prefix", "Get keys with matching prefix"),
        Flag::bool(
            "from-key",
            "Get keys that are greater than or equal to the given key using byte compare",
        ),
        Flag::int("rev", "Specify the kv revision"),
        Flag::bool("keys-only", "Get only the keys"),
        Flag::bool("count-only", "Get only the count"),
        Flag::bool("print-value-only", "Only write values when using the \"simple\" output format"),
        Flag::int("min-create-rev", "Minimum create revision"),
        Flag::int("max-create-rev", "Maximum create revision"),
        Flag::int("min-mod-rev", "Minimum modification revision"),
        Flag::int("max-mod-rev", "Maximum modification revision"),
        Flag::bool("stream", "Use the RangeStream RPC"),
    ],
    run: Some(run),
    ..Command::NONE
};

fn run(call: Call<'_>) -> Result<(), Exit> {
    let request = request(&call)?;
    with_client(call, async |call, client| {
        let answer = if call.flag("stream") {
            client.within(client.options.command_timeout, streamed(client, request)).await
        } else {
            client.ask(&RANGE, request).await
        };
        let answer = answer.map_err(failed)?;
        let mut style = client.options.style;
        if call.flag("count-only") && style.format != Format::Fields {
            return Err(bad_arguments("--count-only is only for `--write-out=fields`"));
        }
        if call.flag("print-value-only") {
            if style.format != Format::Simple {
                return Err(bad_arguments("print-value-only is only for `--write-out=simple`"));
            }
            style.values_only = true;
        }
        answer::show(&answer, style)
    })
}

/// The parts of a streamed answer, put together.
async fn streamed(client: &Client, request: RangeRequest) -> Result<RangeResponse, Failure> {
    let mut parts = client.stream(&RANGE_STREAM, request).await?;
    let mut whole = RangeResponse::default();
    while let Some(part) = parts.message().await.map_err(Failure::Status)? {
        let Some(mut part) = part.range_response else { continue };
        whole.kvs.append(&mut part.kvs);
        whole.header = part.header.or(whole.header);
        whole.more |= part.more;
        whole.count = whole.count.max(part.count);
    }
    Ok(whole)
}

/// Refuses two options that contradict each other.
pub(super) fn only_one_of(call: &Call<'_>, one: &str, other: &str) -> Result<(), Exit> {
    if !(call.flag(one) && call.flag(other)) {
        return Ok(());
    }
    Err(bad_arguments(format_args!(
        "`--{one}` and `--{other}` cannot be set at the same time, choose one"
    )))
}

/// The end of the range of all keys with a prefix.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff);
    let Some(last) = kept else { return Bytes::from_static(b"\0") };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

/// The range a key, an end, `--prefix` and `--from-key` stand for.
pub(super) fn key_and_end(call: &Call<'_>) -> Result<(Bytes, Bytes), Exit> {
    let key = call.arguments[0].clone();
    let (prefix, from_key) = (call.flag("prefix"), call.flag("from-key"));
    if let Some(end) = call.arguments.get(1) {
        if prefix || from_key {
            return Err(bad_arguments(
                "too many arguments, only accept one argument when `--prefix` or `--from-key` \
                 is set",
            ));
        }
        return Ok((key, end.clone()));
    }
    let everything = Bytes::from_static(b"\0");
    Ok(match (prefix, from_key) {
        (true, _) | (_, true) if key.is_empty() => (everything.clone(), everything),
        (true, _) => {
            let end = prefix_end(&key);
            (key, end)
        }
        (_, true) => (key, everything),
        _ => (key, Bytes::new()),
    })
}

/// Whether a consistency option asks for a local read.
pub(super) fn is_serializable(call: &Call<'_>) -> Result<bool, Exit> {
    match call.string("consistency") {
        "s" => Ok(true),
        "l" => Ok(false),
        other => {
            let quoted = quote(other);
            Err(Exit::new(BAD_FEATURE, format_args!("unknown consistency flag {quoted}")))
        }
    }
}

fn sort_order(text: &str) -> Result<SortOrder, Exit> {
    Ok(match text.to_uppercase().as_str() {
        "" => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        _ => return Err(Exit::new(BAD_FEATURE, format_args!("bad sort order {text}"))),
    })
}

fn sort_target(text: &str) -> Result<SortTarget, Exit> {
    Ok(match text.to_uppercase().as_str() {
        "" | "KEY" => SortTarget::Key,
        "CREATE" => SortTarget::Create,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return Err(Exit::new(BAD_FEATURE, format_args!("bad sort target {text}"))),
    })
}

/// A lower and an upper bound; both are off at 0 and below.
fn bounds(call: &Call<'_>, low: &str, high: &str, name: &str) -> Result<(i64, i64), Exit> {
    let (low, high) = (call.int(low), call.int(high));
    if high > 0 && low > high {
        let text = format!("getMin{name}(={low}) > getMax{name}(={high})");
        return Err(Exit::new(BAD_FEATURE, text));
    }
    Ok((low.max(0), high.max(0)))
}

/// The request a command line stands for; the same line works inside `txn`.
pub(super) fn request(call: &Call<'_>) -> Result<RangeRequest, Exit> {
    if call.arguments.is_empty() {
        return Err(bad_arguments(
            "get command needs one argument as key and an optional argument as range_end",
        ));
    }
    only_one_of(call, "prefix", "from-key")?;
    only_one_of(call, "keys-only", "count-only")?;
    let serializable = is_serializable(call)?;
    let (key, range_end) = key_and_end(call)?;
    let mut order = sort_order(call.string("order"))?;
    let target = sort_target(call.string("sort-by"))?;
    // Keys come in ascending order by themselves, and unsorted answers are cheaper.
    if target == SortTarget::Key && order == SortOrder::Ascend {
        order = SortOrder::None;
    }
    let (min_create_revision, max_create_revision) =
        bounds(call, "min-create-rev", "max-create-rev", "CreateRev")?;
    let (min_mod_revision, max_mod_revision) =
        bounds(call, "min-mod-rev", "max-mod-rev", "ModRev")?;
    Ok(RangeRequest {
        key,
        range_end,
        limit: call.int("limit"),
        revision: call.int("rev").max(0),
        sort_order: order.into(),
        sort_target: target.into(),
        serializable,
        keys_only: call.flag("keys-only"),
        count_only: call.flag("count-only"),
        min_mod_revision,
        max_mod_revision,
        min_create_revision,
        max_create_revision,
    })
}

/// The answer as JSON, also inside a txn's.
pub(super) fn object(answer: &RangeResponse) -> Object {
    Object::new()
        .object("header", answer.header.as_ref(), json::header)
        .list("kvs", &answer.kvs, |kv| json::key_value(kv).end())
        .bool("more", answer.more)
        .int("count", answer.count)
}

impl Answer for RangeResponse {
    fn simple(&self, style: Style, out: &mut Vec<u8>) {
        for kv in &self.kvs {
            simple_pair(kv, style, out);
        }
    }

    fn json(&self, _style: Style) -> String {
        object(self).end()
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        field_header(self.header.as_ref(), style, out);
        for kv in &self.kvs {
            field_pair("", kv, style, out);
        }
        line!(out, "\"More\" : {}", self.more);
        line!(out, "\"Count\" : {}", self.count);
        Ok(())
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.encode_to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_skips_bytes_that_cannot_grow() {
        for (prefix, end) in
            [(&b"ab"[..], &b"ac"[..]), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")]
        {
            assert_eq!(prefix_end(prefix), end);
        }
    }
}
