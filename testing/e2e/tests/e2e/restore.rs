//! `snapshot save` and `snapshot restore` under etcd's names: rule 9.10.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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
        let mut lines = text.lines().skip_while(|line| !line.starts_with("start it with"));
        let line = lines.nth(1).unwrap_or_else(|| panic!("{name}: no start line in {text}"));
        assert!(line.contains(" server --name=one "), "{name}: {line}");
        assert!(line.contains(&data_dir), "{name}: {line}");
        assert!(line.contains("--encryption-provider-config="), "{name}: {line}");
        assert_eq!(text.contains("first start needs"), name == "pending", "{name}: {text}");
        let mut server = restored.start();
        let client = Client::ready(&mut server).await;
        let value = client.get(key).await.unwrap();
        assert_eq!(value.as_deref(), Some("canary-of-restore"), "{name}");
        server.stop();
        if name == "flag" {
            start_by_pasting(&restored, line, key).await;
        }
    }
}

/// Runs the printed line in a shell. Tests run beside each other, so they listen elsewhere: of a
/// flag given twice the server takes the last.
async fn start_by_pasting(keepd: &Keepd, line: &str, key: &str) {
    let elsewhere = format!(
        "exec {line} --listen-client-urls={} --listen-peer-urls=http://127.0.0.1:0",
        keepd.endpoint()
    );
    let shell = Command::new("sh").args(["-c", &elsewhere]).stderr(Stdio::null()).spawn();
    let mut server = Pasted(shell.unwrap());
    let value = loop {
        assert_eq!(server.0.try_wait().unwrap(), None, "{line}");
        let connected = Client::connect(keepd.endpoint()).await;
        if let Ok(client) = connected
            && let Ok(value) = client.get(key).await
        {
            break value;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(value.as_deref(), Some("canary-of-restore"));
}

/// Ends the server with the test, also if that fails.
struct Pasted(Child);

impl Drop for Pasted {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Rule 9.12.
#[tokio::test(flavor = "multi_thread")]
async fn save_says_what_is_plain_beside_what_scripts_read() {
    let dir = TempDir::new("e2e-save");
    let config = dir.join("encryption.yaml");
    std::fs::write(&config, sealing("key1", FIRST)).unwrap();
    for is_sealed in [false, true] {
        let work = dir.join(if is_sealed { "sealed" } else { "plain" });
        std::fs::create_dir(&work).unwrap();
        let keepd = Keepd::new(&work);
        let keepd = if is_sealed { keepd.encryption(&config) } else { keepd };
        let mut server = keepd.start();
        let client = Client::ready(&mut server).await;
        client.put("/registry/secrets/default/db", "s", 0).await.unwrap();
        client.put("outside of every rule", "c", 0).await.unwrap();
        let file = work.join("backup.db");
        let output = Command::new(Keepd::binary())
            .args(["etcdctl", "--endpoints", &keepd.endpoint(), "snapshot", "save", unicode(&file)])
            .output()
            .unwrap();
        let (stdout, stderr) = (output.stdout, String::from_utf8(output.stderr).unwrap());
        let file = unicode(&file);
        let expected = format!("Snapshot saved at {file}\nServer version 3.7.0\n");
        assert_eq!(String::from_utf8(stdout).unwrap(), expected);
        let said = if is_sealed {
            format!("{file} shows every key, and the values that no encryption rule covers; 1 ")
        } else {
            format!("{file} is not encrypted: it shows every key, and every value")
        };
        assert!(stderr.contains(&said), "{stderr}");
    }
}

/// Nobody who can write beside the snapshot gets it, or has it written over another file.
#[tokio::test(flavor = "multi_thread")]
async fn save_follows_no_link_and_keeps_no_foreign_file() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let dir = TempDir::new("e2e-part");
    let keepd = Keepd::new(dir.path());
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    client.put("k", "v", 0).await.unwrap();
    let (victim, part, file) = (dir.join("victim"), dir.join("b.db.part"), dir.join("b.db"));
    let endpoints = format!("--endpoints={}", keepd.endpoint());
    for is_link in [true, false] {
        std::fs::write(&victim, "untouched").unwrap();
        if is_link {
            std::os::unix::fs::symlink(&victim, &part).unwrap();
        } else {
            std::fs::hard_link(&victim, &part).unwrap();
            std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o666)).unwrap();
        }
        let (saved, text) = tool(&["etcdctl", &endpoints, "snapshot", "save", unicode(&file)], &[]);
        assert!(saved, "{text}");
        assert_eq!(std::fs::read(&victim).unwrap(), b"untouched");
        let meta = std::fs::symlink_metadata(&file).unwrap();
        assert!(meta.is_file() && meta.mode() & 0o777 == 0o600, "{:o}", meta.mode());
        assert_ne!(meta.ino(), std::fs::metadata(&victim).unwrap().ino());
    }
}
