//! Shipping: without a gap, whoever leads and whatever the place does; and what happens to it there.

use std::path::Path;
use std::time::Duration;

use super::world::World;
use crate::log::ship::{Event, Reason};
use crate::log::shipped::Target;
use crate::log::{batch, keep, replay};

fn names(world: &World) -> Vec<crate::log::shipped::Found> {
    world.shipped().runs.into_iter().flat_map(|run| run.batches).collect()
}

/// A world with a base and some batches behind it.
fn with_batches(count: u64) -> World {
    let mut world = World::new(3, false);
    let mut shipper = world.shipper(1, 1 << 20);
    shipper.tick().unwrap();
    world.base();
    for number in 0..count {
        world.put(&format!("k{number}"), "value");
        world.clock.advance(Duration::from_millis(100));
        shipper.tick().unwrap();
        world.clock.advance(Duration::from_secs(5));
        shipper.tick().unwrap();
    }
    shipper.finish().unwrap();
    world
}

#[test]
fn a_batch_goes_when_it_is_old_or_large_and_an_idle_cluster_says_that_it_is() {
    let mut world = World::new(1, false);
    let mut shipper = world.shipper(1, 1000);
    shipper.tick().unwrap();
    assert_eq!(shipper.take_events().len(), 1);
    assert_eq!(names(&world).len(), 1, "the chain is begun at once");
    world.put("a", "1");
    shipper.tick().unwrap();
    assert_eq!(names(&world).len(), 1);
    world.clock.advance(Duration::from_secs(3));
    shipper.tick().unwrap();
    assert_eq!(shipper.behind(), Duration::from_secs(3));
    world.clock.advance(Duration::from_secs(1));
    shipper.tick().unwrap();
    assert_eq!((names(&world).len(), shipper.behind()), (2, Duration::ZERO));
    world.put("a", &"x".repeat(1500));
    shipper.tick().unwrap();
    assert_eq!(names(&world).len(), 3, "it does not wait when it is full");
    for _ in 0..50 {
        world.clock.advance(Duration::from_secs(1));
        shipper.tick().unwrap();
    }
    assert_eq!(names(&world).len(), 3);
    world.clock.advance(Duration::from_secs(11));
    shipper.tick().unwrap();
    let last = names(&world)[3].name;
    assert_eq!((last.entries(), last.last), (0, world.index()));
    assert_eq!(shipper.shipped(), world.index());
    // The entry at the end is kept, by which another leader knows the log.
    assert_eq!(world.log.lock().kept_behind, world.index() - 1);
}

#[test]
fn what_was_committed_while_the_place_was_away_is_shipped_without_a_gap() {
    let mut world = with_batches(2);
    let mut shipper = world.shipper(1, 300);
    shipper.tick().unwrap();
    let folder = Path::new("/backups/00000000000000aa/log");
    let aside = Path::new("/backups-away");
    world.env.disk.rename(Path::new("/backups"), aside).unwrap();
    // A file in the place of the folder: everything there fails.
    world.disk.poke(Path::new("/backups"), b"");
    let mut failed = 0;
    for number in 0..3600 {
        world.clock.advance(Duration::from_secs(1));
        if number % 10 == 0 {
            world.put(&format!("away{}", number % 70), &number.to_string());
        }
        failed += u32::from(shipper.tick().is_err());
    }
    assert!((60..200).contains(&failed), "{failed} tries in an hour");
    assert!(shipper.behind() > Duration::from_secs(3500), "{:?}", shipper.behind());
    world.env.disk.remove(Path::new("/backups")).unwrap();
    world.env.disk.rename(aside, Path::new("/backups")).unwrap();
    assert!(world.env.disk.exists(folder).unwrap());
    world.clock.advance(Duration::from_secs(31));
    shipper.tick().unwrap();
    shipper.finish().unwrap();
    assert_eq!(shipper.behind(), Duration::ZERO);
    assert_eq!(world.shipped().runs.len(), 1, "no gap");
    let (seen, _) = world.restore(Target::Latest).unwrap();
    assert_eq!(seen, world.seen());
    // The moments of that hour are known too.
    let time = crate::prove::now(&world.env).millis() - 1_800_000;
    let (then, _) = world.restore(Target::At(crate::Moment::of_millis(time))).unwrap();
    assert!(then.revision < seen.revision - 100, "{} of {}", then.revision, seen.revision);
}

