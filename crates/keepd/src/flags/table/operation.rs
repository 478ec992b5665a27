//! Monitoring, logging, background work, and the rest.

use super::Section::{Features, Hidden, Logging, Monitoring, Other, Tracing, Unsafe};
use super::{Flag, Kind};

pub(super) static FLAGS: &[Flag] = &[
    Flag::new(Monitoring, "enable-pprof", Kind::Bool, "false", "Go's profiles at /debug/pprof/.")
        .no_effect("the profiles are those of Go's runtime"),
    Flag::new(
        Monitoring,
        "metrics",
        Kind::Text,
        "basic",
        "Detail of the metrics: basic, or extensive, which adds the times of all RPCs.",
    ),
    Flag::new(Logging, "logger", Kind::Text, "zap", "The logger: zap.")
        .no_effect("zap is the only value, in etcd too"),
    Flag::new(
        Logging,
        "log-outputs",
        Kind::List,
        "default",
        "Where the log goes: stdout, stderr (default), or files to append to.",
    ),
    Flag::new(
        Logging,
        "log-level",
        Kind::Text,
        "info",
        "Lowest level to log: debug, info, warn, error, panic, fatal.",
    ),
    Flag::new(Logging, "log-format", Kind::Text, "json", "Form of the log: json, console."),
    Flag::new(Logging, "enable-log-rotation", Kind::Bool, "false", "Rotate the one log file.")
        .refused("log files are not rotated; use logrotate with copytruncate, or the journal"),
    Flag::new(
        Logging,
        "log-rotation-config-json",
        Kind::Text,
        "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \
         \"compress\": false}",
        "How to rotate it.",
    )
    .no_effect("log files are not rotated: --enable-log-rotation is refused"),
    Flag::new(
        Logging,
        "warning-unary-request-duration",
        Kind::Duration,
        "300ms",
        "A request with one answer that takes longer is logged, ten of them a second.",
    ),
    Flag::new(Tracing, "enable-distributed-tracing", Kind::Bool, "false", "Export traces.")
        .no_effect("no traces are exported"),
    Flag::new(
        Tracing,
        "distributed-tracing-address",
        Kind::Text,
        "localhost:4317",
        "Where traces go.",
    )
    .no_effect("no traces are exported"),
    Flag::new(
        Tracing,
        "distributed-tracing-service-name",
        Kind::Text,
        "etcd",
        "The service's name in traces.",
    )
    .no_effect("no traces are exported"),
    Flag::new(
        Tracing,
        "distributed-tracing-instance-id",
        Kind::Text,
        "",
        "The instance's id in traces.",
    )
    .no_effect("no traces are exported"),
    Flag::new(
        Tracing,
        "distributed-tracing-sampling-rate",
        Kind::Int,
        "0",
        "Traces kept of a million.",
    )
    .no_effect("no traces are exported"),
    Flag::new(
        Features,
        "corrupt-check-time",
        Kind::Duration,
        "0s",
        "How often the leader compares the members' data; 0 is never.",
    ),
    Flag::new(
        Features,
        "compact-hash-check-time",
        Kind::Duration,
        "1m0s",
        "How often the leader compares compacted data; with the feature gate CompactHashCheck.",
    ),
    Flag::new(Features, "compaction-batch-limit", Kind::Int, "0", "Revisions compacted at a time.")
        .no_effect(
            "a compaction takes effect at once, and space is taken back by rewriting whole \
             segments in the background",
        ),
    Flag::new(
        Features,
        "compaction-sleep-interval",
        Kind::Duration,
        "0s",
        "Pause between compaction batches.",
    )
    .no_effect(
        "a compaction takes effect at once, and space is taken back by rewriting whole segments \
         in the background",
    ),
    Flag::new(
        Features,
        "watch-progress-notify-interval",
        Kind::Duration,
        "0s",
        "How often idle watchers hear of progress; 0 is ten minutes.",
    ),
    Flag::new(
        Features,
        "warning-apply-duration",
        Kind::Duration,
        "100ms",
        "A batch of entries that takes longer to apply is logged.",
    ),
    Flag::new(
        Features,
        "bootstrap-defrag-threshold-megabytes",
        Kind::Uint,
        "0",
        "Defragment at the start if that frees so much.",
    )
    .no_effect(
        "space is taken back in the background while the member runs, without a defragmentation",
    ),
    Flag::new(Features, "max-learners", Kind::Int, "1", "Learners allowed in the cluster."),
    Flag::new(
        Features,
        "downgrade-check-time",
        Kind::Duration,
        "5s",
        "How often a downgrade is looked after.",
    )
    .no_effect(
        "the cluster version follows the members as soon as one says another version, without a \
         check at intervals",
    ),
    Flag::new(
        Unsafe,
        "unsafe-no-fsync",
        Kind::Bool,
        "false",
        "Do not sync; a power cut or a crash of the machine loses data. For tests.",
    ),
    Flag::new(
        Unsafe,
        "force-new-cluster",
        Kind::Bool,
        "false",
        "Drop all other members and go on alone.",
    ),
    Flag::new(
        Other,
        "config-file",
        Kind::Text,
        "",
        "YAML or JSON file to take all settings from; flags and environment are then ignored.",
    ),
    Flag::new(Other, "version", Kind::Bool, "false", "Print the version and exit."),
    Flag::new(
        Hidden,
        "experimental-initial-corrupt-check",
        Kind::Bool,
        "false",
        "Old spelling of --feature-gates=InitialCorruptCheck=true.",
    )
    .no_effect("use --feature-gates=InitialCorruptCheck=true"),
    Flag::new(
        Hidden,
        "experimental-watch-progress-notify-interval",
        Kind::Duration,
        "0s",
        "Old spelling of --watch-progress-notify-interval.",
    ),
    Flag::new(
        Hidden,
        "discovery-server-name",
        Kind::Text,
        "",
        "Discovery: the name that the server's certificate must have; in the configuration file \
         only.",
    ),
    Flag::new(
        Hidden,
        "discovery-auth-token",
        Kind::Text,
        "",
        "Discovery: a token made elsewhere; in the configuration file only.",
    ),
    Flag::new(
        Hidden,
        "client-cert-allowed-cn",
        Kind::List,
        "",
        "Common names of clients let in; in the configuration file only.",
    ),
];
