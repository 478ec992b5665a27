//! Threads of low priority beside what serves: they block on disks and places, and end when they are told to.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::process;

/// Interval between two looks whether the threads have ended.
const LOOK: Duration = Duration::from_millis(20);

/// A flag that is set once, for threads to wait for.
#[derive(Debug, Default)]
pub(super) struct Stop {
    is_set: Mutex<bool>,
    told: Condvar,
}

impl Stop {
    fn set(&self) {
        *self.is_set.lock() = true;
        self.told.notify_all();
    }

    pub(super) fn is_set(&self) -> bool {
        *self.is_set.lock()
    }

    /// Waits for it, for so long at most; whether it is set.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        let mut is_set = self.is_set.lock();
        if !*is_set {
            let _timeout = self.told.wait_for(&mut is_set, limit);
        }
        *is_set
    }
}

/// The threads of one kind of work.
#[derive(Default)]
pub(super) struct Background {
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
}

impl Background {
    /// Begins a thread.
    pub(super) fn begin(
        &mut self,
        name: String,
        work: impl FnOnce(&Arc<Stop>) + Send + 'static,
    ) -> io::Result<()> {
        let stop = Arc::clone(&self.stop);
        let run = move || {
            process::lower_thread_priority();
            work(&stop);
        };
        self.threads.push(std::thread::Builder::new().name(name).spawn(run)?);
        Ok(())
    }

    /// Tells the threads to end.
    pub(super) fn begin_stop(&self) {
        self.stop.set();
    }

    /// Tells them to end, and waits for it so long at most; whether all have ended.
    pub(super) async fn stop(self, limit: Duration) -> bool {
        self.begin_stop();
        let ended = async {
            while self.threads.iter().any(|thread| !thread.is_finished()) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(limit, ended).await.is_ok()
    }
}
