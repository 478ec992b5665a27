//! The member itself: where it keeps data, where it listens, how much it takes.

use super::Section::Member;
use super::{Flag, Kind};

pub(super) static FLAGS: &[Flag] = &[
    Flag::new(Member, "name", Kind::Text, "default", "The member's name, for people."),
    Flag::new(
        Member,
        "data-dir",
        Kind::Text,
        "",
        "Directory of all data; ${name}.etcd if not given.",
    ),
    Flag::new(
        Member,
        "wal-dir",
        Kind::Text,
        "",
        "Directory of the log, if not in the data directory.",
    )
    .refused("the log lives in the data directory; mount the faster disk there instead"),
    Flag::new(
        Member,
        "snapshot-count",
        Kind::Uint,
        "10000",
        "Applied entries after which what the store holds may leave the log.",
    ),
    Flag::new(
        Member,
        "snapshot-catchup-entries",
        Kind::Uint,
        "5000",
        "Entries kept for a slow follower behind a snapshot.",
    )
    .no_effect(),
    Flag::new(Member, "heartbeat-interval", Kind::Uint, "100", "Milliseconds between heartbeats."),
    Flag::new(
        Member,
        "election-timeout",
        Kind::Uint,
        "1000",
        "Milliseconds without a leader before an election; at least five heartbeats.",
    ),
    Flag::new(
        Member,
        "initial-election-tick-advance",
        Kind::Bool,
        "true",
        "Shorten the wait for the first election.",
    )
    .no_effect(),
    Flag::new(
        Member,
        "listen-peer-urls",
        Kind::Urls,
        "http://localhost:2380",
        "URLs to listen on for other members.",
    ),
    Flag::new(
        Member,
        "listen-client-urls",
        Kind::Urls,
        "http://localhost:2379",
        "URLs to listen on for clients, gRPC and HTTP; unix sockets too.",
    ),
    Flag::new(
        Member,
        "listen-client-http-urls",
        Kind::Urls,
        "",
        "URLs for HTTP only, apart from gRPC.",
    )
    .refused("HTTP is served beside gRPC on --listen-client-urls and cannot be moved away yet"),
    Flag::new(
        Member,
        "listen-metrics-urls",
        Kind::Urls,
        "",
        "More URLs for metrics and health, without client certificates if http.",
    ),
    Flag::new(Member, "max-snapshots", Kind::Uint, "5", "Snapshot files to keep (deprecated).")
        .no_effect(),
    Flag::new(Member, "max-wals", Kind::Uint, "5", "Log files to keep.").no_effect(),
    Flag::new(Member, "memory-mlock", Kind::Bool, "false", "Keep all memory off the swap device.")
        .refused("memory is not locked; turn swap off or encrypt it"),
    Flag::new(
        Member,
        "quota-backend-bytes",
        Kind::Int,
        "0",
        "Bytes of live data beyond which writes are refused; 0 is 2 GiB, negative is no limit.",
    ),
    Flag::new(
        Member,
        "backend-bbolt-freelist-type",
        Kind::Text,
        "map",
        "Free list of a bbolt file.",
    )
    .no_effect(),
    Flag::new(Member, "backend-batch-interval", Kind::Duration, "0s", "Longest bbolt transaction.")
        .no_effect(),
    Flag::new(Member, "backend-batch-limit", Kind::Int, "0", "Largest bbolt transaction.")
        .no_effect(),
    Flag::new(Member, "max-txn-ops", Kind::Uint, "128", "Operations allowed in one transaction."),
    Flag::new(Member, "max-request-bytes", Kind::Uint, "1572864", "Largest request of a client."),
    Flag::new(
        Member,
        "max-concurrent-streams",
        Kind::Uint32,
        "4096",
        "Streams a client may have open on one connection.",
    ),
    Flag::new(
        Member,
        "grpc-keepalive-min-time",
        Kind::Duration,
        "5s",
        "A client that pings more often is disconnected.",
    )
    .no_effect(),
    Flag::new(
        Member,
        "grpc-keepalive-interval",
        Kind::Duration,
        "2h0m0s",
        "How often a silent client is pinged; 0 is never.",
    ),
    Flag::new(
        Member,
        "grpc-keepalive-timeout",
        Kind::Duration,
        "20s",
        "How long a pinged client may take to answer.",
    ),
    Flag::new(Member, "socket-reuse-port", Kind::Bool, "false", "Listen with SO_REUSEPORT."),
    Flag::new(
        Member,
        "socket-reuse-address",
        Kind::Bool,
        "false",
        "Listen with SO_REUSEADDR, which is always so.",
    )
    .no_effect(),
    Flag::new(
        Member,
        "enable-grpc-gateway",
        Kind::Bool,
        "true",
        "Serve the JSON gateway at /v3/, which is not built yet.",
    )
    .no_effect(),
    Flag::new(Member, "raft-read-timeout", Kind::Duration, "5s", "Read timeout between members.")
        .no_effect(),
    Flag::new(Member, "raft-write-timeout", Kind::Duration, "5s", "Write timeout between members.")
        .no_effect(),
    Flag::new(
        Member,
        "feature-gates",
        Kind::Gates,
        "",
        "Features to turn on or off, as name=true,name=false.",
    )
    .no_effect(),
];
