//! Going on when the disk is full: a file whose space can be released, and waiting for space.
//!
//! The ballast is reserved space that holds nothing. While there is less to spare than a margin
//! beside it, the NOSPACE alarm refuses what grows, so that the ballast is left for deletions,
//! compactions and reclaiming. When a write finds the disk full all the same, the larger part goes;
//! the last part is kept for what gives space back: flushes, checkpoints, rewrites, and the next
//! start. Without it writes wait: nothing is acknowledged, reads are served, and the member goes on
//! by itself once there is space. The background thread brings the ballast back, which ends the
//! alarm. Only calls that can be made again as they were are served here, never a failed sync.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keepd_env::{Clock, Disk, Env, IoError};
use keepd_member::Layout;
use parking_lot::{Condvar, Mutex};

use crate::error::BootError;

/// The ballast takes at most one part in so many of its file system.
const FILE_SYSTEM_PARTS: u64 = 16;
/// The margin is such a part of the ballast, and what writes leave of it is one too.
const PARTS: u64 = 4;
/// Least number of bytes that must be free beside the ballast: more than the log reserves at once for the file
/// in use and for the next one.
const MARGIN_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// The alarm ends with so many margins free, or it would come and go.
const CLEAR_MARGINS: u64 = 2;
/// Pause before a call that found no space is made again.
const PAUSE: Duration = Duration::from_millis(200);
/// Interval between two messages that writes wait.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// The purpose for which space of the ballast is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// The log, for what clients write.
    Write,
    /// Work that leads to more space in the end, and a start.
    Reclaim,
}

/// The part of the ballast that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Nothing,
    /// The part that writes do not get.
    LastPart,
    Whole,
    /// Something else is in its place.
    Other,
}

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
    /// There is no space to spare, or a write found none; until the ballast is back with a margin.
    is_short: AtomicBool,
}

