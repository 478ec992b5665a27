//! The output of quickstart: where things are, what to keep, and lines to paste.

use std::path::Path;

use super::{Made, Place};
use keepd_cli::shell::quoted;

/// The whole text.
pub(super) fn text(place: &Place, made: &Made, program: &Path, starts: bool) -> String {
    let dir = place.dir.display();
    let program = quoted(&program.display().to_string());
    let path = |name: &str| quoted(&place.dir.join(name).display().to_string());
    let (urls, first) = (place.client_urls().join(","), place.client_urls()[0].clone());
    let is_cluster = place.members > 1;
    let happened = if made.is_new { "made" } else { "found" };
    let renewed = renewed(made);
    let server = |member| {
        let flags: Vec<String> = place.flags(member).iter().map(|flag| quoted(flag)).collect();
        format!("  {program} server \\\n    {}\n", flags.join(" \\\n    "))
    };
    let servers = (1..=place.members).map(server).collect::<Vec<_>>().join("\n");
    let (ca, client, client_key) =
        (path("pki/ca.crt"), path("pki/client.crt"), path("pki/client.key"));
    let tls = format!("--cacert={ca} --cert={client} --key={client_key}");
    let snapshot = snapshot(is_cluster, &format!("{program} ctl --endpoints={first}"), &tls);
    let ending = if starts {
        "Starting now. Ctrl-C stops it; the same command starts it again.\n\n"
    } else {
        "Not started, as asked.\n"
    };
    format!(
        "\
keepd quickstart: {happened} {dir}

  pki/             CA and certificates for server, clients and members, until {until}
  encryption.yaml  the key that seals every value and every file of the data
  {data_name}  the data{of_each}
  backups/         a sealed backup every 30 minutes, each restored before it counts

{renewed}Keep a copy elsewhere of encryption.yaml: without it neither data nor backups can be read.
Backups beside the data go down with the disk: name a place elsewhere with --backup-to.
Keep pki/ca.key to yourself: who has it can make certificates that this server trusts.

In another terminal:

  alias keepctl={keepctl}
  keepctl put /registry/demo hello
  keepctl get /registry/demo
{snapshot}{cluster_lines}  {program} encryption status --endpoint {first} \\
    --cacert {ca} --cert {client} --key {client_key}
  {program} backup list {backups}
  grep -r hello {data} {folder} || echo 'no plain text on the disk'

Flags for kube-apiserver:

  --etcd-servers={urls} \\
  --etcd-cafile={ca} \\
  --etcd-certfile={apiserver} \\
  --etcd-keyfile={apiserver_key}

The same {what} with etcd's flags:

{servers}
{ending}",
        until = made.valid_until,
        keepctl = quoted(&format!("{program} ctl --endpoints={urls} {tls}")),
        data = place
            .data()
            .iter()
            .map(|dir| quoted(&dir.display().to_string()))
            .collect::<Vec<_>>()
            .join(" "),
        backups = quoted(&place.backups_url()),
        folder = path("backups"),
        data_name = if is_cluster { "data-1/ ...     " } else { "data/          " },
        of_each = if is_cluster { " of each member" } else { "" },
        what = if is_cluster { "members" } else { "server" },
        cluster_lines = if is_cluster {
            "  keepctl endpoint status -w table\n  keepctl member list -w table\n"
        } else {
            ""
        },
        apiserver = path("pki/apiserver.crt"),
        apiserver_key = path("pki/apiserver.key"),
    )
}

/// The line that saves a snapshot, which one member is asked for: the alias names all.
fn snapshot(is_cluster: bool, ctl: &str, tls: &str) -> String {
    let command = if is_cluster { format!("{ctl} \\\n    {tls}") } else { "keepctl".to_owned() };
    format!("  {command} snapshot save snapshot.db\n")
}

/// The certificates that are new.
fn renewed(made: &Made) -> String {
    if made.renewed.is_empty() {
        return String::new();
    }
    format!("Renewed, being near their end: {}.\n\n", made.renewed.join(", "))
}
