//! A progress bar where a person watches, nothing in a script.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};
use keepd_archive::prove::Stage;

/// A bar of one stage after the other.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template(
            "{msg:10} {bar:40} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}",
        );
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(ProgressBar::new(0).with_style(style))
    }

    pub(crate) fn show(&self, stage: &'static str, done: u64, total: u64) {
        self.0.set_message(stage);
        self.0.set_length(total.max(done));
        self.0.set_position(done);
    }

    /// Shows the progress of a proof.
    pub(crate) fn tell(&self, stage: Stage, done: u64, total: u64) {
        let stage = match stage {
            Stage::Fetch => "reading",
            Stage::Check => "checking",
            Stage::Restore => "restoring",
        };
        self.show(stage, done, total);
    }

    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}
