//! A small file system for one member, which a test fills.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system; unmounted when it goes out of scope.
#[derive(Debug)]
pub struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    /// Mounts one of so many MiB at a folder, which is created. `None` without the right to: this is said,
    /// and fails in continuous integration if root lacks it.
    ///
    /// # Panics
    /// As said, or if the folder cannot be created.
    #[must_use]
    #[expect(clippy::print_stderr, reason = "what is not tested is said")]
    pub fn mount(dir: &Path, mib: u32) -> Option<Self> {
        std::fs::create_dir_all(dir).expect("the folder of the test is writable");
        let size = format!("size={mib}m,mode=0700");
        let options = ["-t", "tmpfs", "-o", &size, "tmpfs"];
        let failure = match Command::new("mount").args(options).arg(dir).output() {
            Ok(output) if output.status.success() => return Some(Self { dir: dir.to_owned() }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        eprintln!("NOT TESTED: a full disk: this user or container may not mount: {failure}");
        let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        assert!(!is_ci || !is_root(), "root may not mount: {failure}");
        None
    }

    fn filler(&self) -> PathBuf {
        self.dir.join("filler")
    }

    /// Fills it to the last block.
    ///
    /// # Panics
    /// If the file cannot be created.
    pub fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.filler()).expect("a file can be created");
        let zeros = vec![0; 1 << 20];
        // BOUND: it ends when the disk is full; a page at a time at the end.
        while file.write_all(&zeros).is_ok() {}
        while file.write_all(&zeros[..4096]).is_ok() {}
    }

    /// Gives the space back.
    pub fn relieve(&self) {
        // It may not have been filled.
        let _gone = std::fs::remove_file(self.filler());
    }
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _left = Command::new("umount").arg("-l").arg(&self.dir).status();
    }
}
