//! Counts of the other members, under etcd's names.

use keepd_peer::PeerStatus;

use super::text::Page;
use crate::context::Context;

/// One family with a series for each peer.
type Family = (&'static str, &'static str, fn(&PeerStatus) -> u64);

const SENT: [Family; 4] = [
    ("etcd_network_peer_sent_bytes_total", "The total number of bytes sent to peers.", |peer| {
        peer.sent_bytes
    }),
    (
        "etcd_network_peer_sent_failures_total",
        "The total number of send failures from peers.",
        |peer| peer.sent_failures + peer.dial_failures,
    ),
    ("etcd_network_snapshot_send_success", "Total number of successful snapshot sends", |peer| {
        peer.states[0]
    }),
    ("etcd_network_snapshot_send_failures", "Total number of snapshot send failures", |peer| {
        peer.states[1]
    }),
];

const RECEIVED: [Family; 4] = [
    (
        "etcd_network_peer_received_bytes_total",
        "The total number of bytes received from peers.",
        |peer| peer.received_bytes,
    ),
    (
        "etcd_network_peer_received_failures_total",
        "The total number of receive failures from peers.",
        |peer| peer.received_failures,
    ),
    (
        "etcd_network_snapshot_receive_success",
        "Total number of successful snapshot receives",
        |peer| peer.states[2],
    ),
    (
        "etcd_network_snapshot_receive_failures",
        "Total number of snapshot receive failures",
        |peer| peer.states[3],
    ),
];

pub(super) fn render(page: &mut Page, context: &Context) {
    let own = context.node.identity().member;
    let peers = context.peers();
    for (families, label) in [(SENT, "To"), (RECEIVED, "From")] {
        for (name, help, value) in families {
            page.family(name, "counter", help);
            for peer in &peers {
                page.sample(name, &format!("{label}=\"{}\"", peer.id), value(peer));
            }
        }
    }
    states(page, &peers);
    let name = "etcd_network_peer_round_trip_time_seconds";
    page.family(name, "histogram", "Round-Trip-Time histogram between peers");
    for peer in &peers {
        page.buckets(name, &format!("To=\"{}\"", peer.id), &peer.round_trips);
    }
    let pair = |peer: &PeerStatus| format!("Local=\"{own}\",Remote=\"{}\"", peer.id);
    let name = "etcd_network_active_peers";
    page.family(name, "gauge", "The current number of active peer connections.");
    for peer in &peers {
        page.sample(name, &pair(peer), u8::from(peer.is_active));
    }
    let name = "etcd_network_known_peers";
    page.family(name, "gauge", "The current number of known peers.");
    page.sample(name, &format!("Local=\"{own}\",Remote=\"{own}\""), 1);
    for peer in &peers {
        page.sample(name, &pair(peer), 1);
    }
    let name = "etcd_network_disconnected_peers_total";
    page.family(name, "counter", "The total number of disconnected peers.");
    for peer in &peers {
        page.sample(name, &pair(peer), peer.disconnects);
    }
}

/// States that are under way, and the times that they took.
fn states(page: &mut Page, peers: &[PeerStatus]) {
    for (way, (verb, label)) in [("send", "To"), ("receive", "From")].into_iter().enumerate() {
        let name = format!("etcd_network_snapshot_{verb}_inflights_total");
        page.family(&name, "gauge", &format!("Total number of inflight snapshot {verb}s"));
        for peer in peers {
            let under_way = peer.states_under_way[way];
            page.sample(&name, &format!("{label}=\"{}\"", peer.id), under_way);
        }
        let name = format!("etcd_network_snapshot_{verb}_total_duration_seconds");
        page.family(
            &name,
            "histogram",
            &format!("Total latency distributions of v3 snapshot {verb}s"),
        );
        for peer in peers {
            let labels = format!("{label}=\"{}\"", peer.id);
            page.buckets(&name, &labels, &peer.state_seconds[way]);
        }
    }
}
