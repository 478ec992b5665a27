//! A recovery's plan and result, for people and as JSON.

use std::fmt::Write as _;

use keepd_node::RecoveredCluster;
use serde_json::{Value, json};

use super::plan::{Found, Plan};
use super::{Target, guide};

const TITLES: [&str; 9] =
    ["data_dir", "member", "id", "term", "last_index", "committed", "applied", "revision", "state"];

/// The plan for people.
pub(super) fn text(plan: &Plan, target: &Target) -> String {
    let rows: Vec<Vec<String>> = plan.found.iter().map(|found| row(plan, found)).collect();
    let mut out = format!("Survivors of cluster {}:\n", plan.cluster);
    out.push_str(&keepd_cli::draw_table(&TITLES, &rows));
    let chosen = plan.chosen();
    let (term, index) = chosen.log.rank();
    let name = plan.name_of(chosen.identity.member);
    // Writing into a string cannot fail.
    let _ = writeln!(
        out,
        "\nGoes on: {name}, {}, whose log ends with entry {index} of term {term}.\n",
        chosen.data_dir.display()
    );
    for warning in &plan.warnings {
        let _ = writeln!(out, "- {warning}");
    }
    let rise = if target.bump == 0 {
        "The revision is kept: a watcher or controller that has seen a later one will not notice."
            .to_owned()
    } else {
        format!(
            "The revision rises by {} and everything before is compacted, so that watchers and \
             controllers notice.",
            target.bump
        )
    };
    let _ = writeln!(
        out,
        "- {rise}\n- The new cluster, {}, has one member, {}, in {}. The directories above are not \
         changed.\n",
        target.cluster.id,
        target.name,
        target.data_dir.display()
    );
    out
}

fn row(plan: &Plan, found: &Found) -> Vec<String> {
    let state = if found.fault().is_some() { short_fault(found) } else { "whole" };
    let unknown = || "-".to_owned();
    let dir = found.data_dir.display().to_string();
    let Ok(survivor) = &found.survivor else {
        let mut row = vec![dir];
        row.extend(std::iter::repeat_with(unknown).take(TITLES.len() - 2));
        row.push(state.to_owned());
        return row;
    };
    let log = &survivor.log;
    let store = survivor.store.as_ref().ok();
    vec![
        dir,
        plan.name_of(survivor.identity.member),
        survivor.identity.member.to_string(),
        log.last.term.to_string(),
        log.last.index.to_string(),
        log.commit.to_string(),
        store.map_or_else(unknown, |store| store.applied.index.to_string()),
        store.map_or_else(unknown, |store| store.revision.to_string()),
        state.to_owned(),
    ]
}

fn short_fault(found: &Found) -> &'static str {
    match found.survivor.as_ref().map(|survivor| &survivor.store) {
        Err(_) | Ok(Err(_)) => "damaged",
        Ok(Ok(store)) if store.is_removed => "removed",
        Ok(Ok(store)) if store.is_corrupt => "CORRUPT",
        Ok(Ok(_)) => "empty",
    }
}

/// The plan, and the result if there is one, as JSON.
pub(super) fn json(plan: &Plan, target: &Target, made: Option<&RecoveredCluster>) -> Value {
    let chosen = plan.chosen();
    json!({
        "cluster_id": plan.cluster.to_string(),
        "survivors": plan.found.iter().map(|found| survivor(plan, found)).collect::<Vec<_>>(),
        "chosen": chosen.data_dir.display().to_string(),
        "warnings": plan.warnings,
        "new": {
            "cluster_id": target.cluster.id.to_string(),
            "member_id": target.cluster.local.to_string(),
            "name": target.name,
            "peer_urls": target.peer_urls,
            "data_dir": target.data_dir.display().to_string(),
        },
        "made": made.map(|made| json!({
            "applied_index": made.applied.index,
            "replayed_entries": made.replayed,
            "former_revision": made.former_revision,
            "revision": made.revision,
            "start": guide::start_line(target),
            "rejoin": guide::others(plan).enumerate().map(|(joined, other)| json!({
                "name": other.name,
                "commands": guide::rejoin_lines(plan, target, joined),
            })).collect::<Vec<_>>(),
        })),
    })
}

fn survivor(plan: &Plan, found: &Found) -> Value {
    let mut out = json!({
        "data_dir": found.data_dir.display().to_string(),
        "fault": found.fault(),
    });
    if let Ok(survivor) = &found.survivor {
        let log = &survivor.log;
        out["name"] = plan.name_of(survivor.identity.member).into();
        out["member_id"] = survivor.identity.member.to_string().into();
        out["cluster_id"] = survivor.identity.cluster.to_string().into();
        out["term"] = log.term.into();
        out["last_log_term"] = log.last.term.into();
        out["last_log_index"] = log.last.index.into();
        out["commit_index"] = log.commit.into();
        if let Ok(store) = &survivor.store {
            out["applied_index"] = store.applied.index.into();
            out["revision"] = store.revision.into();
        }
    }
    out
}
