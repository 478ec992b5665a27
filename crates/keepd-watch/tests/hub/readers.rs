//! Memory that the hub's events pin, and for how long: rules 9.19 and 9.20.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use keepd_mvcc::View;
use keepd_types::{KeyRange, KeyValue};
use keepd_watch::{CloseReason, Events, Limits, StreamMessage, WatchSpec, Work};

use crate::world::{Op, Queue, World};

const KEY: Bytes = Bytes::from_static(b"k");

fn put(value: u32) -> Vec<Op> {
    vec![Op::Put(KEY, Bytes::from(format!("{value}")))]
}

fn watch(world: &mut World, room: usize, from: i64) -> Queue {
    let (stream, queue) = world.open(room, Duration::from_secs(600));
    let mut spec = WatchSpec::new(KeyRange::point(KEY), from);
    spec.prev_kv = true;
    queue.ask();
    world.hub.create(stream, spec).unwrap();
    assert!(matches!(queue.pop(), Some(StreamMessage::Created { .. })));
    queue
}

fn events(queue: &Queue) -> Events {
    match queue.pop() {
        Some(StreamMessage::Events(events)) => events,
        other => panic!("events were to come, not {other:?}"),
    }
}

/// The value before each event, read as the edge reads it.
fn previous(events: &Events) -> Vec<String> {
    let view = events.view.as_ref().expect("previous values were asked for");
    let value = |change: &keepd_mvcc::Change| {
        let record = view.load(change.prev.expect("the key was there before")).unwrap();
        let value = KeyValue::decode(&record.encoded).unwrap().value;
        String::from_utf8(value.to_vec()).unwrap()
    };
    events.changes().map(value).collect()
}

/// Takes everything but the newest version, from the files too.
fn compact_and_reclaim(world: &mut World) {
    let revision = world.store.revision();
    assert!(world.compact(revision));
    for _ in 0..8 {
        world.flush();
    }
    let gone = world.store.views().load().changes(2, 1);
    assert!(gone.is_err(), "the history is gone for new readers");
}

/// Rule 9.19: what is queued at the hub or on a stream keeps its previous record.
#[test]
fn an_event_keeps_its_previous_record_through_a_compaction() {
    let mut world = World::new(Limits::default());
    world.apply(&[put(0)]);
    world.release();
    let queue = watch(&mut world, 128, 0);
    world.apply(&[put(1)]);
    world.flush();
    // The first event is on the stream, the second has not reached the hub.
    world.release();
    world.apply(&[put(2)]);
    for value in 3..200 {
        world.apply(&[put(value)]);
    }
    compact_and_reclaim(&mut world);
    world.release();
    for value in 1..128 {
        assert_eq!(previous(&events(&queue)), [format!("{}", value - 1)], "of {value}");
    }
}

/// Rule 9.19: a response of the catch-up takes events and previous records from one view.
#[test]
fn a_replayed_response_keeps_its_previous_records_through_a_compaction() {
    let mut world = World::new(Limits::default());
    world.apply(&(0..50).map(put).collect::<Vec<_>>());
    world.release();
    world.flush();
    let queue = watch(&mut world, 128, 3);
    assert_eq!(world.hub.catch_up(world.now).unwrap(), Work::Idle);
    compact_and_reclaim(&mut world);
    let expected: Vec<_> = (0..49).map(|value| format!("{value}")).collect();
    assert_eq!(previous(&events(&queue)), expected);
}

/// Rule 9.20: a client that reads nothing pins the views of what its queue holds and no more, and
/// those until it is cut off.
#[test]
fn what_a_silent_client_pins_is_bounded_and_ends() {
    let limits = Limits { stall_max: Some(Duration::from_secs(300)), ..Limits::default() };
    let mut world = World::new(limits);
    world.apply(&[put(0)]);
    world.release();
    let queue = watch(&mut world, 3, 0);
    let mut views: Vec<Weak<View>> = Vec::new();
    for value in 1..100 {
        world.apply(&[put(value)]);
        views.push(Arc::downgrade(&world.held[0].view));
        world.release();
        world.hub.catch_up(world.now).unwrap();
    }
    let pinned = |views: &[Weak<View>]| views.iter().filter(|v| v.strong_count() > 0).count();
    // The newest is the store's own.
    assert_eq!(pinned(&views), 3 + 1);

    world.now += Duration::from_secs(301);
    assert_eq!(world.hub.catch_up(world.now).unwrap(), Work::Idle);
    assert_eq!(queue.closed(), Some(CloseReason::Stalled));
    assert_eq!(world.hub.stats().streams, 0);
    // The edge drops the queue with its stream.
    while queue.pop().is_some() {}
    assert_eq!(pinned(&views), 1);
}
