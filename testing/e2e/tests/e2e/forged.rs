//! Plain files and imports that were put in place under a configuration that seals everything, and
//! the ways in which an operator brings his own plain data there.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::Client;
use testkit::files::{files_with, tree};
use testkit::process::tail;
use testkit::{Keepd, TempDir};

use crate::configuration::{FIRST, only_sealing, sealing};
use crate::sealed::open_files;

/// Time limit for a start that must fail, and for a re-encryption.
const PATIENCE: Duration = Duration::from_secs(30);
const TRUST: [&str; 1] = ["--encryption-trust-plain-data"];
const KEY: &str = "/registry/secrets/kube-system/token";
const VALUE: &str = "canary-of-the-forger";

/// A member in `dir` with one value; it has ended.
async fn member(keepd: &Keepd) {
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    client.put(KEY, VALUE, 0).await.unwrap();
    server.stop();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// The start fails, tells the parts, and changes no file.
fn refuses(keepd: &Keepd, parts: &[&str]) {
    let (told, before) = (keepd.log().len(), tree(&keepd.data_dir().join("member")));
    let status = keepd.run(PATIENCE);
    assert!(status.is_some_and(|status| !status.success()), "{}", tail(&keepd.log()));
    let log = &keepd.log()[told..];
    for part in parts {
        assert!(log.contains(part), "no {part:?} in {log}");
    }
    let touched = tree(&keepd.data_dir().join("member"));
    assert_eq!(touched, before);
}

fn tool(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(Keepd::binary()).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_directory_is_refused_until_the_operator_vouches_for_it() {
    let dir = TempDir::new("e2e-forged");
    let plain = Keepd::new(dir.path());
    member(&plain).await;
    let config = dir.write("all.yaml", &only_sealing("key1", FIRST));
    let sealed = plain.clone().encryption(&config);
    refuses(&sealed, &["does not list identity", "- identity: {}", TRUST[0]]);

    let vouched = sealed.clone().args(TRUST);
    let mut server = vouched.start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.get(KEY).await.unwrap().as_deref(), Some(VALUE));
    let mut waited = Duration::ZERO;
    while !open_files(&plain.data_dir()).is_empty()
        || !vouched.log().contains("files under older data keys left: 0")
    {
        assert!(waited < PATIENCE, "{}", tail(&vouched.log()));
        tokio::time::sleep(Duration::from_millis(100)).await;
        waited += Duration::from_millis(100);
    }
    server.stop();
    assert!(vouched.log().contains("are taken for genuine"), "{}", tail(&vouched.log()));

    // Without the flag from now on; with it, the server says that it is spent.
    let mut server = vouched.start();
    Client::ready(&mut server).await;
    server.stop();
    assert!(vouched.log().contains("is spent"), "{}", tail(&vouched.log()));
    let mut server = sealed.start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.get(KEY).await.unwrap().as_deref(), Some(VALUE));
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_store_and_log_beside_a_genuine_keyring_are_refused() {
    let (dir, forger) = (TempDir::new("e2e-genuine"), TempDir::new("e2e-forger"));
    let config = dir.write("all.yaml", &only_sealing("key1", FIRST));
    let keepd = Keepd::new(dir.path()).encryption(&config);
    member(&keepd).await;
    let forged = Keepd::new(forger.path());
    member(&forged).await;

    let member = keepd.data_dir().join("member");
    for part in ["store", "wal"] {
        std::fs::remove_dir_all(member.join(part)).unwrap();
        copy(&forged.data_dir().join("member").join(part), &member.join(part));
    }
    refuses(&keepd, &["the file is plain"]);
    let previous = member.join("KEYRING.prev");
    if previous.exists() {
        std::fs::copy(previous, member.join("KEYRING")).unwrap();
        refuses(&keepd, &["the file is plain"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_with_plain_values_is_refused_until_the_operator_vouches_for_it() {
    let dir = TempDir::new("e2e-import");
    let source = dir.join("source");
    std::fs::create_dir(&source).unwrap();
    let config = dir.write("some.yaml", &sealing("key1", FIRST));
    let plain = Keepd::new(&source);
    let mut server = plain.start();
    let client = Client::ready(&mut server).await;
    client.put(KEY, VALUE, 0).await.unwrap();
    let file = dir.join("plain.db");
    let file = file.to_str().unwrap();
    let (saved, text) =
        tool(&["etcdctl", "--endpoints", &plain.endpoint(), "snapshot", "save", file]);
    assert!(saved, "{text}");
    server.stop();

    // Dropped into an empty data directory as a restore without keys leaves it.
    let work = dir.join("dropped");
    let all = dir.write("all.yaml", &only_sealing("key1", FIRST));
    let keepd = Keepd::new(&work).encryption(&all);
    let import = keepd.data_dir().join("import");
    std::fs::create_dir_all(&import).unwrap();
    std::fs::copy(file, import.join("snapshot.db")).unwrap();
    let options = r#"{"name":"one","initial_cluster":"one=http://localhost:2380",
        "initial_cluster_token":"etcd-cluster",
        "initial_advertise_peer_urls":"http://localhost:2380","skip_hash_check":false,
        "bump_revision":0,"mark_compacted":false,"without_authentication":false}"#;
    std::fs::write(import.join("restore.json"), options).unwrap();
    refuses(&keepd, &[KEY, "is plain", TRUST[0]]);
    assert!(import.join("snapshot.db").exists());

    // The same file, restored by the operator: refused, then by his word, then by identity.
    for (name, config, flags, is_taken) in [
        ("refused", &all, &[][..], false),
        ("vouched", &all, &TRUST[..], true),
        ("identity", &config, &[], true),
    ] {
        let work = dir.join(name);
        std::fs::create_dir(&work).unwrap();
        let restored = Keepd::new(&work).encryption(&all);
        let data_dir = format!("--data-dir={}", restored.data_dir().to_str().unwrap());
        let config = format!("--encryption-provider-config={}", config.to_str().unwrap());
        let arguments = ["etcdutl", "snapshot", "restore", file, "--name=one", &data_dir, &config];
        let cluster = ["--initial-cluster=one=http://localhost:2380"];
        let (done, text) = tool(&[&arguments[..], &cluster, flags].concat());
        assert_eq!(done, is_taken, "{name}: {text}");
        if !is_taken {
            assert!(text.contains(KEY) && text.contains(TRUST[0]), "{name}: {text}");
            assert!(!restored.data_dir().exists());
            continue;
        }
        // What was restored is sealed as a whole, so nothing more is needed.
        let mut server = restored.start();
        let client = Client::ready(&mut server).await;
        assert_eq!(client.get(KEY).await.unwrap().as_deref(), Some(VALUE), "{name}");
        server.stop();
        assert!(files_with(&restored.data_dir(), &[VALUE.as_bytes().to_vec()]).is_empty());
    }
}
