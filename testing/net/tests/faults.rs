//! Single faults of the network, and what members and clients see of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use e2e::Client;
use keepd_api::etcdserverpb as pb;
use keepd_node::{Hello, Lane, NotReceived, PeerAddress, Receiver, Refusal, StateSink};
use keepd_peer::{Connect as _, Network, Options};
use keepd_tls::ClientTls;
use keepd_types::{ClusterId, MemberId};
use net::{CLIENT, Certificates, Cluster, Doors, PEER_PORT, SimConnect, address};
use parking_lot::Mutex;
use pb::kv_client::KvClient;
use pb::watch_client::WatchClient;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request, Status};

const MIB: usize = 1024 * 1024;
/// BOUND: bytes that wait for a peer, as docs/formats/peer-protocol.md says.
const CONTROL_BYTES_MAX: usize = MIB;
const LOG_BYTES_MAX: usize = 32 * MIB;

fn led(seed: u64) -> (Cluster, usize) {
    let mut cluster = Cluster::new(seed, 3);
    cluster.run_until("a leader", |cluster| cluster.leader().is_some());
    let leader = cluster.leader().expect("it was waited for");
    (cluster, leader)
}

/// Puts a value at a member until that succeeds.
async fn put(client: &Client, key: &str, value: &str) -> i64 {
    loop {
        match timeout(Duration::from_secs(10), client.put(key, value, 0)).await {
            Ok(Ok(revision)) => return revision,
            _ => sleep(Duration::from_millis(50)).await,
        }
    }
}

#[test]
fn a_member_out_of_reach_is_dialed_with_pauses_that_grow_and_differ() {
    let (mut cluster, leader) = led(1);
    let (from, to) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.cut_off(to);
    let began = cluster.sim.elapsed();
    cluster.run_for(Duration::from_secs(30));
    let attempts = cluster.doors().attempts(address(from), (address(to), PEER_PORT).into());
    let attempts: Vec<_> = attempts.into_iter().filter(|at| *at > began).collect();
    let pauses: Vec<Duration> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // The connection is given up after a ping without an answer. Then the pauses double from 10 ms to an
    // election timeout, and each is between a half and the whole of it.
    assert!((20..=90).contains(&pauses.len()), "{pauses:?}");
    let longest = Duration::from_millis(1000) + 2 * net::TICK;
    assert!(pauses.iter().all(|pause| *pause <= longest), "{pauses:?}");
    assert!(pauses[0] <= Duration::from_millis(25), "{pauses:?}");
    let late = &pauses[pauses.len() - 15..];
    assert!(late.iter().all(|pause| *pause >= Duration::from_millis(490)), "{late:?}");
    let mut different = late.to_vec();
    different.sort_unstable();
    different.dedup();
    assert!(different.len() > 10, "the pauses have no jitter: {late:?}");
    cluster.heal();
    let healed = cluster.run_until("it is reached again", |cluster| {
        let peers = cluster.network(from).map(|network| network.peers()).unwrap_or_default();
        peers.len() == 2 && peers.iter().all(|peer| peer.is_active)
    });
    assert!(healed < Duration::from_secs(4), "{healed:?}");
}

#[test]
fn a_link_that_is_cut_in_one_direction_is_given_up_and_made_again() {
    for turned in [false, true] {
        let (mut cluster, leader) = led(2);
        let follower = address((leader + 1) % 3);
        let (from, to) =
            if turned { (follower, address(leader)) } else { (address(leader), follower) };
        cluster.sim.partition_oneway(from, to);
        let found = cluster.run_until("both notice", |cluster| {
            let sees = |member: usize, other: usize| {
                let other = cluster.handle(other).map(|handle| handle.identity().member);
                let peers = cluster.network(member).map(|it| it.peers()).unwrap_or_default();
                peers.iter().any(|peer| Some(peer.id) == other && peer.is_active)
            };
            !sees(leader, (leader + 1) % 3) && !sees((leader + 1) % 3, leader)
        });
        assert!(found < Duration::from_secs(3), "{found:?}");
        cluster.run_for(Duration::from_secs(5));
        cluster.sim.repair_oneway(from, to);
        let healed = cluster.run_until("all are connected", |cluster| {
            (0..3).all(|member| {
                let peers = cluster.network(member).map(|it| it.peers()).unwrap_or_default();
                peers.len() == 2 && peers.iter().all(|peer| peer.is_active)
            })
        });
        assert!(healed < Duration::from_secs(6), "{healed:?}");
    }
}

