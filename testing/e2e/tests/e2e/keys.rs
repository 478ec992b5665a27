//! The encryption keys of a cluster: changed one member after the other under load, and a member that
//! lacks one in use.

use std::path::PathBuf;
use std::time::Duration;

use e2e::{Cluster, Load, url};

use crate::configuration::{FIRST, SECOND, reload};

const RELOADING: [&str; 1] = ["--encryption-provider-config-automatic-reload=true"];

/// Every key is sealed under the first one, all of them open.
fn changing(keys: &[(&str, &str)]) -> String {
    crate::configuration::changing(keys).replace("[\"*.*\"]", "[\"*.*\", \"prefix:\"]")
}

fn file(cluster: &Cluster, number: usize) -> PathBuf {
    cluster.member(number).data_dir().with_file_name("encryption.yaml")
}

fn cluster(name: &str) -> Cluster {
    Cluster::new(name, 3, &changing(&[("key1", FIRST)])).args(&RELOADING)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_changed_one_member_after_the_other_under_load() {
    let mut cluster = cluster("e2e-keys");
    cluster.start_all();
    cluster.clients().await;
    let endpoints: Vec<String> = (0..3).map(|number| cluster.endpoint(number)).collect();
    let load = Load::start("keys", &endpoints, 6);
    load.goes_on(100).await;
    for number in 0..3 {
        reload(&file(&cluster, number), &changing(&[("key2", SECOND), ("key1", FIRST)]));
        cluster.member(number).says("\"keys-added\":\"aesgcm:key2").await;
        load.goes_on(100).await;
    }
    // The old key goes once nothing of the member's own is under it; until then the file is refused
    // and looked at again.
    for number in 0..3 {
        reload(&file(&cluster, number), &changing(&[("key2", SECOND)]));
        cluster.member(number).says("\"keys-removed\":\"aesgcm:key1").await;
        load.goes_on(100).await;
    }
    let writes = load.stop().await;
    for client in cluster.clients().await {
        writes.check(&client).await;
    }
    assert!(writes.errors.is_empty(), "no write fails for the keys: {:?}", writes.errors);
    for number in 0..3 {
        cluster.stop(number);
        cluster.start(number);
        let client = cluster.client(number).await;
        writes.check(&client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lacks_a_key_does_not_serve_and_names_it_until_it_has_it() {
    let mut cluster = cluster("e2e-keys-lacking");
    cluster.start_all();
    let clients = cluster.clients().await;
    for number in 0..20 {
        clients[0].put(&format!("key{number}"), "sealed under key1", 0).await.unwrap();
    }
    let url = url();
    // As in etcd, not before the members have been connected for a while.
    while let Err(error) = clients[0].add_member(&url, true).await {
        assert!(error.message().contains("unhealthy cluster"), "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let new = cluster.join(&url, &[0, 1, 2]);
    std::fs::write(file(&cluster, new), changing(&[("key2", SECOND)])).unwrap();
    cluster.start(new);
    let member = cluster.member(new);
    member.says("a value of the state is sealed under key").await;
    member.says("which the encryption configuration of this member lacks").await;
    assert!(!member.log().contains("serving client traffic"), "{}", member.tail());
    cluster.member(cluster.size() - 2).says("encryption configuration lacks active keys").await;

    reload(&file(&cluster, new), &changing(&[("key2", SECOND), ("key1", FIRST)]));
    cluster.answering(new).await;
    let found = clients[1].get("key7").await.unwrap();
    assert_eq!(found.as_deref(), Some("sealed under key1"));
}
