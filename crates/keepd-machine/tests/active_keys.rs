//! Which keys the cluster writes under changes forward only.

use std::collections::BTreeSet;
use std::path::Path;

use keepd_crypto::FileKeys;
use keepd_env::Env;
use keepd_machine::tables::{ActiveKeys, CLUSTER, active_keys};
use keepd_machine::{Command, Envelope, Options, StateMachine};
use keepd_mvcc::{Applied, Store};
use keepd_types::KeyId;

#[test]
fn an_older_epoch_never_replaces_a_newer_one() {
    let (env, _, _) = Env::simulated(1);
    let options = keepd_mvcc::Options::default();
    let store = Store::open(env, Path::new("/s"), FileKeys::plain(), options).unwrap();
    let mut machine = StateMachine::new(store, Options::default()).unwrap();
    let mut set = |epoch: u64, key: u64| {
        let keys = ActiveKeys { epoch, keys: BTreeSet::from([KeyId(key)]) };
        let command = Command::SetActiveKeys(keys);
        let envelope = Envelope { origin: None, decided_in: None, command };
        let at = Applied { index: machine.applied().index + 1, term: 1 };
        machine.apply(at, &envelope).unwrap().result.unwrap();
        let stored = active_keys(machine.store().meta(CLUSTER)).unwrap();
        (stored.epoch, stored.keys.first().unwrap().0)
    };
    assert_eq!(set(2, 20), (2, 20));
    assert_eq!(set(1, 10), (2, 20));
    assert_eq!(set(2, 21), (2, 20));
    assert_eq!(set(3, 30), (3, 30));
}
