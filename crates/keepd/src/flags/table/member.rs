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
        "Applied entries kept in memory for a slow follower, up to 16 MiB; older ones are read \
         from the log on the disk while it has them.",
    ),
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
        "Shorten the wait for the first election once two other members are reached.",
    ),
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
        .no_effect(
            "there are no snapshot files: the store is the state, and the log holds what \
             follows it",
        ),
    Flag::new(Member, "max-wals", Kind::Uint, "5", "Log files to keep.")
        .no_effect("a file of the log goes when nothing in it is needed any more"),
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
    .no_effect("the store is not a bbolt file and has no free list"),
    Flag::new(
        Member,
        "backend-batch-interval",
        Kind::Duration,
        "0s",
        "Longest time until what is applied is flushed to the store; 0 is 100 ms.",
    ),
    Flag::new(Member, "backend-batch-limit", Kind::Int, "0", "Largest bbolt transaction.")
        .no_effect(
            "what is applied is flushed by time and bytes, not by the number of operations; see \
             --backend-batch-interval",
        ),
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
    .no_effect("the HTTP/2 library answers pings and does not tell of them"),
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
    .no_effect("SO_REUSEADDR is always set on TCP sockets"),
    Flag::new(
        Member,
        "enable-grpc-gateway",
        Kind::Bool,
        "true",
        "Serve the JSON gateway at /v3/, which is not built yet.",
    )
    .no_effect("the JSON gateway is not built yet"),
    Flag::new(Member, "raft-read-timeout", Kind::Duration, "5s", "Read timeout between members.")
        .no_effect(
            "a silent connection between members is found by pings within one and a half \
             election timeouts",
        ),
    Flag::new(Member, "raft-write-timeout", Kind::Duration, "5s", "Write timeout between members.")
        .no_effect(
            "a silent connection between members is found by pings within one and a half \
             election timeouts",
        ),
    Flag::new(
        Member,
        "feature-gates",
        Kind::Gates,
        "",
        "Features to turn on or off, as name=true,name=false; the log says which have no effect.",
    ),
];
