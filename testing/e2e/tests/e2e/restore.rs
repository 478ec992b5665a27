//! `snapshot save` and `snapshot restore` under etcd's names: rule 9.10.

use std::path::Path;
use std::process::Command;

use e2e::Client;
use testkit::{Keepd, TempDir};

use crate::configuration::{FIRST, sealing};

/// The new member, as the tests start it.
const NEW: [&str; 2] = ["--name=one", "--initial-cluster=one=http://localhost:2380"];

/// Runs keepd as one of etcd's tools; whether it succeeded, and what it told.
fn tool(arguments: &[&str], environment: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(Keepd::binary());
    let output = command.args(arguments).envs(environment.iter().copied()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn unicode(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Rule 9.10.
#[tokio::test(flavor = "multi_thread")]
async fn restore_fills_empty_directories_only_and_says_how_to_start() {
    let dir = TempDir::new("e2e-restore");
    let config = dir.join("encryption.yaml");
    std::fs::write(&config, sealing("key1", FIRST)).unwrap();
    let keepd = Keepd::new(dir.path()).encryption(&config);
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    let key = "/registry/secrets/default/db";
    client.put(key, "canary-of-restore", 0).await.unwrap();

    let file = dir.join("backup.db");
    let endpoints = format!("--endpoints={}", keepd.endpoint());
    let (saved, text) = tool(&["etcdctl", &endpoints, "snapshot", "save", unicode(&file)], &[]);
    assert!(saved, "{text}");

    // In use, and full.
    let data_dir = format!("--data-dir={}", unicode(&keepd.data_dir()));
    let restore = ["etcdutl", "snapshot", "restore", unicode(&file)];
    let (done, text) = tool(&[&restore[..], &[&data_dir]].concat(), &[]);
    assert!(!done && text.contains("not empty"), "{text}");
    assert_eq!(client.get(key).await.unwrap().as_deref(), Some("canary-of-restore"));
    server.stop();
    let (done, text) = tool(&[&restore[..], &[&data_dir]].concat(), &[]);
    assert!(!done && text.contains("not empty"), "{text}");

    // With the configuration of the server, told in either of the server's ways, or with none.
    let flag = format!("--encryption-provider-config={}", unicode(&config));
    let variable = ("ETCD_ENCRYPTION_PROVIDER_CONFIG", unicode(&config));
    for (name, flags, environment) in [
        ("flag", vec![flag.as_str()], vec![]),
        ("variable", vec![], vec![variable]),
        ("pending", vec![], vec![]),
    ] {
        let work = dir.join(name);
        std::fs::create_dir(&work).unwrap();
        let restored = Keepd::new(&work).encryption(&config);
        let data_dir = format!("--data-dir={}", unicode(&restored.data_dir()));
        let arguments = [&restore[..], &NEW, &[&data_dir], &flags].concat();
        let (done, text) = tool(&arguments, &environment);
        assert!(done, "{name}: {text}");
        let line = text.lines().find(|line| line.starts_with("start it with: keepd server "));
        let line = line.unwrap_or_else(|| panic!("{name}: no start line in {text}"));
        assert!(line.contains(&data_dir), "{name}: {line}");
        assert!(line.contains("--encryption-provider-config="), "{name}: {line}");
        assert_eq!(text.contains("first start needs"), name == "pending", "{name}: {text}");
        let mut server = restored.start();
        let client = Client::ready(&mut server).await;
        let value = client.get(key).await.unwrap();
        assert_eq!(value.as_deref(), Some("canary-of-restore"), "{name}");
    }
}
