//! Decisions about first starts, with the answers of other members made up.

use std::cell::RefCell;

use super::*;
use crate::flags;

const CLUSTER: &str = "--initial-cluster=a=http://h:1,b=http://h:2,c=http://h:3";

fn options(state: &str) -> ServerOptions {
    let args = [
        "--name=b",
        CLUSTER,
        "--initial-advertise-peer-urls=http://h:2",
        "--data-dir=/nowhere",
        state,
    ];
    flags::parse(&args.map(str::to_owned), &[]).unwrap().options
}

/// The cluster of the flags, in which only `a` has started.
fn running() -> RunningCluster {
    let cluster = options("--initial-cluster-state=new").members().unwrap();
    let member = |member: &keepd_member::InitialMember| Member {
        id: member.id.0 + 1,
        peer_urls: member.peer_urls.clone(),
        client_urls: if member.name == "a" { vec!["http://h:9".to_owned()] } else { vec![] },
        ..Member::default()
    };
    RunningCluster { id: ClusterId(5), members: cluster.members.iter().map(member).collect() }
}

#[tokio::test]
async fn a_joining_member_takes_the_ids_of_the_cluster() {
    let asked = RefCell::new(Vec::new());
    let options = options("--initial-cluster-state=existing");
    let decided = decide(&options, async |urls, timeout| {
        asked.borrow_mut().push((urls, timeout));
        Ok(running())
    });
    let Bootstrap::Join { identity, .. } = decided.await.unwrap() else { panic!("it joins") };
    let own = options.members().unwrap().local;
    assert_eq!((identity.cluster, identity.member.0), (ClusterId(5), own.0 + 1));
    let others = vec!["http://h:1".to_owned(), "http://h:3".to_owned()];
    assert_eq!(asked.into_inner(), [(others, JOIN_TIMEOUT)]);
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_is_not_joined() {
    let options = options("--initial-cluster-state=existing");
    let decided = decide(&options, async |_, _| anyhow::bail!("connection refused"));
    assert_eq!(
        decided.await.unwrap_err().to_string(),
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the \
         given URLs"
    );
}

#[tokio::test]
async fn other_members_than_the_clusters_are_refused() {
    let options = options("--initial-cluster-state=existing");
    let decided = decide(&options, async |_, _| {
        let mut running = running();
        running.members.pop();
        Ok(running)
    });
    let error = decided.await.unwrap_err().to_string();
    assert!(error.starts_with("error validating peerURLs {ClusterID:5 Members:[&{ID:"), "{error}");
    assert!(error.ends_with("RemovedMemberIDs:[]}: member count is unequal"), "{error}");
}

#[tokio::test]
async fn a_new_member_starts_unless_the_others_know_that_it_did() {
    let options = options("--initial-cluster-state=new");
    let expected = Bootstrap::New(options.members().unwrap());
    let alone = decide(&options, async |_, _| anyhow::bail!("connection refused")).await;
    assert_eq!(alone.unwrap(), expected);
    let strangers = decide(&options, async |_, _| Ok(running())).await;
    assert_eq!(strangers.unwrap(), expected);
    let lost = decide(&options, async |_, timeout| {
        assert_eq!(timeout, NEW_TIMEOUT);
        let own = options.members().unwrap().local.0;
        let client_urls = vec!["http://h:8".to_owned()];
        let member = Member { id: own, client_urls, ..Member::default() };
        Ok(RunningCluster { id: ClusterId(5), members: vec![member] })
    });
    let own = options.members().unwrap().local;
    let text = format!("member {own} has already been bootstrapped");
    assert_eq!(lost.await.unwrap_err().to_string(), text);
}
