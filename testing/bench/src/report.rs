//! What a run found: medians over rounds, ratios within a round, the table and the result file.
//!
//! A ratio is taken within each round, where both servers met the same machine, and the median of
//! those is what counts; the medians of the rates beside it belong to one machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::load::Sample;
use crate::servers::Kind;
use crate::tools::{Tools, root};

/// What a row should reach: keepd's rate over etcd's at least, its CPU time over etcd's at most.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Target {
    pub(crate) rate: Option<f64>,
    pub(crate) cpu: Option<f64>,
}

/// One kind of load, with the measurements of every round by the server's name.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) title: String,
    pub(crate) target: Target,
    pub(crate) rounds: Vec<BTreeMap<&'static str, Sample>>,
}

/// What a server takes in memory and on disk, and how soon it is back.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Sizes {
    pub(crate) keys: i64,
    pub(crate) revision: i64,
    pub(crate) filled_resident_bytes: u64,
    pub(crate) filled_resident_bytes_peak: u64,
    pub(crate) filled_disk_bytes: u64,
    pub(crate) filled_disk_bytes_by_length: u64,
    pub(crate) restarted_resident_bytes: u64,
    /// From the start of the process to its first answer to a linearizable range, nothing in the
    /// page cache.
    pub(crate) ready_seconds: Vec<f64>,
}

/// The programs and the machine of a run; the beginning of its result file.
#[derive(Debug, Serialize)]
pub(crate) struct Setting {
    date: String,
    commit: String,
    keepd: String,
    etcd: String,
    cores: usize,
}

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) setting: Setting,
    /// A 4 KiB append and its fdatasync, alone on the disk of the run.
    pub(crate) fdatasync_micros: f64,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    pub(crate) rows: Vec<Row>,
    pub(crate) sizes: BTreeMap<&'static str, Sizes>,
}

impl Row {
    /// A row without measurements.
    pub(crate) fn new(title: impl Into<String>, rate: Option<f64>, cpu: Option<f64>) -> Self {
        Self { title: title.into(), target: Target { rate, cpu }, rounds: Vec::new() }
    }

    /// Adds a measurement to a round, beginning it if it is the next.
    pub(crate) fn add(&mut self, round: usize, kind: Kind, sample: Sample) {
        if self.rounds.len() <= round {
            self.rounds.resize_with(round + 1, BTreeMap::new);
        }
        self.rounds[round].insert(kind.name(), sample);
    }

    /// A value of one server, of each round.
    pub(crate) fn values(&self, kind: Kind, value: fn(&Sample) -> f64) -> Vec<f64> {
        self.rounds.iter().filter_map(|round| round.get(kind.name())).map(value).collect()
    }

    /// One server's value over etcd's, within each round.
    pub(crate) fn ratios(&self, kind: Kind, value: fn(&Sample) -> f64) -> Vec<f64> {
        let pair = |round: &BTreeMap<&'static str, Sample>| {
            let etcd = value(round.get(Kind::Etcd.name())?);
            let of_kind = value(round.get(kind.name())?);
            // CPU time of a single request may be below the kernel's tick.
            (etcd > 0.0).then(|| of_kind / etcd)
        };
        self.rounds.iter().filter_map(pair).collect()
    }

    fn line(&self) -> String {
        let middle =
            |kind, value| median(&self.values(kind, value)).map_or_else(String::new, short);
        let (rates, cpus) = (self.ratios(Kind::Keepd, rate), self.ratios(Kind::Keepd, cpu));
        let cells = [
            self.title.clone(),
            middle(Kind::Keepd, rate),
            middle(Kind::Etcd, rate),
            compared(&rates),
            judged(self.target.rate, &rates, ">=", |a, b| a >= b),
            middle(Kind::Keepd, cpu),
            middle(Kind::Etcd, cpu),
            compared(&cpus),
            judged(self.target.cpu, &cpus, "<=", |a, b| a <= b),
            middle(Kind::Echo, rate),
            middle(Kind::Echo, cpu),
        ];
        format!("| {} |", cells.join(" | "))
    }

    /// The line of the other provider, where it was measured.
    fn aesgcm_line(&self) -> Option<String> {
        let of = |value| median(&self.values(Kind::KeepdAesGcm, value)).map(short);
        let cells = [
            self.title.clone(),
            of(rate)?,
            compared(&self.ratios(Kind::KeepdAesGcm, rate)),
            of(cpu)?,
            compared(&self.ratios(Kind::KeepdAesGcm, cpu)),
        ];
        Some(format!("| {} |", cells.join(" | ")))
    }
}

fn rate(sample: &Sample) -> f64 {
    sample.rate
}

fn cpu(sample: &Sample) -> f64 {
    sample.cpu_micros
}

