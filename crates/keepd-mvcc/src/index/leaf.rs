//! A leaf of the key index: up to [`KEYS_MAX`] neighbouring keys, packed, with an undo log.
//!
//! Most reads want the latest state of a key, some want an older one, and a view must keep seeing the
//! leaf as it was. So a leaf holds the latest states densely, sorted by key, and beside them a log of
//! what they replaced: each entry is the state that a key had before a write. A read at an older
//! revision takes the latest states and undoes the log, newest entry first, back to its revision.
//!
//! ```text
//!   put a, put b, put a, delete b: revisions 2, 3, 4, 5
//!
//!   slots, by key             undo log, oldest first         superseded by
//!   a: changed 4, version 2   a: changed 2, version 1        4
//!   b: changed 5, deleted     b: changed 3, version 1        5
//!
//!   prefix "/registry/pods/" once; each key's rest lies in `bytes`, in the order of insertion
//! ```
//!
//! Reading at revision 4: slot `a` was changed at 4, which is not after 4, so it holds. Slot `b` was
//! changed at 5, which is; its newest entry in the log says that it was changed at 3, and that holds.
//! Reading at revision 3 undoes both entries. Reading at revision 1 undoes both and still finds states
//! from later on: neither key was there. The log is ordered by what superseded each entry, so a read
//! stops at the first one that was superseded at or before its revision.
//!
//! A write replaces one slot and appends one entry. Before it changes a leaf that a view shares, the
//! leaf is copied: the slots and the open end of the log, some kilobytes. Older chunks of the log are
//! shared between copies, and what is too much for the log moves on into a history of each key, shared
//! as a whole ([`Past`]). So neither a write nor a copy gets slower with the number of old states.
//!
//! ```text
//!   slots --> open end of the log --> chunks (shared) --> history of each key (shared)
//!   latest    newest past states      older ones          oldest ones
//! ```
//!
//! Compaction at a revision drops an entry that was superseded at or before it: no read that is still
//! allowed undoes that far. A slot goes if it holds a tombstone from before the revision.
//!
//! Invariants: slots are sorted and unique; a slot's id is its position in the order of insertion
//! and names it in the past for the leaf's lifetime. A tombstone is a state of version 0.

use keepd_types::Revision;

use crate::index::history::History;
use crate::index::past::{Histories, Past, Undo};
use crate::index::steps;
use crate::record::KeyState;

/// Keys in a leaf before it splits.
///
/// Small in unit tests, so that little data makes deep trees.
pub(crate) const KEYS_MAX: usize = if cfg!(test) { 4 } else { 32 };
/// Key bytes in a leaf before it splits, whatever the number of keys.
const KEY_BYTES_MAX: usize = 32 * 1024;

/// The state of a key at some revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The main revision of the record.
    pub(crate) main: i64,
    /// Its sub revision.
    pub(crate) sub: u32,
    /// The main revision that began the generation; a tombstone keeps that of the one it ended.
    pub(crate) create: i64,
    /// Puts in the generation, 0 for a tombstone.
    pub(crate) version: i64,
}

impl State {
    pub(crate) const fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision { main: self.main, sub: i64::from(self.sub) }
    }

    /// The state as callers see it; a tombstone is not there.
    pub(crate) fn live(&self) -> Option<KeyState> {
        (!self.is_tombstone()).then(|| KeyState {
            create_revision: self.create,
            mod_revision: self.revision(),
            version: self.version,
        })
    }

    /// Whether compaction at `target` removes it although nothing superseded it.
    pub(crate) const fn is_expired(&self, target: i64) -> bool {
        self.is_tombstone() && self.main < target
    }
}

/// One key of a leaf: flat, so that it takes 40 bytes.
#[derive(Clone, Copy, Debug)]
struct Slot {
    main: i64,
    create: i64,
    version: i64,
    sub: u32,
    /// The offset of the rest of the key.
    at: u32,
    len: u32,
    id: u16,
}

impl Slot {
    const fn state(&self) -> State {
        let Self { main, sub, create, version, .. } = *self;
        State { main, sub, create, version }
    }

    const fn set(&mut self, state: State) {
        State { main: self.main, sub: self.sub, create: self.create, version: self.version } =
            state;
    }
}

/// One entry of the log of past states: the slot's position, what it held, what superseded it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PastState {
    /// The position of the key in its leaf.
    pub(crate) position: usize,
    /// The state.
    pub(crate) state: State,
    /// The main revision of its successor.
    pub(crate) until: i64,
}

/// Up to [`KEYS_MAX`] neighbouring keys.
#[derive(Debug, Default)]
pub(crate) struct Leaf {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    past: Past,
    prefix_len: usize,
    live: usize,
    newest: i64,
}

