//! The lines that follow a recovery: how the new cluster starts and how the others join it.

use std::fmt::Write as _;

use keepd_cli::shell::{quoted, this_program};
use keepd_machine::membership::Member;
use keepd_node::RecoveredCluster;

use super::Target;
use super::plan::Plan;

/// The whole text.
pub(super) fn text(plan: &Plan, target: &Target, made: &RecoveredCluster) -> String {
    let mut out = format!(
        "Made {}: {} entries of the log applied, revision {} after the last one, {} now.\n\n\
         Start it with the flags that {} had, but this data directory; for example:\n\n  {}\n",
        target.data_dir.display(),
        made.replayed,
        made.former_revision,
        made.revision,
        target.name,
        start_line(target),
    );
    let mut others = others(plan).peekable();
    if others.peek().is_some() {
        out.push_str(
            "\nThe others join with empty directories, one after the other, once it serves. Their old \
             ones are of the former cluster and are refused: move them aside, and remove them when all \
             is well.\n",
        );
    }
    for (joined, other) in others.enumerate() {
        // Writing into a string cannot fail.
        let _ = writeln!(out, "\n{}, on its machine:\n", named(other));
        for line in rejoin_lines(plan, target, joined) {
            let _ = writeln!(out, "  {line}");
        }
    }
    out
}

/// The members of the former cluster but the one that goes on.
pub(super) fn others(plan: &Plan) -> impl Iterator<Item = &Member> {
    let own = plan.chosen().identity.member;
    plan.members.iter().filter(move |member| member.id != own.0)
}

fn named(member: &Member) -> String {
    let id = keepd_types::MemberId(member.id);
    if member.name.is_empty() { format!("the member {id}") } else { member.name.clone() }
}

/// The command that starts the new member.
pub(super) fn start_line(target: &Target) -> String {
    let urls = target.peer_urls.join(",");
    let mut words = vec![
        format!("--name={}", target.name),
        format!("--data-dir={}", target.data_dir.display()),
        format!("--listen-peer-urls={urls}"),
        format!("--initial-advertise-peer-urls={urls}"),
    ];
    if let Some(file) = &target.encryption {
        words.push(format!("--encryption-provider-config={}", file.display()));
    }
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("{} server {} ...", this_program(), words.join(" "))
}

/// The commands that have another member join, when so many of the others have joined before it.
pub(super) fn rejoin_lines(plan: &Plan, target: &Target, joined: usize) -> Vec<String> {
    let others: Vec<&Member> = others(plan).take(joined + 1).collect();
    let Some(member) = others.last() else { return Vec::new() };
    let name_of = |member: &Member| {
        if member.name.is_empty() { "NAME".to_owned() } else { member.name.clone() }
    };
    let name = &name_of(member);
    let urls = member.peer_urls.join(",");
    let named = |name: &str, urls: &[String]| -> Vec<String> {
        urls.iter().map(|url| format!("{name}={url}")).collect()
    };
    let mut cluster = named(&target.name, &target.peer_urls);
    cluster.extend(others.iter().flat_map(|other| named(&name_of(other), &other.peer_urls)));
    let program = this_program();
    let initial = quoted(&format!("--initial-cluster={}", cluster.join(",")));
    let peer_urls = quoted(&format!("--peer-urls={urls}"));
    vec![
        "mv DATA-DIR DATA-DIR.before-recovery".to_owned(),
        format!("{program} ctl member add {} --learner {peer_urls}", quoted(name)),
        format!(
            "{program} server {} --data-dir=DATA-DIR {initial} --initial-cluster-state=existing ...",
            quoted(&format!("--name={name}"))
        ),
        format!(
            "{program} ctl member promote ID   # the id that member add told, once it has caught up"
        ),
    ]
}
