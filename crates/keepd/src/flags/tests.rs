//! Whole command lines, environments and files against etcd's answers.

mod backups;
mod discovery;
mod start_line;

use std::time::Duration;

use keepd_server::AutoCompaction;

use super::table::{self, Section, Support};
use super::*;

fn run(args: &[&str]) -> Result<Parsed, FlagsExit> {
    run_in(args, &[])
}

fn run_in(args: &[&str], environment: &[(&str, &str)]) -> Result<Parsed, FlagsExit> {
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let environment: Vec<(String, String)> =
        environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    parse(&args, &environment)
}

fn options(args: &[&str]) -> ServerOptions {
    run(args).unwrap().options
}

/// The first line of a usage error.
fn usage_error(args: &[&str]) -> String {
    let exit = run(args).unwrap_err();
    assert_eq!(exit.code, 2, "{exit:?}");
    assert!(exit.stderr.contains("\nUsage:\n"), "{exit:?}");
    exit.stderr.lines().next().unwrap().to_owned()
}

/// The error field of a failed verification.
fn verification(exit: FlagsExit) -> String {
    assert_eq!(exit.code, 1, "{exit:?}");
    let notice = exit.notices.iter().find(|n| n.message == "failed to verify flags").unwrap();
    notice.fields[0].1.clone()
}

fn refusal(args: &[&str]) -> String {
    verification(run(args).unwrap_err())
}

fn bootstrap(args: &[&str]) -> String {
    let exit = run(args).unwrap_err();
    let notice = exit.notices.last().unwrap();
    assert_eq!((notice.level, notice.message.as_str()), (Level::Fatal, "discovery failed"));
    notice.fields[0].1.clone()
}

#[test]
fn no_flags_give_etcds_defaults() {
    let options = options(&[]);
    assert_eq!(options.name, "default");
    assert_eq!(options.data_dir, Path::new("default.etcd"));
    assert_eq!(options.heartbeat_interval, Duration::from_millis(100));
    assert_eq!(options.quota_backend_bytes, Some(2 << 30));
    assert_eq!(options.auto_compaction, AutoCompaction::Off);
    assert_eq!(options.watch_progress_notify_interval, Duration::from_secs(600));
    assert_eq!(options.grpc_keepalive_interval, Some(Duration::from_secs(7200)));
    assert_eq!(options.listen_client_urls[0].as_str(), "http://localhost:2379");
    let only = ("default".to_owned(), "http://localhost:2380".to_owned());
    assert_eq!(options.initial_cluster, [only]);
}

#[test]
fn gos_flag_syntax_is_taken() {
    for args in [
        ["-name=n", "--pre-vote=false", "-max-txn-ops", "0x40"].as_slice(),
        &["--name", "n", "-pre-vote=F", "--max-txn-ops=64", "--"],
        &["-name", "x", "-name", "n", "--pre-vote=0", "--max-txn-ops=64"],
    ] {
        let options = options(args);
        assert_eq!(
            (options.name.as_str(), options.pre_vote, options.max_txn_ops),
            ("n", false, 64)
        );
    }
    assert!(options(&["-pre-vote", "-v", "--force"]).pre_vote, "booleans take no next argument");
}

