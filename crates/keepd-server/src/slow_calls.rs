//! The log of calls that take longer than they should: etcd's `request stats`.
//!
//! A member that is overloaded answers everything late, so the log has a bounded number of them.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Code;

/// BOUND: lines in an interval; how many more there were comes with the next line.
const LINES_MAX: u64 = 10;
const INTERVAL: Duration = Duration::from_secs(1);

/// Calls that took long.
#[derive(Debug, Default)]
pub(crate) struct SlowCalls(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The beginning of the interval.
    since: Option<Instant>,
    lines: u64,
    left_out: u64,
}

/// A call that took long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlowCall<'a> {
    pub(crate) path: &'a str,
    pub(crate) remote: &'a str,
    pub(crate) took: Duration,
    pub(crate) code: Code,
    pub(crate) answer_bytes: usize,
}

impl SlowCalls {
    /// Logs a call, unless there are too many.
    pub(crate) fn tell(&self, call: SlowCall<'_>, expected: Duration) {
        let Some(left_out) = self.admit() else { return };
        let SlowCall { path, remote, took, code, answer_bytes } = call;
        tracing::warn!(
            "time spent" = ?took,
            remote,
            "response type" = path,
            "response size" = answer_bytes,
            ?code,
            ?expected,
            left_out,
            "request stats"
        );
    }

    /// The number of lines that were left out before this one; `None` if it is left out too.
    fn admit(&self) -> Option<u64> {
        let mut state = self.0.lock();
        if state.since.is_none_or(|since| since.elapsed() >= INTERVAL) {
            (state.since, state.lines) = (Some(Instant::now()), 0);
        }
        if state.lines >= LINES_MAX {
            state.left_out += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn there_are_few_lines_however_many_calls_are_late() {
        let calls = SlowCalls::default();
        let told = |calls: &SlowCalls| (0..1000).filter_map(|_| calls.admit()).collect::<Vec<_>>();
        assert_eq!(told(&calls), [0; 10]);
        tokio::time::advance(INTERVAL).await;
        let second = told(&calls);
        assert_eq!((second.len(), second[0], second[1]), (10, 990, 0));
    }
}
