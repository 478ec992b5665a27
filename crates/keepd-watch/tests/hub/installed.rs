//! Watchers of a member whose store jumps forward to another member's state (rule 9.2).

use std::time::Duration;

use bytes::Bytes;
use keepd_types::KeyRange;
use keepd_watch::{Limits, StreamMessage, WatchSpec, Work};

use crate::world::{Op, Queue, World};

fn put(world: &mut World, value: i64) {
    world.apply(&[vec![Op::Put(Bytes::from_static(b"k"), Bytes::from(format!("{value}")))]]);
    world.release();
}

fn watch(world: &mut World, room: usize, from: i64) -> Queue {
    let (stream, queue) = world.open(room, Duration::from_secs(600));
    queue.ask();
    let range = KeyRange::point(Bytes::from_static(b"k"));
    world.hub.create(stream, WatchSpec::new(range, from)).unwrap();
    assert!(matches!(queue.pop(), Some(StreamMessage::Created { .. })));
    queue
}

fn catch_up(world: &mut World) {
    // BOUND: as many pages as there are revisions.
    for _ in 0..100 {
        if world.hub.catch_up(world.now).unwrap() == Work::Idle {
            return;
        }
    }
    panic!("the watchers do not catch up");
}

/// The revisions that a watcher was told of, and the compact revision if it was cancelled.
fn told(queue: &Queue) -> (Vec<i64>, Option<i64>) {
    let mut revisions = Vec::new();
    while let Some(message) = queue.pop() {
        match message {
            StreamMessage::Events(events) => {
                revisions.extend(events.changes().map(|change| change.revision.main));
            }
            StreamMessage::Compacted { compact_revision, .. } => {
                return (revisions, Some(compact_revision));
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
    (revisions, None)
}

/// A member that has come to revision 5, and one that has come to 20 and compacted.
fn worlds(compacted: i64) -> (World, World) {
    let [mut behind, mut ahead] = [World::new(Limits::default()), World::new(Limits::default())];
    for (world, last) in [(&mut behind, 5), (&mut ahead, 20)] {
        (2..=last).for_each(|revision| put(world, revision));
    }
    assert!(ahead.compact(compacted));
    (behind, ahead)
}

#[test]
fn watchers_catch_up_from_the_history_of_the_state_that_came() {
    let (mut world, leader) = worlds(6);
    let (synced, unsynced) = (watch(&mut world, 100, 0), watch(&mut world, 100, 4));
    let future = watch(&mut world, 100, 22);
    catch_up(&mut world);
    assert_eq!(told(&unsynced).0, [4, 5]);
    // Without room it is unsynced when the store jumps.
    unsynced.set_room(0);
    world.install(&leader);
    let views = world.store.views();
    world.hub.resync(views);
    unsynced.set_room(100);
    catch_up(&mut world);
    for queue in [&synced, &unsynced] {
        assert_eq!(told(queue), ((6..=20).collect(), None), "each revision once");
    }
    (21..=23).for_each(|revision| put(&mut world, revision));
    for queue in [&synced, &unsynced] {
        assert_eq!(told(queue), ((21..=23).collect(), None), "and live from there");
    }
    assert_eq!(told(&future), (vec![22, 23], None));
}

#[test]
fn watchers_whose_next_revision_is_compacted_in_the_state_that_came_are_cancelled() {
    let (mut world, leader) = worlds(9);
    let (synced, future) = (watch(&mut world, 100, 0), watch(&mut world, 100, 12));
    catch_up(&mut world);
    // It has been told nothing yet when the store jumps.
    let late = watch(&mut world, 100, 3);
    world.install(&leader);
    let views = world.store.views();
    world.hub.resync(views);
    catch_up(&mut world);
    assert_eq!(told(&synced), (vec![], Some(9)));
    assert_eq!(told(&late), (vec![], Some(9)));
    assert_eq!(told(&future), ((12..=20).collect(), None), "its first revision is there");
    put(&mut world, 21);
    assert_eq!((told(&synced).0, told(&future).0), (vec![], vec![21]));
}

#[test]
fn a_hub_that_reads_the_new_state_before_it_is_told_of_it_tells_nothing_twice() {
    let (mut world, leader) = worlds(6);
    let (synced, unsynced) = (watch(&mut world, 100, 0), watch(&mut world, 100, 6));
    let late = watch(&mut world, 100, 4);
    world.install(&leader);
    catch_up(&mut world);
    assert_eq!(told(&late), (vec![], Some(6)));
    let views = world.store.views();
    world.hub.resync(views);
    catch_up(&mut world);
    for queue in [&synced, &unsynced] {
        assert_eq!(told(queue), ((6..=20).collect(), None));
    }
    put(&mut world, 21);
    for queue in [&synced, &unsynced] {
        assert_eq!(told(queue).0, [21]);
    }
}
