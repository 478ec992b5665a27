//! Watches: every event once, in order, whole revisions, none before a member shows it; and progress that
//! is told is true.

use keepd_types::KeyRange;

use crate::truth::{Fact, Truth};
use crate::verdict::{Verdict, verdict};
use crate::watches::{Seen, Watch};

/// The progress of each watch, by its place among the watches of a run.
#[derive(Debug, Default)]
pub struct WatchEvents {
    /// The first revision that the watch was not told of; `None` while none is under way.
    next: Vec<Option<i64>>,
    events: u64,
}

impl WatchEvents {
    /// Takes in what the watches have seen. Where files are damaged, history may be unreadable.
    ///
    /// # Errors
    /// If it is not what happened.
    pub fn observe(&mut self, watches: &mut [Watch], truth: &Truth, is_damaged: bool) -> Verdict {
        self.next.resize(watches.len(), None);
        for (number, watch) in watches.iter_mut().enumerate() {
            while let Some(seen) = watch.seen.pop_front() {
                if matches!(seen, Seen::Unreadable) && is_damaged {
                    self.next[number] = None;
                    continue;
                }
                if let Seen::Facts(facts) = &seen {
                    self.events += facts.len() as u64;
                }
                let next = step(self.next[number], &seen, &watch.range, truth);
                let name = || format!("watch {number} at m{}: ", watch.member);
                self.next[number] = match next {
                    Ok(next) => next,
                    Err(what) => return verdict("watch_events", Err(name() + &what)),
                };
            }
        }
        Ok(())
    }

    /// Whether every watch that is under way was told of everything.
    #[must_use]
    pub fn are_up_to_date(&self, watches: &[Watch], truth: &Truth) -> bool {
        self.next.iter().zip(watches).all(|(next, watch)| {
            next.is_some_and(|next| wanted(truth, next, &watch.range).next().is_none())
        })
    }

    /// Events that were told.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }
}

/// The changes of a range from a revision on.
fn wanted<'a>(truth: &'a Truth, next: i64, range: &'a KeyRange) -> impl Iterator<Item = &'a Fact> {
    truth.from(next).iter().filter(|fact| range.contains(&fact.key))
}

/// The first revision that a watch was not told of after it has seen something.
fn step(
    next: Option<i64>,
    seen: &Seen,
    range: &KeyRange,
    truth: &Truth,
) -> Result<Option<i64>, String> {
    let under_way = || next.ok_or_else(|| format!("{seen:?} before it began"));
    match seen {
        Seen::Begun(revision) => Ok(Some(*revision)),
        Seen::Left => Ok(None),
        Seen::Unreadable => Err("it is told that history cannot be read".to_owned()),
        Seen::Garbled(what) => Err(what.clone()),
        Seen::Facts(facts) => {
            let mut wanted = wanted(truth, under_way()?, range);
            for fact in facts {
                let main = fact.revision.main;
                match wanted.next() {
                    None => return Err(format!("it is told of {fact:?}, which nobody has shown")),
                    Some(next) if (next.revision, &next.key) != (fact.revision, &fact.key) => {
                        let next = next.revision.main;
                        return Err(format!("it is told of revision {main} instead of {next}"));
                    }
                    Some(next) if next.pair != fact.pair => {
                        return Err(format!(
                            "revision {main} is {:?}, not {:?}",
                            next.pair, fact.pair
                        ));
                    }
                    Some(_) => {}
                }
            }
            let last = facts.last().map_or(0, |fact| fact.revision.main);
            match wanted.next() {
                Some(left) if left.revision.main <= last => {
                    Err(format!("revision {last} is told in parts"))
                }
                _ => Ok(Some(last + 1)),
            }
        }
        Seen::Progress(revision) => {
            let next = under_way()?;
            if *revision > truth.revision() {
                return Err(format!("it is said to be at {revision}, which nobody has shown"));
            }
            match wanted(truth, next, range).next() {
                Some(left) if left.revision.main <= *revision => {
                    let left = left.revision.main;
                    Err(format!("it is said to be at {revision}, and was not told of {left}"))
                }
                _ => Ok(Some(next.max(revision + 1))),
            }
        }
        Seen::Compacted(revision) => {
            // It may be refused at once.
            let next = next.unwrap_or(0);
            if *revision > truth.compacted() || *revision <= next {
                return Err(format!("it needs revision {next}, and {revision} was not compacted"));
            }
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use keepd_types::Revision;

    use super::*;
    use crate::history::History;

    fn fact(main: i64, sub: i64, key: &'static str) -> Fact {
        let shown = History::default().moment(Duration::ZERO);
        Fact { revision: Revision { main, sub }, key: key.into(), pair: None, shown }
    }

    fn run(seen: Vec<Seen>) -> Verdict {
        let facts = vec![fact(2, 0, "a"), fact(3, 0, "b"), fact(4, 0, "a"), fact(4, 1, "c")];
        let truth = Truth::with(facts);
        let mut watches = [Watch { range: KeyRange::all(), seen: VecDeque::from(seen), member: 0 }];
        WatchEvents::default().observe(&mut watches, &truth, false)
    }

    #[test]
    fn events_that_are_lost_doubled_early_or_split_are_found() {
        let events = |list: &[(i64, i64, &'static str)]| {
            Seen::Facts(list.iter().map(|(main, sub, key)| fact(*main, *sub, key)).collect())
        };
        let (two, three) = (events(&[(2, 0, "a")]), events(&[(3, 0, "b")]));
        let four = events(&[(4, 0, "a"), (4, 1, "c")]);
        let begun = || Seen::Begun(2);
        run(vec![begun(), two.clone(), three.clone(), four.clone()]).unwrap();
        run(vec![begun(), two.clone(), Seen::Progress(2), Seen::Left]).unwrap();
        assert!(run(vec![begun(), two.clone(), four]).is_err(), "one is lost");
        assert!(run(vec![begun(), two.clone(), two.clone()]).is_err(), "one comes twice");
        assert!(run(vec![begun(), three, two.clone()]).is_err(), "another order");
        assert!(run(vec![begun(), two, Seen::Progress(3)]).is_err(), "not yet");
        assert!(run(vec![Seen::Begun(4), events(&[(4, 0, "a")])]).is_err(), "a part");
        assert!(run(vec![Seen::Begun(5), events(&[(5, 0, "a")])]).is_err(), "it never was");
    }
}
