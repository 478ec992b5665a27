//! Nothing plain on the disk: what clients write is found in no file, now or after a power cut.

use keepd_env::SimDisk;
use keepd_types::MemberId;

use super::{Verdict, verdict};
use crate::workload::MARKER;

/// Searches a disk.
///
/// # Errors
/// If something that a client wrote can be read there.
pub fn observe(member: MemberId, disk: &SimDisk) -> Verdict {
    let found = match disk.find(MARKER.as_bytes()) {
        None => Ok(()),
        Some(path) => Err(format!("{}: {member} has written plain text", path.display())),
    };
    verdict("nothing_plain", found)
}
