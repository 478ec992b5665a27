//! States of a simulated disk after a power cut, or after the death of a process.

use std::collections::{BTreeMap, BTreeSet};

use super::state::{Change, Inode, State};
use crate::random::{Random, SeededRandom};

/// The unit in which a device writes or does not write.
const SECTOR_BYTES: usize = 512;

/// The fate of the changes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashMode {
    /// All are lost.
    LoseUnsynced,
    /// The system had written all of them back: they are durable. The death of a process alone is
    /// [`super::SimDisk::kill`].
    WrittenBack,
    /// Each is kept or lost at random.
    Random {
        /// The source of the choices.
        seed: u64,
    },
    /// All are kept, but of each file's last write only some sectors.
    Torn {
        /// The source of the choices.
        seed: u64,
    },
}

/// The disk after a crash.
pub(super) fn image(state: &State, mode: CrashMode) -> State {
    let random = match mode {
        CrashMode::Random { seed } | CrashMode::Torn { seed } => SeededRandom::new(seed),
        CrashMode::LoseUnsynced | CrashMode::WrittenBack => SeededRandom::new(0),
    };
    let keeps = |random: &SeededRandom| match mode {
        CrashMode::LoseUnsynced => false,
        CrashMode::WrittenBack | CrashMode::Torn { .. } => true,
        CrashMode::Random { .. } => coin(random),
    };
    let names = state.names.crashed(|| keeps(&random));
    let mut inodes = BTreeMap::new();
    for (number, inode) in &state.inodes {
        let mut content = inode.durable.clone();
        let last = inode.unsynced.len().saturating_sub(1);
        for (position, change) in inode.unsynced.iter().enumerate() {
            if position == last && matches!(mode, CrashMode::Torn { .. }) {
                tear(change, &random, &mut content);
            } else if keeps(&random) {
                change.apply(&mut content);
            }
        }
        let durable = content.clone();
        let inode = Inode { current: content, durable, unsynced: Vec::new(), handles: 0 };
        inodes.insert(*number, inode);
    }
    let mut image = State {
        names,
        inodes,
        next_inode: state.next_inode,
        locks: BTreeSet::new(),
        faults: super::faults::Faults::default(),
        lies: false,
    };
    image.collect();
    image
}

/// The disk after the death of the process that used it.
pub(super) fn left_by_process(state: &State) -> State {
    let mut left =
        State { locks: BTreeSet::new(), faults: super::faults::Faults::default(), ..state.clone() };
    left.inodes.values_mut().for_each(|inode| inode.handles = 0);
    left.collect();
    left
}

/// Writes only some of a change's sectors.
fn tear(change: &Change, random: &SeededRandom, content: &mut Vec<u8>) {
    let Change::Write { offset, bytes } = change else {
        return change.apply(content);
    };
    let mut position = 0;
    while position < bytes.len() {
        let at = offset + position;
        let sector_end = (at / SECTOR_BYTES + 1) * SECTOR_BYTES - offset;
        let end = sector_end.min(bytes.len());
        if coin(random) {
            let part = bytes[position..end].to_vec();
            Change::Write { offset: at, bytes: part }.apply(content);
        }
        position = end;
    }
}

fn coin(random: &SeededRandom) -> bool {
    // The low bits of a multiplied word are its weakest.
    random.next_u64() >> 63 == 1
}
