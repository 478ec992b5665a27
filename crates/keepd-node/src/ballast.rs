//! Going on when the disk is full: a file to throw off, and waiting for space.
//!
//! The ballast is reserved space that holds nothing. When a write finds the disk full, the ballast
//! goes, and its space lets deletions and compactions through while the NOSPACE alarm refuses what
//! grows. Without it writes wait: nothing is acknowledged, reads are served, and the member goes on
//! by itself once there is space. The background thread brings the ballast back, which ends the
//! alarm. Only calls that can be made again as they were are served here, never a failed sync.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keepd_env::{Clock, Disk, Env, IoError};
use keepd_machine::layout::Layout;
use parking_lot::{Condvar, Mutex};

use crate::error::BootError;

/// The ballast takes at most one part in so many of its file system.
const FILE_SYSTEM_PARTS: u64 = 16;
/// What must be free beside the ballast before it is brought back, at least: more than the log
/// reserves at once, or the alarm would come and go.
const MARGIN_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// How long a write waits before it is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// How often the log says that writes wait.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// The ballast of a member's directory.
#[derive(Debug)]
pub(crate) struct Ballast {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    dir: PathBuf,
    path: PathBuf,
    bytes: u64,
    state: Mutex<State>,
    stopping: Condvar,
    /// A write found no space, or the ballast does not fit; until it is back.
    is_short: AtomicBool,
}

#[derive(Debug)]
struct State {
    is_there: bool,
    is_given_up: bool,
    /// When the log may say again that writes wait.
    report_at: Duration,
}

impl Ballast {
    /// Looks for the ballast in a member's directory.
    pub(crate) fn find(env: &Env, member_dir: &Path, bytes_max: u64) -> Self {
        let disk = Arc::clone(&env.disk);
        let path = Layout::ballast(member_dir);
        // Without an answer the limit stands: reserving the space will tell.
        let total = disk.space(member_dir).map_or(0, |space| space.total_bytes);
        let bytes = if total == 0 { bytes_max } else { bytes_max.min(total / FILE_SYSTEM_PARTS) };
        let len = disk.open(&path).and_then(|file| file.len());
        let state = State {
            is_there: len.is_ok_and(|len| len == bytes),
            is_given_up: false,
            report_at: Duration::ZERO,
        };
        Self {
            disk,
            clock: Arc::clone(&env.clock),
            dir: member_dir.to_owned(),
            path,
            bytes,
            state: Mutex::new(state),
            stopping: Condvar::new(),
            is_short: AtomicBool::new(false),
        }
    }

    /// Whether there is no space to spare: whatever grows is to be refused.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Whether [`Ballast::restore`] has something to do.
    pub(crate) fn is_missing(&self) -> bool {
        !self.state.lock().is_there
    }

    /// Waits a moment before a write that found no space is made again; `false` once the member
    /// stops, and no write is to be made again.
    pub(crate) fn wait(&self, error: &IoError) -> bool {
        let mut state = self.state.lock();
        let now = self.clock.monotonic();
        if !state.is_given_up && now >= state.report_at {
            state.report_at = now + REPORT_INTERVAL;
            tracing::error!(
                %error,
                dir = %self.dir.display(),
                available_bytes = self.available_bytes(),
                "the file system is full: writes wait and are not acknowledged, reads are served; \
                 free space or enlarge the file system, and the member goes on by itself"
            );
        }
        if !state.is_given_up {
            self.stopping.wait_for(&mut state, PAUSE);
        }
        !state.is_given_up
    }

    /// Gives the space of the ballast to a write that found none; whether there was one.
    pub(crate) fn throw_off(&self, error: &IoError) -> bool {
        let mut state = self.state.lock();
        self.is_short.store(true, Ordering::Relaxed);
        if !std::mem::take(&mut state.is_there) {
            return false;
        }
        if let Err(error) = self.disk.remove(&self.path) {
            tracing::error!(%error, "the ballast could not be thrown off");
            return false;
        }
        tracing::error!(
            %error,
            dir = %self.dir.display(),
            ballast_bytes = self.bytes,
            "the file system is full: the ballast was thrown off and the NOSPACE alarm is raised; \
             deletions and compactions go on, whatever grows is refused; free space or enlarge the \
             file system, and the alarm clears by itself"
        );
        true
    }

    /// Lets a step of a start that found no space try once more without the ballast.
    pub(crate) fn start_with_room<T>(
        &self,
        mut step: impl FnMut() -> Result<T, BootError>,
    ) -> Result<T, BootError> {
        let done = match step() {
            Err(error) => match error.out_of_space() {
                Some(full) if self.throw_off(full) => step(),
                _ => Err(error),
            },
            done => done,
        };
        done.map_err(|error| explain(&*self.disk, &self.dir, error))
    }

    /// Lets no write wait any longer: the member stops.
    pub(crate) fn give_up(&self) {
        self.state.lock().is_given_up = true;
        self.stopping.notify_all();
    }

