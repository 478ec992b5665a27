//! A state of the keys, of a running cluster or of a backup, and how two of them differ.

use std::collections::VecDeque;

use bytes::Bytes;
use keepd_types::KeyRange;

use super::selection::Selection;

/// Keys that are asked for at once.
const PAGE: usize = 1000;
/// BOUND: keys whose contents are in memory at once, of each side.
const CONTENTS_MAX: usize = 8;

/// A key at its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) key: Bytes,
    pub(super) mod_revision: i64,
    pub(super) version: i64,
}

/// Its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) value: Bytes,
    /// The lease that it is attached to; 0 if there is none.
    pub(super) lease: i64,
}

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) revision: i64,
    /// Its number and content; none if the key was deleted.
    pub(super) put: Option<(i64, Content)>,
}

/// BOUND: versions of a key that are kept, and the bytes of their values; the newest.
const VERSIONS_MAX: usize = 10_000;
const VERSIONS_BYTES_MAX: usize = 64 << 20;

/// Versions of a key, oldest first.
#[derive(Debug, Default)]
pub(super) struct Versions {
    kept: VecDeque<Version>,
    bytes: usize,
    /// Older ones that are not kept.
    pub(super) left_out: u64,
}

impl Versions {
    /// Adds a newer one.
    pub(super) fn push(&mut self, version: Version) {
        self.bytes += version.bytes();
        self.kept.push_back(version);
        // A single one is kept whatever its size.
        while self.kept.len() > 1
            && (self.kept.len() > VERSIONS_MAX || self.bytes > VERSIONS_BYTES_MAX)
        {
            let oldest = self.kept.pop_front();
            self.bytes -= oldest.map_or(0, |oldest| oldest.bytes());
            self.left_out += 1;
        }
    }

    /// Adds the one before all others, unless it is told already or older ones are left out.
    pub(super) fn push_before(&mut self, version: Version) {
        let is_known = self.kept.front().is_some_and(|first| first.revision <= version.revision);
        if !is_known && self.left_out == 0 {
            self.bytes += version.bytes();
            self.kept.push_front(version);
        }
    }

    /// Those that are kept.
    pub(super) fn into_iter(self) -> impl Iterator<Item = Version> {
        self.kept.into_iter()
    }
}

impl Version {
    fn bytes(&self) -> usize {
        self.put.as_ref().map_or(0, |(_, content)| content.value.len())
    }
}

/// Keys and values at one moment, which stand still.
pub(super) trait State {
    /// Keys of a range in order, from its first on, at most `limit`; none only if it has none.
    fn heads(&self, range: &KeyRange, limit: usize) -> anyhow::Result<Vec<Head>>;

    /// The contents of some of its keys, in their order.
    fn contents(&self, heads: &[Head]) -> anyhow::Result<Vec<Content>>;

    /// The running cluster whose state it is, in which a revision names one content; none for a copy.
    fn history(&self) -> Option<u64>;

    /// The words that name it.
    fn name(&self) -> String;
}

/// One side of a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) head: Head,
    pub(super) content: Content,
}

/// A key that differs; at least one side has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) key: Bytes,
    pub(super) before: Option<Side>,
    pub(super) after: Option<Side>,
}

/// Goes through the keys of a selection that two states have different values for, in order. Leases are
/// not compared: a renewed one changes nothing that is stored.
pub(super) fn differences(
    before: &dyn State,
    after: &dyn State,
    selection: &Selection,
    each: &mut dyn FnMut(Difference) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let is_one_history = before.history().is_some() && before.history() == after.history();
    let mut pairs =
        Pairs { before: Walk::of(before, selection), after: Walk::of(after, selection) };
    let mut batch = Vec::with_capacity(CONTENTS_MAX);
    while let Some((one, other)) = pairs.next()? {
        let is_known_equal = is_one_history
            && one.as_ref().zip(other.as_ref()).is_some_and(|(one, other)| one == other);
        if !is_known_equal {
            batch.push((one, other));
        }
        if batch.len() == CONTENTS_MAX {
            compare(before, after, std::mem::take(&mut batch), each)?;
        }
    }
    compare(before, after, batch, each)
}

fn compare(
    before: &dyn State,
    after: &dyn State,
    batch: Vec<(Option<Head>, Option<Head>)>,
    each: &mut dyn FnMut(Difference) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (ones, others): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    let (ones, others) = (sides(before, ones)?, sides(after, others)?);
    for (one, other) in ones.into_iter().zip(others) {
        let key = one.as_ref().or(other.as_ref()).map(|side| side.head.key.clone());
        let Some(key) = key else { continue };
        let value = |side: &Option<Side>| side.as_ref().map(|side| side.content.value.clone());
        if value(&one) != value(&other) {
            each(Difference { key, before: one, after: other })?;
        }
    }
    Ok(())
}

fn sides(state: &dyn State, heads: Vec<Option<Head>>) -> anyhow::Result<Vec<Option<Side>>> {
    let present: Vec<Head> = heads.iter().flatten().cloned().collect();
    let contents = if present.is_empty() { Vec::new() } else { state.contents(&present)? };
    anyhow::ensure!(contents.len() == present.len(), "{}: a content is missing", state.name());
    let mut contents = contents.into_iter();
    let side = |head: Option<Head>| Some(Side { head: head?, content: contents.next()? });
    Ok(heads.into_iter().map(side).collect())
}

/// Two walks side by side.
struct Pairs<'a> {
    before: Walk<'a>,
    after: Walk<'a>,
}

