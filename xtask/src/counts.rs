//! Counting what passed and failed: `cargo test`'s text and `go test -json`'s events.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;

use serde_json::Value;

/// Numbers of tests that passed, failed and were left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Reads one `test result: ok. 3 passed; 0 failed; 1 ignored; ...` line of the Rust harness.
pub(crate) fn rust_result(line: &str) -> Option<Counts> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = Counts::default();
    for part in numbers.split(';') {
        let mut words = part.split_whitespace();
        let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        match what {
            "passed" => counts.passed = number,
            "failed" => counts.failed = number,
            "ignored" => counts.skipped = number,
            _ => {}
        }
    }
    Some(counts)
}

/// The state of a `go test -json` run.
#[derive(Debug, Default)]
pub(crate) struct GoEvents {
    /// Package and test, with the action that ended it.
    ended: BTreeMap<(String, String), String>,
    failed_packages: BTreeSet<String>,
    /// Output of tests that still run, kept for those that fail.
    output: BTreeMap<(String, String), String>,
}

impl GoEvents {
    /// Takes one line; what it returns is worth printing.
    pub(crate) fn take(&mut self, line: &str) -> Option<String> {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            return Some(line.to_owned());
        };
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let (action, test) = (text("Action"), text("Test"));
        let package =
            if event["Package"].is_string() { text("Package") } else { text("ImportPath") };
        let id = (package, test);
        match action.as_str() {
            "output" => {
                let output = text("Output");
                if id.1.is_empty() {
                    return None;
                }
                self.output.entry(id).or_default().push_str(&output);
                None
            }
            "build-output" => Some(text("Output").trim_end().to_owned()),
            "pass" | "fail" | "skip" if id.1.is_empty() => {
                if action == "fail" {
                    self.failed_packages.insert(id.0);
                }
                None
            }
            "pass" | "fail" | "skip" => {
                let seconds = event["Elapsed"].as_f64().unwrap_or_default();
                let mut report = format!("go {action:<4} {} ({seconds:.1}s)", id.1);
                let output = self.output.remove(&id).unwrap_or_default();
                if action != "pass" {
                    report.push('\n');
                    report.push_str(output.trim_end());
                }
                self.ended.insert(id, action);
                Some(report)
            }
            _ => None,
        }
    }

    /// The sum over the leaves: a test with subtests only groups them. A package that failed
    /// without a failed test (it did not build, or it died) counts as one failure.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        let mut packages = self.failed_packages.clone();
        for ((package, test), action) in &self.ended {
            if action == "fail" {
                packages.remove(package);
            }
            let inside = format!("{test}/");
            let groups = self
                .ended
                .range((package.clone(), inside.clone())..)
                .next()
                .is_some_and(|((p, t), _)| p == package && t.starts_with(&inside));
            let child_failed = groups
                && self
                    .ended
                    .iter()
                    .any(|((p, t), a)| p == package && t.starts_with(&inside) && a == "fail");
            match action.as_str() {
                // A group whose own body failed counts, one that only passes on a failure does not.
                "fail" if !child_failed => counts.failed += 1,
                "pass" if !groups => counts.passed += 1,
                "skip" if !groups => counts.skipped += 1,
                _ => {}
            }
        }
        // What was started and never ended died with its package, which is counted here.
        counts.failed += u64::try_from(packages.len()).expect("few packages");
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, GoEvents, rust_result};

    #[test]
    fn the_summary_line_of_the_rust_harness_is_read() {
        let line =
            "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out";
        assert_eq!(rust_result(line), Some(Counts { passed: 12, failed: 1, skipped: 2 }));
        assert_eq!(rust_result("test a ... ok"), None);
    }

    #[test]
    fn groups_of_go_tests_are_not_counted_twice() {
        let mut events = GoEvents::default();
        for line in [
            r#"{"Action":"output","Package":"p","Test":"TestA/etcd","Output":"wrong\n"}"#,
            r#"{"Action":"fail","Package":"p","Test":"TestA/etcd","Elapsed":1}"#,
            r#"{"Action":"pass","Package":"p","Test":"TestA/keepd","Elapsed":1}"#,
            r#"{"Action":"fail","Package":"p","Test":"TestA","Elapsed":1}"#,
            r#"{"Action":"skip","Package":"p","Test":"TestB","Elapsed":0}"#,
            r#"{"Action":"fail","Package":"p"}"#,
        ] {
            let report = events.take(line).unwrap_or_default();
            assert_eq!(report.contains("wrong"), line.contains("fail") && line.contains("etcd"));
        }
        assert_eq!(events.counts(), Counts { passed: 1, failed: 1, skipped: 1 });
    }

    #[test]
    fn a_package_that_dies_without_a_failed_test_counts_as_a_failure() {
        let mut events = GoEvents::default();
        events.take(r#"{"Action":"pass","Package":"p","Test":"TestA"}"#);
        events.take(r#"{"Action":"fail","Package":"p"}"#);
        assert_eq!(events.counts(), Counts { passed: 1, failed: 1, skipped: 0 });
    }
}