impl Clone for Leaf {
    /// A copy is made to be changed, so it leaves room for one more key.
    fn clone(&self) -> Self {
        let mut slots = Vec::with_capacity(self.slots.len() + 1);
        slots.extend_from_slice(&self.slots);
        let mut bytes = Vec::with_capacity(self.bytes.len() + 32);
        bytes.extend_from_slice(&self.bytes);
        Self { bytes, slots, past: self.past.clone(), ..*self }
    }
}

impl Leaf {
    /// Packs keys, sorted, with their states and their past: histories by the positions of their
    /// keys, ascending, and the log, oldest first.
    pub(crate) fn pack(keys: &[(&[u8], State)], histories: Histories, log: &[PastState]) -> Self {
        steps::count(keys.len() + histories.len() + log.len());
        let prefix_len = match keys {
            [] => 0,
            [(first, _), .., (last, _)] => common_prefix(first, last),
            [(only, _)] => only.len(),
        };
        let prefix = keys.first().map_or_else(Default::default, |(key, _)| &key[..prefix_len]);
        let suffix_bytes: usize = keys.iter().map(|(key, _)| key.len() - prefix_len).sum();
        let mut leaf = Self { prefix_len, past: Past::settled(histories), ..Self::default() };
        leaf.bytes.reserve_exact(prefix_len + suffix_bytes);
        leaf.bytes.extend_from_slice(prefix);
        leaf.slots.reserve_exact(keys.len());
        for (position, (key, state)) in keys.iter().enumerate() {
            leaf.insert_slot(position, &key[prefix_len..], *state);
        }
        for undo in log {
            let id = u16_of(undo.position);
            leaf.past.push(Undo::new(undo.state, id), undo.until);
        }
        leaf
    }

    /// The number of keys, deleted ones included.
    pub(crate) const fn len(&self) -> usize {
        self.slots.len()
    }

    /// The number of keys whose latest state is not a tombstone.
    pub(crate) const fn live(&self) -> usize {
        self.live
    }

    /// The newest main revision in the leaf.
    pub(crate) const fn newest(&self) -> i64 {
        self.newest
    }

    /// Whether the leaf must split.
    pub(crate) const fn is_overfull(&self) -> bool {
        self.slots.len() > KEYS_MAX || (self.bytes.len() > KEY_BYTES_MAX && self.slots.len() > 1)
    }

    /// Whether the leaf and `other` fit well into one.
    pub(crate) const fn fits_with(&self, other: &Self) -> bool {
        self.slots.len() + other.slots.len() <= KEYS_MAX / 2
            && self.bytes.len() + other.bytes.len() <= KEY_BYTES_MAX / 2
    }

