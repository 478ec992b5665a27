//! The status of encryption at rest, as JSON for `keepd encryption status`; it names keys and never
//! shows secrets.
//!
//! Served to clients at `/keepd/encryption`. With `?values` the stored values are counted by their
//! keys, which reads the whole store: there is one count at a time, other requests are refused.

use keepd_crypto::{EncryptionStatus, KeyName};
use keepd_node::ValueCounts;
use keepd_types::KeyId;
use serde_json::{Value, json};

use crate::context::Context;

/// The reason for which there is no status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A count is under way for another request.
    Busy,
    /// The store cannot be read.
    Unreadable(String),
}

/// The status; with `values`, also how the stored values are sealed.
pub(crate) async fn status(context: &Context, values: bool) -> Result<Value, Refusal> {
    let counts = if values {
        let node = context.node.clone();
        let counting = context.admission.value_counts.try_run(move || node.count_values());
        let counts = counting.await.ok_or(Refusal::Busy)?;
        let counts = counts.map_err(|status| Refusal::Unreadable(status.message().to_owned()))?;
        Some(counts.map_err(|error| Refusal::Unreadable(error.to_string()))?)
    } else {
        None
    };
    Ok(render(context, counts.as_ref()))
}

fn render(context: &Context, counts: Option<&ValueCounts>) -> Value {
    let (encryption, node) = (&context.encryption, &context.node);
    let status = encryption.status();
    let (files, reloads) = (node.file_counts(), node.reloads());
    let sealing_keys = encryption.sealer().sealing_keys();
    let is_sealing = encryption.files().is_sealing();
    let may_go =
        sealing_keys.is_empty() && files.is_complete && status.keyring_wrapped_under.is_empty();
    let rules = status.rules.iter().map(|rule| {
        json!({
            "scope": rule.scope,
            "writes_under": rule.sealing_key.as_ref().map(|(id, name)| key(*id, name)),
        })
    });
    let keys = status.keys.iter().map(|name| {
        let mut value = named(name);
        value["writes"] = sealing_keys.contains(&name.id).into();
        value
    });
    let mut out = json!({
        "sealing": is_sealing,
        "configuration": status.file_hash,
        "rules": rules.collect::<Vec<_>>(),
        "keys": keys.collect::<Vec<_>>(),
        "keyring": {
            "wrapped_under": status.keyring_wrapped_under.iter().map(named).collect::<Vec<_>>(),
            "recovered": status.keyring_is_recovered,
            "data_keys": status.data_keys.iter().filter(|key| key.0 != 0).count(),
        },
        "files": {
            "sealed": files.sealed,
            "plain": files.plain,
            "stale": files.stale,
            "settled": files.is_complete,
            "held_back": files.held_back.iter().map(|it| it.display().to_string()).collect::<Vec<_>>(),
        },
        "configuration_may_go": may_go,
        "reloads": {
            "successes": reloads.successes,
            "failures": reloads.failures,
            "last_success_unix": reloads.last_success.map(|time| time.as_secs()),
            "last_error": reloads.last_error,
        },
    });
    if let Some(counts) = counts {
        out["values"] = values(counts, &status);
    }
    out
}

fn values(counts: &ValueCounts, status: &EncryptionStatus) -> Value {
    let by_key = counts.by_key.iter().filter_map(|(id, count)| {
        let id = (*id)?;
        let known = status.keys.iter().find(|name| name.id == id);
        let mut value = match known {
            Some(name) => named(name),
            None => json!({ "id": hex(id), "name": null }),
        };
        value["values"] = (*count).into();
        Some(value)
    });
    json!({
        "by_key": by_key.collect::<Vec<_>>(),
        "plain": counts.by_key.get(&None).copied().unwrap_or_default(),
        "stale": counts.stale,
    })
}

fn named(name: &KeyName) -> Value {
    key(name.id, &format!("{}:{}", name.algorithm, name.name))
}

fn key(id: KeyId, name: &str) -> Value {
    json!({ "id": hex(id), "name": name })
}

fn hex(id: KeyId) -> String {
    format!("{:016x}", id.0)
}