impl Pairs<'_> {
    /// The next key that either has.
    fn next(&mut self) -> anyhow::Result<Option<(Option<Head>, Option<Head>)>> {
        let (one, other) = (self.before.peek()?, self.after.peek()?);
        let (takes_one, takes_other) = match (&one, &other) {
            (None, None) => return Ok(None),
            (Some(one), Some(other)) => (one.key <= other.key, other.key <= one.key),
            (one, other) => (one.is_some(), other.is_some()),
        };
        let one = if takes_one { self.before.page.pop_front() } else { None };
        let other = if takes_other { self.after.page.pop_front() } else { None };
        Ok(Some((one, other)))
    }
}

/// The keys of a selection in one state.
struct Walk<'a> {
    state: &'a dyn State,
    selection: &'a Selection,
    /// The rest, the range that is walked first.
    ranges: VecDeque<KeyRange>,
    page: VecDeque<Head>,
}

impl<'a> Walk<'a> {
    fn of(state: &'a dyn State, selection: &'a Selection) -> Self {
        let ranges = selection.ranges().into();
        Self { state, selection, ranges, page: VecDeque::new() }
    }

    fn peek(&mut self) -> anyhow::Result<Option<Head>> {
        while self.page.is_empty() {
            let Some(range) = self.ranges.front_mut() else { return Ok(None) };
            let heads = self.state.heads(range, PAGE)?;
            match heads.last() {
                Some(last) => range.start = after(&last.key),
                None => drop(self.ranges.pop_front()),
            }
            self.page.extend(heads.into_iter().filter(|head| self.selection.has(&head.key)));
        }
        Ok(self.page.front().cloned())
    }
}

/// The first key behind another.
fn after(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A state in memory.
    struct Keys {
        keys: BTreeMap<Bytes, (i64, Bytes)>,
        history: Option<u64>,
    }

    impl State for Keys {
        fn heads(&self, range: &KeyRange, limit: usize) -> anyhow::Result<Vec<Head>> {
            let within = self.keys.iter().filter(|(key, _)| range.contains(key));
            let head = |(key, (mod_revision, _)): (&Bytes, &(i64, Bytes))| Head {
                key: key.clone(),
                mod_revision: *mod_revision,
                version: 1,
            };
            Ok(within.map(head).take(limit.min(3)).collect())
        }

        fn contents(&self, heads: &[Head]) -> anyhow::Result<Vec<Content>> {
            assert!(heads.len() <= CONTENTS_MAX);
            let content = |head: &Head| Content { value: self.keys[&head.key].1.clone(), lease: 0 };
            Ok(heads.iter().map(content).collect())
        }

        fn history(&self) -> Option<u64> {
            self.history
        }

        fn name(&self) -> String {
            "memory".to_owned()
        }
    }

    fn key() -> impl Strategy<Value = Bytes> {
        "[abc]{1,3}".prop_map(Bytes::from)
    }

    fn state() -> impl Strategy<Value = BTreeMap<Bytes, (i64, Bytes)>> {
        let value = (1..9_i64, "[xyz]".prop_map(Bytes::from));
        prop::collection::btree_map(key(), value, 0..30)
    }

    fn told(before: &Keys, after: &Keys, selection: &Selection) -> Vec<Difference> {
        let mut all = Vec::new();
        let each = &mut |difference| {
            all.push(difference);
            Ok(())
        };
        differences(before, after, selection, each).unwrap();
        all
    }

    proptest! {
        #[test]
        fn what_differs_is_told_once_and_in_order(
            before in state(), after in state(), prefixes in prop::collection::vec("[abc]{0,2}", 1..3),
        ) {
            let selection = Selection::of_prefixes(&prefixes);
            let is_chosen =
                |key: &Bytes| prefixes.iter().any(|prefix| key.starts_with(prefix.as_bytes()));
            let of = |keys: &BTreeMap<Bytes, (i64, Bytes)>, key: &Bytes| {
                keys.get(key).map(|(_, value)| value.clone())
            };
            let mut keys: Vec<Bytes> = before.keys().chain(after.keys()).cloned().collect();
            keys.sort_unstable();
            keys.dedup();
            keys.retain(|key| is_chosen(key) && of(&before, key) != of(&after, key));
            let before = Keys { keys: before, history: None };
            let after = Keys { keys: after, history: None };
            let told = told(&before, &after, &selection);
            let value = |side: &Option<Side>| side.as_ref().map(|it| it.content.value.clone());
            for difference in &told {
                let key = &difference.key;
                prop_assert_eq!(value(&difference.before), of(&before.keys, key));
                prop_assert_eq!(value(&difference.after), of(&after.keys, key));
            }
            prop_assert_eq!(told.into_iter().map(|it| it.key).collect::<Vec<_>>(), keys);
        }
    }

    #[test]
    fn of_many_versions_the_newest_are_kept() {
        let version = |revision, len: usize| {
            let content = Content { value: vec![0; len].into(), lease: 0 };
            Version { revision, put: Some((revision, content)) }
        };
        let mut versions = Versions::default();
        (0..10_007).for_each(|revision| versions.push(version(revision, 1)));
        assert_eq!(versions.left_out, 7);
        versions.push(version(10_007, VERSIONS_BYTES_MAX));
        assert_eq!(versions.left_out, 10_007);
        assert_eq!(versions.into_iter().map(|it| it.revision).collect::<Vec<_>>(), [10_007]);
    }

    #[test]
    fn a_revision_of_one_history_is_not_read_to_be_compared() {
        let keys = |value| BTreeMap::from([(Bytes::from("a"), (5, Bytes::from(value)))]);
        let [one, other] = ["x", "y"].map(|value| Keys { keys: keys(value), history: Some(1) });
        let all = Selection::of_prefixes(&[String::new()]);
        assert!(told(&one, &other, &all).is_empty());
        let copy = Keys { keys: keys("y"), history: None };
        assert_eq!(told(&one, &copy, &all).len(), 1);
    }
}
