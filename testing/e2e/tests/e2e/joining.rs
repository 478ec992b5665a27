//! Members that join, leave and are replaced while writes go on.

use std::time::Duration;

use e2e::{Client, Cluster, Load, granted, url};
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::configuration::{FIRST, only_sealing};

const WRITERS: usize = 4;
/// Time limit for a member that gets the state.
const PATIENCE: Duration = Duration::from_secs(60);

fn cluster(name: &str, size: usize) -> Cluster {
    Cluster::new(name, size, &only_sealing("key1", FIRST))
}

fn endpoints(cluster: &Cluster, size: usize) -> Vec<String> {
    (0..size).map(|number| cluster.endpoint(number)).collect()
}

async fn id_of(client: &Client, number: usize) -> u64 {
    let members = granted("list", async || client.members().await).await;
    let name = &format!("m{number}");
    members.into_iter().find(|member| member.name == *name).expect("it is a member").id
}

/// Adds a member, as a learner first if wanted, and starts it; its number.
async fn grow(cluster: &mut Cluster, through: &Client, others: &[usize], learns: bool) -> usize {
    let url = url();
    let id = granted("add", async || through.add_member(&url, learns).await).await;
    let number = cluster.join(&url, others);
    cluster.start(number);
    if learns {
        let learner = cluster.answering(number).await;
        let began = Instant::now();
        while learner.status().await.unwrap().raft_applied_index == 0 {
            assert!(began.elapsed() < PATIENCE, "it gets no state");
            sleep(Duration::from_millis(50)).await;
        }
        assert!(learner.status().await.unwrap().is_learner);
        let error = learner.revision().await.unwrap_err();
        assert_eq!(error.message(), "etcdserver: rpc not supported for learner");
        granted("promote", async || through.promote_member(id).await).await;
    }
    cluster.client(number).await;
    number
}

/// All members have the same data.
async fn are_equal(cluster: &mut Cluster, members: &[usize]) {
    let leader = cluster.client(members[0]).await;
    let revision = leader.revision().await.unwrap();
    let hash = leader.hash(revision).await.unwrap();
    for &number in members {
        let client = cluster.client(number).await;
        assert_eq!(client.hash(revision).await.unwrap(), hash, "m{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_one_to_five_members_and_back_under_load() {
    let mut cluster = cluster("e2e-grow", 1);
    cluster.start(0);
    let first = cluster.client(0).await;
    for number in 0..300 {
        first.put(&format!("before/{number}"), "x", 0).await.unwrap();
    }
    let load = Load::start("grow", &endpoints(&cluster, 5), WRITERS);
    load.goes_on(100).await;
    let mut members = vec![0];
    for (number, learns) in [(1, true), (2, false), (3, true), (4, false)] {
        let added = grow(&mut cluster, &first, &members, learns).await;
        assert_eq!(added, number);
        members.push(number);
        load.goes_on(100).await;
    }
    are_equal(&mut cluster, &members).await;
    assert_eq!(first.list("before/").await.unwrap().len(), 300);
    // The oldest leave, the leader among them.
    for number in 0..4 {
        let last = cluster.client(4).await;
        let id = id_of(&last, number).await;
        granted("remove", async || match last.remove_member(id).await {
            // Its answer was lost with the leader.
            Err(error) if error.code() == Code::NotFound => Ok(()),
            answer => answer,
        })
        .await;
        cluster.wait(number);
        load.goes_on(100).await;
    }
    let writes = load.stop().await;
    let last = cluster.client(4).await;
    writes.check(&last).await;
    assert_eq!(last.members().await.unwrap().len(), 1);
    assert_eq!(last.list("before/").await.unwrap().len(), 300);
    assert!(writes.revisions.len() > 1000, "that is no load: {}", writes.revisions.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_an_empty_disk_is_refused_until_it_is_replaced() {
    let mut cluster = cluster("e2e-replace", 3);
    cluster.start_all();
    cluster.clients().await;
    let load = Load::start("replace", &endpoints(&cluster, 3), WRITERS);
    load.goes_on(300).await;
    let lost = (cluster.leader().await + 1) % 3;
    let left = cluster.client((lost + 1) % 3).await;
    let old = id_of(&left, lost).await;
    cluster.kill(lost);
    load.goes_on(100).await;

    // It would forget what it acknowledged.
    cluster.wipe(lost);
    cluster.start(lost);
    assert_eq!(cluster.wait(lost).code(), Some(1));
    cluster.member(lost).says("has already been bootstrapped").await;
    assert!(!cluster.member(lost).data_dir().join("member").exists());

    let peer_url = cluster.member(lost).peer_url.clone();
    granted("remove", async || left.remove_member(old).await).await;
    let new = granted("add", async || left.add_member(&peer_url, false).await).await;
    assert_ne!(new, old);
    cluster.add_args(lost, &["--initial-cluster-state", "existing"]);
    cluster.start(lost);
    let back = cluster.client(lost).await;
    assert_eq!(id_of(&back, lost).await, new);
    load.goes_on(100).await;
    // It votes: without one of the others the cluster goes on.
    cluster.kill((lost + 2) % 3);
    load.goes_on(100).await;
    cluster.start((lost + 2) % 3);
    cluster.client((lost + 2) % 3).await;
    // A restart ignores what the flags say of a first start.
    cluster.stop(lost);
    cluster.start(lost);
    cluster.client(lost).await;
    let writes = load.stop().await;
    for client in cluster.clients().await {
        writes.check(&client).await;
    }
    are_equal(&mut cluster, &[0, 1, 2]).await;
}

/// The others have let their log go meanwhile: it gets the state, and goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_away_for_long_catches_up_while_writes_go_on() {
    let mut cluster = cluster("e2e-away", 3).args(&["--snapshot-count=100"]);
    cluster.start_all();
    let clients = cluster.clients().await;
    let away = (cluster.leader().await + 1) % 3;
    cluster.kill(away);
    let value = "v".repeat(100_000);
    let others: Vec<String> =
        (0..3).filter(|&it| it != away).map(|it| cluster.endpoint(it)).collect();
    // More than the members keep of their log for one that lacks it.
    let writes = async |client: Client, number: usize| {
        for key in 0..350 {
            client.put(&format!("big/{number}/{}", key % 20), &value, 0).await.unwrap();
        }
    };
    let mut writers = Vec::new();
    for number in 0..8 {
        let client = Client::connect(others[number % 2].clone()).await.unwrap();
        writers.push(writes(client, number));
    }
    futures_util::future::join_all(writers).await;
    let load = Load::start("away", &others, WRITERS);
    load.goes_on(100).await;
    cluster.start(away);
    cluster.client(away).await;
    cluster.member(away).says("the state of the leader is installed").await;
    load.goes_on(100).await;
    let writes = load.stop().await;
    drop(clients);
    for client in cluster.clients().await {
        writes.check(&client).await;
        assert_eq!(client.list("big/").await.unwrap().len(), 160);
    }
    are_equal(&mut cluster, &[0, 1, 2]).await;
}
