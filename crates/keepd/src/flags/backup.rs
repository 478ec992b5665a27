//! The flags of backups: [`BackupOptions`], checked as a whole.

use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use keepd_archive::age::Recipient;
use keepd_archive::destination;
use keepd_archive::retention::Policy;
use keepd_archive::schedule::Schedule;

use super::settings::Settings;

/// The zone of a schedule that names none.
const ZONE: &str = "UTC";
/// BOUND: places of backups.
const PLACES_MAX: usize = 8;
/// BOUND: the time that the log may be behind.
const LOG_INTERVALS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);
/// BOUND: bytes of a batch.
const LOG_BYTES: RangeInclusive<u64> = 4096..=64 << 20;
/// The least that is kept: two files of the log.
const LOG_HOLD_MIN: u64 = 128 << 20;

/// The backups that the server takes by itself.
#[derive(Clone, Debug)]
pub(crate) struct BackupOptions {
    /// URLs of the places; empty if there are no backups at all.
    pub(crate) to: Vec<String>,
    /// The moments at which one is taken; none if they are only watched.
    pub(crate) schedule: Option<Schedule>,
    /// The moments at which an older one is proven again.
    pub(crate) drill_schedule: Option<Schedule>,
    /// The keys that a backup is sealed to.
    pub(crate) sealing: SealOptions,
    /// The scheduled ones that stay; all if it is empty.
    pub(crate) keep: Policy,
    /// The log that is shipped; none if it is not.
    pub(crate) log: Option<ShipOptions>,
    /// Days of log that stay; none if all stays that a backup needs.
    pub(crate) keep_log_days: Option<u32>,
    /// The folder for what is on its way.
    pub(crate) scratch_dir: Option<PathBuf>,
    /// Bytes a second that are sent or received at most.
    pub(crate) limit_rate: Option<NonZeroU64>,
}

/// The shipping of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShipOptions {
    /// Time that it may be behind.
    pub(crate) interval: Duration,
    /// Bytes that are shipped at once.
    pub(crate) bytes: usize,
    /// Bytes of log that are kept for it.
    pub(crate) hold: u64,
}

/// The keys that a backup is sealed to.
#[derive(Clone, Debug)]
pub(crate) struct SealOptions {
    /// Recipients named on the command line.
    pub(crate) recipients: Vec<Recipient>,
    /// Files with more of them.
    pub(crate) recipients_files: Vec<PathBuf>,
    /// Whether the key of the encryption configuration opens it.
    pub(crate) has_config_key: bool,
    /// Whether it is left plain, as somebody said in words.
    pub(crate) is_plain: bool,
}

impl BackupOptions {
    /// Reads them.
    pub(super) fn read(settings: &Settings) -> Result<Self, String> {
        let to = settings.list("backup-to");
        if to.is_empty() {
            without_place(settings)?;
        }
        if to.len() > PLACES_MAX {
            return Err(format!("--backup-to: {} places, and {PLACES_MAX} are the most", to.len()));
        }
        for (at, url) in to.iter().enumerate() {
            destination::check(url).map_err(|error| format!("--backup-to: {error}"))?;
            if to[..at].contains(url) {
                return Err(format!("--backup-to names {} twice", destination::shown(url)));
            }
        }
        let sealing = SealOptions::read(settings, !to.is_empty())?;
        let jitter = settings.duration("backup-jitter");
        let schedule = schedule(settings, "backup-schedule", jitter)?;
        if schedule.is_none() && !jitter.is_zero() {
            return Err("--backup-jitter delays what --backup-schedule begins, which is not given"
                .to_owned());
        }
        let drill_schedule = schedule_of_drills(settings, &sealing)?;
        let log = ShipOptions::read(settings)?;
        let limit_rate = match settings.text("backup-limit-rate") {
            "" => None,
            text => Some(
                destination::rate(text).map_err(|error| format!("--backup-limit-rate: {error}"))?,
            ),
        };
        let scratch_dir = settings.text("backup-scratch-dir");
        Ok(Self {
            to,
            schedule,
            drill_schedule,
            sealing,
            keep: policy(settings),
            log,
            keep_log_days: u32::try_from(settings.uint("backup-keep-log-days"))
                .ok()
                .filter(|days| *days > 0),
            scratch_dir: Some(scratch_dir).filter(|dir| !dir.is_empty()).map(PathBuf::from),
            limit_rate,
        })
    }
}

