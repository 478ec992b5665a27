//! `keepd backup` with the real binary on a folder: taken, proven, restored, interrupted, damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::Client;
use serde_json::Value;
use testkit::files::files_with;
use testkit::process::tail;
use testkit::{Keepd, TempDir};

use crate::configuration::{FIRST, SECOND, sealing};

const VALUE: &str = "canary-of-a-backed-up-value";
const KEY: &str = "/registry/secrets/default/canary-of-a-backed-up-key";
const OUTSIDE: &str = "canary-of-a-key-outside-of-every-rule";
/// A pair from the documents of age.
const RECIPIENT: &str = "age1lvyvwawkr0mcnnnncaghunadrqkmuf9e6507x9y920xxpp866cnql7dp2z";
const IDENTITY: &str = "AGE-SECRET-KEY-1N9JEPW6DWJ0ZQUDX63F5A03GX8QUW7PXDE39N8UYF82VZ9PC8UFS3M7XA9";
const NOT_CONFIRMED: i32 = 3;
const NOT_SOUND: i32 = 4;

/// A folder with a member, a place for backups, and keys.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    config: PathBuf,
    identity: PathBuf,
}

/// Output of a command.
pub(crate) struct Told {
    code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Told {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        Self { code, out: text(output.stdout), err: text(output.stderr) }
    }

    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap()
    }
}

impl Bench {
    pub(crate) fn new(name: &str) -> Self {
        let dir = TempDir::new(name);
        let config = dir.join("encryption.yaml");
        fs::write(&config, sealing("key1", FIRST)).unwrap();
        let identity = dir.join("identity.txt");
        fs::write(&identity, format!("# mine\n{IDENTITY}\n")).unwrap();
        fs::create_dir(dir.join("scratch")).unwrap();
        Self { dir, config, identity }
    }

    pub(crate) fn keepd(&self) -> Keepd {
        Keepd::new(self.dir.path()).encryption(&self.config)
    }

    pub(crate) fn place(&self) -> String {
        self.place_named("place")
    }

    fn place_named(&self, name: &str) -> String {
        format!("file://{}", self.dir.join(name).display())
    }

    fn command(&self, words: &[&str]) -> Command {
        self.verb(&[&["backup"], words].concat())
    }

    /// A verb of the binary.
    pub(crate) fn verb(&self, words: &[&str]) -> Command {
        let mut command = Command::new(Keepd::binary());
        command.args(words);
        command.env("TMPDIR", self.dir.join("scratch")).stdin(Stdio::null());
        command
    }

    pub(crate) fn backup(&self, words: &[&str]) -> Told {
        Told::of(&mut self.command(words))
    }

    /// The words of `now`.
    fn now(&self) -> Vec<String> {
        let endpoint = self.keepd().endpoint();
        ["now", "--to", &self.place(), "--endpoints", &endpoint].map(str::to_owned).to_vec()
    }

    pub(crate) fn take(&self, more: &[&str]) -> Told {
        let now = self.now();
        let words: Vec<&str> = now.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.backup(&words)
    }

    pub(crate) fn with_config(&self) -> [&str; 2] {
        ["--encryption-provider-config", self.config.to_str().unwrap()]
    }

    fn with_identity(&self) -> [&str; 2] {
        ["-i", self.identity.to_str().unwrap()]
    }

    pub(crate) fn list(&self, place: &str) -> Vec<Value> {
        let listed = self.backup(&["list", place, "-w", "json"]).expect(0).json();
        listed["backups"].as_array().unwrap().clone()
    }

    fn name_of(&self, number: usize) -> String {
        self.list(&self.place())[number]["name"].as_str().unwrap().to_owned()
    }

    /// The path of a backup's object.
    fn object(&self, number: usize) -> PathBuf {
        let backup = &self.list(&self.place())[number];
        let cluster = backup["cluster_id"].as_str().unwrap();
        self.dir.join("place").join(cluster).join("base").join(backup["name"].as_str().unwrap())
    }

    /// Whether nothing plain lies outside of the memory.
    pub(crate) fn assert_nothing_plain(&self) {
        let needles: Vec<Vec<u8>> = [VALUE, KEY, OUTSIDE].map(|it| it.as_bytes().to_vec()).to_vec();
        for folder in ["place", "scratch", "data"] {
            let found = files_with(&self.dir.join(folder), &needles);
            assert!(found.is_empty(), "{folder}: {found:?}");
        }
    }

