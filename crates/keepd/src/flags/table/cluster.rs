//! Flags by which a member finds the others.

use super::Section::Clustering;
use super::{Flag, Kind};

/// The reason why no discovery flag is taken.
const NO_DISCOVERY: &str = "members are not found by a discovery service; name them with --initial-cluster, or list them \
     in DNS for --discovery-srv";

pub(super) static FLAGS: &[Flag] = &[
    Flag::new(
        Clustering,
        "initial-advertise-peer-urls",
        Kind::Urls,
        "http://localhost:2380",
        "URLs that other members reach this one by.",
    ),
    Flag::new(
        Clustering,
        "initial-cluster",
        Kind::Text,
        "default=http://localhost:2380",
        "The members of a new cluster, as name=url,name=url.",
    ),
    Flag::new(
        Clustering,
        "initial-cluster-state",
        Kind::OneOf(&["new", "existing"]),
        "new",
        "Whether to start a cluster or join one.",
    ),
    Flag::new(
        Clustering,
        "initial-cluster-token",
        Kind::Text,
        "etcd-cluster",
        "Makes the ids of a new cluster differ from another's.",
    ),
    Flag::new(
        Clustering,
        "advertise-client-urls",
        Kind::Urls,
        "http://localhost:2379",
        "URLs that clients reach this member by.",
    ),
    Flag::new(Clustering, "discovery-endpoints", Kind::List, "", "A discovery service.")
        .refused(NO_DISCOVERY),
    Flag::new(Clustering, "discovery-token", Kind::Text, "", "Token for the discovery service.")
        .refused(NO_DISCOVERY),
    Flag::new(Clustering, "discovery-dial-timeout", Kind::Duration, "2s", "Discovery: connecting.")
        .no_effect(),
    Flag::new(
        Clustering,
        "discovery-request-timeout",
        Kind::Duration,
        "5s",
        "Discovery: requests.",
    )
    .no_effect(),
    Flag::new(Clustering, "discovery-keepalive-time", Kind::Duration, "2s", "Discovery: pings.")
        .no_effect(),
    Flag::new(
        Clustering,
        "discovery-keepalive-timeout",
        Kind::Duration,
        "6s",
        "Discovery: answers.",
    )
    .no_effect(),
    Flag::new(Clustering, "discovery-insecure-transport", Kind::Bool, "true", "Discovery: no TLS.")
        .no_effect(),
    Flag::new(
        Clustering,
        "discovery-insecure-skip-tls-verify",
        Kind::Bool,
        "false",
        "Discovery: any server.",
    )
    .no_effect(),
    Flag::new(Clustering, "discovery-cert", Kind::Text, "", "Discovery: certificate.").no_effect(),
    Flag::new(Clustering, "discovery-key", Kind::Text, "", "Discovery: key.").no_effect(),
    Flag::new(Clustering, "discovery-cacert", Kind::Text, "", "Discovery: CA.").no_effect(),
    Flag::new(Clustering, "discovery-user", Kind::Text, "", "Discovery: user.").no_effect(),
    Flag::new(Clustering, "discovery-password", Kind::Text, "", "Discovery: password.").no_effect(),
    Flag::new(
        Clustering,
        "discovery-fallback",
        Kind::OneOf(&["exit", "proxy"]),
        "exit",
        "Discovery: what to do when it fails.",
    )
    .no_effect(),
    Flag::new(Clustering, "discovery-srv", Kind::Text, "", "DNS domain that lists the members."),
    Flag::new(Clustering, "discovery-srv-name", Kind::Text, "", "Suffix of the DNS service names."),
    Flag::new(
        Clustering,
        "strict-reconfig-check",
        Kind::Bool,
        "true",
        "Refuse changes of the cluster that would lose its quorum.",
    ),
    Flag::new(
        Clustering,
        "pre-vote",
        Kind::Bool,
        "true",
        "Ask the others before an election, so that a returning member disturbs nobody.",
    ),
    Flag::new(
        Clustering,
        "auto-compaction-mode",
        Kind::Text,
        "periodic",
        "What the retention counts: periodic (time) or revision.",
    ),
    Flag::new(
        Clustering,
        "auto-compaction-retention",
        Kind::Text,
        "0",
        "History to keep: hours or a duration such as 5m, or a number of revisions; 0 is all.",
    ),
    Flag::new(
        Clustering,
        "v2-deprecation",
        Kind::ListOf(&["write-only", "write-only-skip-check", "write-only-drop-data", "gone"]),
        "write-only",
        "Phase of the v2 store's removal (deprecated, the value is ignored).",
    )
    .no_effect(),
];
