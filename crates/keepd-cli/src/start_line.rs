//! The line that starts a server on a restored directory, to be pasted as it is.

use std::net::IpAddr;
use std::path::Path;

use keepd_backup::RestoreOptions;

use crate::shell::{quoted, this_program};

/// The client URL on the same machine; the old addresses are not in a snapshot.
const CLIENT_URL: &str = "http://localhost:2379";
const DEFAULT_TOKEN: &str = "etcd-cluster";

/// The encryption configuration that the server will need.
#[derive(Clone, Copy, Debug)]
pub enum Config<'a> {
    /// None.
    Unneeded,
    /// Some file that was not named; the line says `FILE`.
    Unnamed,
    /// This file.
    File(&'a str),
}

/// A sentence and, on a line of its own, the command.
#[must_use]
pub fn of(options: &RestoreOptions, data_dir: &str, config: Config<'_>) -> String {
    let words: Vec<String> = words(options, data_dir, config).iter().map(|w| quoted(w)).collect();
    let hint = "start it with (and the client URLs and certificate flags of before, if it had any)";
    format!("{hint}:\n{} {}", this_program(), words.join(" "))
}

fn words(options: &RestoreOptions, data_dir: &str, config: Config<'_>) -> Vec<String> {
    let advertised = &options.initial_advertise_peer_urls;
    let listen: Vec<String> = advertised.split(',').map(listen_url).collect();
    let mut words = vec![
        "server".to_owned(),
        format!("--name={}", options.name),
        format!("--data-dir={}", absolute(data_dir)),
        format!("--listen-client-urls={CLIENT_URL}"),
        format!("--advertise-client-urls={CLIENT_URL}"),
        format!("--listen-peer-urls={}", listen.join(",")),
        format!("--initial-advertise-peer-urls={advertised}"),
        format!("--initial-cluster={}", options.initial_cluster),
    ];
    if options.initial_cluster_token != DEFAULT_TOKEN {
        words.push(format!("--initial-cluster-token={}", options.initial_cluster_token));
    }
    match config {
        Config::Unneeded => {}
        Config::Unnamed => words.push("--encryption-provider-config=FILE".to_owned()),
        Config::File(path) => {
            words.push(format!("--encryption-provider-config={}", absolute(path)));
        }
    }
    words
}

/// The line may be pasted elsewhere.
fn absolute(path: &str) -> String {
    std::path::absolute(Path::new(path))
        .map_or_else(|_| path.to_owned(), |path| path.display().to_string())
}

/// The URL to listen on for an advertised one: servers bind addresses, not names.
fn listen_url(advertised: &str) -> String {
    let Some((scheme @ ("http" | "https"), address)) = advertised.split_once("://") else {
        return advertised.to_owned();
    };
    let Some((host, port)) = address.rsplit_once(':') else { return advertised.to_owned() };
    let is_bindable =
        host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    if is_bindable { advertised.to_owned() } else { format!("{scheme}://0.0.0.0:{port}") }
}

#[cfg(test)]
mod tests {
    use super::listen_url;

    #[test]
    fn addresses_are_bound_as_they_are_advertised() {
        for url in ["http://10.0.0.1:2380", "https://[fd00::1]:2380", "unix:///run/peer.sock"] {
            assert_eq!(listen_url(url), url);
        }
        assert_eq!(listen_url("https://node1.example:2380"), "https://0.0.0.0:2380");
    }
}