#[test]
fn usage_errors_read_like_gos() {
    for (args, error) in [
        (["--bogus"].as_slice(), "flag provided but not defined: -bogus"),
        (&["--discovery=http://x"], "flag provided but not defined: -discovery"),
        (&["--experimental-peer-skip"], "flag provided but not defined: -experimental-peer-skip"),
        (&["--name"], "flag needs an argument: -name"),
        (&["---name"], "bad flag syntax: ---name"),
        (&["--=x"], "bad flag syntax: --=x"),
        (
            &["--election-timeout", "abc"],
            "invalid value \"abc\" for flag -election-timeout: parse error",
        ),
        (&["--pre-vote=x"], "invalid boolean value \"x\" for -pre-vote: parse error"),
        (
            &["--listen-client-urls=foo"],
            "invalid value \"foo\" for flag -listen-client-urls: URL scheme must be http, https, \
             unix, or unixs: foo",
        ),
        (
            &["--initial-cluster-state=foo"],
            "invalid value \"foo\" for flag -initial-cluster-state: invalid value",
        ),
        (
            &["--v2-deprecation=not-yet"],
            "invalid value \"not-yet\" for flag -v2-deprecation: invalid value \"not-yet\"",
        ),
        (
            &["--feature-gates=Foo=true"],
            "invalid value \"Foo=true\" for flag -feature-gates: unrecognized feature gate: Foo",
        ),
        (
            &["--feature-gates=InitialCorruptCheck=maybe"],
            "invalid value \"InitialCorruptCheck=maybe\" for flag -feature-gates: invalid value of \
             InitialCorruptCheck=maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax",
        ),
        (
            &["--feature-gates=InitialCorruptCheck"],
            "invalid value \"InitialCorruptCheck\" for flag -feature-gates: missing bool value for \
             InitialCorruptCheck",
        ),
        (
            &["--corrupt-check-time=5"],
            "invalid value \"5\" for flag -corrupt-check-time: parse error",
        ),
        (
            &["--max-concurrent-streams=4294967296"],
            "invalid value \"4294967296\" for flag -max-concurrent-streams: \
             strconv.ParseUint: parsing \"4294967296\": value out of range",
        ),
    ] {
        assert_eq!(usage_error(args), error);
    }
}