impl ShipOptions {
    fn read(settings: &Settings) -> Result<Option<Self>, String> {
        if !settings.is_true("backup-log") {
            let given = settings.given().find(|(flag, value)| {
                flag.name.starts_with("backup-log-") && *value != flag.default
            });
            return given.map_or(Ok(None), |(flag, _)| {
                Err(format!("--{} is given, but --backup-log is not: no log is shipped", flag.name))
            });
        }
        let interval = settings.duration("backup-log-interval");
        if !LOG_INTERVALS.contains(&interval) {
            return Err("--backup-log-interval must be from 100ms to 1h".to_owned());
        }
        let (bytes, hold) = (settings.uint("backup-log-bytes"), settings.uint("backup-log-hold"));
        if !LOG_BYTES.contains(&bytes) {
            return Err("--backup-log-bytes must be from 4096 to 67108864 (64 MiB)".to_owned());
        }
        if hold < LOG_HOLD_MIN {
            return Err(format!(
                "--backup-log-hold must be {LOG_HOLD_MIN} (128 MiB) or more: the log's own files take that"
            ));
        }
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Ok(Some(Self { interval, bytes, hold }))
    }
}

/// Refuses what says nothing without a place: somebody believes in backups that nobody takes.
fn without_place(settings: &Settings) -> Result<(), String> {
    let given = settings.given().find(|(flag, value)| {
        flag.name.starts_with("backup-") && !value.is_empty() && *value != flag.default
    });
    given.map_or(Ok(()), |(flag, _)| {
        Err(format!(
            "--{} is given, but --backup-to is not: say where backups go, as in \
             --backup-to=file:///var/backups/keepd or --backup-to=s3://bucket/prefix",
            flag.name
        ))
    })
}

fn schedule(
    settings: &Settings,
    name: &'static str,
    jitter: Duration,
) -> Result<Option<Schedule>, String> {
    match settings.text(name).trim() {
        "" => Ok(None),
        pattern => Schedule::new(pattern, ZONE, jitter)
            .map(Some)
            .map_err(|error| format!("--{name}: {error}")),
    }
}

/// A drill opens what is sealed, so a key that opens must be here.
fn schedule_of_drills(
    settings: &Settings,
    sealing: &SealOptions,
) -> Result<Option<Schedule>, String> {
    let schedule = schedule(settings, "backup-drill-schedule", Duration::ZERO)?;
    if schedule.is_some() && !sealing.is_plain && !sealing.has_config_key {
        return Err("--backup-drill-schedule needs a key that opens the backups, and a recipient's \
                    private half is not here: give --backup-with-config-key too, or leave the drills \
                    to keepd backup drill, where that half is kept"
            .to_owned());
    }
    Ok(schedule)
}

impl SealOptions {
    fn read(settings: &Settings, has_place: bool) -> Result<Self, String> {
        let mut recipients = Vec::new();
        for text in settings.list("backup-recipient") {
            let recipient = text.parse::<Recipient>();
            recipients.push(recipient.map_err(|error| format!("--backup-recipient: {error}"))?);
        }
        let recipients_files: Vec<PathBuf> =
            settings.list("backup-recipients-file").into_iter().map(PathBuf::from).collect();
        let has_recipients = !recipients.is_empty() || !recipients_files.is_empty();
        let is_plain = settings.is_true("backup-unencrypted");
        let with_config_key = settings.is_true("backup-with-config-key");
        if is_plain && (has_recipients || with_config_key) {
            return Err(
                "--backup-unencrypted and keys that backups are sealed to exclude each other: \
                        give one of them"
                    .to_owned(),
            );
        }
        let has_config = !settings.text("encryption-provider-config").is_empty();
        let has_config_key = !is_plain && (with_config_key || (has_place && !has_recipients));
        if has_config_key && !has_config {
            return Err("--backup-to: say who can open the backups: --backup-recipient=age1... (whoever \
                        has its private half, which need not be here), --encryption-provider-config=FILE \
                        (whoever has the file), or --backup-unencrypted (everybody)"
                .to_owned());
        }
        Ok(Self { recipients, recipients_files, has_config_key, is_plain })
    }
}

fn policy(settings: &Settings) -> Policy {
    let count = |name: &str| u32::try_from(settings.uint(name)).unwrap_or(u32::MAX);
    Policy {
        last: count("backup-keep-last"),
        within: Duration::from_secs(settings.uint("backup-keep-within-hours") * 3600),
        hourly: count("backup-keep-hourly"),
        daily: count("backup-keep-daily"),
        weekly: count("backup-keep-weekly"),
        monthly: count("backup-keep-monthly"),
    }
}