#[test]
fn entries_that_had_to_go_are_a_gap_that_is_told_and_the_next_base_goes_on() {
    let mut world = with_batches(2);
    let mut shipper = world.shipper(1, 300);
    shipper.tick().unwrap();
    shipper.take_events();
    let before = world.index();
    for number in 0..10 {
        world.put(&format!("lost{number}"), "x");
    }
    world.log.lock().released = before + 5;
    world.clock.advance(Duration::from_secs(5));
    shipper.tick().unwrap();
    let events = shipper.take_events();
    let expected = Reason::Gap { first: before + 1 };
    assert!(
        matches!(&events[..], [Event::Began { reason, .. }] if *reason == expected),
        "{events:?}"
    );
    let lost = world.seen().revision;
    world.put("behind", "1");
    shipper.finish().unwrap();
    assert_eq!(world.shipped().runs.len(), 2);
    let error = world.restore(Target::Revision(lost + 1)).unwrap_err().to_string();
    assert!(error.contains("no log leads from a base to it. Reachable: from "), "{error}");
    let error = error.as_str();
    assert!(error.contains("revisions 1 to 3"), "{error}");
    world.base();
    world.put("behind", "2");
    shipper.finish().unwrap();
    let (seen, _) = world.restore(Target::Latest).unwrap();
    assert_eq!(seen, world.seen());
}

#[test]
fn another_leader_goes_on_where_the_one_before_ended_without_a_key() {
    let mut world = with_batches(2);
    let mut one = world.shipper(1, 1 << 20);
    let mut two = world.shipper(2, 1 << 20);
    one.tick().unwrap();
    world.put("a", "1");
    one.finish().unwrap();
    two.tick().unwrap();
    assert_eq!(world.log.lock().kept_behind, world.index() - 1, "who follows keeps its log too");
    // Entries of the first one's last seconds, which it did not ship.
    world.put("b", "2");
    one.tick().unwrap();
    world.log.lock().leader = 2;
    world.term += 1;
    world.commit(keepd_types::EntryKind::Normal, bytes::Bytes::new());
    two.tick().unwrap();
    let events = two.take_events();
    assert!(matches!(&events[..], [Event::GoesOn { .. }]), "{events:?}");
    assert!(!one.ships() || two.ships());
    world.put("c", "3");
    two.finish().unwrap();
    // The first one does not know yet that another leads, and ships what both have.
    world.log.lock().leader = 1;
    one.finish().unwrap();
    world.log.lock().leader = 2;
    world.put("d", "4");
    two.finish().unwrap();
    let shipped = world.shipped();
    assert_eq!(shipped.runs.len(), 1);
    let (seen, replayed) = world.restore(Target::Latest).unwrap();
    assert_eq!(seen, world.seen());
    assert!(replayed.compared >= 2, "{replayed:?}");
    // Each path through the fork leads to the same.
    let all = names(&world).len();
    let overlapping = names(&world).into_iter().filter(|it| it.name.entries() > 1).count();
    assert!(overlapping > 0 && all > 4);
}

#[test]
fn a_restored_cluster_of_the_same_name_begins_a_chain_of_its_own() {
    let mut world = with_batches(3);
    world.begin_anew();
    let mut shipper = world.shipper(1, 1 << 20);
    shipper.tick().unwrap();
    let events = shipper.take_events();
    assert!(
        matches!(&events[..], [Event::Began { reason: Reason::OtherHistory(_), .. }]),
        "{events:?}"
    );
    world.put("new", "1");
    shipper.finish().unwrap();
    let there = world.seen();
    // No base leads into it yet: what can be had is the state of before.
    let (seen, _) = world.restore(Target::Latest).unwrap();
    assert_ne!(seen, there);
    world.base();
    world.put("new", "2");
    shipper.finish().unwrap();
    let (seen, _) = world.restore(Target::Latest).unwrap();
    assert_eq!(seen, world.seen());
}

