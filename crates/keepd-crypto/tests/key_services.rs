//! A key service in this process stands in for a KMS: it answers late, fails and rotates its key,
//! and whatever was sealed stays readable.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use keepd_crypto::{
    Answer, ConfigFile, ConfigOptions, Encryption, EncryptionConfig, KeyService, KeyServiceError,
    KeyServices, Keyring, KeyringError, NoKeyServices, ServiceProvider, WrappedKey,
};
use keepd_env::{Disk as _, Env, SeededRandom};
use keepd_types::StoredValue;
use zeroize::Zeroizing;

const DIR: &str = "/data";
const RECORD: &[u8] = b"/registry/secrets/a/b";
const SERVICE: &str = "kms: {apiVersion: v2, name: vault, endpoint: 'unix:///s', timeout: 3s}";
const LOCAL: &str = "secretbox: {keys: [{name: k, \
    secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}";

/// A service whose keys are bytes that it adds to whatever it encrypts.
#[derive(Debug, Default)]
struct Service {
    key: AtomicU8,
    is_down: AtomicBool,
    is_late: AtomicBool,
    /// Rotates its key while it encrypts.
    is_restless: AtomicBool,
    calls: AtomicUsize,
}

/// The service, as the configuration finds it.
#[derive(Clone, Debug, Default)]
struct Vault(Arc<Service>);

impl KeyServices for Vault {
    fn find(&self, provider: &ServiceProvider) -> Result<Arc<dyn KeyService>, KeyServiceError> {
        assert_eq!((&*provider.name, &*provider.endpoint), ("vault", "unix:///s"));
        assert_eq!(provider.timeout, Duration::from_secs(3));
        let service: Arc<Service> = Arc::clone(&self.0);
        Ok(service)
    }
}

/// Ready when the service is no longer late.
struct InTime<'a>(&'a Service);

impl Future for InTime<'_> {
    type Output = Result<(), KeyServiceError>;

    fn poll(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.0.is_late.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        let is_up = !self.0.is_down.load(Ordering::Relaxed);
        Poll::Ready(is_up.then_some(()).ok_or_else(|| failure("down")))
    }
}

fn failure(reason: &str) -> KeyServiceError {
    KeyServiceError { provider: "vault".to_owned(), reason: reason.to_owned() }
}

fn shifted(bytes: &[u8], by: u8) -> Vec<u8> {
    bytes.iter().map(|byte| byte.wrapping_add(by)).collect()
}

impl KeyService for Service {
    fn key_id(&self) -> Answer<'_, String> {
        Box::pin(async {
            InTime(self).await?;
            Ok(format!("kek-{}", self.key.load(Ordering::Relaxed)))
        })
    }

    fn wrap<'a>(&'a self, data_key: &'a [u8]) -> Answer<'a, WrappedKey> {
        Box::pin(async {
            InTime(self).await?;
            let is_restless = self.is_restless.load(Ordering::Relaxed);
            let key = self.key.fetch_add(u8::from(is_restless), Ordering::Relaxed);
            let key = key + u8::from(is_restless);
            Ok(WrappedKey {
                provider: "vault".to_owned(),
                key_id: format!("kek-{key}"),
                ciphertext: shifted(data_key, key + 1),
                annotations: BTreeMap::from([("version.vault.test".to_owned(), vec![key])]),
            })
        })
    }

    fn unwrap<'a>(&'a self, wrapped: &'a WrappedKey) -> Answer<'a, Zeroizing<Vec<u8>>> {
        Box::pin(async {
            InTime(self).await?;
            let key = wrapped.annotations.get("version.vault.test").and_then(|key| key.first());
            let known = key.filter(|key| wrapped.key_id == format!("kek-{key}"));
            let key = *known.ok_or_else(|| failure("no such key"))?;
            Ok(Zeroizing::new(shifted(&wrapped.ciphertext, 0_u8.wrapping_sub(key + 1))))
        })
    }
}

fn file(providers: &[&str]) -> ConfigFile {
    let providers: Vec<String> = providers.iter().map(|it| format!("{{{it}}}")).collect();
    let text = format!(
        "apiVersion: v1\nkind: EncryptionConfig\nresources: [{{resources: [secrets], \
         providers: [{}]}}]",
        providers.join(", ")
    );
    let options = ConfigOptions { allows_key_services: true, ..ConfigOptions::default() };
    ConfigFile::parse("enc.yaml", text.as_bytes(), options).expect("it is right")
}

fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The output of a future that has nothing to wait for.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut output = None;
    if let Poll::Ready(ready) = poll(pin!(future)) {
        output = Some(ready);
    }
    output.expect("it waits for nothing")
}