    /// The bytes that all keys begin with.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.bytes[..self.prefix_len]
    }

    /// The rest of the key at `position`.
    pub(crate) fn suffix(&self, position: usize) -> &[u8] {
        let slot = &self.slots[position];
        &self.bytes[slot.at as usize..][..slot.len as usize]
    }

    /// The latest state of the key at `position`.
    pub(crate) fn state(&self, position: usize) -> State {
        self.slots[position].state()
    }

    /// The key at `position`.
    pub(crate) fn key(&self, position: usize) -> Vec<u8> {
        [self.prefix(), self.suffix(position)].concat()
    }

    /// The position of `key`, or the one at which it would be inserted.
    pub(crate) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        match key.strip_prefix(self.prefix()) {
            Some(suffix) => self.slots.binary_search_by(|slot| {
                self.bytes[slot.at as usize..][..slot.len as usize].cmp(suffix)
            }),
            None if key < self.prefix() => Err(0),
            None => Err(self.slots.len()),
        }
    }

    /// The latest state of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<State> {
        self.find(key).ok().map(|position| self.slots[position].state())
    }

    /// The state of a key at main revision `at`.
    pub(crate) fn get_at(&self, key: &[u8], at: i64) -> Option<State> {
        let slot = &self.slots[self.find(key).ok()?];
        let mut state = slot.state();
        for undo in self.past.log(at) {
            if state.main <= at {
                break;
            }
            if undo.id == slot.id {
                state = undo.state();
            }
        }
        if state.main <= at { Some(state) } else { self.past.settled_at(slot.id, at) }
    }

    /// The states of all keys at main revision `at`, by position.
    pub(crate) fn states_at(&self, at: i64) -> Vec<Option<State>> {
        let mut by_id = vec![self.slots[0].state(); self.slots.len()];
        for slot in &self.slots {
            by_id[usize::from(slot.id)] = slot.state();
        }
        for undo in self.past.log(at) {
            let state = &mut by_id[usize::from(undo.id)];
            if state.main > at {
                *state = undo.state();
            }
        }
        let state_of = |slot: &Slot| {
            let state = by_id[usize::from(slot.id)];
            if state.main <= at { Some(state) } else { self.past.settled_at(slot.id, at) }
        };
        self.slots.iter().map(state_of).collect()
    }

    /// Whether the latest or a past state of `key` has this revision.
    pub(crate) fn names(&self, key: &[u8], revision: Revision) -> bool {
        let Ok(position) = self.find(key) else { return false };
        let slot = &self.slots[position];
        let latest = slot.state().revision();
        latest == revision || (revision < latest && self.past.names(slot.id, revision))
    }

    /// The number of states that a read at main revision `at` undoes; at most `max`.
    pub(crate) fn undone_after(&self, at: i64, max: u64) -> u64 {
        self.past.log(at).take(usize::try_from(max).unwrap_or(usize::MAX)).count() as u64
    }

    /// The log of past states, oldest first: what the histories do not have yet.
    pub(crate) fn log(&self) -> Vec<PastState> {
        if self.past.is_empty() {
            return Vec::new();
        }
        let mut by_id = vec![(0, 0); self.slots.len()];
        for (position, slot) in self.slots.iter().enumerate() {
            by_id[usize::from(slot.id)] = (position, slot.main);
        }
        let mut log: Vec<PastState> = self
            .past
            .log(i64::MIN)
            .map(|undo| {
                let (position, successor) = &mut by_id[usize::from(undo.id)];
                let state = undo.state();
                let until = std::mem::replace(successor, state.main);
                PastState { position: *position, state, until }
            })
            .collect();
        log.reverse();
        log
    }

    /// The histories that outgrew the log, by the positions of their keys, ascending.
    pub(crate) fn histories(&self) -> Vec<(usize, &History)> {
        let histories = self.past.histories();
        if histories.is_empty() {
            return Vec::new();
        }
        let of_slot = |(position, slot): (usize, &Slot)| {
            let at = histories.binary_search_by_key(&slot.id, |(id, _)| *id).ok()?;
            Some((position, &histories[at].1))
        };
        self.slots.iter().enumerate().filter_map(of_slot).collect()
    }

    /// Shows all past states of all keys.
    pub(crate) fn for_each_past(&self, mut visit: impl FnMut(&State)) {
        self.past.log(i64::MIN).for_each(|undo| visit(&undo.state()));
        self.past.histories().iter().for_each(|(_, history)| history.for_each(&mut visit));
    }

    /// Sets the state of a key to what `next` makes of the present one, which is returned.
    pub(crate) fn update(
        &mut self,
        key: &[u8],
        next: impl FnOnce(Option<State>) -> State,
    ) -> (Option<State>, usize) {
        match self.find(key) {
            Ok(position) => {
                let slot = &mut self.slots[position];
                let (old, id) = (slot.state(), slot.id);
                let new = next(Some(old));
                slot.set(new);
                let main = new.main;
                self.live += usize::from(!new.is_tombstone());
                self.live -= usize::from(!old.is_tombstone());
                self.newest = self.newest.max(main);
                self.past.push(Undo::new(old, id), main);
                (Some(old), position)
            }
            Err(position) => {
                if !key.starts_with(self.prefix()) {
                    self.shorten_prefix(common_prefix(self.prefix(), key));
                }
                if self.slots.is_empty() {
                    self.bytes = key.to_vec();
                    self.prefix_len = key.len();
                }
                self.insert_slot(position, &key[self.prefix_len..], next(None));
                (None, position)
            }
        }
    }

    fn insert_slot(&mut self, position: usize, suffix: &[u8], state: State) {
        let at = u32::try_from(self.bytes.len()).expect("request limits keep keys far below 4 GiB");
        let len = u32::try_from(suffix.len()).expect("request limits keep keys far below 4 GiB");
        self.bytes.extend_from_slice(suffix);
        let id = u16_of(self.slots.len());
        let State { main, sub, create, version } = state;
        self.slots.insert(position, Slot { main, create, version, sub, at, len, id });
        self.live += usize::from(!state.is_tombstone());
        self.newest = self.newest.max(state.main);
    }

    /// Repacks the key bytes under a shorter prefix.
    fn shorten_prefix(&mut self, prefix_len: usize) {
        let mut bytes = self.bytes[..prefix_len].to_vec();
        let tail = &self.bytes[prefix_len..self.prefix_len];
        for slot in &mut self.slots {
            let suffix = &self.bytes[slot.at as usize..][..slot.len as usize];
            slot.at = u32::try_from(bytes.len()).expect("KEY_BYTES_MAX and one key fit");
            slot.len += u32::try_from(tail.len()).expect("a prefix is part of a key");
            bytes.extend_from_slice(tail);
            bytes.extend_from_slice(suffix);
        }
        self.bytes = bytes;
        self.prefix_len = prefix_len;
    }

    /// Cuts the leaf before `position` and returns the right part.
    pub(crate) fn split_off(&mut self, position: usize) -> Self {
        let right = self.part(position..self.slots.len());
        *self = self.part(0..position);
        right
    }

    fn part(&self, range: std::ops::Range<usize>) -> Self {
        let keys: Vec<Vec<u8>> = range.clone().map(|position| self.key(position)).collect();
        let keyed: Vec<(&[u8], State)> = keys
            .iter()
            .zip(range.clone())
            .map(|(key, position)| (key.as_slice(), self.slots[position].state()))
            .collect();
        let mut log = self.log();
        log.retain_mut(|past| {
            let inside = range.contains(&past.position);
            if inside {
                past.position -= range.start;
            }
            inside
        });
        let inside = self.histories().into_iter().filter(|(position, _)| range.contains(position));
        let histories =
            inside.map(|(position, it)| (u16_of(position - range.start), it.clone())).collect();
        Self::pack(&keyed, histories, &log)
    }

    /// The keys of both leaves in one.
    pub(crate) fn merge(left: &Self, right: &Self) -> Self {
        let parts = [left, right];
        let keys: Vec<(Vec<u8>, State)> = parts
            .iter()
            .flat_map(|leaf| (0..leaf.len()).map(|at| (leaf.key(at), leaf.state(at))))
            .collect();
        let keyed: Vec<(&[u8], State)> =
            keys.iter().map(|(key, state)| (key.as_slice(), *state)).collect();
        let mut log = left.log();
        let behind = |past: PastState| PastState { position: past.position + left.len(), ..past };
        log.extend(right.log().into_iter().map(behind));
        // Stable, so that entries of one key keep their order.
        log.sort_by_key(|past| past.until);
        let right_histories = right.histories().into_iter().map(|(at, it)| (at + left.len(), it));
        let histories = left.histories().into_iter().chain(right_histories);
        let histories = histories.map(|(position, it)| (u16_of(position), it.clone())).collect();
        Self::pack(&keyed, histories, &log)
    }

    /// The leaf after compaction at `target`, or `None` if it removes nothing.
    ///
    /// The revisions of removed records go to `dead`. Each is taken from `budget`; if nothing is left
    /// of that, the leaf may not be done yet.
    pub(crate) fn compact(
        &self,
        target: i64,
        budget: &mut usize,
        dead: &mut Vec<Revision>,
    ) -> Option<Self> {
        if self.past.is_empty() && self.live == self.slots.len() {
            return None;
        }
        let before = dead.len();
        let log = self.log();
        let mut until: Vec<i64> = self.slots.iter().map(|slot| slot.main).collect();
        for past in log.iter().rev() {
            until[past.position] = past.state.main;
        }
        let mut histories: Histories = Vec::new();
        for (position, history) in self.histories() {
            let mut history = history.clone();
            history.compact(target, until[position], budget, dead);
            if !history.is_empty() {
                histories.push((u16_of(position), history));
            }
        }
        let is_done = *budget > 0;
        let is_kept =
            |past: &PastState| !is_done || (past.until > target && !past.state.is_expired(target));
        dead.extend(log.iter().filter(|past| !is_kept(past)).map(|it| it.state.revision()));
        let mut positions = vec![None; self.slots.len()];
        let mut keys: Vec<(Vec<u8>, State)> = Vec::with_capacity(self.slots.len());
        for (position, slot) in self.slots.iter().enumerate() {
            if is_done && slot.state().is_expired(target) {
                dead.push(slot.state().revision());
            } else {
                positions[position] = Some(keys.len());
                keys.push((self.key(position), slot.state()));
            }
        }
        if dead.len() == before {
            return None;
        }
        if is_done {
            *budget = budget.saturating_sub(dead.len() - before);
        }
        let keyed: Vec<(&[u8], State)> =
            keys.iter().map(|(key, state)| (key.as_slice(), *state)).collect();
        let log: Vec<PastState> = log
            .iter()
            .filter(|past| is_kept(past))
            .filter_map(|past| Some(PastState { position: positions[past.position]?, ..*past }))
            .collect();
        let histories = histories
            .into_iter()
            .filter_map(|(id, history)| Some((u16_of(positions[usize::from(id)]?), history)))
            .collect();
        Some(Self::pack(&keyed, histories, &log))
    }

    /// Adds states of the key at `position`, older than those of the log and newer than all others;
    /// whether they are.
    pub(crate) fn append_history(&mut self, position: usize, states: &[State]) -> bool {
        let id = self.slots[position].id;
        self.past.append_history(id, states)
    }
}

/// The number of leading bytes that two keys share.
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn u16_of(position: usize) -> u16 {
    u16::try_from(position).expect("a leaf splits long before 65536 keys")
}
