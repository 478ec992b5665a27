//! Facts of backups for the metrics page, written by who takes them.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::text::{Page, escaped};

/// The steps at which a backup can fail, as the metrics name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackupStep {
    /// The place is listed.
    List,
    /// The work is claimed for this member.
    Claim,
    /// Keys and configuration are read.
    Keys,
    /// The snapshot is taken into the scratch folder.
    Snapshot,
    /// The object is written.
    Upload,
    /// It is read back, restored and compared.
    Proof,
    /// The sidecar is written.
    Sidecar,
    /// Old ones are removed.
    Prune,
    /// An older one is proven again.
    Drill,
}

impl BackupStep {
    const ALL: [Self; 9] = [
        Self::List,
        Self::Claim,
        Self::Keys,
        Self::Snapshot,
        Self::Upload,
        Self::Proof,
        Self::Sidecar,
        Self::Prune,
        Self::Drill,
    ];

    /// The word of metrics and log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Claim => "claim",
            Self::Keys => "keys",
            Self::Snapshot => "snapshot",
            Self::Upload => "upload",
            Self::Proof => "proof",
            Self::Sidecar => "sidecar",
            Self::Prune => "prune",
            Self::Drill => "drill",
        }
    }
}

/// A place of backups, as this member has last seen it. Moments are milliseconds since the Unix epoch.
#[derive(Clone, Debug, Default)]
pub struct BackupPlace {
    /// Its URL, without options.
    pub to: String,
    /// The begin of the newest whole backup of the cluster.
    pub last_success: Option<i64>,
    /// The begin of the newest proven one.
    pub last_proven: Option<i64>,
    /// The size of the newest whole one.
    pub last_bytes: Option<u64>,
    /// Whether the place could be listed the last time.
    pub is_readable: bool,
}

/// Facts of all.
#[derive(Clone, Debug, Default)]
pub struct BackupFacts {
    /// The places.
    pub places: Vec<BackupPlace>,
    /// The begin of the next one; none if there is no schedule.
    pub next_due: Option<i64>,
    /// Time that the last one took which this member has taken.
    pub last_millis: Option<u64>,
    /// Backups that this member has taken.
    pub taken: u64,
    /// Backups that this member has proven again.
    pub drilled: u64,
    /// Failures on this member.
    pub failures: BTreeMap<BackupStep, u64>,
}

/// A number of a place, as text.
type Value = fn(&BackupPlace) -> Option<String>;

/// The facts of backups that the metrics show.
#[derive(Debug, Default)]
pub struct BackupMetrics(Mutex<BackupFacts>);

impl BackupMetrics {
    /// Changes the facts.
    pub fn update(&self, change: impl FnOnce(&mut BackupFacts)) {
        change(&mut self.0.lock());
    }

    /// Counts a failure.
    pub fn failed(&self, step: BackupStep) {
        *self.0.lock().failures.entry(step).or_default() += 1;
    }

    pub(super) fn render(&self, page: &mut Page) {
        let facts = self.0.lock().clone();
        let places: [(&str, &str, Value); 4] = [
            (
                "keepd_backup_last_success_timestamp_seconds",
                "The begin of the newest whole backup in a place, whoever took it, unix time.",
                |it| it.last_success.map(seconds),
            ),
            (
                "keepd_backup_last_proven_timestamp_seconds",
                "The begin of the newest backup in a place that was proven to restore, unix time.",
                |it| it.last_proven.map(seconds),
            ),
            ("keepd_backup_last_bytes", "The size of the newest whole backup in a place.", |it| {
                it.last_bytes.map(|bytes| bytes.to_string())
            }),
            (
                "keepd_backup_place_readable",
                "1 if this member could list a place the last time that it looked, else 0.",
                |it| Some(u8::from(it.is_readable).to_string()),
            ),
        ];
        for (name, help, value) in places {
            page.family(name, "gauge", help);
            for place in &facts.places {
                if let Some(value) = value(place) {
                    page.sample(name, &format!("to=\"{}\"", escaped(&place.to)), value);
                }
            }
        }
        if let Some(next) = facts.next_due {
            let help = "The moment at which the next scheduled backup is due, unix time.";
            page.gauge("keepd_backup_next_due_timestamp_seconds", help, seconds(next));
        }
        if let Some(millis) = facts.last_millis {
            let seconds = seconds(i64::try_from(millis).unwrap_or(i64::MAX));
            let help =
                "The time that the last backup took which this member has taken, proof included.";
            page.gauge("keepd_backup_last_duration_seconds", help, seconds);
        }
        for (name, help, count) in [
            ("keepd_backup_taken_total", "Backups that this member has taken.", facts.taken),
            (
                "keepd_backup_drilled_total",
                "Backups that this member has proven again on the schedule of drills.",
                facts.drilled,
            ),
        ] {
            page.family(name, "counter", help);
            page.sample(name, "", count);
        }
        let name = "keepd_backup_failures_total";
        page.family(name, "counter", "Failures of backups on this member, by step.");
        for step in BackupStep::ALL {
            let count = facts.failures.get(&step).copied().unwrap_or_default();
            page.sample(name, &format!("step=\"{}\"", step.name()), count);
        }
    }
}

fn seconds(millis: i64) -> String {
    format!("{}.{:03}", millis.div_euclid(1000), millis.rem_euclid(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart_and_what_is_unknown_is_left_out() {
        let metrics = BackupMetrics::default();
        let place = |to: &str, last_proven| {
            let to = to.to_owned();
            BackupPlace { to, last_proven, is_readable: true, ..BackupPlace::default() }
        };
        metrics.update(|facts| {
            facts.places = vec![place("file:///a", Some(1_500)), place("s3://b", None)];
        });
        metrics.failed(BackupStep::Upload);
        let mut page = Page::new();
        metrics.render(&mut page);
        let proven = "keepd_backup_last_proven_timestamp_seconds{to=\"";
        assert!(page.out.contains(&format!("{proven}file:///a\"}} 1.500\n")), "{}", page.out);
        assert!(!page.out.contains(&format!("{proven}s3://b")), "{}", page.out);
        assert!(page.out.contains("keepd_backup_place_readable{to=\"s3://b\"} 1\n"));
        assert!(page.out.contains("keepd_backup_failures_total{step=\"upload\"} 1\n"));
        assert!(page.out.contains("keepd_backup_failures_total{step=\"drill\"} 0\n"));
        assert!(!page.out.contains("next_due"));
    }
}