#[derive(Debug)]
struct State {
    held: Held,
    is_shut_down: bool,
    /// The log has said why there is no ballast.
    is_explained: bool,
    /// The time from which the log may say again that writes wait.
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
        let held = match disk.probe(&path) {
            Ok(None) => Held::Nothing,
            Ok(Some(found)) if found.is_reserved(bytes) => Held::Whole,
            Ok(Some(found)) if found.is_reserved(bytes / PARTS) => Held::LastPart,
            Ok(Some(_)) | Err(_) => Held::Other,
        };
        Self {
            disk,
            clock: Arc::clone(&env.clock),
            dir: member_dir.to_owned(),
            path,
            bytes,
            state: Mutex::new(State {
                held,
                is_shut_down: false,
                is_explained: false,
                report_at: Duration::ZERO,
            }),
            stopping: Condvar::new(),
            is_short: AtomicBool::new(false),
        }
    }

    /// Bytes that must be free beside the ballast for anything to grow.
    pub(crate) fn margin(&self) -> u64 {
        MARGIN_BYTES_MIN.max(self.bytes / PARTS)
    }

    /// Whether there is no space to spare: whatever grows is to be refused.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Whether [`Ballast::restore`] has something to do.
    pub(crate) fn is_missing(&self) -> bool {
        self.state.lock().held != Held::Whole || self.is_short()
    }

    /// Free bytes of the file system; `None` if that is not known.
    pub(crate) fn available_bytes(&self) -> Option<u64> {
        Some(self.disk.space(&self.dir).ok()?.available_bytes)
    }

    /// Bytes that are missing of the ballast and will be reserved again.
    pub(crate) fn owed_bytes(&self) -> u64 {
        match self.state.lock().held {
            Held::Nothing | Held::Other => self.bytes,
            Held::LastPart => self.bytes - self.bytes / PARTS,
            Held::Whole => 0,
        }
    }

    /// Bytes that reclaiming may take: those that are free, and those of the ballast.
    pub(crate) fn reclaimable_bytes(&self) -> u64 {
        let held = self.held_bytes(self.state.lock().held);
        self.available_bytes().map_or(u64::MAX, |free| free.saturating_add(held))
    }

    fn held_bytes(&self, held: Held) -> u64 {
        match held {
            Held::Nothing => 0,
            Held::LastPart => self.bytes / PARTS,
            Held::Whole => self.bytes,
            Held::Other => match self.disk.probe(&self.path) {
                Ok(Some(found)) => found.reserved_bytes,
                Ok(None) | Err(_) => 0,
            },
        }
    }

    /// Refuses whatever grows from now on; whether it was let through before.
    pub(crate) fn refuse_growth(&self) -> bool {
        let is_new = !self.is_short.swap(true, Ordering::Relaxed);
        if is_new {
            tracing::warn!(
                dir = %self.dir.display(),
                available_bytes = self.available_bytes(),
                margin_bytes = self.margin(),
                "the file system has no space to spare: the NOSPACE alarm is raised and puts are \
                 refused; delete keys and compact, or free space on the file system or enlarge it, \
                 and the alarm clears by itself"
            );
        }
        is_new
    }

    /// Waits a moment before a call that found no space, or no file descriptor, is made again;
    /// `false` once the member stops, and no call is to be made again.
    pub(crate) fn wait(&self, error: &IoError) -> bool {
        if self.retry_after(error).is_some() {
            let mut state = self.state.lock();
            if !state.is_shut_down {
                self.stopping.wait_for(&mut state, PAUSE);
            }
        }
        !self.state.lock().is_shut_down
    }

    /// Pause after which a call that found no space, or no file descriptor, is made again; `None`
    /// once the member stops.
    pub(crate) fn retry_after(&self, error: &IoError) -> Option<Duration> {
        let mut state = self.state.lock();
        if state.is_shut_down {
            return None;
        }
        let now = self.clock.monotonic();
        if now >= state.report_at {
            state.report_at = now + REPORT_INTERVAL;
            if error.is_out_of_descriptors() {
                tracing::error!(
                    %error,
                    "no file can be opened: writes wait and are not acknowledged, reads are \
                     served; raise the limit of open files (LimitNOFILE, ulimit -n) or close \
                     connections, and the member goes on by itself"
                );
            } else {
                tracing::error!(
                    %error,
                    dir = %self.dir.display(),
                    available_bytes = self.available_bytes(),
                    "the file system is full: writes wait and are not acknowledged, reads are \
                     served; free space or enlarge the file system, and the member goes on by \
                     itself"
                );
            }
        }
        Some(PAUSE)
    }

    /// Gives space of the ballast to who found none; whether there was some.
    pub(crate) fn release(&self, reason: &dyn fmt::Display, asks: Asks) -> bool {
        self.refuse_growth();
        let mut state = self.state.lock();
        let kept = match (state.held, asks) {
            (Held::Nothing, _) | (Held::LastPart, Asks::Write) => return false,
            (Held::Whole, _) => Held::LastPart,
            (Held::LastPart, Asks::Reclaim) | (Held::Other, _) => Held::Nothing,
        };
        let given_bytes = self.held_bytes(state.held) - self.held_bytes(kept);
        if let Err(error) = self.clear_place() {
            tracing::error!(%error, "the ballast could not be released");
            return false;
        }
        state.held = kept;
        if kept == Held::LastPart && self.reserve(self.bytes / PARTS).is_err() {
            // Somebody else was faster.
            state.held = Held::Nothing;
        }
        tracing::error!(
            %reason,
            dir = %self.dir.display(),
            given_bytes,
            left_bytes = self.held_bytes(state.held),
            "the file system is full: space of the ballast was given up; deletions, compactions \
             and defragmenting go on in it, whatever grows is refused"
        );
        true
    }

    /// Lets a step of a start that found no space try again with less of the ballast.
    pub(crate) fn start_with_room<T>(
        &self,
        mut step: impl FnMut() -> Result<T, BootError>,
    ) -> Result<T, BootError> {
        loop {
            match step() {
                Err(error)
                    if error
                        .out_of_space()
                        .is_some_and(|full| self.release(full, Asks::Reclaim)) => {}
                done => return done.map_err(|error| explain(&*self.disk, &self.dir, error)),
            }
        }
    }

    /// Lets no write wait any longer: the member stops.
    pub(crate) fn shut_down(&self) {
        self.state.lock().is_shut_down = true;
        self.stopping.notify_all();
    }

    /// Brings the ballast back if the disk has clearly space again; `promised_bytes` of what is free
    /// are to be written soon. Takes a moment.
    pub(crate) fn restore(&self, promised_bytes: u64) {
        let held = self.state.lock().held;
        let margins = if self.is_short() { CLEAR_MARGINS } else { 1 };
        let wanted = self.bytes + margins * self.margin() + promised_bytes;
        let available = self.available_bytes().unwrap_or(u64::MAX);
        if available.saturating_add(self.held_bytes(held)) < wanted {
            if held != Held::Whole {
                self.refuse_growth();
            }
            return;
        }
        if held != Held::Whole {
            let made = self.clear_place().and_then(|()| self.reserve(self.bytes));
            let mut state = self.state.lock();
            if let Err(error) = made {
                state.held = Held::Nothing;
                if error.is_out_of_space() {
                    self.refuse_growth();
                } else if !std::mem::replace(&mut state.is_explained, true) {
                    tracing::warn!(%error, "there is no ballast for the day when the disk is full");
                }
                return;
            }
            *state = State { held: Held::Whole, is_explained: false, ..*state };
        }
        if self.is_short.swap(false, Ordering::Relaxed) {
            tracing::info!(dir = %self.dir.display(), "there is space on the file system again");
        }
    }

    /// Takes away what is in the ballast's place. A directory with something in it is not ours to
    /// remove: it gets another name.
    fn clear_place(&self) -> Result<(), IoError> {
        let Some(found) = self.disk.probe(&self.path)? else { return Ok(()) };
        if !found.is_dir {
            return self.disk.remove(&self.path);
        }
        if self.disk.list(&self.path)?.is_empty() {
            return self.disk.remove_dir_all(&self.path);
        }
        let aside = self.path.with_extension("moved");
        tracing::warn!(
            path = %aside.display(),
            "a directory was in the place of the ballast; it has another name now"
        );
        self.disk.rename(&self.path, &aside)
    }

    fn reserve(&self, bytes: u64) -> Result<(), IoError> {
        // No sync: after a power cut a start looks for it anew.
        let reserved = self.disk.create(&self.path)?.allocate(bytes);
        if reserved.is_err() {
            // What was reserved of it would be missing elsewhere.
            let _is_gone = self.disk.remove(&self.path).is_ok();
        }
        reserved
    }
}

