//! Raft's configuration in its two forms: the core's, and the one that the store keeps in etcd's JSON.

use keepd_machine::membership::ConfState as Stored;
use keepd_raft::ConfState;

/// The core's form of a stored configuration.
pub(crate) fn of_core(stored: Stored) -> ConfState {
    let Stored { voters, learners, voters_outgoing, learners_next, auto_leave } = stored;
    ConfState { voters, learners, voters_outgoing, learners_next, auto_leave }
}

/// The stored form of a configuration of the core's.
pub(crate) fn stored(of_core: ConfState) -> Stored {
    let ConfState { voters, learners, voters_outgoing, learners_next, auto_leave } = of_core;
    Stored { voters, learners, voters_outgoing, learners_next, auto_leave }
}
