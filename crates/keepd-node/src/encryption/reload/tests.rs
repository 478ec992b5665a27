//! A key service that is down, comes back and rotates its key, under a member that serves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use bytes::Bytes;
use keepd_crypto::{
    Answer, ConfigFile, ConfigOptions, KeyService, KeyServiceError, ServiceProvider, WrappedKey,
};
use keepd_env::{Env, SeededRandom, SimDisk, SystemClock};
use keepd_machine::Command;
use keepd_machine::command::Put;
use keepd_types::{KeyRange, KeyValue, StoredValue};

use super::*;
use crate::boot::DataDir;
use crate::encryption::Reloads;
use crate::node::Node;
use crate::options::Options;

const KEY: &[u8] = b"/registry/secrets/a/b";
const SERVICE: &str = "{kms: {apiVersion: v2, name: vault, endpoint: 'unix:///s', timeout: 3s}}";
const LOCAL: &str =
    "{secretbox: {keys: [{name: k, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}}";
/// Time limit for the re-encryption of one value.
const REENCRYPTION_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct Vault {
    key: AtomicU8,
    is_down: AtomicBool,
}

impl Vault {
    fn check(&self) -> Result<u8, KeyServiceError> {
        let is_down = self.is_down.load(Ordering::Relaxed);
        let down = || KeyServiceError { provider: "vault".to_owned(), reason: "down".to_owned() };
        (!is_down).then(|| self.key.load(Ordering::Relaxed)).ok_or_else(down)
    }
}

impl KeyService for Vault {
    fn key_id(&self) -> Answer<'_, String> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(format!("kek-{}", self.check()?))
        })
    }

    fn wrap<'a>(&'a self, data_key: &'a [u8]) -> Answer<'a, WrappedKey> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let key = self.check()?;
            Ok(WrappedKey {
                provider: "vault".to_owned(),
                key_id: format!("kek-{key}"),
                ciphertext: data_key.iter().map(|byte| byte ^ 0x5a).collect(),
                annotations: BTreeMap::new(),
            })
        })
    }

    fn unwrap<'a>(&'a self, wrapped: &'a WrappedKey) -> Answer<'a, Zeroizing<Vec<u8>>> {
        Box::pin(async {
            self.check()?;
            Ok(Zeroizing::new(wrapped.ciphertext.iter().map(|byte| byte ^ 0x5a).collect()))
        })
    }
}

#[derive(Clone, Debug, Default)]
struct Vaults(Arc<Vault>);

impl KeyServices for Vaults {
    fn find(&self, _provider: &ServiceProvider) -> Result<Arc<dyn KeyService>, KeyServiceError> {
        let vault: Arc<Vault> = Arc::clone(&self.0);
        Ok(vault)
    }
}

fn text(providers: &str) -> String {
    format!(
        "apiVersion: v1\nkind: EncryptionConfig\nresources: [{{resources: [secrets], \
         providers: [{providers}]}}]"
    )
}

/// A member over a simulated disk, with the data keys that its keyring has.
async fn start(disk: &SimDisk, vaults: &Vaults, providers: &str) -> Node {
    let env = Env {
        disk: Arc::new(disk.clone()),
        clock: Arc::new(SystemClock::new()),
        random: Arc::new(SeededRandom::new(disk.mutations())),
    };
    let mut options = Options::new(PathBuf::from("/data"));
    options.flush_interval = Duration::from_millis(2);
    options.ballast_bytes = 64 * 1024;
    let config_options = ConfigOptions { allows_key_services: true, ..ConfigOptions::default() };
    let text = text(providers);
    let file = ConfigFile::parse("test", text.as_bytes(), config_options).expect("it is right");
    let stored = DataDir::wrapped_keys(&env, &options.data_dir).expect("the disk works");
    let config = file.resolve(vaults, &stored, &*env.random).await.expect("the service answers");
    let data_dir = DataDir::prepare(&env, &options, Some(config)).expect("the keys are there");
    let node = Node::start(env, options, data_dir).expect("it starts");
    node.ready().await.expect("the member leads");
    node.handle().activate_encryption().await.expect("the member runs");
    node
}