    pub(crate) async fn fill(&self, client: &Client) {
        for number in 0..50 {
            client.put(&format!("{KEY}{number}"), VALUE, 0).await.unwrap();
        }
        client.put(KEY, VALUE, 0).await.unwrap();
        client.put(OUTSIDE, VALUE, 0).await.unwrap();
    }
}

pub(crate) fn folders(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_proven_and_restored_beside_what_it_replaces() {
    let bench = Bench::new("e2e-backup");
    let keepd = bench.keepd();
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    bench.fill(&client).await;

    let told = bench.take(&bench.with_config()).expect(0);
    assert!(told.out.contains("proven: restored and compared"), "{}", told.out);
    let listed = bench.list(&bench.place());
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["is_proven"], true);
    assert_eq!(
        listed[0]["sidecar"]["opened_by"][0].as_str().unwrap().split(" (").next(),
        Some("aesgcm:key1")
    );
    assert_eq!(listed[0]["sidecar"]["state"]["keys"], 52);
    let table = bench.backup(&["list", &bench.place()]).expect(0).out;
    assert!(table.contains("aesgcm:key1") && table.contains("proven 20"), "{table}");
    let details = bench.backup(&["show", &bench.place()]).expect(0).out;
    assert!(details.contains("HashKV") && details.contains("proven"), "{details}");
    bench.assert_nothing_plain();
    assert_eq!(folders(&bench.dir.join("scratch")), [""; 0], "the scratch folder is removed");

    // Changed after the backup, and gone with the restore.
    client.put("later", "1", 0).await.unwrap();
    let data_dir = keepd.data_dir();
    let restore =
        ["restore", &bench.place(), "--data-dir", data_dir.to_str().unwrap(), "--name", "one"];
    let restore = [&restore[..], &bench.with_config()].concat();
    let told = bench.backup(&[&restore[..], &["--yes"]].concat()).expect(1);
    assert!(told.err.contains("in use by another process"), "{}", told.err);
    server.stop();

    let told = bench.backup(&restore).expect(NOT_CONFIRMED);
    assert!(told.out.contains("not in the backup"), "{}", told.out);
    assert!(told.err.contains("nothing was changed"), "{}", told.err);
    let told = bench.backup(&[&restore[..], &["--yes"]].concat()).expect(0);
    for part in [
        "moved aside: ",
        "restored ",
        "bumped by 1000000000",
        "start it with",
        " server --name=one",
    ] {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
    let names = folders(&data_dir);
    assert!(names.iter().any(|name| name.starts_with("member.before-restore-2")), "{names:?}");
    assert!(!names.contains(&"restoring".to_owned()), "{names:?}");
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.get(KEY).await.unwrap().as_deref(), Some(VALUE));
    assert_eq!(client.get("later").await.unwrap(), None);
    bench.assert_nothing_plain();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_read_its_backups_proves_them() {
    let bench = Bench::new("e2e-backup-age");
    let mut server = bench.keepd().start();
    let client = Client::ready(&mut server).await;
    bench.fill(&client).await;
    let told = bench.take(&[]).expect(1);
    assert!(told.err.contains("say who can open the backup"), "{}", told.err);
    let told = bench.take(&["-r", IDENTITY]).expect(1);
    assert!(told.err.contains("it is an identity") && !told.err.contains(IDENTITY), "{}", told.err);
    // Its values are sealed: without the configuration nothing can be proven, and it says so.
    let told = bench.take(&["-r", RECIPIENT]).expect(NOT_SOUND);
    assert!(
        told.err.contains("NOT PROVEN") && told.err.contains("values are sealed"),
        "{}",
        told.err
    );
    bench.take(&[&["-r", RECIPIENT][..], &bench.with_config()].concat()).expect(0);
    let listed = bench.list(&bench.place());
    let proven = &listed[1]["sidecar"]["proven"];
    assert_eq!(proven["with_operators_key"], false);
    assert_eq!(listed[1]["sidecar"]["opened_by"], serde_json::json!([RECIPIENT]));
    bench.assert_nothing_plain();

    // The configuration's key does not open it, the private half does.
    let place = bench.place();
    let told =
        bench.backup(&[&["verify", &place][..], &bench.with_config()].concat()).expect(NOT_SOUND);
    assert!(told.err.contains("no key opens it"), "{}", told.err);
    bench.backup(&[&["verify", &place][..], &bench.with_identity()].concat()).expect(0);
    let keys = [&bench.with_identity()[..], &bench.with_config()].concat();
    let told = bench.backup(&[&["drill", &place, "--oldest", "2"][..], &keys].concat()).expect(0);
    assert_eq!(told.out.matches("proven to restore").count(), 2, "{}", told.out);
    for backup in bench.list(&place) {
        assert_eq!(backup["sidecar"]["proven"]["with_operators_key"], true);
    }

    // A plain snapshot for etcd's tools.
    let file = bench.dir.join("snapshot.db");
    let words = ["download", &place, "-o", file.to_str().unwrap()];
    let told = bench.backup(&[&words[..], &bench.with_identity()].concat()).expect(0);
    assert!(told.err.contains("sealed values stay sealed"), "{}", told.err);
    let status = Command::new(Keepd::binary())
        .args(["etcdutl", "snapshot", "status", file.to_str().unwrap(), "-w", "json"])
        .output()
        .unwrap();
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["totalKey"], 52);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_to_a_backup_is_found() {
    let bench = Bench::new("e2e-backup-harm");
    let mut server = bench.keepd().start();
    let client = Client::ready(&mut server).await;
    bench.fill(&client).await;
    for _ in 0..3 {
        bench.take(&bench.with_config()).expect(0);
    }
    let place = bench.place();
    let [first, second, third] = [0, 1, 2].map(|number| bench.object(number));
    let verify =
        |name: &str| bench.backup(&[&["verify", &place, name][..], &bench.with_config()].concat());
    let names = [0, 1, 2].map(|number| bench.name_of(number));

    let whole = fs::read(&first).unwrap();
    let mut damaged = whole.clone();
    let at = damaged.len() - 40;
    damaged[at] ^= 1;
    fs::write(&first, &damaged).unwrap();
    let told = verify(&names[0]).expect(NOT_SOUND);
    assert!(told.err.contains("damaged"), "{}", told.err);
    fs::write(&first, &whole).unwrap();
    verify(&names[0]).expect(0);

    // Exchanged with another backup of the same cluster, of the same keys.
    let other = fs::read(&second).unwrap();
    fs::write(&first, &other).unwrap();
    let told = verify(&names[0]).expect(NOT_SOUND);
    assert!(told.err.contains("not what was written"), "{}", told.err);
    // Cut off, empty, and gone.
    fs::write(&first, &whole[..whole.len() / 2]).unwrap();
    verify(&names[0]).expect(NOT_SOUND);
    fs::write(&second, b"").unwrap();
    fs::remove_file(&third).unwrap();
    let listed = bench.list(&place);
    for (backup, fault) in listed.iter().zip(["were written", "were written", "object is missing"])
    {
        assert_eq!(backup["is_proven"], false);
        assert!(backup["fault"].as_str().unwrap().contains(fault), "{backup}");
    }
    let told = bench.backup(&["show", &place]).expect(1);
    assert!(told.err.contains("no backup is proven"), "{}", told.err);

    // Under a key that is lost.
    fs::write(&first, &whole).unwrap();
    let lost = bench.dir.join("other.yaml");
    fs::write(&lost, sealing("key2", SECOND)).unwrap();
    let words =
        ["verify", &place, &names[0], "--encryption-provider-config", lost.to_str().unwrap()];
    let told = bench.backup(&words).expect(NOT_SOUND);
    for part in ["no key opens it", "aesgcm:key1", "aesgcm:key2"] {
        assert!(told.err.contains(part), "{part}: {}", told.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_are_copied_and_removed_by_name_only() {
    let bench = Bench::new("e2e-backup-copy");
    let mut server = bench.keepd().start();
    let client = Client::ready(&mut server).await;
    bench.fill(&client).await;
    for _ in 0..2 {
        bench.take(&bench.with_config()).expect(0);
    }
    fs::write(bench.dir.join("place").join("notes.txt"), "mine").unwrap();
    let (place, other) = (bench.place(), bench.place_named("other"));
    let told = bench.backup(&["copy", &place, &other]).expect(0);
    assert_eq!(told.out.matches("copied").count(), 2, "{}", told.out);
    let told = bench.backup(&["copy", &place, &other]).expect(0);
    assert_eq!(told.out.matches("there already").count(), 2, "{}", told.out);
    assert_eq!(bench.list(&other), bench.list(&place));
    bench.backup(&[&["drill", &other][..], &bench.with_config()].concat()).expect(0);

    // Rules keep what a person asked for.
    bench.backup(&["prune", &place, "--keep-last", "1", "--yes"]).expect(0);
    assert_eq!(bench.list(&place).len(), 2);
    bench.backup(&["prune", &place, "--yes"]).expect(1);
    let name = bench.name_of(0);
    let told = bench.backup(&["prune", &place, "--name", &name, "--dry-run"]).expect(0);
    assert!(told.out.contains("to be removed"), "{}", told.out);
    bench.backup(&["prune", &place, "--name", &name]).expect(NOT_CONFIRMED);
    assert_eq!(bench.list(&place).len(), 2);
    bench.backup(&["prune", &place, "--name", &name, "--yes"]).expect(0);
    assert_eq!(bench.list(&place).len(), 1);
    assert!(bench.dir.join("place").join("notes.txt").exists());
    let told = bench.backup(&["list", &place]).expect(0);
    assert!(told.err.contains("not a backup, left alone: notes.txt"), "{}", told.err);
}

/// Whoever is killed leaves nothing plain and nothing that counts as a backup; the next run clears up.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_leaves_nothing_that_counts() {
    let bench = Bench::new("e2e-backup-kill");
    let mut server = bench.keepd().start();
    let client = Client::ready(&mut server).await;
    bench.fill(&client).await;
    let now = bench.now();
    let scratch = bench.dir.join("scratch");
    for millis in [0, 5, 20, 80, 200, 700] {
        let words: Vec<&str> = now.iter().map(String::as_str).collect();
        // Slow enough to be at work for seconds.
        let words = [&words[..], &bench.with_config(), &["--limit-rate", "3k"]].concat();
        let mut command = bench.command(&words);
        let mut run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let before = folders(&scratch);
        while folders(&scratch).iter().all(|name| before.contains(name)) {
            assert_eq!(run.try_wait().unwrap(), None, "it ended before it was killed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(millis)).await;
        run.kill().unwrap();
        run.wait().unwrap();
        assert_eq!(folders(&scratch).len(), 1, "what the run before left is cleared up");
        bench.assert_nothing_plain();
        for backup in bench.list(&bench.place()) {
            let is_whole = backup["sidecar"].is_object();
            assert!(is_whole || backup["fault"].is_string(), "{backup}");
        }
    }
    bench.take(&bench.with_config()).expect(0);
    assert_eq!(folders(&bench.dir.join("scratch")), [""; 0]);
    assert_eq!(bench.list(&bench.place()).last().unwrap()["is_proven"], true);
}

/// Between the two renames of a restore the directory has no member: a start would make an empty
/// cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_does_not_start_on_a_restore_that_was_interrupted() {
    let bench = Bench::new("e2e-backup-half");
    let keepd = bench.keepd();
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    bench.fill(&client).await;
    bench.take(&bench.with_config()).expect(0);
    server.stop();
    let data_dir = keepd.data_dir();
    fs::rename(data_dir.join("member"), data_dir.join("member.before-restore-x")).unwrap();
    fs::create_dir(data_dir.join("restoring")).unwrap();
    let status = keepd.run(Duration::from_secs(30));
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{}", tail(&keepd.log()));
    assert!(keepd.log().contains("a restore was interrupted here"), "{}", tail(&keepd.log()));
    let words = [
        "restore",
        &bench.place(),
        "--data-dir",
        data_dir.to_str().unwrap(),
        "--name",
        "one",
        "--yes",
    ];
    let told =
        bench.backup(&[&words[..], &["-w", "json"], &bench.with_config()].concat()).expect(0);
    assert!(told.json()["start"].as_str().unwrap().contains(" server --name=one"), "{}", told.out);
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.get(KEY).await.unwrap().as_deref(), Some(VALUE));
}
