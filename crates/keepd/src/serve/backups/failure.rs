//! A step of a backup that failed, with the remedy in its text.

use keepd_server::{BackupMetrics, BackupStep};

/// A failure.
pub(super) struct Failure {
    step: BackupStep,
    /// The place, if it is of one.
    at: String,
    error: String,
}

impl Failure {
    pub(super) fn new(step: BackupStep, at: &str, error: impl Into<anyhow::Error>) -> Self {
        let error: anyhow::Error = error.into();
        Self { step, at: at.to_owned(), error: format!("{error:#}") }
    }

    /// Counts it and has the log tell it, with what comes next.
    pub(super) fn tell(&self, metrics: &BackupMetrics, next: &str) {
        metrics.failed(self.step);
        let (step, to, error) = (self.step.name(), &self.at, &self.error);
        tracing::error!(step, to, error, next, "a backup failed");
    }
}
