//! First starts on a simulated disk.

use std::collections::BTreeMap;

use keepd_env::SimDisk;
use keepd_machine::membership;
use keepd_mvcc::MetaTable;
use keepd_raft::Status;
use keepd_types::{ClusterId, MemberId};

use super::*;
use crate::boot::{DataDir, Opened};
use crate::options::Options;

fn cluster(name: &str) -> InitialCluster {
    let member = |name: &str, port: u16| (name.to_owned(), vec![format!("http://h:{port}")]);
    let members: BTreeMap<_, _> = [member("a", 3), member("b", 2), member("c", 1)].into();
    InitialCluster::new(name, members, "token").unwrap()
}

/// Makes a member if there is none, and opens it.
fn opened(disk: &SimDisk, bootstrap: Bootstrap) -> Opened {
    let (mut env, ..) = Env::simulated(1);
    env.disk = std::sync::Arc::new(disk.clone());
    let options = Options { bootstrap, ..Options::new("/data".into()) };
    let config = Some(EncryptionConfig::parse("test", sim::fixture::ENCRYPTION).unwrap());
    let data_dir = DataDir::prepare(&env, &options, config).unwrap();
    data_dir.open(&env, &options).unwrap()
}

fn tables_of(opened: &Opened) -> Vec<MetaTable> {
    (0..=u8::MAX).map(|table| opened.machine.store().meta(table).clone()).collect()
}

#[test]
fn the_first_members_make_the_same_state_and_are_each_themselves() {
    let members: Vec<Opened> =
        ["a", "b", "c"].map(|name| opened(&SimDisk::new(), Bootstrap::New(cluster(name)))).into();
    for (member, name) in members.iter().zip(["a", "b", "c"]) {
        assert_eq!(member.identity, cluster(name).identity());
        assert_eq!(tables_of(member), tables_of(&members[0]));
        let store = member.machine.store();
        assert_eq!(store.applied(), Applied { index: 1, term: 1 });
        assert_eq!(store.digest(), members[0].machine.store().digest());
        let names: Vec<_> = membership::members(store.meta(tables::MEMBERS)).unwrap();
        assert_eq!(names.len(), 3);
        assert!(names.iter().all(|member| member.client_urls.is_empty()));
        assert_eq!(member.core.conf_state().voters.len(), 3);
        assert!(!member.core.status().is_alone);
    }
}

#[test]
fn a_joining_member_begins_with_the_others_addresses_alone_and_starts_again_so() {
    let disk = SimDisk::new();
    let identity = Identity { member: MemberId(7), cluster: ClusterId(9) };
    let known = Member { id: 5, peer_urls: vec!["http://e:2380".to_owned()], ..Member::default() };
    let join = Bootstrap::Join { identity, members: vec![known.clone()] };
    for bootstrap in [join, Bootstrap::New(cluster("a"))] {
        let joined = opened(&disk, bootstrap);
        assert_eq!(joined.identity, identity);
        assert_eq!(joined.machine.applied(), Applied { index: 0, term: 0 });
        let store = joined.machine.store();
        assert!(store.meta(tables::CONF_STATE).is_empty());
        let members = membership::members(store.meta(tables::MEMBERS)).unwrap();
        assert_eq!(members, std::slice::from_ref(&known));
        let Status { last_index, commit, term, .. } = joined.core.status();
        assert_eq!((last_index, commit, term), (0, 0, 0));
    }
}