/// Says of a start that found the disk full what to do.
pub(crate) fn explain(disk: &dyn Disk, dir: &Path, error: BootError) -> BootError {
    if error.out_of_space().is_none() {
        return error;
    }
    let available_bytes = disk.space(dir).map_or(0, |space| space.available_bytes);
    BootError::Full { dir: dir.to_owned(), available_bytes, source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use keepd_env::{DiskFile, IoOp, SimDisk};

    use super::*;

    const BYTES: u64 = 1000;
    const LAST: u64 = BYTES / PARTS;
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
    fn the_ballast_goes_in_parts_when_the_disk_is_full_and_comes_back_with_space_to_spare() {
        let disk = SimDisk::new();
        let ballast = ballast(&disk);
        assert!(ballast.is_missing() && !ballast.is_short());
        ballast.restore(0);
        assert!(!ballast.is_missing() && disk.used_bytes() == BYTES);

        let file = other(&disk);
        disk.set_capacity(Some(BYTES + 10));
        let error = file.write_all_at(&[1; 20], 0).unwrap_err();
        assert!(ballast.release(&error, Asks::Write));
        file.write_all_at(&[1; 20], 0).unwrap();
        assert_eq!(disk.used_bytes(), 20 + LAST);
        assert!(ballast.is_missing() && ballast.is_short());
        assert!(!ballast.release(&error, Asks::Write), "the last part is not for writes");
        assert!(ballast.release(&error, Asks::Reclaim) && disk.used_bytes() == 20);
        assert!(!ballast.release(&error, Asks::Reclaim));
        assert!(ballast.wait(&error), "nothing is left but to wait");

        // It would fit, but with too little to spare.
        let enough = 20 + BYTES + CLEAR_MARGINS * MARGIN_BYTES_MIN + 7;
        disk.set_capacity(Some(enough - 1));
        ballast.restore(7);
        assert!(ballast.is_missing() && ballast.is_short() && disk.used_bytes() == 20);
        disk.set_capacity(Some(enough));
        ballast.restore(7);
        assert!(!ballast.is_missing() && !ballast.is_short() && disk.used_bytes() == 20 + BYTES);
    }

    #[test]
    fn who_waits_is_let_go_when_the_member_stops() {
        let disk = SimDisk::new();
        let ballast = ballast(&disk);
        ballast.shut_down();
        assert!(!ballast.wait(&full()));
    }

    #[test]
    fn a_start_finds_a_whole_ballast_or_the_last_part_and_makes_anything_else_anew() {
        let disk = SimDisk::new();
        let path = Layout::ballast(Path::new(DIR));
        ballast(&disk).restore(0);
        assert!(!ballast(&disk).is_missing());
        ballast(&disk).release(&full(), Asks::Write);
        let last = ballast(&disk);
        assert!(last.is_missing() && last.owed_bytes() == BYTES - LAST);
        last.restore(0);
        assert_eq!((ballast(&disk).is_missing(), disk.used_bytes()), (false, BYTES));

        for bytes in [b"half".as_slice(), &[0; 5000]] {
            disk.poke(&path, bytes);
            let wrong = ballast(&disk);
            assert!(wrong.is_missing());
            wrong.restore(0);
            assert_eq!((ballast(&disk).is_missing(), disk.used_bytes()), (false, BYTES));
        }
        // On a full disk what is in its place goes like the ballast itself.
        disk.poke(&path, &[0; 5000]);
        let wrong = ballast(&disk);
        assert!(wrong.release(&full(), Asks::Write) && disk.used_bytes() == 0);
    }

    #[test]
    fn on_a_small_file_system_the_ballast_is_small() {
        let disk = SimDisk::new();
        disk.set_capacity(Some(FILE_SYSTEM_PARTS * BYTES / 2));
        let ballast = ballast(&disk);
        disk.set_capacity(None);
        ballast.restore(0);
        assert_eq!(disk.used_bytes(), BYTES / 2);
    }

    #[test]
    fn a_start_on_a_full_disk_releases_the_ballast_in_parts_and_tries_again() {
        let disk = SimDisk::new();
        let ballast = ballast(&disk);
        ballast.restore(0);
        let mut tries = 0;
        let mut step = |works_at: u32| {
            tries = 0;
            ballast.start_with_room(|| {
                tries += 1;
                if tries == works_at { Ok(tries) } else { Err(full().into()) }
            })
        };
        assert!(matches!(step(3), Ok(3)));
        let refused = step(2).unwrap_err().to_string();
        assert!(refused.contains("/member") && refused.contains("free"), "{refused}");
        assert!(ballast.is_short());
    }

    /// A directory of the machine's for one test.
    struct Place(PathBuf);

    impl Drop for Place {
        fn drop(&mut self) {
            let _is_gone = std::fs::remove_dir_all(&self.0).is_ok();
        }
    }

    #[test]
    fn a_sparse_file_a_link_or_a_directory_in_its_place_gives_way_to_a_ballast() {
        let disk: Arc<dyn Disk> = Arc::new(keepd_env::RealDisk::new());
        let name = format!("keepd-ballast-{}", std::process::id());
        let place = Place(std::env::temp_dir().join(name));
        let dir = &place.0;
        disk.create_dir(dir).unwrap();
        let env = Env { disk: Arc::clone(&disk), ..Env::simulated(1).0 };
        let (path, target) = (Layout::ballast(dir), dir.join("target"));
        let bytes = 64 * 1024;
        std::fs::write(&target, vec![0; 64 * 1024]).unwrap();
        type Put<'a> = &'a dyn Fn();
        let wrongs: [(&str, Put<'_>); 4] = [
            ("sparse", &|| std::fs::File::create(&path).unwrap().set_len(bytes).unwrap()),
            ("link", &|| std::os::unix::fs::symlink(&target, &path).unwrap()),
            ("empty directory", &|| std::fs::create_dir(&path).unwrap()),
            ("directory", &|| std::fs::create_dir_all(path.join("content")).unwrap()),
        ];
        for (what, put) in wrongs {
            put();
            let ballast = Ballast::find(&env, dir, bytes);
            assert!(ballast.is_missing(), "{what}");
            ballast.restore(0);
            let found = disk.probe(&path).unwrap().unwrap();
            assert!(found.is_reserved(bytes) && !ballast.is_missing(), "{what}: {found:?}");
            disk.remove(&path).unwrap();
        }
        assert!(path.with_extension("moved").join("content").is_dir(), "it was not ours to remove");
        assert!(target.exists());
    }
}
