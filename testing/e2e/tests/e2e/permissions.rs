//! Files that others of the machine can get at: keepd serves, and its log says what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use e2e::Client;
use testkit::{Keepd, TempDir};

const KEY: &str = "others can read the private key: chmod 600 it";
const CONFIGURATION: &str =
    "others can read the encryption configuration, which holds keys: chmod 600 it";
const DIRECTORY: &str = "others can enter the data directory: chmod 700 it";

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn pki(dir: &Path, arguments: &[&str]) {
    let mut command = Command::new(Keepd::binary());
    let status = command.arg("pki").args(arguments).arg("--dir").arg(dir).status().unwrap();
    assert!(status.success(), "keepd pki {arguments:?}");
}

/// The warnings of a start with these modes of data directory, key and configuration.
async fn warnings(directory: u32, key: u32, configuration: u32) -> Vec<&'static str> {
    let dir = TempDir::new("e2e-permissions");
    let pki_dir = dir.join("pki");
    pki(&pki_dir, &["ca"]);
    pki(&pki_dir, &["issue", "server", "--usage", "server", "--host", "localhost"]);
    let (certificate, key_file) = (pki_dir.join("server.crt"), pki_dir.join("server.key"));
    let encryption = dir.write(
        "encryption.yaml",
        "apiVersion: apiserver.config.k8s.io/v1\n\
         kind: EncryptionConfiguration\n\
         resources:\n\
         - resources: [secrets]\n  \
           providers:\n  \
           - secretbox: {keys: [{name: k, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}\n",
    );
    let keepd = Keepd::new(dir.path()).encryption(&encryption).args([
        "--cert-file",
        certificate.to_str().unwrap(),
        "--key-file",
        key_file.to_str().unwrap(),
    ]);
    fs::create_dir(keepd.data_dir()).unwrap();
    set_mode(&keepd.data_dir(), directory);
    set_mode(&key_file, key);
    set_mode(&encryption, configuration);
    let mut server = keepd.start();
    Client::ready(&mut server).await;
    let log = keepd.log();
    let told = |warning: &&str| log.lines().any(|line| line.contains(warning));
    [DIRECTORY, KEY, CONFIGURATION].into_iter().filter(told).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lets_others_in_is_told_and_nothing_else_is() {
    assert_eq!(warnings(0o700, 0o600, 0o600).await, [""; 0]);
    assert_eq!(warnings(0o755, 0o600, 0o600).await, [DIRECTORY]);
    assert_eq!(warnings(0o750, 0o600, 0o600).await, [DIRECTORY]);
    assert_eq!(warnings(0o700, 0o644, 0o600).await, [KEY]);
    assert_eq!(warnings(0o700, 0o640, 0o600).await, [KEY]);
    assert_eq!(warnings(0o700, 0o600, 0o604).await, [CONFIGURATION]);
}

/// What keepd makes itself lets nobody in, whatever the umask says.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_keepd_makes_is_its_owners_alone() {
    let dir = TempDir::new("e2e-own-directory");
    let keepd = Keepd::new(dir.path());
    let mut server = keepd.start();
    Client::ready(&mut server).await;
    let mode = fs::metadata(keepd.data_dir()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
