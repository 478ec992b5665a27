//! A small log on a simulated disk, and the state that a test expects of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::{Env, ManualClock, Random, SeededRandom, SimDisk};
use keepd_wal::{Batch, Entry, EntryKind, HardState, LogStart, Options, Recovered, Result, Wal};

pub(crate) const METADATA: &[u8] = b"cluster and member";

/// Sizes at which a short test has many segments, frames and reservations.
pub(crate) const SMALL: Options =
    Options { segment_bytes: 2048, reserve_bytes: 700, frame_bytes: 300 };

pub(crate) fn dir() -> PathBuf {
    PathBuf::from("/member/wal")
}

pub(crate) fn env(disk: &SimDisk, seed: u64) -> Env {
    Env {
        disk: Arc::new(disk.clone()),
        clock: Arc::new(ManualClock::new()),
        random: Arc::new(SeededRandom::new(seed)),
    }
}

pub(crate) fn sealing() -> FileKeys {
    FileKeys::ephemeral(&SeededRandom::new(99))
}

pub(crate) fn create(disk: &SimDisk, keys: &FileKeys) -> Result<Wal> {
    create_seeded(disk, keys, 1)
}

pub(crate) fn create_seeded(disk: &SimDisk, keys: &FileKeys, seed: u64) -> Result<Wal> {
    let start = LogStart::default();
    Wal::create_with(env(disk, seed), &dir(), keys.clone(), SMALL, METADATA, start)
}

pub(crate) fn open(disk: &SimDisk, keys: &FileKeys, seed: u64) -> Result<(Wal, Recovered)> {
    Wal::open_with(env(disk, seed), &dir(), keys.clone(), SMALL)
}

pub(crate) fn read(disk: &SimDisk, keys: &FileKeys) -> Result<Recovered> {
    Wal::read(&env(disk, 1), &dir(), keys)
}

pub(crate) fn segment_paths(disk: &SimDisk) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "wal");
    disk.files().into_iter().filter(is_segment).collect()
}

pub(crate) fn bytes_of(disk: &SimDisk, path: &Path) -> Vec<u8> {
    disk.peek(path).expect("the file exists")
}

pub(crate) fn entry(index: u64, term: u64, len: usize) -> Entry {
    let kind = EntryKind::from_number(u8::try_from(index % 3).unwrap()).unwrap();
    let seed = index * 1000 + term;
    let mut data = vec![0; len];
    SeededRandom::new(seed).fill(&mut data);
    Entry { index, term, kind, data: data.into() }
}

pub(crate) fn entries(first: u64, term: u64, count: u64, len: usize) -> Vec<Entry> {
    (first..first + count).map(|index| entry(index, term, len)).collect()
}

/// Expected content of the log.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct State {
    pub(crate) start: LogStart,
    pub(crate) hard_state: HardState,
    pub(crate) entries: Vec<Entry>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries.iter().map(|e| (e.index, e.term, e.data.len()));
        let entries: Vec<_> = entries.collect();
        write!(f, "{:?} {:?} {entries:?}", self.start, self.hard_state)
    }
}

impl State {
    pub(crate) fn of(recovered: &Recovered) -> Self {
        assert_eq!(recovered.metadata, Bytes::from_static(METADATA));
        Self {
            start: recovered.start,
            hard_state: recovered.hard_state,
            entries: recovered.entries.clone(),
        }
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.entries.last().map_or(self.start.index, |last| last.index)
    }

    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        self.entries.iter().find(|entry| entry.index == index).map(|entry| entry.term)
    }

    /// The state after the first `count` entries of a batch; with none, before it.
    pub(crate) fn after(&self, batch: &Batch<'_>, count: usize) -> Self {
        let mut state = self.clone();
        if let Some(first) = batch.entries.first().filter(|_| count > 0) {
            state.entries.retain(|entry| entry.index < first.index);
            state.entries.extend_from_slice(&batch.entries[..count]);
        }
        if let Some(hard_state) = batch.hard_state {
            let commit = hard_state.commit.min(state.last_index()).max(self.hard_state.commit);
            state.hard_state = HardState { commit, ..hard_state };
        }
        state
    }

    /// The state in which a reset finds the term of its start known.
    pub(crate) fn raised(&self, index: u64, term: u64) -> Self {
        let mut state = self.clone();
        if index >= state.start.index && term > state.hard_state.term {
            state.hard_state = HardState { term, vote: 0, ..state.hard_state };
        }
        state
    }

    pub(crate) fn released(&self, index: u64, term: u64) -> Self {
        if index <= self.start.index {
            return self.clone();
        }
        let is_held = self.term(index) == Some(term);
        let mut state = self.clone();
        state.entries.retain(|entry| is_held && entry.index > index);
        state.start = LogStart { index, term };
        state.hard_state.commit = state.hard_state.commit.max(index);
        state
    }
}