async fn put(node: &Handle) {
    let (key, value) = (Bytes::from_static(KEY), Bytes::from_static(b"plain"));
    let random = &*node.env().random;
    let value = node.encryption().sealer().seal(&key, value, random).expect("it seals");
    let put = Command::Put(Put { key, value, ..Put::default() });
    node.propose(put).await.expect("it can be written");
}

/// The key that seals the stored value, which opens.
fn sealed_under(node: &Handle) -> KeyId {
    let view = node.view();
    let found = view.range(&KeyRange::point(Bytes::from_static(KEY)), 0, 1).expect("it is there");
    let (_, revision) = found.keys.first().expect("the key exists");
    let record = view.load(*revision).expect("it is whole");
    let kv = KeyValue::decode(&record.encoded).expect("it is whole");
    let stored = StoredValue { bytes: kv.value, seal: record.seal };
    let plain = node.encryption().sealer().open(KEY, &stored).expect("its key is there");
    assert_eq!(plain, "plain");
    stored.seal.expect("it is sealed").key_id
}

async fn reencrypted(node: &Handle) {
    let mut waited = Duration::ZERO;
    while !node.file_counts().is_complete {
        assert!(waited < REENCRYPTION_MAX, "the files are not re-encrypted");
        tokio::time::sleep(Duration::from_millis(20)).await;
        waited += Duration::from_millis(20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_while_the_member_started_is_reloaded() {
    let (disk, vaults) = (SimDisk::new(), Vaults::default());
    let node = start(&disk, &vaults, LOCAL).await;
    let path = std::env::temp_dir().join(format!("keepd-changed-at-start-{}", std::process::id()));
    std::fs::write(&path, text(&format!("{LOCAL}, {{identity: {{}}}}"))).unwrap();
    let handle = node.handle();
    let services = Arc::new(vaults.clone());
    let mut reloader = Reloader::new(handle.clone(), path.clone(), services).await;
    reloader.look().await;
    assert_eq!(handle.reloads().successes, 1);
    reloader.look().await;
    assert_eq!(handle.reloads().successes, 1);
    std::fs::remove_file(&path).unwrap();
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn values_move_to_a_key_service_and_are_re_encrypted_when_it_rotates_its_key() {
    let (disk, vaults) = (SimDisk::new(), Vaults::default());
    let vault = &*vaults.0;
    let node = start(&disk, &vaults, LOCAL).await;
    let handle = node.handle();
    put(&handle).await;
    // It lies in a file then, ten flush intervals later: what is on its way to one during a change keeps
    // its key until somebody drops that.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let local = sealed_under(&handle);
    let path = std::env::temp_dir().join(format!("keepd-key-service-{}", std::process::id()));
    std::fs::write(&path, text(LOCAL)).unwrap();
    let services = Arc::new(vaults.clone());
    let mut reloader = Reloader::new(handle.clone(), path.clone(), services).await;
    reloader.look().await;
    assert_eq!(handle.reloads(), Reloads::default());

    // A service that is down is not the file's fault: the next look asks it again.
    std::fs::write(&path, text(&format!("{SERVICE}, {LOCAL}"))).unwrap();
    vault.is_down.store(true, Ordering::Relaxed);
    reloader.look().await;
    let error = handle.reloads().last_error;
    assert_eq!(error.as_deref(), Some("kms provider \"vault\": down"));
    vault.is_down.store(false, Ordering::Relaxed);
    reloader.look().await;
    assert_eq!(handle.reloads().successes, 1);
    reencrypted(&handle).await;
    let first = sealed_under(&handle);
    assert_ne!(first, local);

    // The file is the same, but the service encrypts with another key.
    reloader.look().await;
    vault.key.fetch_add(1, Ordering::Relaxed);
    reloader.look().await;
    assert_eq!(handle.reloads().successes, 1, "the service is not asked each time");
    reloader.rotation_due = Duration::ZERO;
    reloader.look().await;
    assert_eq!(handle.reloads().successes, 2);
    reencrypted(&handle).await;
    let second = sealed_under(&handle);
    assert_ne!(second, first);
    std::fs::remove_file(&path).unwrap();
    node.stop();

    let node = start(&disk, &vaults, SERVICE).await;
    assert_eq!(sealed_under(&node.handle()), second);
    node.stop();
}
