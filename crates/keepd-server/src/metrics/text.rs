//! Prometheus' text format.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use keepd_node::Histogram;

/// The value of a label that somebody else has chosen.
pub(super) fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A page under construction.
pub(super) struct Page {
    pub(super) out: String,
}

impl Page {
    pub(super) fn new() -> Self {
        Self { out: String::with_capacity(64 * 1024) }
    }

    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a string cannot fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = if labels.is_empty() {
            writeln!(self.out, "{name} {value}")
        } else {
            writeln!(self.out, "{name}{{{labels}}} {value}")
        };
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, "gauge", help);
        self.sample(name, "", value);
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: &AtomicU64) {
        self.family(name, "counter", help);
        self.sample(name, "", value.load(Ordering::Relaxed));
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        self.buckets(name, "", &histogram.read());
    }

    /// The series of one histogram.
    pub(super) fn buckets(
        &mut self,
        name: &str,
        labels: &str,
        (buckets, sum, count): &(Vec<(f64, u64)>, f64, u64),
    ) {
        let bucket = format!("{name}_bucket");
        let and = if labels.is_empty() { "" } else { "," };
        for (bound, total) in buckets {
            self.sample(&bucket, &format!("{labels}{and}le=\"{bound}\""), total);
        }
        self.sample(&bucket, &format!("{labels}{and}le=\"+Inf\""), count);
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, count);
    }
}