/// One step of a script.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Append { entries: Vec<Entry>, hard_state: Option<HardState> },
    Sync,
    Release { index: u64, term: u64 },
    Reset { index: u64, term: u64 },
    Rotate,
}

impl Op {
    pub(crate) fn run(&self, wal: &mut Wal) -> Result<()> {
        match self {
            Self::Append { entries, hard_state } => {
                wal.append(&Batch { entries, hard_state: *hard_state })
            }
            Self::Sync => wal.sync(),
            Self::Release { index, term } => wal.release(*index, *term),
            Self::Reset { index, term } => wal.reset(*index, *term),
            Self::Rotate => wal.rotate(),
        }
    }

    /// The states that a crash inside the step may leave, the final one last.
    pub(crate) fn outcomes(&self, before: &State) -> Vec<State> {
        match self {
            Self::Append { entries, hard_state } => {
                let batch = Batch { entries, hard_state: *hard_state };
                let counts = usize::from(!entries.is_empty())..=entries.len();
                counts.map(|count| before.after(&batch, count)).collect()
            }
            Self::Release { index, term } => vec![before.released(*index, *term)],
            Self::Reset { index, term } => {
                let raised = before.raised(*index, *term);
                vec![raised.clone(), raised.released(*index, *term)]
            }
            Self::Sync | Self::Rotate => vec![before.clone()],
        }
    }

    /// Whether the step's success makes everything before it durable.
    pub(crate) fn is_durable(&self) -> bool {
        matches!(self, Self::Sync | Self::Release { .. } | Self::Reset { .. })
    }
}

/// A random but valid sequence of steps on an empty log, as a member's Raft would take them.
pub(crate) fn script(seed: u64, steps: usize) -> Vec<Op> {
    let random = SeededRandom::new(seed);
    let below = |bound: u64| (random.next_u64() >> 16) % bound;
    let mut state = State::default();
    let mut ops = Vec::new();
    while ops.len() < steps {
        let op = match below(10) {
            0..=4 => append(&state, &below),
            5..=7 => Op::Sync,
            8 if below(2) == 0 => release(&state, &below),
            8 => Op::Rotate,
            _ => {
                // Only the hard state: a vote in a new term.
                let HardState { term, commit, .. } = state.hard_state;
                let hard_state = HardState { term: term + 1, vote: below(4), commit };
                Op::Append { entries: Vec::new(), hard_state: Some(hard_state) }
            }
        };
        state = op.outcomes(&state).pop().expect("each step has an outcome");
        ops.push(op);
    }
    ops
}

fn append(state: &State, below: &impl Fn(u64) -> u64) -> Op {
    let HardState { term, vote, commit } = state.hard_state;
    let tail = state.last_index() - commit;
    let back = if below(4) == 0 { below(tail + 1) } else { 0 };
    let first = state.last_index() + 1 - back;
    let term = term + u64::from(back > 0);
    let floor = state.term(first - 1).expect("the entry before is in the log");
    let count = 1 + below(5);
    let len = usize::try_from(below(180)).unwrap();
    let entries = entries(first, term.max(floor), count, len);
    let commit = commit + below(first + count - commit);
    let hard_state = HardState { term: term.max(floor), vote, commit };
    let hard_state = (below(2) == 0 || back > 0).then_some(hard_state);
    Op::Append { entries, hard_state }
}

fn release(state: &State, below: &impl Fn(u64) -> u64) -> Op {
    if below(5) == 0 {
        // A raft snapshot from ahead of the log, or in place of entries that no leader knows.
        let last = state.term(state.last_index()).unwrap_or_default();
        let index = state.hard_state.commit + 1 + below(state.last_index() + 5);
        return Op::Reset { index, term: state.hard_state.term.max(last) + below(2) };
    }
    let index = state.start.index + below(state.hard_state.commit - state.start.index + 1);
    Op::Release { index, term: state.term(index).expect("a committed entry is in the log") }
}