fn resolved(
    vault: &Vault,
    providers: &[&str],
    stored: &[WrappedKey],
) -> Result<EncryptionConfig, KeyServiceError> {
    let random = SeededRandom::new(vault.0.calls.load(Ordering::Relaxed) as u64);
    now(file(providers).resolve(vault, stored, &random))
}

fn created(env: &Env, vault: &Vault) -> Encryption {
    let config = resolved(vault, &[SERVICE], &[]).expect("the service answers");
    Encryption::create(env, Path::new(DIR), Some(config)).expect("the disk works")
}

/// A start: the keyring tells what the service has to decrypt.
fn reopened(env: &Env, vault: &Vault, providers: &[&str]) -> Result<Encryption, KeyringError> {
    let stored = Keyring::wrapped_keys(env, Path::new(DIR))?;
    let config = resolved(vault, providers, &stored).expect("the service answers");
    Encryption::open(env, Path::new(DIR), Some(config))
}

fn seal(encryption: &Encryption) -> StoredValue {
    let plain = Bytes::from_static(b"plain");
    encryption.sealer().seal(RECORD, plain, &SeededRandom::new(1)).expect("it seals")
}

fn opens(encryption: &Encryption, value: &StoredValue) -> bool {
    encryption.sealer().open(RECORD, value).is_ok_and(|plain| plain == "plain")
}

#[test]
fn a_data_key_is_encrypted_by_the_service_and_decrypted_at_a_start() {
    let (env, _, _) = Env::simulated(1);
    let vault = Vault::default();
    let before = created(&env, &vault);
    let value = seal(&before);
    assert!(value.bytes.starts_with(b"k8s:enc:kms:v2:vault:"));
    assert!(opens(&before, &value));
    let after = reopened(&env, &vault, &[SERVICE]).unwrap();
    assert!(opens(&after, &value));
    assert_eq!(after.status(), before.status(), "no other data key is drawn");
    assert_eq!(after.status().keyring_wrapped_under[0].to_string().find("kms:vault"), Some(0));
}

#[test]
fn a_start_without_the_service_names_the_key_that_is_needed() {
    let (env, _, _) = Env::simulated(1);
    created(&env, &Vault::default());
    let local = Some(now(file(&[LOCAL]).resolve(&NoKeyServices, &[], &*env.random)).unwrap());
    let refused = Encryption::open(&env, Path::new(DIR), local).unwrap_err();
    assert!(refused.to_string().contains("needs one of these keys: kms:vault"), "{refused}");
    let error = now(file(&[SERVICE]).resolve(&NoKeyServices, &[], &*env.random)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kms provider \"vault\": kms providers are not supported yet by keepd"
    );
    assert_eq!(file(&[SERVICE]).local().unwrap_err(), error);
}

#[test]
fn a_late_answer_holds_nobody_up() {
    let (env, _, _) = Env::simulated(1);
    let vault = Vault::default();
    let local = now(file(&[LOCAL]).resolve(&vault, &[], &*env.random)).unwrap();
    let encryption = Encryption::create(&env, Path::new(DIR), Some(local)).unwrap();
    let old = seal(&encryption);
    vault.0.is_late.store(true, Ordering::Relaxed);
    let mut resolving = pin!(file(&[SERVICE, LOCAL]).resolve(&vault, &[], &*env.random));
    assert!(poll(resolving.as_mut()).is_pending());
    // Meanwhile values are sealed and opened under the configuration before.
    assert!(opens(&encryption, &seal(&encryption)));
    vault.0.is_late.store(false, Ordering::Relaxed);
    let Poll::Ready(config) = poll(resolving.as_mut()) else { panic!("it still waits") };
    encryption.reload(config.unwrap(), &|_| 1).unwrap();
    assert!(opens(&encryption, &old) && encryption.sealer().is_stale(RECORD, &old));
    assert!(seal(&encryption).bytes.starts_with(b"k8s:enc:kms:v2:vault:"));
}

#[test]
fn a_service_that_fails_changes_nothing_and_may_be_asked_again() {
    let (env, disk, _) = Env::simulated(1);
    let vault = Vault::default();
    let encryption = created(&env, &vault);
    let (status, mutations) = (encryption.status(), disk.mutations());
    let stored = encryption.config().unwrap().wrapped_keys();
    vault.0.is_down.store(true, Ordering::Relaxed);
    let error = resolved(&vault, &[SERVICE], &stored).unwrap_err();
    assert_eq!(error.to_string(), "kms provider \"vault\": down");
    assert!(now(encryption.config().unwrap().is_rotated(&vault)).is_err());
    assert!(opens(&encryption, &seal(&encryption)));
    assert_eq!((encryption.status(), disk.mutations()), (status, mutations));
    vault.0.is_down.store(false, Ordering::Relaxed);
    let config = resolved(&vault, &[SERVICE], &stored).unwrap();
    assert!(!encryption.reload(config, &|_| 1).unwrap().keyring.is_rewritten);
}

