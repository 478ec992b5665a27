//! Three members in three processes, with mutual TLS between them and sealed data: they form, any of
//! them answers, and what was acknowledged survives whatever ends one of them.

use std::time::Duration;

use e2e::{Cluster, Load};
use tokio::time::{Instant, sleep};

use crate::configuration::{FIRST, only_sealing};

const WRITERS: usize = 6;
/// Long enough to be told from what a busy machine takes.
const SLOW_ELECTIONS: [&str; 2] = ["--heartbeat-interval=400", "--election-timeout=6000"];

fn cluster(name: &str) -> Cluster {
    Cluster::new(name, 3, &only_sealing("key1", FIRST))
}

fn endpoints(cluster: &Cluster) -> Vec<String> {
    (0..cluster.size()).map(|number| cluster.endpoint(number)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_form_a_cluster_and_any_of_them_answers() {
    let mut cluster = cluster("e2e-form");
    cluster.start_all();
    let clients = cluster.clients().await;
    for (number, client) in clients.iter().enumerate() {
        let value = format!("kept secret by m{number}");
        let revision = client.put(&format!("key{number}"), &value, 0).await.unwrap();
        for other in &clients {
            let found = other.get(&format!("key{number}")).await.unwrap();
            assert_eq!(found.as_deref(), Some(value.as_str()), "a write is read at once anywhere");
            assert!(other.revision().await.unwrap() >= revision);
        }
    }
    let mut names: Vec<_> = clients[1].members().await.unwrap();
    names.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(names.iter().map(|member| &member.name).collect::<Vec<_>>(), ["m0", "m1", "m2"]);
    assert!(names.iter().all(|member| !member.client_ur_ls.is_empty() && !member.is_learner));

    // A lease that one member grants is renewed through another and known to the third.
    let lease = clients[0].grant(300).await.unwrap();
    assert_eq!(clients[1].keep_alive(lease).await.unwrap(), 300);
    assert_eq!(clients[2].leases().await.unwrap(), [lease]);
    // A watch sees the same on every member.
    let end = clients[2].revision().await.unwrap();
    let history = clients[0].history(2, end).await;
    assert_eq!(history.len(), 3);
    assert_eq!(clients[1].history(2, end).await, history);

    let leader = cluster.leader().await;
    let hash = clients[leader].hash(end).await.unwrap();
    for client in &clients {
        assert_eq!(client.hash(end).await.unwrap(), hash);
    }
    for number in 0..cluster.size() {
        assert_eq!(cluster.stop(number).code(), None, "it ends by the signal");
        let dir = cluster.member(number).data_dir();
        let plain = testkit::files::files_with(&dir, &[b"kept secret".to_vec()]);
        assert_eq!(plain, <[std::path::PathBuf; 0]>::default(), "nothing is plain on the disk");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_the_leader_under_load_lose_nothing_acknowledged() {
    let mut cluster = cluster("e2e-kill");
    cluster.start_all();
    cluster.clients().await;
    let load = Load::start("kill", &endpoints(&cluster), WRITERS);
    for _ in 0..5 {
        load.goes_on(200).await;
        let leader = cluster.leader().await;
        cluster.kill(leader);
        // The two others elect a leader and go on.
        load.goes_on(200).await;
        cluster.start(leader);
        cluster.client(leader).await;
    }
    let writes = load.stop().await;
    for client in cluster.clients().await {
        writes.check(&client).await;
    }
    assert!(writes.revisions.len() > 2000, "that is no load: {}", writes.revisions.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_cluster_killed_at_once_goes_on_from_its_disks() {
    let mut cluster = cluster("e2e-kill-all");
    cluster.start_all();
    cluster.clients().await;
    let load = Load::start("kill-all", &endpoints(&cluster), WRITERS);
    for _ in 0..3 {
        load.goes_on(200).await;
        for number in 0..cluster.size() {
            cluster.kill(number);
        }
        cluster.start_all();
        cluster.clients().await;
    }
    let writes = load.stop().await;
    for client in cluster.clients().await {
        writes.check(&client).await;
    }
}

/// With elections that take six seconds at least, no writer waits for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_hands_leadership_over() {
    let mut cluster = cluster("e2e-roll").args(&SLOW_ELECTIONS);
    cluster.start_all();
    cluster.clients().await;
    cluster.leader().await;
    let load = Load::start("roll", &endpoints(&cluster), WRITERS);
    load.goes_on(200).await;
    for _ in 0..3 {
        // Whoever leads, so that each stop is one of a leader.
        let leader = cluster.leader().await;
        cluster.stop(leader);
        load.goes_on(200).await;
        cluster.start(leader);
        cluster.client(leader).await;
        load.goes_on(200).await;
    }
    let writes = load.stop().await;
    for client in cluster.clients().await {
        writes.check(&client).await;
    }
    let gap = writes.longest_gap;
    assert!(gap < Duration::from_secs(5), "a writer waited {gap:?}: that is an election");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_the_others_answers_serializable_reads_only_and_says_that_it_is_unwell() {
    let mut cluster = cluster("e2e-alone");
    cluster.start_all();
    let clients = cluster.clients().await;
    clients[0].put("a", "1", 0).await.unwrap();
    cluster.kill(1);
    cluster.kill(2);
    let began = Instant::now();
    let error = loop {
        match clients[0].put("a", "2", 0).await {
            Ok(_) => assert!(began.elapsed() < Duration::from_secs(30), "no quorum, no writes"),
            Err(error) => break error,
        }
    };
    // The last is etcd's for a write that never met a leader.
    let texts = ["no leader", "request timed out", "leader changed", "context deadline exceeded"];
    assert!(texts.iter().any(|text| error.message().contains(text)), "{error}");
    while clients[0].status().await.unwrap().leader != 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "a leader without a quorum");
        sleep(Duration::from_millis(50)).await;
    }
    clients[0].revision().await.unwrap_err();
    cluster.start(1);
    cluster.client(1).await;
    // One of the two writes may have come through, or both.
    let found = clients[0].get("a").await.unwrap();
    assert!(matches!(found.as_deref(), Some("1" | "2")), "{found:?}");
}
