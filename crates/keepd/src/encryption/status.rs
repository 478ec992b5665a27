//! `keepd encryption status`: what a server seals how, for people or as JSON.

use std::fmt::Write as _;

use anyhow::Context as _;
use keepd_tls::ClientTlsOptions;
use serde_json::Value;

use super::{Format, StatusArguments, fetch};

/// Asks the server and prints its answer.
pub(super) fn run(arguments: &StatusArguments) -> anyhow::Result<()> {
    let tls = ClientTlsOptions {
        trusted_ca_file: arguments.cacert.clone(),
        cert_and_key_files: arguments.cert.clone().zip(arguments.key.clone()),
        ..ClientTlsOptions::default()
    };
    let path = if arguments.values { "/keepd/encryption?values" } else { "/keepd/encryption" };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = runtime.block_on(fetch::get(&arguments.endpoint, path, tls))?;
    let status: Value = serde_json::from_slice(&body).context("the answer is not JSON")?;
    match arguments.write_out {
        Format::Json => keepd_cli::output::line(&status.to_string()),
        Format::Table => keepd_cli::output::print(table(&status).as_bytes()),
    }
    Ok(())
}

/// The answer for people.
fn table(status: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing into a string cannot fail.
        let _ = writeln!(out, "{name:<14} {value}");
    };
    let is_sealing = status["sealing"] == true;
    line("data at rest", if is_sealing { "sealed" } else { "PLAIN" });
    line("configuration", status["configuration"].as_str().unwrap_or("none"));
    for rule in list(&status["rules"]) {
        let scope = rule["scope"].as_str().unwrap_or_default();
        let how = match &rule["writes_under"] {
            Value::Null => "written plain".to_owned(),
            key => format!("sealed under {}", key_text(key)),
        };
        line("rule", &format!("{scope}: {how}"));
    }
    for key in list(&status["keys"]) {
        let use_now = if key["writes"] == true { "writes and reads" } else { "reads" };
        line("key", &format!("{}: {use_now}", key_text(key)));
    }
    let wrapped: Vec<String> = list(&status["keyring"]["wrapped_under"]).map(key_text).collect();
    line(
        "keyring",
        &if wrapped.is_empty() {
            "none".to_owned()
        } else {
            format!("opens with any of {}", wrapped.join(", "))
        },
    );
    if status["keyring"]["recovered"] == true {
        line("", "it was damaged and is restored from the one before");
    }
    let files = &status["files"];
    line("files", &format!("{} sealed, {} plain", files["sealed"], files["plain"]));
    let left = if is_sealing { "plain files left" } else { "sealed files left" };
    let left_count = if is_sealing { &files["plain"] } else { &files["sealed"] };
    line("", &format!("{left}: {left_count}; waiting to be rewritten: {}", files["stale"]));
    for file in list(&files["held_back"]).filter_map(Value::as_str) {
        line(
            "held back",
            &format!("{file} is damaged and keeps its key until nothing in the damage is needed"),
        );
    }
    if let Some(values) = status.get("values") {
        for key in list(&values["by_key"]) {
            line("values", &format!("{} under {}", key["values"], key_text(key)));
        }
        line("values", &format!("{} plain", values["plain"]));
        line("", &format!("stale: {}", values["stale"]));
    }
    let reloads = &status["reloads"];
    line("reloads", &format!("{} taken, {} refused", reloads["successes"], reloads["failures"]));
    if let Some(error) = reloads["last_error"].as_str() {
        line("last reload", &format!("REFUSED: {error}"));
    }
    if !is_sealing && status["configuration"].is_string() {
        let may_go = status["configuration_may_go"] == true;
        line(
            "",
            if may_go {
                "nothing is sealed any more: the configuration may go"
            } else {
                "the configuration is still needed"
            },
        );
    }
    out
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn key_text(key: &Value) -> String {
    let id = key["id"].as_str().unwrap_or_default();
    match key["name"].as_str() {
        Some(name) => format!("{name} (id {id})"),
        None => format!("a key that the configuration lacks (id {id})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_what_is_left_to_do() {
        let key = serde_json::json!({"id": "00000000000000aa", "name": "aesgcm:key1"});
        let mut status = serde_json::json!({
            "sealing": true,
            "configuration": "sha256:00",
            "rules": [{"scope": "secrets", "writes_under": key}],
            "keys": [],
            "keyring": {"wrapped_under": [key], "recovered": false},
            "files": {"sealed": 5, "plain": 2, "stale": 2, "settled": false, "held_back": ["/d/seg-1.kd"]},
            "configuration_may_go": false,
            "reloads": {"successes": 1, "failures": 1, "last_error": "no"},
            "values": {"by_key": [{"id": "bb", "name": null, "values": 3}], "plain": 4, "stale": 7},
        });
        let text = table(&status);
        for part in [
            "rule           secrets: sealed under aesgcm:key1 (id 00000000000000aa)",
            "plain files left: 2; waiting to be rewritten: 2",
            "held back      /d/seg-1.kd is damaged",
            "3 under a key that the configuration lacks (id bb)",
            "stale: 7",
            "REFUSED: no",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        status["sealing"] = false.into();
        assert!(table(&status).contains("the configuration is still needed"));
        status["configuration_may_go"] = true.into();
        assert!(table(&status).contains("the configuration may go"));
    }
}
