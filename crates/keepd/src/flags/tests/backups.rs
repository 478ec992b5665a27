//! Flags of backups: what they come to, and what is refused before anything is touched.

use super::super::config_file;
use super::*;

const PLACE: &str = "--backup-to=file:///var/backups/keepd";
const SEALED: &str = "--encryption-provider-config=enc.yaml";
const RECIPIENT: &str = "age1lvyvwawkr0mcnnnncaghunadrqkmuf9e6507x9y920xxpp866cnql7dp2z";

#[test]
fn without_flags_there_are_no_backups() {
    let backups = options(&[]).backups;
    assert!(backups.to.is_empty() && backups.schedule.is_none() && backups.keep.is_empty());
}

#[test]
fn places_and_recipients_add_up() {
    let backups = options(&[
        PLACE,
        "--backup-to=s3://bucket/a?region=eu-1,s3://bucket/b",
        "--backup-schedule=CRON_TZ=Europe/Berlin 0 3 * * *",
        "--backup-jitter=5m",
        &format!("--backup-recipient={RECIPIENT}"),
        "--backup-recipients-file=more.txt",
        "--backup-keep-last=3",
        "--backup-keep-within-hours=24",
        "--backup-keep-monthly=0x0c",
        "--backup-limit-rate=20M",
    ])
    .backups;
    assert_eq!(
        backups.to,
        ["file:///var/backups/keepd", "s3://bucket/a?region=eu-1", "s3://bucket/b"]
    );
    assert!(backups.schedule.is_some() && backups.drill_schedule.is_none());
    assert_eq!(backups.sealing.recipients.len(), 1);
    assert_eq!(backups.sealing.recipients_files, [Path::new("more.txt")]);
    assert!(!backups.sealing.has_config_key && !backups.sealing.is_plain);
    assert_eq!((backups.keep.last, backups.keep.monthly), (3, 12));
    assert_eq!(backups.keep.within, Duration::from_secs(24 * 3600));
    assert_eq!(backups.limit_rate.unwrap().get(), 20_000_000);
}

#[test]
fn the_log_is_shipped_if_that_is_asked_for() {
    assert!(options(&[PLACE, SEALED]).backups.log.is_none());
    let log = options(&[PLACE, SEALED, "--backup-log"]).backups.log.unwrap();
    assert_eq!((log.interval, log.bytes, log.hold), (Duration::from_secs(5), 4 << 20, 1 << 30));
    let backups = options(&[
        PLACE,
        SEALED,
        "--backup-log",
        "--backup-log-interval=1s",
        "--backup-log-bytes=8192",
        "--backup-log-hold=268435456",
        "--backup-keep-log-days=7",
    ])
    .backups;
    let log = backups.log.unwrap();
    assert_eq!((log.interval, log.bytes, log.hold), (Duration::from_secs(1), 8192, 256 << 20));
    assert_eq!(backups.keep_log_days, Some(7));
}

#[test]
fn the_key_of_the_configuration_seals_where_no_recipient_does() {
    let both = format!("--backup-recipient={RECIPIENT}");
    assert!(options(&[PLACE, SEALED]).backups.sealing.has_config_key);
    assert!(!options(&[PLACE, SEALED, &both]).backups.sealing.has_config_key);
    let with = options(&[PLACE, SEALED, &both, "--backup-with-config-key"]).backups.sealing;
    assert!(with.has_config_key && with.recipients.len() == 1);
    let plain = options(&[PLACE, SEALED, "--backup-unencrypted"]).backups.sealing;
    assert!(plain.is_plain && !plain.has_config_key);
}

