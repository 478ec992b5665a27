//! Backups that the server takes by itself, keepd's own.

use super::Section::Backup;
use super::{Flag, Kind};

pub(super) static FLAGS: &[Flag] = &[
    Flag::new(
        Backup,
        "backup-to",
        Kind::Repeated,
        "",
        "Where backups go: file:///folder, s3://bucket/prefix, gs://, az://; more than once for more \
         places.",
    ),
    Flag::new(
        Backup,
        "backup-schedule",
        Kind::Text,
        "",
        "When a backup is taken: five fields as in cron, @hourly, @daily or @every 30m, in UTC unless \
         CRON_TZ=Zone stands before; empty is never.",
    ),
    Flag::new(
        Backup,
        "backup-jitter",
        Kind::Duration,
        "0s",
        "Longest delay of a scheduled backup, so that many clusters do not begin at once; it follows \
         from the cluster's id and the moment.",
    ),
    Flag::new(
        Backup,
        "backup-recipient",
        Kind::Repeated,
        "",
        "An age recipient (age1...) that backups are sealed to, instead of the key of the \
         EncryptionConfiguration; more than once for more.",
    ),
    Flag::new(
        Backup,
        "backup-recipients-file",
        Kind::Repeated,
        "",
        "A file with age recipients, one a line; more than once for more.",
    ),
    Flag::new(
        Backup,
        "backup-with-config-key",
        Kind::Bool,
        "false",
        "Seal backups to the key of the EncryptionConfiguration beside the recipients.",
    ),
    Flag::new(
        Backup,
        "backup-unencrypted",
        Kind::Bool,
        "false",
        "Leave backups unencrypted: whoever reads the place reads every key, and all values that no \
         rule seals.",
    ),
    Flag::new(
        Backup,
        "backup-keep-last",
        Kind::Uint32,
        "0",
        "Keep the newest N scheduled backups; without any --backup-keep-* all are kept.",
    ),
    Flag::new(
        Backup,
        "backup-keep-within-hours",
        Kind::Uint32,
        "0",
        "Keep all scheduled backups of the last N hours.",
    ),
    Flag::new(
        Backup,
        "backup-keep-hourly",
        Kind::Uint32,
        "0",
        "Keep one scheduled backup of each of the last N hours that have any.",
    ),
    Flag::new(
        Backup,
        "backup-keep-daily",
        Kind::Uint32,
        "0",
        "Keep one scheduled backup of each of the last N days that have any.",
    ),
    Flag::new(
        Backup,
        "backup-keep-weekly",
        Kind::Uint32,
        "0",
        "Keep one scheduled backup of each of the last N weeks that have any.",
    ),
    Flag::new(
        Backup,
        "backup-keep-monthly",
        Kind::Uint32,
        "0",
        "Keep one scheduled backup of each of the last N months that have any.",
    ),
    Flag::new(
        Backup,
        "backup-log",
        Kind::Bool,
        "false",
        "Ship what is committed into the places of backups as it comes, so that any moment can be restored.",
    ),
    Flag::new(
        Backup,
        "backup-log-interval",
        Kind::Duration,
        "5s",
        "How far behind the shipped log may be.",
    ),
    Flag::new(
        Backup,
        "backup-log-bytes",
        Kind::Uint,
        "4194304",
        "Bytes of entries that are shipped at once, before the interval is over.",
    ),
    Flag::new(
        Backup,
        "backup-log-hold",
        Kind::Uint,
        "1073741824",
        "Bytes of log that are kept on the disk while a place is away; beyond that the shipped log gets a gap.",
    ),
    Flag::new(
        Backup,
        "backup-keep-log-days",
        Kind::Uint32,
        "0",
        "Keep the log of the last N days, and what the newest proven backup needs; 0 keeps what any kept \
         backup needs.",
    ),
    Flag::new(
        Backup,
        "backup-drill-schedule",
        Kind::Text,
        "",
        "When the backup that was proven longest ago is restored and compared again, written as \
         --backup-schedule; empty is never.",
    ),
    Flag::new(
        Backup,
        "backup-scratch-dir",
        Kind::Text,
        "",
        "Folder for what is on its way, sealed under a key in memory only; empty is TMPDIR or /var/tmp.",
    ),
    Flag::new(
        Backup,
        "backup-limit-rate",
        Kind::Text,
        "",
        "Bytes a second that backups send and receive at most, as in 500k or 20M; empty is no limit.",
    ),
];
