//! A value built from files and built again when their content changes.
//!
//! Every use reads the files (a few KiB from the page cache, against a handshake's millisecond)
//! and compares a digest, so a replaced file counts from the next connection on, whatever its
//! timestamps say. A new state that cannot be used, half-written or mismatched, leaves the last
//! good one in place and is reported once; docs/decisions/0101-tls-reload-keeps-last-good.md.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use keepd_env::Disk;
use parking_lot::Mutex;

use crate::error::Error;
use crate::files::Contents;

/// Reloads since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadStatus {
    /// Changed files taken into use since the start.
    pub reloads: u64,
    /// Changed files that could not be used since the start.
    pub refusals: u64,
    /// Reason why the files as they are now are not in use; `None` if they are.
    pub problem: Option<String>,
}

struct Generation<T> {
    fingerprint: Fingerprint,
    value: Arc<T>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(contents: &Contents) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for bytes in contents.iter() {
            let digest = digest::digest(&digest::SHA256, bytes);
            context.update(digest.as_ref());
        }
        Self(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

#[derive(Default)]
struct Attempts {
    status: ReloadStatus,
    /// The content that was refused last, so that it is not tried and reported again.
    refused: Option<Fingerprint>,
}

/// The files, the value in use and the attempts to replace it.
pub(crate) struct Reloading<T> {
    disk: Arc<dyn Disk>,
    paths: Vec<PathBuf>,
    current: ArcSwap<Generation<T>>,
    attempts: Mutex<Attempts>,
}

impl<T> Reloading<T> {
    /// Builds the first value; what is wrong with the files is an error now.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        paths: Vec<PathBuf>,
        build: impl FnOnce(&Contents) -> Result<T, Error>,
    ) -> Result<Self, Error> {
        let contents = Contents::read(disk.as_ref(), &paths)?;
        let value = Arc::new(build(&contents)?);
        let generation = Generation { fingerprint: Fingerprint::of(&contents), value };
        Ok(Self {
            disk,
            paths,
            current: ArcSwap::from_pointee(generation),
            attempts: Mutex::new(Attempts::default()),
        })
    }

    /// The value for the files as they are, or the last good one.
    pub(crate) fn current(&self, build: impl FnOnce(&Contents, &T) -> Result<T, Error>) -> Arc<T> {
        let current = self.current.load();
        let contents = match Contents::read(self.disk.as_ref(), &self.paths) {
            Ok(contents) => contents,
            Err(error) => {
                self.refuse(None, &error);
                return current.value.clone();
            }
        };
        let fingerprint = Fingerprint::of(&contents);
        if fingerprint == current.fingerprint {
            self.recovered();
            return current.value.clone();
        }
        self.replace(fingerprint, &contents, build)
    }

    fn replace(
        &self,
        fingerprint: Fingerprint,
        contents: &Contents,
        build: impl FnOnce(&Contents, &T) -> Result<T, Error>,
    ) -> Arc<T> {
        let mut attempts = self.attempts.lock();
        // Another connection may have done it while this one waited.
        let current = self.current.load();
        if fingerprint == current.fingerprint || attempts.refused == Some(fingerprint) {
            return current.value.clone();
        }
        match build(contents, &current.value) {
            Ok(value) => {
                let value = Arc::new(value);
                self.current.store(Arc::new(Generation { fingerprint, value: value.clone() }));
                attempts.status.reloads += 1;
                attempts.status.problem = None;
                attempts.refused = None;
                tracing::info!(files = ?self.paths, "certificate files changed and are in use");
                value
            }
            Err(error) => {
                drop(attempts);
                self.refuse(Some(fingerprint), &error);
                current.value.clone()
            }
        }
    }

    fn refuse(&self, fingerprint: Option<Fingerprint>, error: &Error) {
        let problem = error.to_string();
        let mut attempts = self.attempts.lock();
        if attempts.status.problem.as_ref() == Some(&problem) && attempts.refused == fingerprint {
            return;
        }
        tracing::warn!(
            error = problem,
            "certificate files changed but cannot be used; going on with the last good ones"
        );
        attempts.status.refusals += 1;
        attempts.status.problem = Some(problem);
        attempts.refused = fingerprint;
    }

    /// The files are again what is in use.
    fn recovered(&self) {
        // Only try: on the path of every connection nobody should wait for a reload.
        if let Some(mut attempts) = self.attempts.try_lock() {
            attempts.status.problem = None;
            attempts.refused = None;
        }
    }

    /// The value in use, without looking at the files.
    pub(crate) fn loaded(&self) -> Arc<T> {
        self.current.load().value.clone()
    }

    /// Reloads since the start.
    pub(crate) fn status(&self) -> ReloadStatus {
        self.attempts.lock().status.clone()
    }
}
