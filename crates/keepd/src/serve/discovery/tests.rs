//! The order of members at a discovery service, as etcd's own tests have it.

use keepd_api::mvccpb::KeyValue;
use keepd_types::MemberId;

use super::registry::{Members, Registry, size};
use super::*;

fn registered(key: &str, value: &str, create_revision: i64) -> KeyValue {
    KeyValue {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        create_revision,
        ..KeyValue::default()
    }
}

#[test]
fn keys_are_etcds() {
    let keys = |token| {
        let registry = Registry::new(token, MemberId(0x65));
        (registry.size_key(), registry.own_key())
    };
    assert_eq!(
        keys("fakeToken"),
        (
            "/_etcd/registry/fakeToken/_config/size".to_owned(),
            "/_etcd/registry/fakeToken/members/65".to_owned()
        )
    );
    // What Go's path.Join makes of them.
    assert_eq!(keys("a//b/./c/../d/").0, "/_etcd/registry/a/b/d/_config/size");
    assert_eq!(keys("../../../x").0, "/x/_config/size");
}

#[test]
fn a_size_is_a_number_of_members() {
    assert_eq!(size(b"3"), Some(3));
    for bad in ["", "0", "-1", "three", "3 ", "0x3"] {
        assert_eq!(size(bad.as_bytes()), None, "{bad}");
    }
}

#[test]
fn members_count_in_the_order_in_which_they_came() {
    let registry = Registry::new("fakeToken", MemberId(0x65));
    let key = |id: &str| format!("/_etcd/registry/fakeToken/members/{id}");
    let mut members = Members::default();
    for kv in [
        registered(&key("65"), "infra1=http://192.168.0.100:2380", 8),
        registered("/invalidPrefix/fakeToken/members/66", "infra2=http://192.168.0.102:2380", 6),
        registered(&key("66"), "infra2=http://192.168.0.102:2380", 6),
        registered(&key("66"), "http://192.168.0.102:2380", 6),
        registered(&key("67"), "infra3=http://192.168.0.103:2380", 7),
        registered(&key("65"), "infra1=http://192.168.0.100:2380", 2),
        registered(&key("68"), "", 9),
    ] {
        members.add(&registry, &kv);
    }
    assert_eq!(
        members.first(2),
        ["infra2=http://192.168.0.102:2380", "infra3=http://192.168.0.103:2380"]
    );
    assert_eq!((members.len(), members.first(9).len()), (3, 3));
    // Two came before this one.
    assert!(members.is_full_without(&registry.own_key(), 2));
    assert!(!members.is_full_without(&registry.own_key(), 3));
    assert!(members.is_full_without("not registered", 3));
    assert!(!members.is_full_without("not registered", 4));
}

#[test]
fn members_may_have_several_urls_and_need_valid_ones() {
    let text = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
    let found = members(&text(&["a=http://h:1,a=http://h:2", "b=http://h:3"])).unwrap();
    let pairs: Vec<String> = found.iter().map(as_item).collect();
    assert_eq!(pairs, ["a=http://h:1", "a=http://h:2", "b=http://h:3"]);
    let twins = text(&["default=http://h:1", "default=http://h:2"]);
    assert_eq!(members(&twins), Err(Problem::SameName("default".to_owned())));
    for bad in ["a=h", "a", "a=http://h:1/x"] {
        assert_eq!(members(&text(&[bad])), Err(Problem::InvalidUrl), "{bad}");
    }
}