#[test]
fn what_waits_for_a_slow_peer_is_bounded_and_it_catches_up() {
    const VALUES: usize = 60;
    let (mut cluster, leader) = led(3);
    let slow = (leader + 1) % 3;
    let slow_id = cluster.handle(slow).expect("it runs").identity().member;
    // Each segment takes long, but all arrive: the connection stays, and its windows fill.
    let delay = Duration::from_millis(400);
    cluster.sim.set_link_latency(address(leader), address(slow), delay);
    let way = cluster.way();
    let done = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&done);
    cluster.begin_client(async move {
        let client = way.client(leader);
        let value = "v".repeat(MIB);
        for number in 0..VALUES {
            put(&client, &format!("large/{number}"), &value).await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut most = [0, 0];
    cluster.run_until("all is written", |cluster| {
        if let Some(network) = cluster.network(leader) {
            for (most, lane) in most.iter_mut().zip([Lane::Control, Lane::Log]) {
                *most = network.queued_bytes(slow_id, lane).max(*most);
            }
        }
        done.load(Ordering::Relaxed) == VALUES as u64
    });
    assert!(most[0] <= CONTROL_BYTES_MAX, "{most:?}");
    // A queue that is empty takes one message of any length.
    assert!(most[1] <= LOG_BYTES_MAX + 2 * MIB, "{most:?}");
    assert!(most[1] > 0, "nothing waited at all");
    cluster.sim.set_link_latency(address(leader), address(slow), Duration::from_millis(1));
    let applied = |cluster: &Cluster, member: usize| {
        cluster.handle(member).map_or(0, |handle| handle.status().applied_index)
    };
    let caught_up = cluster
        .run_until("it catches up", |cluster| applied(cluster, slow) == applied(cluster, leader));
    assert!(caught_up < Duration::from_secs(30), "{caught_up:?}");
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_and_its_clients_are_told_in_etcds_words() {
    let (mut cluster, leader) = led(4);
    let way = cluster.way();
    cluster.client(async move {
        put(&way.client(leader), "key", "before").await;
    });
    cluster.cut_off(leader);
    let way = cluster.way();
    let (told, tells) = (Arc::new(Mutex::new(Vec::new())), (leader + 1) % 3);
    let heard = Arc::clone(&told);
    let task = async move {
        let (cut, other) = (way.channel(leader), way.client(tells));
        let mut kv = KvClient::new(cut);
        let request =
            || pb::PutRequest { key: "key".into(), value: "lost".into(), ..<_>::default() };
        let began = Instant::now();
        let refused = kv.put(request()).await.expect_err("there is no majority");
        heard.lock().push((refused, began.elapsed()));
        let mut wants_leader = Request::new(request());
        wants_leader.metadata_mut().insert("hasleader", "true".parse().expect("it is text"));
        let began = Instant::now();
        let refused = kv.put(wants_leader).await.expect_err("there is no leader");
        heard.lock().push((refused, began.elapsed()));
        put(&other, "key", "after").await;
    };
    let is_done = Arc::new(AtomicU64::new(0));
    let done = Arc::clone(&is_done);
    cluster.sim.client("192.168.1.101", async move {
        task.await;
        done.store(1, Ordering::Relaxed);
        Ok(())
    });
    let elected = cluster.run_until("another leader", |cluster| {
        let status = cluster.handle(tells).map(|handle| handle.status().leader);
        let own = cluster.handle(leader).map(|handle| handle.identity().member.0);
        status != own && status.is_some_and(|leader| leader != 0)
    });
    assert!(elected < Duration::from_secs(5), "{elected:?}");
    cluster.run_until("the clients end", |_| is_done.load(Ordering::Relaxed) == 1);
    let told: Vec<(Status, Duration)> = std::mem::take(&mut *told.lock());
    let (first, took) = &told[0];
    assert_eq!(first.code(), Code::Unavailable, "{first:?}");
    assert!(first.message().starts_with("etcdserver: request timed out"), "{first:?}");
    // Five seconds and two election timeouts, as in etcd.
    assert!((Duration::from_secs(6)..Duration::from_secs(9)).contains(took), "{took:?}");
    let (second, took) = &told[1];
    assert_eq!(second.message(), "etcdserver: no leader", "{second:?}");
    assert!(*took < Duration::from_secs(1), "{took:?}");
    cluster.heal();
    let revision = |cluster: &Cluster, member: usize| {
        cluster.handle(member).map_or(0, |handle| handle.view().revision())
    };
    let healed = cluster.run_until("it has what the others wrote", |cluster| {
        revision(cluster, leader) == revision(cluster, tells)
    });
    assert!(healed < Duration::from_secs(6), "{healed:?}");
}

#[test]
fn a_watch_goes_on_behind_a_partition_of_its_member_and_one_that_wants_a_leader_ends() {
    let (mut cluster, leader) = led(5);
    let (cut, other) = ((leader + 1) % 3, leader);
    let way = cluster.way();
    let stage = Arc::new(AtomicU64::new(0));
    let reached = Arc::clone(&stage);
    cluster.begin_client(async move {
        let at_cut = way.client(cut);
        // A member serves clients once the cluster knows it.
        put(&at_cut, "first", "0").await;
        let mut watch = at_cut.watch(1).await.expect("it opens");
        let ends = watch_with_leader(&way, cut).await;
        let before = put(&way.client(other), "a", "1").await;
        watch.until(before).await;
        reached.store(1, Ordering::Relaxed);
        while reached.load(Ordering::Relaxed) == 1 {
            sleep(Duration::from_millis(10)).await;
        }
        let mut last = 0;
        for number in 0..20 {
            last = put(&way.client(other), &format!("b{number}"), "2").await;
        }
        let ended = timeout(Duration::from_secs(60), ends).await.expect("it ends");
        assert_eq!(ended.message(), "etcdserver: no leader", "{ended:?}");
        reached.store(3, Ordering::Relaxed);
        let events = timeout(Duration::from_secs(60), watch.until(last)).await;
        let events = events.expect("the watch is told of all");
        let keys: Vec<_> = events.iter().filter(|event| event.key.starts_with(b"b")).collect();
        assert_eq!(keys.len(), 20, "each once");
        assert!(keys.windows(2).all(|pair| pair[0].revision < pair[1].revision), "in order");
        reached.store(4, Ordering::Relaxed);
    });
    cluster.run_until("the watches are open", |_| stage.load(Ordering::Relaxed) == 1);
    cluster.cut_off(cut);
    stage.store(2, Ordering::Relaxed);
    cluster.run_until("the one that wants a leader ends", |_| stage.load(Ordering::Relaxed) == 3);
    cluster.heal();
    cluster.run_until("all is told", |_| stage.load(Ordering::Relaxed) == 4);
}

/// Opens a watch that wants a leader; how it ends.
async fn watch_with_leader(way: &net::Way, member: usize) -> impl Future<Output = Status> + use<> {
    let create = pb::WatchCreateRequest { key: "none".into(), ..<_>::default() };
    let union = pb::watch_request::RequestUnion::CreateRequest(create);
    let watch = pb::WatchRequest { request_union: Some(union) };
    let mut request = Request::new(tokio_stream::once(watch));
    request.metadata_mut().insert("hasleader", "true".parse().expect("it is text"));
    let mut client = WatchClient::new(way.channel(member));
    let opened = client.watch(request).await.expect("there is a leader");
    let mut answers = opened.into_inner();
    async move {
        // It keeps the connection.
        let _client = client;
        loop {
            match answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::unknown("it ended without a word"),
                Err(status) => return status,
            }
        }
    }
}

/// A member that says that it is somebody, and notes how it is refused.
#[derive(Debug)]
struct Stranger {
    hello: Hello,
    refused: Mutex<Vec<String>>,
}

impl Receiver for Stranger {
    fn hello(&self) -> Hello {
        self.hello.clone()
    }

    fn meet(&self, _hello: &Hello) -> Result<(), Refusal> {
        Ok(())
    }

    fn receive(&self, _from: MemberId, _message: Bytes) -> Result<(), NotReceived> {
        Ok(())
    }

    fn begin_state(&self, _from: MemberId, _head: Bytes) -> Result<Box<dyn StateSink>, String> {
        Err("it takes none".to_owned())
    }

    fn lost(&self, _to: MemberId) {}

    fn refused_by(&self, _peer: MemberId, refusal: &Refusal) {
        self.refused.lock().push(refusal.reason.clone());
    }

    fn membership(&self) -> Bytes {
        Bytes::new()
    }
}

/// Dials a member as somebody; what it was told, and whether it was ever let in.
async fn dial(
    doors: Doors,
    tls: Arc<ClientTls>,
    hello: Hello,
    to: MemberId,
) -> (Vec<String>, bool) {
    let stranger = Arc::new(Stranger { hello, refused: Mutex::default() });
    let options = Options {
        connect: Arc::new(SimConnect { doors, host: CLIENT }),
        tls: Some(tls),
        election_timeout: Duration::from_secs(1),
        state_bytes_per_second: None,
    };
    let network = Network::new(options, &keepd_env::Env::real());
    let receiver: Arc<dyn Receiver> = Arc::<Stranger>::clone(&stranger);
    network.attach(receiver);
    let urls = vec![format!("https://{}:{PEER_PORT}", address(0))];
    keepd_node::Transport::set_peers(&network, vec![PeerAddress { id: to, urls }]);
    let mut is_in = false;
    for _ in 0..300 {
        sleep(Duration::from_millis(10)).await;
        is_in = is_in || network.peers().iter().any(|peer| peer.connected_for.is_some());
    }
    network.shutdown().await;
    let refused = std::mem::take(&mut *stranger.refused.lock());
    (refused, is_in)
}

#[test]
fn strangers_and_wrong_ids_are_refused_and_told_why() {
    let (mut cluster, _) = led(6);
    // Until then the members have told one another what they can read.
    cluster.run_for(Duration::from_secs(5));
    let identity = cluster.handle(0).expect("it runs").identity();
    let other = cluster.handle(1).expect("it runs").identity().member;
    let hello = Receiver::hello(&cluster.handle(1).expect("it runs"));
    let certificates = cluster.certificates();
    // Of another CA; of this one, but for another address; and one that is let in to be judged by its words.
    let foreign = Certificates::new("net-foreign").of("foreign", CLIENT).1;
    let elsewhere = certificates.of("elsewhere", address(77)).1;
    let own = certificates.of("own", CLIENT).1;
    let doors = cluster.doors().clone();
    cluster.client(async move {
        let to = identity.member;
        for tls in [foreign, elsewhere] {
            let (refused, is_in) = dial(doors.clone(), tls, hello.clone(), to).await;
            assert!(!is_in && refused.is_empty(), "{refused:?}");
        }
        let of_another = Hello { cluster: ClusterId(7), ..hello.clone() };
        let of_old = Hello { member: MemberId(99), feature_level: 0, ..hello.clone() };
        let itself = Hello { member: to, ..hello.clone() };
        for (claim, to, why) in [
            (of_another, to, "cluster ID mismatch"),
            (of_old, to, "feature level"),
            (itself, to, "both sides are member"),
            (hello.clone(), other, "was dialed here"),
        ] {
            let (refused, is_in) = dial(doors.clone(), Arc::clone(&own), claim, to).await;
            assert!(!is_in, "{why}");
            assert!(refused.iter().any(|reason| reason.contains(why)), "{why}: {refused:?}");
        }
    });
    assert!(cluster.leader().is_some(), "the cluster is not disturbed");
}

#[test]
fn a_connection_that_says_nothing_is_closed_and_does_not_keep_members_out() {
    let (mut cluster, _) = led(7);
    let doors = cluster.doors().clone();
    cluster.client(async move {
        let mut silent = Vec::new();
        for _ in 0..100 {
            let connect = SimConnect { doors: doors.clone(), host: CLIENT };
            let to = format!("{}:{PEER_PORT}", address(0));
            silent.push(connect.connect(&to).await.expect("it listens"));
        }
        for stream in &mut silent {
            let mut byte = [0];
            let read = tokio::io::AsyncReadExt::read(stream, &mut byte);
            let closed = timeout(Duration::from_secs(5), read).await.expect("it is closed");
            assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
        }
    });
    assert!(cluster.leader().is_some());
}
