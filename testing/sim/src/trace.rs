//! The trace of a run: what happened, line by line, for a person to read; and one number for all of it.

use std::collections::VecDeque;
use std::fmt::Display;
use std::time::Duration;

/// BOUND: lines that are kept; the number covers those before too.
const LINES_MAX: usize = 50_000;

/// The lines of a run.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    lines: VecDeque<String>,
    dropped: u64,
    digest: u64,
}

impl Trace {
    pub(crate) fn add(&mut self, at: Duration, what: &dyn Display) {
        let line = format!("{:>12.6} {what}", at.as_secs_f64());
        for byte in line.bytes() {
            // FNV-1a.
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.lines.push_back(line);
    }

    /// One number for all lines.
    pub(crate) const fn digest(&self) -> u64 {
        self.digest
    }

    /// The lines, oldest first.
    pub(crate) fn text(&self) -> String {
        let mut text = match self.dropped {
            0 => String::new(),
            dropped => format!("... {dropped} earlier lines\n"),
        };
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}