#[test]
fn a_rotated_key_of_the_service_gives_a_new_data_key() {
    let (env, _, _) = Env::simulated(1);
    let vault = Vault::default();
    let encryption = created(&env, &vault);
    let old = seal(&encryption);
    let config = encryption.config().unwrap();
    assert!(!now(config.is_rotated(&vault)).unwrap());
    vault.0.key.fetch_add(1, Ordering::Relaxed);
    assert!(now(config.is_rotated(&vault)).unwrap());

    let config = resolved(&vault, &[SERVICE], &config.wrapped_keys()).unwrap();
    assert!(!now(config.is_rotated(&vault)).unwrap());
    let report = encryption.reload(config, &|_| 1).unwrap();
    assert!(!report.is_changed && report.keyring.is_rewritten && report.removed.is_empty());
    assert_eq!(report.added.len(), 1);
    let new = seal(&encryption);
    assert_ne!(new.seal.unwrap().key_id, old.seal.unwrap().key_id);
    assert!(opens(&encryption, &old) && encryption.sealer().is_stale(RECORD, &old));
    assert!(opens(&encryption, &new) && !encryption.sealer().is_stale(RECORD, &new));

    // Both are in the keyring, and the newer one is used on.
    let after = reopened(&env, &vault, &[SERVICE]).unwrap();
    assert!(opens(&after, &old) && opens(&after, &new));
    assert_eq!(seal(&after).seal.unwrap().key_id, new.seal.unwrap().key_id);
}

#[test]
fn a_key_that_changes_while_it_encrypts_is_asked_again() {
    let vault = Vault::default();
    vault.0.is_restless.store(true, Ordering::Relaxed);
    let error = resolved(&vault, &[SERVICE], &[]).unwrap_err();
    assert!(error.to_string().contains("its key changed"), "{error}");
    vault.0.is_restless.store(false, Ordering::Relaxed);
    assert_eq!(resolved(&vault, &[SERVICE], &[]).unwrap().wrapped_keys()[0].key_id, "kek-1");
}

#[test]
fn the_way_to_a_service_and_back() {
    let (env, _, _) = Env::simulated(1);
    let vault = Vault::default();
    let encryption = created(&env, &vault);
    let old = seal(&encryption);
    let stored = encryption.config().unwrap().wrapped_keys();
    encryption.reload(resolved(&vault, &[LOCAL, SERVICE], &stored).unwrap(), &|_| 1).unwrap();
    let new = seal(&encryption);
    assert!(opens(&encryption, &old) && encryption.sealer().is_stale(RECORD, &old));
    let dropped = resolved(&vault, &[LOCAL], &stored).unwrap();
    assert!(encryption.reload(dropped.clone(), &|_| 1).is_err(), "a value needs it");
    encryption.reload(dropped, &|_| 0).unwrap();
    vault.0.is_down.store(true, Ordering::Relaxed);
    assert!(opens(&reopened(&env, &vault, &[LOCAL]).unwrap(), &new));
}

#[test]
fn a_keyring_that_was_tampered_with_does_not_open() {
    let (env, disk, _) = Env::simulated(1);
    let vault = Vault::default();
    created(&env, &vault);
    let path = Path::new(DIR).join("KEYRING");
    let good = disk.peek(&path).expect("it was just written");
    disk.remove(&Path::new(DIR).join("KEYRING.prev")).expect("it has a copy");
    for at in 0..good.len() - 4 {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        let (covered, crc) = bytes.split_last_chunk_mut::<4>().expect("it has a checksum");
        *crc = crc32c::crc32c(covered).to_le_bytes();
        disk.poke(&path, &bytes);
        let stored = Keyring::wrapped_keys(&env, Path::new(DIR));
        let config = stored.ok().and_then(|stored| resolved(&vault, &[SERVICE], &stored).ok());
        let opened = config.map(|config| Encryption::open(&env, Path::new(DIR), Some(config)));
        assert!(!matches!(opened, Some(Ok(_))), "byte {at}");
    }
    disk.poke(&path, &good);
    assert!(reopened(&env, &vault, &[SERVICE]).is_ok());
}
