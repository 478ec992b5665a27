//! The line that starts a server on a restored directory, to be pasted as it is.

use std::net::IpAddr;
use std::path::Path;

use keepd_backup::RestoreOptions;

use crate::shell::{quoted, this_program};

/// Where clients of one machine reach the server; the old addresses are not in a snapshot.
const CLIENT_URL: &str = "http://localhost:2379";
const DEFAULT_TOKEN: &str = "etcd-cluster";

/// The encryption configuration that the server will need.
#[derive(Clone, Copy, Debug)]
pub(super) enum Config<'a> {
    /// None.
    Unneeded,
    /// Some file that was not named; the line says `FILE`.
    Unnamed,
    /// This file.
    File(&'a str),
}

/// A sentence and, on a line of its own, the command.
pub(super) fn of(options: &RestoreOptions, data_dir: &str, config: Config<'_>) -> String {
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

/// Where to listen for what is advertised: servers bind addresses, not names.
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
    use std::process::Command;

    use super::*;
    use crate::flags;

    /// What a shell makes of the line's words.
    fn pasted(line: &str) -> Vec<String> {
        let command = line.lines().last().unwrap();
        let (_program, words) = command.split_once(" server ").unwrap();
        let script = format!("printf '%s\\n' {words}");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{script}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_server_takes_the_pasted_line_as_it_is() {
        let options = RestoreOptions {
            name: "it's $HOME; & a \"name\"".to_owned(),
            initial_cluster: "it's $HOME; & a \"name\"=http://node1:2380".to_owned(),
            initial_advertise_peer_urls: "http://node1:2380".to_owned(),
            initial_cluster_token: "my token".to_owned(),
            ..RestoreOptions::default()
        };
        let words = pasted(&of(&options, "data of `mine`", Config::File("/etc/a key.yaml")));
        let here = std::env::current_dir().unwrap();
        let parsed = flags::parse(&words, &[]).unwrap().options;
        assert_eq!(parsed.name, options.name);
        assert_eq!(parsed.data_dir, here.join("data of `mine`"));
        assert_eq!(parsed.initial_cluster_token, "my token");
        let config = parsed.encryption_provider_config.unwrap();
        assert_eq!(config, Path::new("/etc/a key.yaml"));
        assert_eq!(parsed.listen_peer_urls[0].as_str(), "http://0.0.0.0:2380");
        assert_eq!(parsed.initial_advertise_peer_urls[0].as_str(), "http://node1:2380");
    }

    #[test]
    fn the_defaults_need_no_more_than_the_defaults() {
        let words = pasted(&of(&RestoreOptions::default(), "/d", Config::Unneeded));
        let parsed = flags::parse(&words, &[]).unwrap().options;
        assert_eq!(parsed.listen_peer_urls[0].as_str(), "http://localhost:2380");
        assert_eq!(parsed.encryption_provider_config, None);
        assert!(!words.iter().any(|word| word.contains("token")), "{words:?}");
    }

    #[test]
    fn addresses_are_bound_as_they_are_advertised() {
        for url in ["http://10.0.0.1:2380", "https://[fd00::1]:2380", "unix:///run/peer.sock"] {
            assert_eq!(listen_url(url), url);
        }
        assert_eq!(listen_url("https://node1.example:2380"), "https://0.0.0.0:2380");
    }
}
