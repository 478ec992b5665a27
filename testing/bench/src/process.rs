//! What the kernel says about a process: CPU time, memory, by thread too. Linux only.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Clock ticks per second in `/proc`; a constant of Linux's interface on every common platform.
const TICKS_PER_SECOND: u64 = 100;
const MICROS_PER_TICK: u64 = 1_000_000 / TICKS_PER_SECOND;

/// CPU time of a process so far, user and system, in microseconds.
pub(crate) fn cpu_micros(pid: u32) -> Result<u64> {
    Ok(ticks(Path::new(&format!("/proc/{pid}/stat")))? * MICROS_PER_TICK)
}

/// The same by thread name.
pub(crate) fn cpu_micros_by_thread(pid: u32) -> Result<BTreeMap<String, u64>> {
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).context("list threads")? {
        let folder = entry.context("list threads")?.path();
        // A thread may end between the listing and the reading.
        let Ok(name) = fs::read_to_string(folder.join("comm")) else { continue };
        let Ok(ticks) = ticks(&folder.join("stat")) else { continue };
        *threads.entry(name.trim().to_owned()).or_insert(0) += ticks * MICROS_PER_TICK;
    }
    Ok(threads)
}

/// Resident memory now and at its highest, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Result<(u64, u64)> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let now = field("VmRSS:").context("no VmRSS")?;
    let highest = field("VmHWM:").context("no VmHWM")?;
    Ok((now * 1024, highest * 1024))
}

/// Has the kernel count the highest resident memory from now on.
pub(crate) fn forget_highest(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("write {path}"))
}

fn ticks(stat: &Path) -> Result<u64> {
    let text = fs::read_to_string(stat).with_context(|| format!("read {}", stat.display()))?;
    user_and_system(&text).with_context(|| format!("{} looks unfamiliar", stat.display()))
}

/// Fields 14 and 15; counted behind the name, which may hold blanks and parentheses.
fn user_and_system(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::user_and_system;

    #[test]
    fn cpu_time_is_found_behind_a_name_with_blanks_and_parentheses() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 120 34 0 0 20 0 7 0 99";
        assert_eq!(user_and_system(stat), Some(154));
        assert_eq!(user_and_system("42 (a) S 1"), None);
    }
}
