//! A snapshot restored into the scratch folder and opened as a store, until it is dropped.

use std::path::PathBuf;
use std::sync::Arc;

use keepd_backup::{Progress, RestoreOptions};
use keepd_crypto::{ConfigOptions, Encryption, EncryptionConfig, ValueSealer, quickstart_config};
use keepd_env::Env;
use keepd_member::Layout;
use keepd_mvcc::{Applied, HashKv, Options, Store, View};

use crate::Error;
use crate::scratch::{Scratch, ScratchFile};
use crate::sidecar::{HashFacts, StateFacts};
use crate::stage::{Stage, Tell};

/// The store.
#[derive(Debug)]
pub struct Unpacked {
    env: Env,
    dir: PathBuf,
    store: Store,
    sealer: Arc<ValueSealer>,
}

impl Unpacked {
    /// Restores a snapshot into a folder of that name, sealed. `config` is the encryption configuration of
    /// the cluster, needed if values are sealed.
    ///
    /// # Errors
    /// If it cannot be restored, or there is too little space.
    pub fn open(
        env: &Env,
        (file, state): (&ScratchFile, &StateFacts),
        config: Option<&EncryptionConfig>,
        (scratch, name): (&Scratch, &str),
        tell: &mut Tell<'_>,
    ) -> Result<Self, Error> {
        if state.sealed_values > 0 && config.is_none() {
            return Err(Error::ValuesAreSealed(state.sealed_values));
        }
        // A store has its live records once, and some room to write.
        scratch.check_space(state.snapshot_bytes.saturating_mul(2))?;
        let own;
        let config = match config {
            Some(config) if config.seals() || state.sealed_values > 0 => config,
            _ => {
                own = passing_config(env);
                &own
            }
        };
        let dir = scratch.path().join(name);
        let options = RestoreOptions {
            bump_revision: 0,
            mark_compacted: false,
            without_authentication: true,
            ..RestoreOptions::default()
        };
        let mut told = |it: Progress| tell(Stage::Restore, it.done, it.total);
        let file = Box::new(file.clone());
        keepd_backup::restore_file(env, file, &dir, &options, Some(config), &mut told)?;
        let member = Layout::new(&dir).member;
        let encryption = Encryption::open(env, &member, Some(config.clone()))?;
        let (sealer, keys) = (encryption.sealer(), encryption.files());
        let store = Store::open(env.clone(), &Layout::store(&member), keys, Options::default())?;
        Ok(Self { env: env.clone(), dir, store, sealer })
    }

    /// Its state.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.store.views().load()
    }

    /// The keys that open its values.
    #[must_use]
    pub fn sealer(&self) -> &ValueSealer {
        &self.sealer
    }

    /// The hash after the compaction that the member had carried out when it was asked for its own.
    pub(crate) fn hash_as(&mut self, expected: HashFacts) -> Result<HashKv, Error> {
        let view = self.view();
        if expected.compact_revision <= view.compact_revision() {
            return Ok(view.hash_kv(expected.revision)?);
        }
        drop(view);
        self.store.compact(expected.compact_revision).map_err(keepd_mvcc::Error::from)?;
        let applied: Applied = self.store.durable();
        Ok(self.store.publish(applied).hash_kv(expected.revision)?)
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // It is sealed, and goes with the scratch folder at the latest.
        let _left_over = self.env.disk.remove_dir_all(&self.dir);
    }
}

/// A configuration that seals everything under a key that is forgotten with it, and takes plain values.
fn passing_config(env: &Env) -> EncryptionConfig {
    let text = quickstart_config(&*env.random);
    let options = ConfigOptions { trust_plain_data: true, ..ConfigOptions::default() };
    EncryptionConfig::parse_with("scratch", text.as_bytes(), options)
        .expect("the first configuration of quickstart is right")
}
