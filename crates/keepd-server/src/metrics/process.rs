//! The process's own numbers, under the names every Prometheus client library uses.

use std::fmt::Write as _;

use crate::proc_fs;

/// Appends the process metrics.
pub(super) fn render(out: &mut String) {
    let Some(process) = proc_fs::read() else { return };
    let mut gauge = |name: &str, kind: &str, help: &str, value: f64| {
        // Writing into a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    let counts = [
        ("process_resident_memory_bytes", "Resident memory size in bytes.", process.resident_bytes),
        ("process_virtual_memory_bytes", "Virtual memory size in bytes.", process.virtual_bytes),
        ("process_open_fds", "Number of open file descriptors.", process.open_fds),
        ("process_max_fds", "Maximum number of open file descriptors.", process.max_fds),
        ("os_fd_used", "The number of used file descriptors.", process.open_fds),
        ("os_fd_limit", "The file descriptor limit.", process.max_fds),
    ];
    for (name, help, value) in counts {
        gauge(name, "gauge", help, value);
    }
    gauge(
        "process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds.",
        process.cpu_seconds,
    );
    gauge(
        "process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        process.start_seconds,
    );
}