#[test]
fn verification_errors_read_like_etcds() {
    for (args, error) in [
        (["foo"].as_slice(), "\"foo\" is not a valid flag"),
        (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (
            &["--heartbeat-interval=300"],
            "--election-timeout[1000ms] should be at least as 5 times as \
             --heartbeat-interval[300ms]",
        ),
        (
            &["--election-timeout=60000"],
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:1"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &["--listen-peer-urls=http://example.com:31160"],
            "expected IP in URL for binding (http://example.com:31160)",
        ),
        (
            &["--initial-advertise-peer-urls=http://:31161"],
            "--initial-advertise-peer-urls \"http://:31161\" must be \"host:port\" (unexpected \
             empty host (http://:31161))",
        ),
        (&["--auto-compaction-mode="], "undefined auto-compaction-mode"),
        (&["--auto-compaction-mode=foo"], "unknown auto-compaction-mode \"foo\""),
        (
            &["--tls-min-version=TLS1.1"],
            "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--cipher-suites=TLS_AES_128_GCM_SHA256"],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (&["--log-format=foo"], "unknown log format: foo, supported values json, console"),
        (&["--logger=foo"], "unknown logger option \"foo\""),
        (&["--logger=capnslog"], "--logger=capnslog is removed in v3.5"),
        (&["--log-outputs=default,stdout"], "multi logoutput for \"default\" is not supported yet"),
        (&["--compact-hash-check-time=0s"], "--compact-hash-check-time must be >0 (set to 0s)"),
        (
            &["--discovery-fallback=proxy"],
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
        ),
        (
            &["--feature-gates=LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate \
             LeaseCheckpoint",
        ),
        (
            &["--enable-distributed-tracing", "--distributed-tracing-sampling-rate=1000001"],
            "distributed tracing configurition is not valid: (tracing sampling rate must be less \
             than 1000000)",
        ),
    ] {
        assert_eq!(refusal(args), error);
    }
}

#[test]
fn an_unset_advertise_url_is_warned_of_twice() {
    let exit = run(&["--listen-client-urls=http://127.0.0.1:1"]).unwrap_err();
    assert_eq!(exit.notices.last().unwrap().message, "advertise client URLs are not set");
}

#[test]
fn a_pasted_long_dash_is_explained() {
    assert_eq!(
        refusal(&["\u{2014}encryption-provider-config=x"]),
        "\"\u{2014}encryption-provider-config=x\" is not a valid flag: it begins with a long dash, \
         as pasted from a document; write --encryption-provider-config=x"
    );
}

#[test]
fn a_bad_log_level_is_a_panic() {
    let exit = run(&["-log-level", "foo"]).unwrap_err();
    assert_eq!((exit.code, exit.stderr.as_str()), (2, "panic: unrecognized level: \"foo\"\n"));
    assert_eq!(options(&["-log-level", "warn"]).log.level, LogLevel::Warn);
}

#[test]
fn help_goes_to_both_streams_and_version_to_one() {
    for arg in ["-h", "--help"] {
        let exit = run(&[arg]).unwrap_err();
        assert_eq!(exit.code, 0);
        assert!(exit.stderr.starts_with("Usage:\n"));
        for flag in table::all().filter(|flag| flag.section != Section::Hidden) {
            assert!(exit.stdout.contains(&format!("  --{} '", flag.name)), "{}", flag.name);
        }
    }
    let exit = run(&["--version"]).unwrap_err();
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
    assert!(exit.stdout.starts_with("etcd Version: 3.7.1\nGit SHA: "), "{}", exit.stdout);
    assert_eq!(usage_error(&["--version", "--bogus"]), "flag provided but not defined: -bogus");
}

#[test]
fn kubeadms_command_line_is_taken_in_both_spellings() {
    let flags = [
        "--advertise-client-urls=https://10.0.0.1:2379",
        "--cert-file=/etc/kubernetes/pki/etcd/server.crt",
        "--client-cert-auth=true",
        "--data-dir=/var/lib/etcd",
        "--initial-advertise-peer-urls=https://10.0.0.1:2380",
        "--initial-cluster=cp=https://10.0.0.1:2380",
        "--key-file=/etc/kubernetes/pki/etcd/server.key",
        "--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379",
        "--listen-metrics-urls=http://127.0.0.1:2381",
        "--listen-peer-urls=https://10.0.0.1:2380",
        "--name=cp",
        "--peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt",
        "--peer-client-cert-auth=true",
        "--peer-key-file=/etc/kubernetes/pki/etcd/peer.key",
        "--peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
        "--snapshot-count=10000",
        "--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
    ];
    for extra in [
        ["--feature-gates=InitialCorruptCheck=true", "--watch-progress-notify-interval=5s"],
        [
            "--experimental-initial-corrupt-check=true",
            "--experimental-watch-progress-notify-interval=5s",
        ],
    ] {
        let parsed = run(&[flags.as_slice(), &extra].concat()).unwrap();
        let options = parsed.options;
        assert_eq!(options.watch_progress_notify_interval, Duration::from_secs(5));
        assert_eq!(options.listen_client_urls.len(), 2);
        let tls = options.client_tls().unwrap();
        assert!(tls.client_cert_auth && tls.trusted_ca_file.is_some());
        assert!(options.peer_tls().is_some());
        assert!(parsed.notices.iter().all(|n| n.level == Level::Info), "{:?}", parsed.notices);
    }
}

#[test]
fn the_tests_of_kubernetes_start_it_with_a_unix_socket() {
    let options = options(&[
        "-log-level",
        "warn",
        "--listen-client-urls",
        "unix:///tmp/x/etcd.sock",
        "--advertise-client-urls",
        "http://127.0.0.111:0",
        "--listen-peer-urls",
        "http://127.0.0.1:0",
    ]);
    assert_eq!(options.listen_client_urls[0].address(), "/tmp/x/etcd.sock");
    assert_eq!(options.listen_peer_urls[0].address(), "127.0.0.1:0");
}

#[test]
fn the_cluster_follows_the_name() {
    let alone =
        options(&["--name=n", "--initial-advertise-peer-urls=http://10.0.0.1:1,http://10.0.0.2:1"]);
    assert_eq!(alone.initial_cluster.len(), 2);

    assert_eq!(
        bootstrap(&["--name=foo", "--initial-cluster=x=http://localhost:2380"]),
        "couldn't find local name \"foo\" in the initial cluster configuration"
    );
    assert_eq!(
        bootstrap(&["--initial-cluster=default=http://localhost:1"]),
        "--initial-cluster has default=http://localhost:1 but missing from \
         --initial-advertise-peer-urls=http://localhost:2380 (resolved urls: \
         \"http://localhost:2380\" != \"http://localhost:1\")"
    );
}

#[test]
fn the_first_members_have_etcds_ids() {
    let several = "--initial-cluster=default=http://localhost:2380,b=http://localhost:1";
    let cluster = options(&[several]).members().unwrap();
    assert_eq!(cluster.members.len(), 2);
    assert_eq!(cluster.local, keepd_types::MemberId(0x8e9e_05c5_2164_694d));
    assert_eq!(
        bootstrap(&["--initial-cluster=default=http://localhost:2380,b=http://localhost:2380"]),
        "initial cluster b=http://localhost:2380,default=http://localhost:2380 has duplicate url"
    );
    // One that joins was told to the cluster before, so its advertised URLs are not compared.
    let elsewhere = "--initial-advertise-peer-urls=http://localhost:9";
    assert!(run(&[several, elsewhere, "--initial-cluster-state=existing"]).is_ok());
    assert!(run(&[several, elsewhere]).is_err());
}

#[test]
fn members_are_found_in_one_way_only() {
    let error = refusal(&["--discovery-srv=d", "--initial-cluster=default=http://localhost:2380"]);
    assert_eq!(
        error,
        "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
         \"discovery-endpoints\" or \"discovery-srv\""
    );
    let found = options(&["--discovery-srv=d", "--name=n"]);
    assert_eq!((found.discovery_srv.as_str(), found.initial_cluster), ("d", Vec::new()));
}

#[test]
fn a_member_with_data_need_not_find_itself_in_the_cluster() {
    let dir = std::env::temp_dir().join(format!("keepd-flags-data-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("member/wal")).unwrap();
    let data_dir = format!("--data-dir={}", dir.display());
    let start = || run(&[&data_dir, "--name=foo", "--initial-cluster=x=http://localhost:2380"]);
    let empty = start();
    std::fs::write(dir.join("member/KEYRING"), "x").unwrap();
    let started = start();
    std::fs::remove_dir_all(&dir).unwrap();
    empty.expect_err("empty folders are no data");
    assert_eq!(started.unwrap().options.name, "foo");
}

#[test]
fn listeners_with_tls_need_certificates() {
    let https = ["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://h:1"];
    assert_eq!(
        bootstrap(&https),
        "TLS key/cert (--cert-file, --key-file) must be provided for client url \
         https://127.0.0.1:1 with HTTPS scheme"
    );
    assert_eq!(
        bootstrap(&["--listen-peer-urls=https://127.0.0.1:31161"]),
        "cannot listen on TLS for 127.0.0.1:31161: KeyFile and CertFile are not presented"
    );
    assert_eq!(bootstrap(&["--cipher-suites=FOO"]), "unexpected TLS cipher suite \"FOO\"");
    let parsed = run(&["--cert-file=a", "--key-file=b"]).unwrap();
    let ignored = |notice: &Notice| notice.message.contains("ignoring key and cert files");
    assert!(parsed.notices.iter().any(ignored));
}

#[test]
fn retention_counts_hours_revisions_or_durations() {
    for (mode, retention, expected) in [
        ("periodic", "1", AutoCompaction::Periodic(Duration::from_secs(3600))),
        ("periodic", "5m", AutoCompaction::Periodic(Duration::from_secs(300))),
        ("revision", "1000", AutoCompaction::Revision(1000)),
        ("revision", "0", AutoCompaction::Off),
        ("periodic", "-1s", AutoCompaction::Off),
    ] {
        let mode = format!("--auto-compaction-mode={mode}");
        let retention = format!("--auto-compaction-retention={retention}");
        assert_eq!(options(&[&mode, &retention]).auto_compaction, expected);
    }
    assert_eq!(
        bootstrap(&["--auto-compaction-retention=abc"]),
        "error parsing CompactionRetention: time: invalid duration \"abc\""
    );
}

#[test]
fn what_would_weaken_silently_is_refused_and_its_default_is_not() {
    for args in ["--wal-dir=/fast", "--memory-mlock"] {
        let error = refusal(&[args]);
        assert!(error.contains("is not available in keepd: "), "{error}");
    }
    // What test frameworks and charts pass is taken.
    let taken = ["--name=n", "--unsafe-no-fsync", "--auth-token=jwt,sign-method=RS256"];
    let parsed = run(&taken).unwrap();
    assert!(parsed.options.unsafe_no_fsync && !options(&[]).unsafe_no_fsync);
    assert_eq!(parsed.notices.len(), 1);
    for flag in table::all().filter(|flag| matches!(flag.support, Support::Refused(_))) {
        assert!(run(&[&format!("--{}={}", flag.name, flag.default)]).is_ok(), "{}", flag.name);
    }
    let parsed = run(&["--name=n", "--max-wals=6", "--max-txn-ops=5"]).unwrap();
    assert_eq!(parsed.notices.len(), 1);
    assert_eq!(
        parsed.notices[0].to_string(),
        "this flag has no effect in keepd flag=\"max-wals\" value=\"6\" reason=\"a file of the log \
         goes when nothing in it is needed any more\""
    );
}

#[test]
fn the_environment_fills_in_and_must_not_contradict() {
    let parsed = run_in(
        &[],
        &[("ETCD_NAME", "n"), ("ETCD_PRE_VOTE", ""), ("ETCD_BOGUS", "1"), ("HOME", "/x")],
    );
    let parsed = parsed.unwrap();
    assert_eq!(parsed.options.name, "n");
    let texts: Vec<String> = parsed.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "recognized and used environment variable variable-name=\"ETCD_NAME\" \
             variable-value=\"n\"",
            "unrecognized environment variable environment-variable=\"ETCD_BOGUS=1\"",
        ]
    );
    let exit = run_in(&["--name=n"], &[("ETCD_NAME", "n")]).unwrap_err();
    assert_eq!((exit.code, exit.notices[0].level), (1, Level::Fatal));
    assert_eq!(exit.notices[0].fields, [("environment-variable", "ETCD_NAME".to_owned())]);
    let exit = run_in(&[], &[("ETCD_HEARTBEAT_INTERVAL", "abc")]).unwrap_err();
    assert_eq!(
        verification(exit),
        "invalid value \"abc\" for ETCD_HEARTBEAT_INTERVAL: parse error"
    );
    let exit = run_in(&[], &[("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:1")]).unwrap_err();
    assert_eq!(verification(exit), validate::ADVERTISE_UNSET);
}

#[test]
fn every_flag_has_one_entry_and_a_default_of_its_kind() {
    let mut names: Vec<&str> = table::all().map(|flag| flag.name).collect();
    assert!(names.len() > 110, "{}", names.len());
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
    for flag in table::all() {
        let mut settings = Settings::default();
        assert_eq!(settings.set(flag, flag.default), Ok(()), "{}", flag.name);
        assert!(!flag.help.is_empty());
    }
}

fn from_file(content: &str) -> Result<Parsed, FlagsExit> {
    let settings = config_file::parse(content.as_bytes());
    settings.map_err(|error| error.into_exit(Vec::new())).and_then(|s| finish(&s, Vec::new()))
}

#[test]
fn a_configuration_file_sets_everything() {
    let parsed = from_file(
        "name: n1\n\
         data-dir: /d\n\
         snapshot-count: 5000\n\
         watch-progress-notify-interval: 5000000000\n\
         listen-client-urls: https://127.0.0.1:1,unix:///s\n\
         log-outputs: [stderr]\n\
         auto-compaction-retention: \"1\"\n\
         feature-gates: InitialCorruptCheck=true\n\
         unknown-key: ignored\n\
         Quota-Backend-Bytes: -1\n\
         socket-options: {reuse-port: true}\n\
         client-transport-security:\n\
         \u{20} cert-file: c\n\
         \u{20} key-file: k\n\
         \u{20} client-cert-auth: true\n\
         \u{20} allowed-cn: [a, b]\n\
         peer-transport-security: {cert-file: pc, key-file: pk, skip-client-san-verification: true}\n\
         encryption-provider-config: enc.yaml\n",
    );
    let options = parsed.unwrap().options;
    assert_eq!((options.name.as_str(), options.quota_backend_bytes), ("n1", None));
    assert_eq!(options.watch_progress_notify_interval, Duration::from_secs(5));
    assert_eq!(options.advertise_client_urls[0].as_str(), "http://localhost:2379");
    assert_eq!(options.auto_compaction, AutoCompaction::Periodic(Duration::from_secs(3600)));
    assert!(options.socket_reuse_port);
    assert_eq!(options.client_security.allowed_cns, ["a", "b"]);
    assert_eq!(options.encryption_provider_config, Some("enc.yaml".into()));
    let json = from_file("{\"name\": \"j\", \"pre-vote\": false}").unwrap().options;
    assert_eq!((json.name.as_str(), json.pre_vote), ("j", false));
    assert_eq!(from_file("").unwrap().options.name, "default");
}

#[test]
fn encryption_beside_a_configuration_file_must_stand_in_the_file() {
    let place = std::env::temp_dir().join(format!("keepd-flags-{}.yaml", std::process::id()));
    let file = place.to_str().unwrap();
    let file_flag = format!("--config-file={file}");
    let enc_flag = "--encryption-provider-config=enc.yaml";
    let variable = ("ETCD_ENCRYPTION_PROVIDER_CONFIG", "enc.yaml");
    for (content, ruling) in
        [("name: n1\n", ""), ("encryption-provider-config: other.yaml\n", "other.yaml")]
    {
        std::fs::write(&place, content).unwrap();
        let remedy = format!(
            "is \"enc.yaml\" but {file} has {ruling:?}: the configuration file rules and flags and \
             environment are ignored beside it; put `encryption-provider-config: enc.yaml` into \
             {file}"
        );
        let by_flag = run(&[&file_flag, enc_flag]).unwrap_err();
        assert_eq!(verification(by_flag), format!("--encryption-provider-config {remedy}"));
        for by_variable in [
            run_in(&[&file_flag], &[variable]),
            run_in(&[], &[("ETCD_CONFIG_FILE", file), variable]),
        ] {
            let error = verification(by_variable.unwrap_err());
            assert_eq!(error, format!("ETCD_ENCRYPTION_PROVIDER_CONFIG {remedy}"));
        }
        assert!(run_in(&[&file_flag], &[("ETCD_ENCRYPTION_PROVIDER_CONFIG", "")]).is_ok());
    }
    std::fs::write(&place, "encryption-provider-config: enc.yaml\n").unwrap();
    let parsed = run_in(&[&file_flag, enc_flag], &[variable]).unwrap();
    assert_eq!(parsed.options.encryption_provider_config, Some("enc.yaml".into()));
    std::fs::remove_file(&place).unwrap();
}

#[test]
fn mistyped_keys_of_the_encryption_are_refused() {
    for content in [
        "encryption-provider-confg: enc.yaml",
        "Encryption_provider_config: enc.yaml",
        "encryption:",
        "client-transport-security: {encryption-provider-config: enc.yaml}",
    ] {
        let error = verification(from_file(content).unwrap_err());
        assert!(error.starts_with("unknown key \"encryption"), "{error}");
        assert!(error.contains("encryption-provider-config, "), "{error}");
    }
}

#[test]
fn file_errors_read_like_gos() {
    let go = "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal";
    for (content, error) in [
        (
            "warning-apply-duration: 10m",
            format!(
                "{go} string into Go struct field configYAML.Config.warning-apply-duration of \
                 type time.Duration"
            ),
        ),
        (
            "name: 5",
            format!("{go} number into Go struct field configYAML.Config.name of type string"),
        ),
        (
            "peer-transport-security: x",
            format!(
                "{go} string into Go struct field configYAML.configJSON.peer-transport-security of \
                 type embed.securityConfig"
            ),
        ),
        (
            "client-transport-security: {cert-file: 5}",
            format!(
                "{go} number into Go struct field \
                 securityConfig.configJSON.client-transport-security.cert-file of type string"
            ),
        ),
        ("feature-gates: Foo=true", "unrecognized feature gate: Foo".to_owned()),
        ("initial-cluster-state: bogus", "unexpected clusterState \"bogus\"".to_owned()),
        (
            "discovery-config: {token: t}",
            "both --discovery-token and --discovery-endpoints must be set".to_owned(),
        ),
    ] {
        assert_eq!(verification(from_file(content).unwrap_err()), error);
    }
    let broken = verification(from_file("name: [").unwrap_err());
    assert!(broken.starts_with("error converting YAML to JSON: yaml: "), "{broken}");
    let exit = from_file("listen-client-urls: foo").unwrap_err();
    assert_eq!(
        (exit.code, exit.stderr.as_str()),
        (
            1,
            "unexpected error setting up listen-client-urls: URL scheme must be http, https, unix, \
             or unixs: foo\n"
        )
    );
    assert_eq!(
        refusal(&["--config-file=/nonexistent-keepd"]),
        "open /nonexistent-keepd: no such file or directory"
    );
}

#[test]
fn a_file_named_by_flag_or_environment_shuts_out_everything_else() {
    let path = std::env::temp_dir().join(format!("keepd-flags-{}.yaml", std::process::id()));
    std::fs::write(&path, "name: from-file\n").unwrap();
    let file = path.to_str().unwrap();
    let by_flag = run_in(&["--name=x", "--config-file", file], &[("ETCD_NAME", "y")]).unwrap();
    let by_variable = run_in(&["--name=x"], &[("ETCD_CONFIG_FILE", file)]).unwrap();
    std::fs::remove_file(&path).unwrap();
    for parsed in [by_flag, by_variable] {
        assert_eq!(parsed.options.name, "from-file");
        assert!(parsed.notices[0].message.starts_with("loaded server configuration, other"));
    }
}

#[test]
fn the_document_of_flags_is_what_the_table_says() {
    testkit::golden::compare("../../docs/operations/flags.md", &help::document());
}

#[test]
fn an_empty_list_of_urls_is_the_default() {
    let defaults = options(&[]);
    let empty = options(&[
        "--listen-client-urls=",
        "--advertise-client-urls=",
        "--listen-peer-urls=",
        "--initial-advertise-peer-urls=",
        "--listen-metrics-urls=",
        "--host-whitelist=",
    ]);
    assert_eq!(empty.listen_client_urls, defaults.listen_client_urls);
    assert_eq!(empty.advertise_client_urls, defaults.advertise_client_urls);
    assert_eq!(empty.listen_peer_urls, defaults.listen_peer_urls);
    assert_eq!(empty.initial_advertise_peer_urls, defaults.initial_advertise_peer_urls);
    assert!(empty.listen_metrics_urls.is_empty());
    assert!(empty.access.hosts.is_empty(), "which allows all");
    assert!(!empty.listen_client_urls.is_empty());
    // It takes nothing back, and it counts as given.
    let one = ["--listen-peer-urls=http://127.0.0.1:1", "--listen-peer-urls="];
    assert_eq!(options(&one).listen_peer_urls[0].address(), "127.0.0.1:1");
    assert_eq!(refusal(&["--listen-client-urls="]), validate::ADVERTISE_UNSET);
}

#[test]
fn hosts_and_origins_are_lists() {
    let options = options(&["--host-whitelist=a.example,localhost", "--cors=http://a.example:1"]);
    assert!(options.access.hosts.iter().eq(["a.example", "localhost"]));
    assert!(options.access.origins.iter().eq(["http://a.example:1"]));
}

#[test]
fn a_log_level_is_taken_as_zap_takes_it() {
    for (text, level) in [
        ("warning", LogLevel::Warn),
        ("WARNING", LogLevel::Warn),
        ("Warn", LogLevel::Warn),
        ("iNFO", LogLevel::Info),
        ("", LogLevel::Info),
        ("Debug", LogLevel::Debug),
        ("DPanic", LogLevel::Error),
    ] {
        assert_eq!(options(&[&format!("--log-level={text}")]).log.level, level, "{text}");
    }
    for text in ["warnings", "trace", "warn ", "off"] {
        let exit = run(&[&format!("--log-level={text}")]).unwrap_err();
        assert_eq!(exit.code, 2, "{text}");
        assert!(exit.stderr.contains(&format!("unrecognized level: {text:?}")), "{}", exit.stderr);
    }
}