#[test]
fn every_changed_byte_is_found_or_changes_nothing() {
    let world = with_batches(1);
    let run = world.shipped().runs[0].clone();
    let name = run.batches.iter().find(|it| it.name.entries() > 0).unwrap().name;
    let object = world.bytes_of(&name.key(super::world::CLUSTER, &run.chain));
    let open =
        |object: &[u8]| batch::open(super::world::CLUSTER, &run.chain, &name, object, &world.keys);
    let whole = open(&object).unwrap();
    assert_eq!(whole.entries.len() as u64, name.entries());
    for at in 0..object.len() {
        let mut changed = object.clone();
        changed[at] ^= 1;
        // Only what no key protects could be read otherwise: nothing of it may be believed.
        assert!(open(&changed).is_err(), "byte {at}");
        assert!(open(&object[..at]).is_err(), "cut at {at}");
    }
    let longer = [&object[..], b"x"].concat();
    assert!(open(&longer).is_err());
    // Plain batches have zstd's checksum only.
    let random = &*world.env.random;
    let plain = batch::seal(&whole, &crate::format::Sealing::Plain, random).unwrap();
    let of = crate::log::name::BatchName { is_sealed: false, ..name };
    let open =
        |object: &[u8]| batch::open(super::world::CLUSTER, &run.chain, &of, object, &world.keys);
    assert!(open(&plain).is_err(), "it is another batch than its name says");
    let mut header = whole.header.clone();
    header.name = of.to_string();
    let whole = batch::Batch { header, ..whole };
    let plain = batch::seal(&whole, &crate::format::Sealing::Plain, random).unwrap();
    assert_eq!(open(&plain).unwrap(), whole);
    for at in 0..plain.len() {
        let mut changed = plain.clone();
        changed[at] ^= 1;
        assert!(open(&changed).is_err_and(|_| true) || open(&changed).unwrap() == whole, "{at}");
        assert!(open(&plain[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn what_happens_to_batches_in_the_place_is_named() {
    let mut world = with_batches(6);
    let keys = world.batches();
    let objects: Vec<Vec<u8>> = keys.iter().map(|key| world.bytes_of(key)).collect();
    let path = |key: &str| Path::new("/backups").join(key);
    // Two exchanged.
    world.disk.poke(&path(&keys[3]), &objects[4]);
    let error = world.restore(Target::Latest).unwrap_err().to_string();
    assert!(error.contains("another batch than its name says"), "{error}");
    // Cut off.
    world.disk.poke(&path(&keys[3]), &objects[3][..objects[3].len() / 2]);
    let error = world.restore(Target::Latest).unwrap_err().to_string();
    assert!(error.contains("cut off") || error.contains("damaged"), "{error}");
    // Of the same name, but sealed anew by somebody who has the public key: the next one knows.
    let runs = world.shipped().runs;
    let name = runs[0].batches[3].name;
    world.disk.poke(&path(&keys[3]), &objects[3]);
    let opened = replay::open(
        &*world.destination,
        super::world::CLUSTER,
        &runs[0].chain,
        &name,
        &world.keys,
    );
    let recipients =
        crate::age::Recipients { public: vec![world.keys.identities[0].recipient()], config: None };
    let forged =
        batch::seal(&opened.unwrap(), &crate::format::Sealing::To(recipients), &*world.env.random);
    world.disk.poke(&path(&keys[3]), &forged.unwrap());
    let error = world.restore(Target::Latest).unwrap_err().to_string();
    assert!(error.contains("it follows another"), "{error}");
    // Gone: what is before it can be reached, and what is behind cannot.
    world.env.disk.remove(&path(&keys[3])).unwrap();
    assert_eq!(world.shipped().runs.len(), 2);
    let error = world.restore(Target::Revision(6)).unwrap_err().to_string();
    assert!(error.contains("revisions 1 to 3"), "{error}");
    let (seen, _) = world.restore(Target::Revision(3)).unwrap();
    assert_eq!(seen.revision, 3);
    // Without a key nothing is read, and it says which would.
    world.disk.poke(&path(&keys[3]), &objects[3]);
    world.keys.identities.clear();
    let error = world.restore(Target::At(crate::prove::now(&world.env))).unwrap_err().to_string();
    assert!(error.contains("no key opens it") || error.contains("cannot be reached"), "{error}");
}

#[test]
fn what_no_base_needs_may_go_and_the_rest_still_restores() {
    let mut world = with_batches(4);
    world.base();
    let mut shipper = world.shipper(1, 1 << 20);
    world.put("last", "1");
    shipper.finish().unwrap();
    let (shipped, bases) = (world.shipped(), world.bases());
    let going = keep::unneeded(&shipped, &bases, None);
    assert!(going.iter().all(|(_, name)| name.entries() == 0), "the first base needs all of it");
    let going = keep::unneeded(&shipped, &bases[1..], None);
    assert!(going.len() >= 4, "{going:?}");
    let now = crate::prove::now(&world.env);
    let later = crate::Moment::of_millis(now.millis() + 1_000_000);
    assert_eq!(
        keep::unneeded(&shipped, &bases, Some(later)),
        going,
        "never behind the newest proven one"
    );
    // Without any base the newest chain waits for one.
    assert_eq!(keep::unneeded(&shipped, &[], None), []);
    for (chain, name) in &going {
        keep::remove(&*world.destination, super::world::CLUSTER, chain, name).unwrap();
    }
    let (seen, _) = world.restore(Target::Latest).unwrap();
    assert_eq!(seen, world.seen());
}
