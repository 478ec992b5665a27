//! Claims in the log: made, renewed while the work goes on, looked at before it counts, and ended.

use std::cell::Cell;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use keepd_machine::claims::{self, BackupClaim, BackupTask, ClaimState};
use keepd_machine::{Command, tables};
use keepd_node::{Error, Handle};

use crate::serve::background::Stop;

/// Interval at which a claim is renewed; several fit into the time after which it counts as stuck.
const RENEWAL: Duration = Duration::from_secs(60);
/// Pause after a renewal that failed.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);
/// BOUND: attempts to tell how the work ended.
const ENDS_MAX: u32 = 5;
const END_PAUSE: Duration = Duration::from_secs(1);

/// The way of claims into the log.
pub(super) struct Claims {
    pub(super) node: Handle,
    pub(super) stop: Arc<Stop>,
    /// The runtime that serves: proposals are made there and waited for here.
    pub(super) serving: tokio::runtime::Handle,
}

impl Claims {
    /// The claim in force, as far as this member has applied the log.
    pub(super) fn current(&self, task: BackupTask) -> Option<(u64, BackupClaim)> {
        claims::current(self.node.view().meta(tables::CLUSTER), task)
    }

    /// Claims work, if the claim in force is the one with the number `after`; `None` if another has.
    pub(super) fn claim(
        &self,
        task: BackupTask,
        after: u64,
        claim: BackupClaim,
    ) -> Result<Option<Held<'_>>, Error> {
        let number = self.put(task, after, claim)?;
        let (renewed, is_lost) = (Cell::new(self.now()), Cell::new(false));
        Ok(number.map(|number| Held {
            claims: self,
            task,
            claim,
            number: Cell::new(number),
            renewed,
            is_lost,
        }))
    }

    /// Proposes a claim; its number if it is in force then.
    fn put(&self, task: BackupTask, after: u64, claim: BackupClaim) -> Result<Option<u64>, Error> {
        let node = self.node.clone();
        let view = self.on_server(async move {
            let done = node.propose(Command::ClaimBackup { task, after, claim }).await?;
            Ok(done.view)
        })?;
        let found = claims::current(view.meta(tables::CLUSTER), task);
        Ok(found.filter(|(_, found)| *found == claim).map(|(number, _)| number))
    }

    /// Waits for something that the member does.
    pub(super) fn on_server<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let done = self.serving.block_on(self.serving.spawn(work));
        done.unwrap_or(Err(Error::Stopped))
    }

    fn now(&self) -> Duration {
        self.node.env().clock.monotonic()
    }
}

/// Work that this member has claimed.
pub(super) struct Held<'a> {
    claims: &'a Claims,
    task: BackupTask,
    claim: BackupClaim,
    number: Cell<u64>,
    renewed: Cell<Duration>,
    is_lost: Cell<bool>,
}

impl Held<'_> {
    /// Renews the claim if it is time; whether the work should go on.
    pub(super) fn goes_on(&self) -> bool {
        if self.claims.stop.is_set() || self.is_lost.get() {
            return false;
        }
        let now = self.claims.now();
        if now.saturating_sub(self.renewed.get()) < RENEWAL {
            return true;
        }
        match self.claims.put(self.task, self.number.get(), self.claim) {
            Ok(Some(number)) => {
                self.number.set(number);
                self.renewed.set(now);
            }
            Ok(None) => self.is_lost.set(true),
            // There may be no leader for a while.
            Err(_passing) => self.renewed.set((now + RENEWAL_PAUSE).saturating_sub(RENEWAL)),
        }
        !self.is_lost.get()
    }

    /// Whether the claim still stands, as of now in the whole cluster.
    pub(super) fn stands(&self) -> Result<bool, Error> {
        let node = self.claims.node.clone();
        let view = self.claims.on_server(async move { node.linearizable_view().await })?;
        let found = claims::current(view.meta(tables::CLUSTER), self.task);
        let number = found.filter(|(_, found)| *found == self.claim).map(|(number, _)| number);
        match number {
            Some(number) => self.number.set(number),
            None => self.is_lost.set(true),
        }
        Ok(number.is_some())
    }

    /// Whether another member has taken it over.
    pub(super) const fn is_lost(&self) -> bool {
        self.is_lost.get()
    }

    /// Tells the others how it ended. If that fails they find out, later.
    pub(super) fn end(self, state: ClaimState) {
        let claim = BackupClaim { state, ..self.claim };
        for _ in 0..ENDS_MAX {
            if self.is_lost.get() || self.claims.put(self.task, self.number.get(), claim).is_ok() {
                return;
            }
            if self.claims.stop.wait(END_PAUSE) {
                return;
            }
        }
    }

    /// A reader that fails once the work should not go on.
    pub(super) const fn watched<R>(&self, inner: R) -> Watched<'_, R> {
        Watched { inner, held: self }
    }
}

/// See [`Held::watched`].
pub(super) struct Watched<'a, R> {
    inner: R,
    held: &'a Held<'a>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if !self.held.goes_on() {
            return Err(io::Error::other("the backup is given up"));
        }
        self.inner.read(bytes)
    }
}