#[test]
fn mistakes_end_the_start_with_the_remedy() {
    let recipient = format!("--backup-recipient={RECIPIENT}");
    for (args, text) in [
        (["--backup-log", ""], "--backup-log is given, but --backup-to is not"),
        (["--backup-schedule=@daily", ""], "--backup-schedule is given, but --backup-to is not"),
        (["--backup-keep-last=3", ""], "--backup-keep-last is given, but --backup-to is not"),
        (["--backup-unencrypted", ""], "--backup-unencrypted is given, but --backup-to is not"),
        ([PLACE, ""], "say who can open the backups"),
        ([PLACE, "--backup-with-config-key"], "say who can open the backups"),
        ([SEALED, "--backup-to=ftp://x/y"], "the schemes are file, s3, gs and az"),
        ([SEALED, "--backup-to=file://relative"], "a folder is absolute"),
        ([SEALED, "--backup-to=s3://key:secret@bucket/x"], "credentials do not belong into a URL"),
        ([SEALED, "--backup-to=file:///a,file:///a"], "names file:///a twice"),
        ([PLACE, "--backup-recipient=age1x"], "--backup-recipient: "),
        ([recipient.as_str(), "--backup-unencrypted"], "is given, but --backup-to is not"),
        ([PLACE, "--backup-limit-rate=fast"], "say who can open"),
    ] {
        let args: Vec<&str> = args.into_iter().filter(|arg| !arg.is_empty()).collect();
        let error = refusal(&args);
        assert!(error.contains(text), "{args:?}: {error}");
    }
    for (arg, text) in [
        ("--backup-schedule=* * * *", "--backup-schedule: \"* * * *\" is no schedule"),
        ("--backup-schedule=CRON_TZ=Mars @daily", "no time zone \"Mars\""),
        ("--backup-jitter=5m", "which is not given"),
        ("--backup-limit-rate=fast", "--backup-limit-rate: a rate is a number of bytes"),
        ("--backup-unencrypted", "exclude each other"),
        ("--backup-log-interval=1s", "but --backup-log is not"),
        ("--backup-drill-schedule=@weekly", "a recipient's private half is not here"),
    ] {
        let error = refusal(&[PLACE, &recipient, arg]);
        assert!(error.contains(text), "{arg}: {error}");
    }
    for (arg, text) in [
        ("--backup-log-interval=10ms", "must be from 100ms to 1h"),
        ("--backup-log-bytes=1", "must be from 4096 to 67108864"),
        ("--backup-log-hold=1000", "must be 134217728 (128 MiB) or more"),
    ] {
        let error = refusal(&[PLACE, &recipient, "--backup-log", arg]);
        assert!(error.contains(text), "{arg}: {error}");
    }
    let error = refusal(&[SEALED, "--backup-to=s3://key:secret@bucket/x"]);
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn a_configuration_file_has_them_as_lists_or_texts_and_rules() {
    let read = |text: &str| config_file::parse(text.as_bytes());
    let list = read("backup-to: ['file:///a', 'file:///b']\nbackup-keep-last: 3\n").unwrap();
    let text = read("backup-to: file:///a,file:///b\nbackup-keep-last: 3\n").unwrap();
    assert_eq!(list.list("backup-to"), ["file:///a", "file:///b"]);
    assert_eq!(list.list("backup-to"), text.list("backup-to"));
    for stray in ["backup-schedul: '@daily'", "backups:", "socket-options: {backup-to: x}"] {
        let error = verification(read(stray).unwrap_err().into_exit(Vec::new()));
        assert!(error.contains("the keys of backups are the flags"), "{error}");
    }
    let dir = testkit::TempDir::new("backup-flags");
    let file = dir.join("keepd.yaml");
    std::fs::write(&file, "name: n1\n").unwrap();
    let error = refusal(&[&format!("--config-file={}", file.display()), PLACE]);
    assert!(error.contains("put `backup-to: file:///var/backups/keepd` into"), "{error}");
}

#[test]
fn a_secret_in_a_url_is_not_logged() {
    let exit = run_in(&[SEALED], &[("ETCD_BACKUP_TO", "s3://key:secret@bucket/x")]).unwrap_err();
    assert!(exit.notices.iter().all(|notice| !notice.to_string().contains("secret")), "{exit:?}");
}
