//! `keepd debug dump-log`: what lies in the log, while the member runs and after its end.

use std::fs;
use std::process::{Command, Output};

use e2e::Client;
use testkit::files::tree;
use testkit::process::tail;
use testkit::{Keepd, TempDir};

use crate::configuration::{FIRST, SECOND, sealing};

fn dump(keepd: &Keepd, arguments: &[&str]) -> Output {
    let mut command = Command::new(Keepd::binary());
    command.args(["debug", "dump-log", "--data-dir"]).arg(keepd.data_dir());
    command.args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The lines of a dump that succeeds.
fn lines(keepd: &Keepd, arguments: &[&str]) -> Vec<String> {
    let output = dump(keepd, arguments);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout).lines().map(str::to_owned).collect()
}

/// The line that has all these parts.
fn line<'a>(lines: &'a [String], parts: &[&str]) -> &'a str {
    let found = lines.iter().find(|line| parts.iter().all(|part| line.contains(part)));
    assert!(found.is_some(), "no line with {parts:?} in\n{}", lines.join("\n"));
    found.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_told_without_values_while_the_member_runs_and_after_its_end() {
    let dir = TempDir::new("e2e-dump-log");
    let config = dir.write("encryption.yaml", &sealing("key1", FIRST));
    let other = dir.write("other.yaml", &sealing("key1", SECOND));
    let (config, other) = (config.to_str().unwrap(), other.to_str().unwrap());
    let keepd = Keepd::new(dir.path()).args(["--encryption-provider-config", config]);
    let key = "/registry/secrets/default/open";
    let with_keys = ["--encryption-provider-config", config];
    let json = [&with_keys[..], &["--json"]].concat();

    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    client.put(key, "sesame", 0).await.unwrap();
    client.put_all(&[("/a".to_owned(), "sesame".to_owned())]).await.unwrap();
    let running = lines(&keepd, &json);
    server.kill();
    for lines in [running, lines(&keepd, &json)] {
        assert!(!lines.iter().any(|line| line.contains("sesame")), "a value shows");
        let put = line(&lines, &["\"command\":\"put\"", key]);
        assert!(put.contains("\"value_bytes\":6"), "{put}");
        assert!(!put.contains("\"sealed_under\":null"), "{put}");
        line(&lines, &["\"command\":\"txn\"", "\"key\":\"/a\""]);
        line(&lines, &["\"command\":\"publish_member\"", "\"name\":\"one\""]);
        line(&lines, &["\"type\":\"hard_state\"", "\"commit\":"]);
        let segment = line(&lines, &["\"type\":\"segment\"", ".wal\""]);
        assert!(!segment.contains("\"data_key\":null"), "{segment}");
        assert!(lines.last().unwrap().contains("\"damaged\":0"), "{lines:?}");
    }

    let opened = lines(&keepd, &[&json[..], &["--values"]].concat());
    line(&opened, &["\"command\":\"put\"", "\"value\":\"sesame\""]);
    let people = lines(&keepd, &with_keys);
    line(&people, &["term ", "put ", key]);
    line(&people, &["sealed under data key "]);

    let before = tree(&keepd.data_dir());
    for arguments in [&[][..], &["--encryption-provider-config", other]] {
        let refused = dump(&keepd, arguments);
        assert_eq!(refused.status.code(), Some(1));
        let error = text(&refused.stderr);
        assert!(error.contains("--encryption-provider-config"), "{error}");
        assert!(refused.stdout.is_empty(), "{}", text(&refused.stdout));
    }
    assert!(before == tree(&keepd.data_dir()), "nothing was changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_with_its_place_and_what_lies_before_it_is_shown() {
    let dir = TempDir::new("e2e-dump-damaged");
    let keepd = Keepd::new(dir.path());
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    for i in 0..9 {
        client.put(&format!("key/{i}"), "value", 0).await.unwrap();
    }
    server.kill();
    let all = lines(&keepd, &["--json"]);
    line(&all, &["\"data_key\":null"]);
    let put = line(&all, &["\"key\":\"key/3\""]);
    let number = |name: &str| -> u64 {
        let rest = put.split_once(&format!("\"{name}\":")).unwrap().1;
        rest.split([',', '}']).next().unwrap().parse().unwrap()
    };
    let mut segments: Vec<_> = fs::read_dir(keepd.data_dir().join("member/wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    segments.sort();
    let prefix = format!("{:016x}-", number("segment"));
    let named = |path: &&std::path::PathBuf| {
        path.file_name().unwrap().to_str().unwrap().starts_with(&prefix)
    };
    let path = segments.iter().find(named).unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[usize::try_from(number("offset")).unwrap() + 20] ^= 1;
    fs::write(path, bytes).unwrap();

    let output = dump(&keepd, &["--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", tail(&text(&output.stdout)));
    let found: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    line(&found, &["\"type\":\"damage\"", path.file_name().unwrap().to_str().unwrap()]);
    line(&found, &["\"key\":\"key/2\""]);
    assert!(!found.iter().any(|line| line.contains("\"key\":\"key/3\"")));

    let nowhere = TempDir::new("e2e-dump-nothing");
    let refused = dump(&Keepd::new(nowhere.path()), &[]);
    assert!(text(&refused.stderr).contains("holds no member of keepd"));
}
