//! Members that do not belong together: each refusal has its reason in the logs of both sides, and the
//! others go on.

use e2e::{Cluster, granted};

use crate::configuration::{FIRST, sealing};

fn cluster(name: &str) -> Cluster {
    Cluster::new(name, 3, &sealing("key1", FIRST))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_another_cluster_is_refused_on_both_sides() {
    let mut cluster = cluster("e2e-token");
    cluster.add_args(2, &["--initial-cluster-token", "another"]);
    cluster.start_all();
    let client = cluster.client(0).await;
    client.put("a", "1", 0).await.unwrap();
    // Its cluster has other ids for all members, and itself no quorum.
    for number in [0, 2] {
        cluster.member(number).says("cluster ID mismatch").await;
        cluster.member(number).says("--initial-cluster-token").await;
    }
    assert!(!cluster.member(2).log().contains("ready to serve client requests"));
    client.put("a", "2", 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn members_at_one_anothers_urls_are_refused_on_both_sides() {
    let mut cluster = cluster("e2e-crossed");
    let urls = [1, 2].map(|number| cluster.member(number).peer_url.clone());
    cluster.add_args(1, &["--listen-peer-urls", &urls[1]]);
    cluster.add_args(2, &["--listen-peer-urls", &urls[0]]);
    cluster.start_all();
    for number in [0, 1] {
        cluster.member(number).says("was dialed").await;
        cluster.member(number).says("member update").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_another_ca_and_one_at_another_address_are_refused() {
    let mut cluster = cluster("e2e-ca");
    let other = Cluster::new("e2e-other-ca", 1, &sealing("key1", FIRST));
    let (certificate, key) = other.certificate("stranger", "127.0.0.1");
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let own =
        ["--peer-client-cert-file", &path(&certificate), "--peer-client-key-file", &path(&key)];
    cluster.add_args(2, &own);
    let (certificate, key) = cluster.certificate("elsewhere", "127.0.0.2");
    let own =
        ["--peer-client-cert-file", &path(&certificate), "--peer-client-key-file", &path(&key)];
    cluster.add_args(1, &own);
    cluster.start_all();
    cluster.member(0).says("rejected connection on peer endpoint").await;
    cluster.member(0).says("certificate is valid for 127.0.0.2, not 127.0.0.1").await;
    cluster.member(0).says("certificate signed by unknown authority").await;
    cluster.member(2).says("no connection to a peer").await;
    assert!(!cluster.member(0).log().contains("ready to serve client requests"));

    // With the check off the second one is let in, which makes two.
    for number in [0, 1] {
        cluster.kill(number);
        cluster.add_args(number, &["--peer-skip-client-san-verification"]);
        cluster.start(number);
    }
    let client = cluster.client(0).await;
    client.put("a", "1", 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_stops_and_says_so() {
    let mut cluster = cluster("e2e-removed");
    cluster.start_all();
    let clients = cluster.clients().await;
    let leader = cluster.leader().await;
    // The leader itself, then one of the two others.
    let id = async |number: usize| {
        let members = clients[(leader + 1) % 3].members().await.unwrap();
        let name = &format!("m{number}");
        members.into_iter().find(|member| member.name == *name).unwrap().id
    };
    let (first, second) = (leader, (leader + 2) % 3);
    let second_id = id(second).await;
    let first_id = id(first).await;
    granted("remove", async || clients[first].remove_member(first_id).await).await;
    assert_eq!(cluster.wait(first).code(), Some(0), "as etcd ends");
    cluster.member(first).says("the member has been permanently removed from the cluster").await;
    let left = &clients[(leader + 1) % 3];
    left.put("a", "1", 0).await.unwrap();

    // Started again it is told by the others, in whose log it has no place.
    cluster.start(first);
    cluster.wait(first);
    cluster.member(first).says("was removed from cluster").await;

    granted("remove", async || left.remove_member(second_id).await).await;
    cluster.wait(second);
    left.put("a", "3", 0).await.unwrap();
    assert_eq!(left.members().await.unwrap().len(), 1);
}