impl Report {
    /// The tables, in Markdown.
    pub(crate) fn tables(&self) -> String {
        let mut lines = vec![
            "| load | keepd /s | etcd /s | ratio (rounds) | target | keepd CPU us | etcd CPU us \
             | ratio (rounds) | target | floor /s | floor CPU us |"
                .to_owned(),
            "|---|---|---|---|---|---|---|---|---|---|---|".to_owned(),
        ];
        lines.extend(self.rows.iter().map(Row::line));
        lines.push(String::new());
        lines.push("| with aesgcm | keepd /s | ratio | keepd CPU us | ratio |".to_owned());
        lines.push("|---|---|---|---|---|".to_owned());
        lines.extend(self.rows.iter().filter_map(Row::aesgcm_line));
        lines.push(String::new());
        lines.push("| size | keepd | etcd |".to_owned());
        lines.push("|---|---|---|".to_owned());
        let mebibytes = |bytes: u64| format!("{} MiB", bytes / (1024 * 1024));
        let size = |title: &str, cell: &dyn Fn(&Sizes) -> String| {
            let of = |kind: Kind| self.sizes.get(kind.name()).map(cell).unwrap_or_default();
            format!("| {title} | {} | {} |", of(Kind::Keepd), of(Kind::Etcd))
        };
        lines.extend([
            size("keys after the fill", &|s| s.keys.to_string()),
            size("revision after the fill", &|s| s.revision.to_string()),
            size("resident after the fill", &|s| mebibytes(s.filled_resident_bytes)),
            size("resident at its highest", &|s| mebibytes(s.filled_resident_bytes_peak)),
            size("data directory, allocated", &|s| mebibytes(s.filled_disk_bytes)),
            size("data directory, file lengths", &|s| mebibytes(s.filled_disk_bytes_by_length)),
            size("resident after a restart", &|s| mebibytes(s.restarted_resident_bytes)),
            size("seconds from start to ready", &|s| {
                median(&s.ready_seconds).map_or_else(String::new, short)
            }),
        ]);
        lines.join("\n")
    }
}

impl Setting {
    /// Asks the programs.
    pub(crate) fn of(tools: &Tools) -> Result<Self> {
        let git = ["-C", &root().display().to_string(), "rev-parse", "--short", "HEAD"];
        Ok(Self {
            date: answer(Path::new("date"), &["-u", "+%Y-%m-%d"])?,
            commit: answer(Path::new("git"), &git)?,
            keepd: answer(&tools.keepd, &["version"])?,
            etcd: answer(&tools.etcd, &["--version"])?,
            cores: thread::available_parallelism().context("count the cores")?.get(),
        })
    }

    /// Writes the result file, whose name ends so, and returns its path.
    pub(crate) fn save(&self, report: &impl Serialize, ending: &str) -> Result<PathBuf> {
        let folder = root().join("testing/bench/results");
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let path = folder.join(format!("{}-{}{ending}.json", self.date, self.commit));
        let mut text = serde_json::to_string_pretty(report).context("encode the result")?;
        text.push('\n');
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

/// What a program prints, its first line.
fn answer(program: &Path, words: &[&str]) -> Result<String> {
    let output = Command::new(program).args(words).output();
    let output = output.with_context(|| format!("run {}", program.display()))?;
    ensure!(output.status.success(), "{} {words:?}: {}", program.display(), output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// The median of one figure over the rounds, as a cell of a table; empty if there are none.
pub(crate) fn median_cell<T>(rounds: Option<&Vec<T>>, figure: fn(&T) -> f64) -> String {
    let values: Vec<f64> = rounds.into_iter().flatten().map(figure).collect();
    median(&values).map_or_else(String::new, short)
}

/// The middle value; of an even number the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.len() / 2;
    let value = *sorted.get(upper)?;
    if sorted.len() % 2 == 1 {
        return Some(value);
    }
    Some(f64::midpoint(value, sorted[upper - 1]))
}

/// A median with the lowest and the highest of its rounds.
pub(crate) fn compared(ratios: &[f64]) -> String {
    let Some(middle) = median(ratios) else { return String::new() };
    let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = ratios.iter().copied().fold(0.0, f64::max);
    format!("{middle:.2} ({lowest:.2}-{highest:.2})")
}

pub(crate) fn judged(
    target: Option<f64>,
    ratios: &[f64],
    sign: &str,
    is_met: impl Fn(f64, f64) -> bool,
) -> String {
    let (Some(target), Some(middle)) = (target, median(ratios)) else { return String::new() };
    let verdict = if is_met(middle, target) { "met" } else { "MISSED" };
    format!("{sign} {target} {verdict}")
}

/// Three significant digits, or whole numbers from 100 on.
pub(crate) fn short(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: f64, cpu_micros: f64) -> Sample {
        Sample { rate, cpu_micros, p50_seconds: None, p99_seconds: None }
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut row = Row::new("put", Some(2.0), Some(0.4));
        for (round, scale) in [1.0, 10.0, 100.0].into_iter().enumerate() {
            row.add(round, Kind::Keepd, sample(30.0 * scale, 20.0 / scale));
            row.add(round, Kind::Etcd, sample(10.0 * scale, 40.0 / scale));
        }
        assert_eq!(row.ratios(Kind::Keepd, rate), [3.0, 3.0, 3.0]);
        let line = row.line();
        assert!(line.contains("| 3.00 (3.00-3.00) | >= 2 met |"), "{line}");
        assert!(line.contains("| 0.50 (0.50-0.50) | <= 0.4 MISSED |"), "{line}");
    }
}
