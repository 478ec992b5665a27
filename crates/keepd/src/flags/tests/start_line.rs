//! The line that a restore prints, taken by the server's own flags.

use std::path::Path;
use std::process::Command;

use keepd_backup::RestoreOptions;
use keepd_cli::start_line::{self, Config};

use crate::flags::parse;

/// The words that a shell makes of the line.
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
    let words =
        pasted(&start_line::of(&options, "data of `mine`", Config::File("/etc/a key.yaml")));
    let here = std::env::current_dir().unwrap();
    let parsed = parse(&words, &[]).unwrap().options;
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
    let words = pasted(&start_line::of(&RestoreOptions::default(), "/d", Config::Unneeded));
    let parsed = parse(&words, &[]).unwrap().options;
    assert_eq!(parsed.listen_peer_urls[0].as_str(), "http://localhost:2380");
    assert_eq!(parsed.encryption_provider_config, None);
    assert!(!words.iter().any(|word| word.contains("token")), "{words:?}");
}
