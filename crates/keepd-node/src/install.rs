//! The state of another member in the place of this one's: while it serves, and at a start that finds
//! it half done.
//!
//! The order in which things become durable is in `keepd-member`'s `install.rs`; here store and log
//! are brought along.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keepd_crypto::FileKeys;
use keepd_env::Env;
use keepd_machine::{Halt, StateMachine};
use keepd_member::Layout;
use keepd_member::install::{self, InstallError, InstallRecord};
use keepd_mvcc::{StagedState, StateWriter, View};
use keepd_types::KeyId;
use keepd_wal::Wal;

use crate::error::BootError;

/// Stages and installs states in a member's directory. Its methods are the steps, in their order.
#[derive(Clone, Debug)]
pub struct Installer {
    env: Env,
    member_dir: PathBuf,
    keys: FileKeys,
}

impl Installer {
    /// For the member in this directory, whose files have these keys.
    #[must_use]
    pub const fn new(env: Env, member_dir: PathBuf, keys: FileKeys) -> Self {
        Self { env, member_dir, keys }
    }

    /// Begins to take a state, in place of one that was staged before. Whoever calls sees to it that
    /// it is the only one. Values may be sealed under keys that are `readable`. The writer's calls write to the disk, and so does this.
    ///
    /// # Errors
    /// If an install is under way, or the disk refuses; the member goes on as it is.
    pub fn begin(&self, readable: BTreeSet<KeyId>) -> Result<StateWriter, BootError> {
        let dir = install::begin(&*self.env.disk, &self.member_dir)?;
        let options = keepd_mvcc::Options::default();
        let writer = StateWriter::create(self.env.clone(), &dir, self.keys.clone(), options)?;
        Ok(writer.with_readable(readable))
    }

    /// Commits to a state that was taken: from now on it is this member's, if need be after a start.
    ///
    /// # Errors
    /// As those of [`install::commit`]: unless the key has changed or space ran short, the member must
    /// stop.
    pub fn commit(&self, staged: &StagedState) -> Result<(), InstallError> {
        let record =
            InstallRecord { index: staged.head.applied.index, term: staged.head.applied.term };
        keepd_env::failpoint!(RaftBeforeSaveSnap);
        install::commit(&self.env, &self.member_dir, &self.keys, staged.data_key, record)?;
        keepd_env::failpoint!(RaftAfterSaveSnap);
        Ok(())
    }

    /// Has the machine go on in it; the view that it publishes. The log is reset before or after,
    /// with [`Wal::reset`].
    ///
    /// # Errors
    /// If the disk fails: the member must stop.
    pub fn switch(&self, machine: &mut StateMachine) -> Result<Arc<View>, Halt> {
        keepd_env::failpoint!(RaftBeforeApplySnap);
        let view = machine.install(|| Ok(install::switch(&*self.env.disk, &self.member_dir)?))?;
        keepd_env::failpoint!(RaftAfterApplySnap);
        Ok(view)
    }

    /// Ends the install, once the store is switched and the log reset. What was replaced stays on the
    /// disk until [`Self::discard`].
    ///
    /// # Errors
    /// If the disk fails: the member must stop.
    pub fn finish(&self) -> Result<(), InstallError> {
        Ok(install::finish(&*self.env.disk, &self.member_dir)?)
    }

    /// Removes what was replaced, or what was staged and is not wanted. Removing a large store takes
    /// its time.
    ///
    /// # Errors
    /// If an install is under way or the disk fails.
    pub fn discard(&self) -> Result<(), InstallError> {
        install::discard(&*self.env.disk, &self.member_dir)
    }
}

/// Does what is left of an install whose record is there, and removes what is staged without one. For a
/// start, before store and log are opened; safe to repeat.
pub(crate) fn complete(env: &Env, member_dir: &Path, keys: &FileKeys) -> Result<(), BootError> {
    let disk = &*env.disk;
    if let Some(InstallRecord { index, term }) = install::read(disk, member_dir, keys)? {
        tracing::info!(index, term, "a state of another member is installed to its end");
        install::switch(disk, member_dir)?;
        let (mut wal, _entries) = Wal::open(env.clone(), &Layout::wal(member_dir), keys.clone())?;
        wal.reset(index, term)?;
        wal.close()?;
        install::finish(disk, member_dir)?;
    }
    Ok(install::discard(disk, member_dir)?)
}
