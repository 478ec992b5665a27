//! The states of a leaf's keys before their latest ones.
//!
//! Recent states of all keys lie in one log, oldest first: dense, and shared between copies of the
//! leaf except for its open end, so that a copy costs an allocation however long the past is. What
//! is too much for the log moves on, many states at once, into a [`History`] of each key, which is
//! shared as a whole. So no operation but a compaction, which costs what it drops, gets slower with
//! the length of the past.
//!
//! Invariants: the log is ordered by the revision that superseded each entry; it has fewer than
//! [`LOG_CHUNKS`] shared chunks; a key's history is older than its entries in the log.

use std::sync::Arc;

use keepd_types::Revision;

use crate::index::history::History;
use crate::index::leaf::State;
use crate::index::steps;

/// Undo entries in a chunk before it is shared.
const CHUNK_ENTRIES: usize = if cfg!(test) { 3 } else { 32 };
/// Shared chunks of the log that make its older part move on.
const LOG_CHUNKS: usize = if cfg!(test) { 4 } else { 32 };
/// The number of them that move on.
const SETTLED_CHUNKS: usize = LOG_CHUNKS / 4 * 3;

/// A state that was superseded: flat, so that it takes 32 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Undo {
    main: i64,
    create: i64,
    version: i64,
    sub: u32,
    pub(crate) id: u16,
}

impl Undo {
    pub(crate) const fn new(state: State, id: u16) -> Self {
        let State { main, sub, create, version } = state;
        Self { main, create, version, sub, id }
    }

    pub(crate) const fn state(&self) -> State {
        let Self { main, sub, create, version, .. } = *self;
        State { main, sub, create, version }
    }
}

/// Entries of the log that no longer change.
#[derive(Clone, Debug)]
struct Chunk {
    /// The main revision that superseded the last entry, hence the newest of all.
    newest: i64,
    entries: Arc<[Undo]>,
}

/// Histories by the ids of their keys, ascending.
pub(crate) type Histories = Vec<(u16, History)>;

/// The past of a leaf's keys.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// None if there are none, so that most leaves allocate nothing for it.
    chunks: Option<Arc<Vec<Chunk>>>,
    open: Vec<Undo>,
    settled: Option<Arc<Histories>>,
}

impl Clone for Past {
    fn clone(&self) -> Self {
        let mut open = Vec::new();
        if !self.open.is_empty() {
            open.reserve_exact(self.open.len() + 4);
            open.extend_from_slice(&self.open);
        }
        Self { chunks: self.chunks.clone(), open, settled: self.settled.clone() }
    }
}

impl Past {
    /// A past with an empty log.
    pub(crate) fn settled(histories: Histories) -> Self {
        let settled = (!histories.is_empty()).then(|| Arc::new(histories));
        Self { settled, ..Self::default() }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.chunks.is_none() && self.open.is_empty() && self.settled.is_none()
    }

    /// Adds to the log.
    pub(crate) fn push(&mut self, undo: Undo, superseded_by: i64) {
        steps::count(1);
        self.open.push(undo);
        if self.open.len() < CHUNK_ENTRIES {
            return;
        }
        let chunk = Chunk { newest: superseded_by, entries: self.open.as_slice().into() };
        self.open = Vec::new();
        let chunks = Arc::make_mut(self.chunks.get_or_insert_default());
        steps::count(chunks.len());
        chunks.push(chunk);
        if chunks.len() >= LOG_CHUNKS {
            self.settle();
        }
    }

    /// Moves the older part of the log into the histories.
    fn settle(&mut self) {
        let Some(chunks) = &mut self.chunks else { return };
        let old: Vec<Chunk> = Arc::make_mut(chunks).drain(..SETTLED_CHUNKS).collect();
        let mut entries: Vec<Undo> =
            old.iter().flat_map(|chunk| chunk.entries.iter()).copied().collect();
        // Stable, so that entries of one key keep their order.
        entries.sort_by_key(|undo| undo.id);
        let histories = Arc::make_mut(self.settled.get_or_insert_default());
        steps::count(histories.len() + entries.len());
        for of_key in entries.chunk_by(|a, b| a.id == b.id) {
            let states: Vec<State> = of_key.iter().map(Undo::state).collect();
            history_of(histories, of_key[0].id).append(&states);
        }
    }

    /// The log, newest first, as far back as something superseded after `at`.
    pub(crate) fn log(&self, at: i64) -> impl Iterator<Item = &Undo> {
        let chunks = self.chunks.as_ref().map_or_else(Default::default, |it| it.as_slice());
        let chunks = chunks.iter().rev().take_while(move |chunk| chunk.newest > at);
        let shared = chunks.flat_map(|chunk| chunk.entries.iter().rev());
        self.open.iter().rev().chain(shared).inspect(|_| steps::count(1))
    }

    /// The histories of keys whose past outgrew the log.
    pub(crate) fn histories(&self) -> &[(u16, History)] {
        self.settled.as_ref().map_or_else(Default::default, |it| it.as_slice())
    }

    /// The state of a key at main revision `at`, before everything in the log.
    pub(crate) fn settled_at(&self, id: u16, at: i64) -> Option<State> {
        self.history(id)?.at(at).copied()
    }

    /// Whether a past state of a key has this revision.
    pub(crate) fn names(&self, id: u16, revision: Revision) -> bool {
        let is_settled =
            |newest: Option<&State>| newest.is_some_and(|newest| newest.revision() >= revision);
        match self.history(id).filter(|history| is_settled(history.newest())) {
            Some(history) => history.names(revision),
            None => self
                .log(revision.main.saturating_sub(1))
                .any(|undo| undo.id == id && undo.state().revision() == revision),
        }
    }

    /// Adds states to the history of a key, newer than all that are there; whether they are.
    pub(crate) fn append_history(&mut self, id: u16, states: &[State]) -> bool {
        let histories = Arc::make_mut(self.settled.get_or_insert_default());
        let history = history_of(histories, id);
        let newest = history.newest().map(State::revision);
        let is_sorted = states.is_sorted_by(|a, b| a.revision() < b.revision());
        let is_behind = newest
            .is_none_or(|newest| states.first().is_none_or(|first| first.revision() > newest));
        history.append(states);
        is_sorted && is_behind
    }

    fn history(&self, id: u16) -> Option<&History> {
        let histories = self.histories();
        let at = histories.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&histories[at].1)
    }
}

/// The history of a key, which it may begin.
fn history_of(histories: &mut Histories, id: u16) -> &mut History {
    let at = histories.binary_search_by_key(&id, |(id, _)| *id).unwrap_or_else(|at| {
        histories.insert(at, (id, History::default()));
        at
    });
    &mut histories[at].1
}
