//! Backups as people and scripts see them.

use std::fmt::Write as _;

use keepd_archive::catalog::{Backup, Catalog};
use keepd_archive::log::shipped::{Shipped, Window};
use serde_json::{Value, json};

/// The log that was shipped beside a cluster's backups.
pub(super) struct Log {
    pub(super) cluster: u64,
    pub(super) shipped: Shipped,
    pub(super) windows: Vec<Window>,
}

impl Log {
    /// The moments that can be reached, a line each.
    fn lines(&self, out: &mut String) {
        for window in &self.windows {
            // Writing into a string cannot fail.
            let _ = writeln!(out, "any moment {window}");
        }
        let is_usable = |chain| self.windows.iter().any(|window| window.chain == chain);
        if let Some(newest) = self.shipped.runs.last()
            && !is_usable(newest.chain)
        {
            let _ = writeln!(
                out,
                "the log since {} waits for a backup: it is of use from the next one on",
                newest.chain.begin
            );
        }
    }

    fn json(&self) -> Value {
        let window = |it: &Window| {
            json!({
                "from": it.from,
                "until": it.until,
                "from_revision": it.from_revision,
                "until_revision": it.until_revision,
            })
        };
        json!({
            "cluster_id": format!("{:016x}", self.cluster),
            "batches": self.shipped.runs.iter().map(|run| run.batches.len()).sum::<usize>(),
            "windows": self.windows.iter().map(window).collect::<Vec<_>>(),
        })
    }
}

/// A table of backups.
pub(super) fn table(catalog: &Catalog, logs: &[Log]) -> String {
    let mut out = String::new();
    for cluster in catalog.clusters() {
        let of_cluster = catalog.backups.iter().filter(|backup| backup.cluster == cluster);
        let rows: Vec<Vec<String>> = of_cluster.map(row).collect();
        // Writing into a string cannot fail.
        let _ = writeln!(out, "cluster {cluster:016x}");
        let titles = ["name", "revision", "keys", "size", "opened by", "state"];
        out.push_str(&keepd_cli::draw_table(&titles, &rows));
        logs.iter().filter(|log| log.cluster == cluster).for_each(|log| log.lines(&mut out));
    }
    if catalog.backups.is_empty() {
        out.push_str("no backups\n");
    }
    out
}

fn row(backup: &Backup) -> Vec<String> {
    let sidecar = backup.sidecar.as_ref().ok();
    let keys = sidecar.map_or_else(|| "?".to_owned(), |it| it.state.keys.to_string());
    let opened_by = match sidecar {
        Some(it) if it.opened_by.is_empty() => "EVERYBODY".to_owned(),
        Some(it) => it.opened_by.iter().map(|key| short(key)).collect::<Vec<_>>().join(", "),
        None => "?".to_owned(),
    };
    let size = backup.bytes.map_or_else(|| "-".to_owned(), bytes);
    let revision = backup.name.revision.to_string();
    vec![backup.name.to_string(), revision, keys, size, opened_by, state(backup)]
}

fn short(key: &str) -> String {
    match key.split_once(" (id ") {
        Some((name, _)) => name.to_owned(),
        None => format!("{}...", key.chars().take(12).collect::<String>()),
    }
}

/// Proven, or what is wrong.
pub(super) fn state(backup: &Backup) -> String {
    if let Some(fault) = backup.fault() {
        return format!("FAULT: {fault}");
    }
    match backup.sidecar.as_ref().ok().and_then(|sidecar| sidecar.proven.as_ref()) {
        Some(proven) => format!("proven {}", proven.time),
        None => "not proven".to_owned(),
    }
}

/// A size for people.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let (mut tenths, mut unit) = (count.saturating_mul(10), "B");
    for next in UNITS {
        if tenths < 10_000 {
            break;
        }
        (tenths, unit) = (tenths / 1000, next);
    }
    if unit == "B" {
        format!("{count} B")
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// A backup in JSON: its sidecar, and what was found.
pub(super) fn json(backup: &Backup) -> Value {
    json!({
        "cluster_id": format!("{:016x}", backup.cluster),
        "name": backup.name.to_string(),
        "time": backup.name.time,
        "revision": backup.name.revision,
        "kind": backup.name.kind,
        "object_bytes": backup.bytes,
        "is_proven": backup.is_proven(),
        "fault": backup.fault(),
        "sidecar": backup.sidecar.as_ref().ok(),
    })
}

/// A whole listing in JSON.
pub(super) fn catalog_json(catalog: &Catalog, logs: &[Log]) -> Value {
    json!({
        "logs": logs.iter().map(Log::json).collect::<Vec<_>>(),
        "backups": catalog.backups.iter().map(json).collect::<Vec<_>>(),
        "foreign": catalog.foreign,
        "foreign_count": catalog.foreign_count,
    })
}

/// Everything of one backup, for people.
pub(super) fn details(place: &str, backup: &Backup) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:<14} {value}");
    };
    line("name", &backup.name.to_string());
    line("at", place);
    line("cluster", &format!("{:016x}", backup.cluster));
    line("time", &backup.name.time.to_string());
    line("kind", &backup.name.kind.to_string());
    line("revision", &backup.name.revision.to_string());
    if let Ok(sidecar) = &backup.sidecar {
        let state = &sidecar.state;
        line("member", &format!("{} ({})", sidecar.member.name, sidecar.member.id));
        line("compacted at", &state.compact_revision.to_string());
        line("keys", &format!("{}, sealed values: {}", state.keys, state.sealed_values));
        line("snapshot", &bytes(state.snapshot_bytes));
        line("object", &format!("{}, SHA-256 {}", bytes(sidecar.bytes), sidecar.sha256));
        if let Some(log) = state.log {
            line("in the log", &format!("behind entry {} of term {}", log.index, log.term));
        }
        if let Some(hash) = state.hash_kv {
            let at = format!("{} at revision {}", hash.hash, hash.revision);
            line("HashKV", &format!("{at}, compacted at {}", hash.compact_revision));
        }
        line("made by", &sidecar.made_by);
        if sidecar.opened_by.is_empty() {
            line("opened by", "EVERYBODY: it is not encrypted");
        }
        for key in &sidecar.opened_by {
            line("opened by", key);
        }
        match &sidecar.proven {
            Some(proven) => {
                let with = if proven.with_operators_key {
                    "opened with an operator's key"
                } else {
                    "opened with the key in the memory of the process that sealed it"
                };
                let took = format!("{}.{:03} s", proven.millis / 1000, proven.millis % 1000);
                line("proven", &format!("{} by {} in {took}, {with}", proven.time, proven.by));
            }
            None => line("proven", "never"),
        }
    }
    if let Some(fault) = backup.fault() {
        line("FAULT", &fault);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_rounded_down() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (65_568, "65.5 kB"),
            (1_999_999, "1.9 MB"),
            (7_000_000_000, "7.0 GB"),
            (u64::MAX, "1844674.4 TB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
