//! The choice of base and batches, from names alone.

use keepd_backup::EndOfReplay;

use crate::log::batch::{After, Batch, FORMAT, Header, MarkFacts};
use crate::log::name::{BatchName, ChainName};
use crate::log::shipped::{Base, Found, Plan, Shipped, Target};
use crate::sidecar::{LogFacts, MemberFacts};
use crate::{Error, Moment};

fn at(second: i64) -> Moment {
    Moment::of_millis(second * 1000)
}

fn chain(second: i64, since: u64) -> ChainName {
    ChainName { begin: at(second), since, random: 1 }
}

/// Entries `first..=last`, each of which made a revision, over ten seconds.
fn batch(first: u64, last: u64, from: i64) -> Found {
    let name = BatchName {
        first,
        last,
        number: first,
        term: 1,
        revision: last.cast_signed(),
        from: at(from),
        until: at(from + 10),
        tag: 1,
        is_sealed: true,
    };
    Found { name, bytes: 1 }
}

fn base(number: usize, index: u64, second: i64, is_proven: bool) -> Base {
    let log = Some(LogFacts { index, term: 1, since: 1, digest: 0 });
    Base { number, time: at(second), revision: index.cast_signed(), log, is_proven }
}

fn plan(shipped: &Shipped, target: Target, bases: &[Base]) -> Result<Plan, Error> {
    shipped.plan(target, bases, &mut |chain, name| {
        // A mark each second, for an entry each.
        let marks = (name.first..=name.last).zip(0..).map(|(index, second)| MarkFacts {
            time: Moment::of_millis(name.from.millis() + second * 1000),
            at: LogFacts { index, term: 1, since: chain.since, digest: 0 },
            revision: index.cast_signed(),
        });
        let header = Header {
            format: FORMAT,
            cluster_id: String::new(),
            chain: chain.to_string(),
            name: name.to_string(),
            after: After::Begin(String::new()),
            member: MemberFacts { id: String::new(), name: String::new() },
            made_by: String::new(),
            marks: marks.collect(),
        };
        Ok(Batch { header, entries: vec![] })
    })
}

fn three() -> Shipped {
    let c = chain(100, 1);
    Shipped::of([
        (c, batch(11, 20, 100)),
        (c, batch(21, 30, 110)),
        // Two leaders overlapped.
        (c, batch(21, 25, 110)),
        (c, batch(31, 40, 120)),
    ])
}

#[test]
fn the_newest_proven_base_before_the_target_and_what_is_behind_it() {
    let bases = [base(0, 10, 99, true), base(1, 22, 112, true), base(2, 35, 124, false)];
    let shipped = three();
    assert_eq!(shipped.runs.len(), 1);
    let plan = |target| plan(&shipped, target, &bases);
    let found = plan(Target::Latest).unwrap();
    let replay = found.replay.unwrap();
    assert_eq!((found.base, replay.after, replay.end), (1, 22, EndOfReplay::Index(40)));
    let firsts: Vec<(u64, u64)> =
        replay.batches.iter().map(|it| (it.name.first, it.name.last)).collect();
    assert_eq!(firsts, [(21, 30), (31, 40)], "of those that overlap the longest");
    let found = plan(Target::Revision(15)).unwrap();
    assert_eq!((found.base, found.replay.unwrap().end), (0, EndOfReplay::Revision(15)));
    let found = plan(Target::Revision(22)).unwrap();
    assert_eq!(found.base, 0, "the base of that revision may be of later");
    let found = plan(Target::Revision(23)).unwrap();
    assert_eq!(found.base, 1);
    // 123.5 s: the mark of 123 s is the one of entry 34.
    let found = plan(Target::At(Moment::of_millis(123_500))).unwrap();
    assert_eq!((found.base, found.replay.unwrap().end), (1, EndOfReplay::Index(34)));
    let found = plan(Target::At(at(105))).unwrap();
    assert_eq!((found.base, found.replay.unwrap().end), (0, EndOfReplay::Index(16)));
    // An unproven one is better than none.
    let found = super::planned::plan(&shipped, Target::Revision(36), &bases[2..]).unwrap();
    assert_eq!(found.base, 2);
}

#[test]
fn what_cannot_be_reached_says_what_can() {
    let bases = [base(0, 10, 99, true)];
    let shipped = three();
    let error = |target, bases: &[Base]| plan(&shipped, target, bases).unwrap_err().to_string();
    let window = "Reachable: from 1970-01-01T00:01:40.000Z to 1970-01-01T00:02:10.000Z, \
                  revisions 10 to 40";
    let told = error(Target::At(at(131)), &bases);
    assert!(told.contains("behind the end of the log") && told.contains(window), "{told}");
    let told = error(Target::At(at(50)), &bases);
    assert!(told.contains("before the first base") && told.contains(window), "{told}");
    let told = error(Target::Revision(9), &bases);
    assert!(told.contains("before the first base"), "{told}");
    let told = error(Target::Revision(41), &bases);
    assert!(told.contains("no log leads from a base to it"), "{told}");
    for target in [Target::Latest, Target::Revision(20), Target::At(at(110))] {
        let told = error(target, &[]);
        assert!(told.contains("no backup without a fault"), "{told}");
    }
    // A base of another history, and one that does not know its place.
    let other =
        Base { log: Some(LogFacts { index: 12, term: 1, since: 9, digest: 0 }), ..bases[0] };
    let unknown = Base { log: None, ..bases[0] };
    for base in [other, unknown] {
        let told = error(Target::At(at(110)), &[base]);
        assert!(told.contains("does not fit to any base"), "{told}");
    }
}

#[test]
fn where_a_batch_is_missing_the_log_ends_and_begins_again() {
    let c = chain(100, 1);
    let shipped =
        Shipped::of([(c, batch(11, 20, 100)), (c, batch(31, 40, 120)), (c, idle(41, 130))]);
    assert_eq!(shipped.runs.len(), 2);
    let first = [base(0, 10, 99, true)];
    let told = plan(&shipped, Target::Revision(35), &first).unwrap_err().to_string();
    assert!(told.contains("revisions 10 to 20"), "{told}");
    let both = [first[0], base(1, 30, 119, true)];
    assert_eq!(plan(&shipped, Target::Revision(35), &both).unwrap().base, 1);
    assert_eq!(plan(&shipped, Target::Revision(15), &both).unwrap().base, 0);
    let windows = shipped.windows(&both);
    assert_eq!(windows.len(), 2);
    assert_eq!(windows[1].until, at(140), "an idle cluster says so");
    // A base that is newer than a log that ended.
    let newest = Base { log: None, ..base(2, 50, 500, true) };
    let found = plan(&shipped, Target::Latest, &[both[0], both[1], newest]).unwrap();
    assert_eq!((found.base, found.replay), (2, None));
    let found = plan(&shipped, Target::Revision(50), &[both[0], both[1], newest]).unwrap();
    assert_eq!((found.base, found.replay), (2, None));
}

/// A batch without entries.
fn idle(first: u64, from: i64) -> Found {
    let found = batch(first, first, from);
    let name = BatchName { last: first - 1, revision: (first - 1).cast_signed(), ..found.name };
    Found { name, ..found }
}
