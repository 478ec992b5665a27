//! Facts about this process from `/proc`.

use std::fs;

/// Clock ticks per second in `/proc/self/stat`: 100 on every Linux that matters.
const TICKS_PER_SECOND: f64 = 100.0;
/// The page size that `/proc/self/stat` counts resident memory in.
const PAGE_BYTES: f64 = 4096.0;

/// Counts of this process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Process {
    pub(crate) resident_bytes: f64,
    pub(crate) virtual_bytes: f64,
    pub(crate) open_fds: f64,
    pub(crate) max_fds: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) start_seconds: f64,
}

/// Reads them; `None` where there is no `/proc`.
pub(crate) fn read() -> Option<Process> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The command name stands in parentheses and may hold spaces.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |position: usize| fields.get(position)?.parse::<f64>().ok();
    let open_fds = u32::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?.parse::<f64>().ok()?;
    Some(Process {
        cpu_seconds: (number(11)? + number(12)?) / TICKS_PER_SECOND,
        start_seconds: boot + number(19)? / TICKS_PER_SECOND,
        virtual_bytes: number(20)?,
        resident_bytes: number(21)? * PAGE_BYTES,
        open_fds: f64::from(open_fds),
        max_fds: descriptors_max()? as f64,
    })
}

/// The number of descriptors that the process may open.
pub(crate) fn descriptors_max() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
