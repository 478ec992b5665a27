//! Commands of the log as JSON objects.
//!
//! Keys are text under `key`, or base64 under `key_base64` if they are none. A value is told by its
//! length and the key that seals it; opened and shown only if that is asked for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keepd_crypto::ValueSealer;
use keepd_machine::command::{Alarm, Compare, DeleteRange, Op, Put, Range, Relation, Target, Txn};
use keepd_machine::{Command, MembershipChange};
use keepd_types::{KeyRange, RangeEnd, StoredValue};
use serde_json::{Map, Value, json};

/// Whether values are shown.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values<'a> {
    /// Their lengths only.
    Hidden,
    /// They are opened and shown.
    Shown(&'a ValueSealer),
}

/// The object of a command; its name is under `command`.
pub(super) fn described(command: &Command, values: Values<'_>) -> Value {
    let (name, fields) = match command {
        Command::Put(put) => ("put", of_put(put, values)),
        Command::DeleteRange(delete) => ("delete_range", of_delete(delete)),
        Command::Txn(txn) => ("txn", of_txn(txn, values)),
        Command::Compact { revision } => ("compact", json!({"revision": revision})),
        Command::LeaseGrant { id, ttl } => {
            ("lease_grant", json!({"lease": id.to_string(), "ttl": ttl}))
        }
        Command::LeaseRevoke { id } => ("lease_revoke", json!({"lease": id.to_string()})),
        Command::LeaseExpire { id } => ("lease_expire", json!({"lease": id.to_string()})),
        Command::LeaseCheckpoint { id, remaining_ttl } => {
            ("lease_checkpoint", json!({"lease": id.to_string(), "remaining_ttl": remaining_ttl}))
        }
        Command::AlarmActivate(alarm) => ("alarm_activate", of_alarm(*alarm)),
        Command::AlarmDeactivate(alarm) => ("alarm_deactivate", of_alarm(*alarm)),
        Command::PublishMember { id, name, client_urls } => (
            "publish_member",
            json!({"member": id.to_string(), "name": name, "client_urls": client_urls}),
        ),
        Command::SetActiveKeys(active) => {
            let keys: Vec<String> = active.keys.iter().map(ToString::to_string).collect();
            ("set_active_keys", json!({"epoch": active.epoch, "keys": keys}))
        }
        Command::SetReadableKeys { member, keys } => {
            let keys: Vec<String> = keys.ids().map(|key| key.to_string()).collect();
            ("set_readable_keys", json!({"member": member.to_string(), "keys": keys}))
        }
        Command::SetSealing { member, fingerprint } => (
            "set_sealing",
            json!({"member": member.to_string(), "fingerprint": STANDARD.encode(fingerprint)}),
        ),
        Command::ChangeMembership(change) => ("change_membership", of_change(change)),
        // What members agree on among themselves: none of these carries a key or a value.
        agreed => {
            return named("command", &snake_case(agreed), json!({"text": format!("{agreed:?}")}));
        }
    };
    named("command", name, fields)
}