    /// Brings the ballast back if the disk has clearly space again. Takes a moment.
    pub(crate) fn restore(&self) {
        let wanted = self.bytes + MARGIN_BYTES_MIN.max(self.bytes / 4);
        if self.disk.space(&self.dir).is_ok_and(|space| space.available_bytes < wanted) {
            self.is_short.store(true, Ordering::Relaxed);
            return;
        }
        let created = self.create();
        if let Err(error) = &created {
            // What was reserved of it would be missing elsewhere.
            let _is_gone = self.disk.remove(&self.path).is_ok();
            if error.is_out_of_space() {
                self.is_short.store(true, Ordering::Relaxed);
                return;
            }
            tracing::warn!(%error, "there is no ballast for the day when the disk is full");
        }
        // Without one for another reason the member goes on as if it were there.
        self.state.lock().is_there = true;
        if self.is_short.swap(false, Ordering::Relaxed) {
            tracing::info!(dir = %self.dir.display(), "there is space on the file system again");
        }
    }

    fn create(&self) -> Result<(), IoError> {
        if self.disk.exists(&self.path)? {
            self.disk.remove(&self.path)?;
        }
        // No sync: after a power cut a start looks for it anew.
        self.disk.create(&self.path)?.allocate(self.bytes)
    }

    fn available_bytes(&self) -> u64 {
        available_bytes(&*self.disk, &self.dir)
    }
}

/// Says of a start that found the disk full what to do.
pub(crate) fn explain(disk: &dyn Disk, dir: &Path, error: BootError) -> BootError {
    if error.out_of_space().is_none() {
        return error;
    }
    let available_bytes = available_bytes(disk, dir);
    BootError::Full { dir: dir.to_owned(), available_bytes, source: Box::new(error) }
}

fn available_bytes(disk: &dyn Disk, dir: &Path) -> u64 {
    disk.space(dir).map_or(0, |space| space.available_bytes)
}

#[cfg(test)]
mod tests {
    use keepd_env::{DiskFile, IoOp, SimDisk};

    use super::*;

    const BYTES: u64 = 1000;
    const DIR: &str = "/member";

    fn ballast(disk: &SimDisk) -> Ballast {
        let env = Env { disk: Arc::new(disk.clone()), ..Env::simulated(1).0 };
        disk.create_dir(Path::new(DIR)).unwrap();
        Ballast::find(&env, Path::new(DIR), BYTES)
    }

    fn other(disk: &SimDisk) -> Box<dyn DiskFile> {
        disk.create(Path::new("/member/other")).unwrap()
    }

    fn full() -> IoError {
        let source = std::io::ErrorKind::StorageFull.into();
        IoError { op: IoOp::Write, path: "/x".into(), source }
    }

    #[test]
    fn the_ballast_goes_when_the_disk_is_full_and_comes_back_with_space_to_spare() {
        let disk = SimDisk::new();
        let ballast = ballast(&disk);
        assert!(ballast.is_missing() && !ballast.is_short());
        ballast.restore();
        assert!(!ballast.is_missing() && disk.used_bytes() == BYTES);

        let file = other(&disk);
        disk.set_capacity(Some(BYTES + 10));
        let error = file.write_all_at(&[1; 20], 0).unwrap_err();
        assert!(ballast.throw_off(&error));
        file.write_all_at(&[1; 20], 0).unwrap();
        assert!(ballast.is_missing() && ballast.is_short());
        assert!(!ballast.throw_off(&error) && ballast.wait(&error), "nothing is left but to wait");

        // It would fit, but with nothing to spare.
        let enough = 20 + BYTES + MARGIN_BYTES_MIN;
        disk.set_capacity(Some(enough - 1));
        ballast.restore();
        assert!(ballast.is_missing() && ballast.is_short() && disk.used_bytes() == 20);
        disk.set_capacity(Some(enough));
        ballast.restore();
        assert!(!ballast.is_missing() && !ballast.is_short() && disk.used_bytes() == 20 + BYTES);
    }

    #[test]
    fn who_waits_is_let_go_when_the_member_stops() {
        let disk = SimDisk::new();
        let ballast = ballast(&disk);
        ballast.give_up();
        assert!(!ballast.wait(&full()));
    }

    #[test]
    fn a_start_finds_a_whole_ballast_and_makes_half_of_one_anew() {
        let disk = SimDisk::new();
        ballast(&disk).restore();
        assert!(!ballast(&disk).is_missing());
        disk.poke(&Layout::ballast(Path::new(DIR)), b"half");
        let half = ballast(&disk);
        assert!(half.is_missing());
        half.restore();
        assert!(!half.is_missing() && disk.used_bytes() == BYTES);
    }

    #[test]
    fn on_a_small_file_system_the_ballast_is_small() {
        let disk = SimDisk::new();
        disk.set_capacity(Some(FILE_SYSTEM_PARTS * BYTES / 2));
        let ballast = ballast(&disk);
        disk.set_capacity(None);
        ballast.restore();
        assert_eq!(disk.used_bytes(), BYTES / 2);
    }

    #[test]
    fn a_start_on_a_full_disk_throws_the_ballast_off_and_tries_once_more() {
        let disk = SimDisk::new();
        let ballast = ballast(&disk);
        ballast.restore();
        let mut tries = 0;
        let mut step = |works_at: u32| {
            tries = 0;
            ballast.start_with_room(|| {
                tries += 1;
                if tries == works_at { Ok(tries) } else { Err(full().into()) }
            })
        };
        assert!(matches!(step(2), Ok(2)));
        let refused = step(2).unwrap_err().to_string();
        assert!(refused.contains("/member") && refused.contains("free"), "{refused}");
        assert!(ballast.is_short());
    }
}
