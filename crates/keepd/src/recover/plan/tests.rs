//! The choice among survivors and what is told of it, without any files.

use keepd_member::Identity;
use keepd_mvcc::Applied;
use keepd_node::{SurvivingLog, SurvivingStore};

use super::*;

fn at(index: u64, term: u64) -> Applied {
    Applied { index, term }
}

fn log(last: Applied, commit: u64) -> SurvivingLog {
    SurvivingLog { term: last.term, commit, last, terms: vec![at(1, 1), at(2, last.term)] }
}

fn survivor(id: u64, log: SurvivingLog) -> Found {
    let data_dir = PathBuf::from(format!("/d{id}"));
    let member = |id: u64| Member { id, name: format!("m{id}"), ..Member::default() };
    let store = SurvivingStore {
        applied: at(log.commit, 1),
        revision: 5,
        members: (1..=3).map(member).collect(),
        voters: (1..=3).map(MemberId).collect(),
        is_removed: false,
        is_corrupt: false,
    };
    let identity = Identity { member: MemberId(id), cluster: ClusterId(9) };
    let survivor = Survivor::of(data_dir.clone(), identity, log, Ok(store));
    Found { data_dir, survivor: Ok(survivor) }
}

fn store(found: &mut Found) -> &mut SurvivingStore {
    found.survivor.as_mut().unwrap().store.as_mut().unwrap()
}

fn told(plan: &Plan) -> String {
    plan.warnings.join("\n")
}

#[test]
fn the_newest_term_goes_on_and_what_is_lost_is_told() {
    let plan = make(vec![survivor(1, log(at(90, 2), 80))], None).unwrap();
    assert_eq!(plan.chosen().data_dir, PathBuf::from("/d1"));
    let text = told(&plan);
    assert!(text.contains("Not here: m2, m3, 2 of 3 voting members."), "{text}");
    assert!(text.contains("everything after entry 90"), "{text}");
    assert!(text.contains("Entries 81..90 of the log are not known"), "{text}");

    let found = vec![survivor(1, log(at(90, 2), 80)), survivor(2, log(at(85, 3), 80))];
    let plan = make(found, None).unwrap();
    assert_eq!(plan.chosen().data_dir, PathBuf::from("/d2"));
    let text = told(&plan);
    assert!(text.contains("2 of 3 voting members are here, which is a majority"), "{text}");
    assert!(text.contains("Entries 2..90 of /d1 are dropped. They were never committed"), "{text}");
}

#[test]
fn the_rule_is_overruled_by_name_only_and_the_price_is_told() {
    let found = || vec![survivor(1, log(at(90, 2), 80)), survivor(2, log(at(95, 2), 80))];
    let plan = make(found(), Some("/d1".as_ref())).unwrap();
    assert_eq!(plan.chosen().data_dir, PathBuf::from("/d1"));
    assert!(told(&plan).contains("Entries 91..95 of its log are lost"), "{}", told(&plan));
    let error = make(found(), Some("/d3".as_ref())).unwrap_err().to_string();
    assert!(error.contains("is none of the directories"), "{error}");

    let mut found = found();
    store(&mut found[1]).is_corrupt = true;
    let plan = make(found, None).unwrap();
    assert_eq!(plan.chosen().data_dir, PathBuf::from("/d1"));
    assert!(told(&plan).contains("/d2 is not used, CORRUPT"), "{}", told(&plan));
}

#[test]
fn mixed_clusters_and_unfit_directories_are_refused() {
    let mut found = vec![survivor(1, log(at(90, 2), 80)), survivor(2, log(at(90, 2), 80))];
    found[1].survivor.as_mut().unwrap().identity.cluster = ClusterId(10);
    let error = make(found, None).unwrap_err().to_string();
    assert!(error.contains("give the directories of one cluster"), "{error}");

    let mut twins = vec![survivor(1, log(at(90, 2), 80)), survivor(1, log(at(91, 2), 80))];
    twins[1].data_dir = "/copy".into();
    twins[1].survivor.as_mut().unwrap().data_dir = "/copy".into();
    let error = make(twins, None).unwrap_err().to_string();
    assert!(error.contains("are both of member 1"), "{error}");

    let damage = || BootError::Identity { dir: "/d1".into() };
    let damaged = Found { data_dir: "/d1".into(), survivor: Err(damage()) };
    let error = make(vec![damaged], None).unwrap_err().to_string();
    assert!(error.contains("no directory is whole enough"), "{error}");

    let mut removed = survivor(1, log(at(90, 2), 80));
    store(&mut removed).is_removed = true;
    let damaged = Found { data_dir: "/d2".into(), survivor: Err(damage()) };
    let error = make(vec![removed, damaged], None).unwrap_err().to_string();
    assert!(error.contains("/d1: removed from the cluster"), "{error}");
    assert!(error.contains("/d2: damaged"), "{error}");
}