/// The name of a command as the other names are written.
fn snake_case(command: &Command) -> String {
    let text = format!("{command:?}");
    let name = text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

fn named(field: &str, name: &str, mut fields: Value) -> Value {
    fields[field] = name.into();
    fields
}

/// Bytes as text, or in base64 under a name that says so.
fn bytes(out: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => out.insert(name.to_owned(), text.into()),
        Err(_) => out.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}

fn flag(out: &mut Map<String, Value>, name: &str, is_set: bool) {
    if is_set {
        out.insert(name.to_owned(), true.into());
    }
}

fn range(out: &mut Map<String, Value>, range: &KeyRange) {
    bytes(out, "key", &range.start);
    match &range.end {
        RangeEnd::Point => {}
        RangeEnd::Before(end) => bytes(out, "range_end", end),
        // etcd's sign for a range without an end.
        RangeEnd::Open => bytes(out, "range_end", b"\0"),
    }
}

fn of_put(put: &Put, values: Values<'_>) -> Value {
    let mut out = Map::new();
    bytes(&mut out, "key", &put.key);
    if !put.ignore_value {
        value(&mut out, &put.key, &put.value, values);
    }
    if !put.lease.is_none() {
        out.insert("lease".to_owned(), put.lease.to_string().into());
    }
    flag(&mut out, "prev_kv", put.prev_kv);
    flag(&mut out, "ignore_value", put.ignore_value);
    flag(&mut out, "ignore_lease", put.ignore_lease);
    Value::Object(out)
}

fn value(out: &mut Map<String, Value>, key: &[u8], stored: &StoredValue, values: Values<'_>) {
    out.insert("value_bytes".to_owned(), stored.plain_len().into());
    let sealed_under = stored.seal.map(|seal| seal.key_id.to_string());
    out.insert("sealed_under".to_owned(), sealed_under.into());
    let Values::Shown(sealer) = values else { return };
    match sealer.open(key, stored) {
        Ok(plain) => bytes(out, "value", &plain),
        Err(error) => {
            out.insert("value_error".to_owned(), error.to_string().into());
        }
    }
}

fn of_delete(delete: &DeleteRange) -> Value {
    let mut out = Map::new();
    range(&mut out, &delete.range);
    flag(&mut out, "prev_kv", delete.prev_kv);
    Value::Object(out)
}

fn of_range(read: &Range) -> Value {
    let mut out = Map::new();
    range(&mut out, &read.range);
    if read.revision != 0 {
        out.insert("revision".to_owned(), read.revision.into());
    }
    if read.fetch_limit != 0 {
        out.insert("limit".to_owned(), read.fetch_limit.into());
    }
    Value::Object(out)
}

/// BOUND: transactions nest as deep as the log's decoder allows.
fn of_txn(txn: &Txn, values: Values<'_>) -> Value {
    let ops = |ops: &[Op]| ops.iter().map(|op| of_op(op, values)).collect::<Vec<_>>();
    json!({
        "compares": txn.compares.iter().map(of_compare).collect::<Vec<_>>(),
        "success": ops(&txn.success),
        "failure": ops(&txn.failure),
    })
}

fn of_op(op: &Op, values: Values<'_>) -> Value {
    let (name, fields) = match op {
        Op::Range(read) => ("range", of_range(read)),
        Op::Put(put) => ("put", of_put(put, values)),
        Op::DeleteRange(delete) => ("delete_range", of_delete(delete)),
        Op::Txn(txn) => ("txn", of_txn(txn, values)),
    };
    named("op", name, fields)
}

fn of_compare(compare: &Compare) -> Value {
    let mut out = Map::new();
    match compare {
        Compare::Number { range: keys, target, relation, operand } => {
            range(&mut out, keys);
            let target = match target {
                Target::Version => "version",
                Target::Create => "create_revision",
                Target::Mod => "mod_revision",
                Target::Lease => "lease",
                Target::Unknown => "unknown",
            };
            let relation = match relation {
                Relation::Equal => "=",
                Relation::Greater => ">",
                Relation::Less => "<",
                Relation::NotEqual => "!=",
                Relation::Any => "any",
            };
            out.insert("target".to_owned(), target.into());
            out.insert("relation".to_owned(), relation.into());
            out.insert("operand".to_owned(), (*operand).into());
        }
        // The proposer compared the values; they are not in the log.
        Compare::Resolved { range: keys, guard, result } => {
            range(&mut out, keys);
            out.insert("target".to_owned(), "value".into());
            out.insert("result".to_owned(), (*result).into());
            let guard = json!({"keys": guard.keys, "revision": guard.revision});
            out.insert("guard".to_owned(), guard);
        }
    }
    Value::Object(out)
}

fn of_alarm(alarm: Alarm) -> Value {
    json!({"member": alarm.member.to_string(), "alarm": alarm.name()})
}

fn of_change(change: &MembershipChange) -> Value {
    let member = change.member().to_string();
    let (name, fields) = match change {
        MembershipChange::Add { peer_urls, is_learner, max_learners, .. } => (
            "add",
            json!({"peer_urls": peer_urls, "learner": is_learner, "max_learners": max_learners}),
        ),
        MembershipChange::Promote { .. } => ("promote", json!({})),
        MembershipChange::Remove { .. } => ("remove", json!({})),
        MembershipChange::UpdatePeerUrls { peer_urls, .. } => {
            ("update_peer_urls", json!({"peer_urls": peer_urls}))
        }
    };
    named("member", &member, named("change", name, fields))
}
