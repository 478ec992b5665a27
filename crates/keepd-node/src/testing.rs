//! The parts of a new member on a simulated disk and clock, for tests that step one of them.

use std::sync::Arc;

use keepd_env::Env;
use keepd_machine::StateMachine;
use keepd_raft::Core;

use crate::boot::{DataDir, Opened};
use crate::options::Options;
use crate::shared::Shared;

/// A member that is opened and not put together.
pub(crate) struct Unassembled {
    pub(crate) shared: Arc<Shared>,
    pub(crate) machine: StateMachine,
    pub(crate) core: Core,
}

pub(crate) fn member() -> Unassembled {
    let (env, _disk, _clock) = Env::simulated(1);
    let options = Options::new("/data".into());
    let data_dir = DataDir::prepare(&env, &options, None).expect("the disk is empty");
    let opened = data_dir.open(&env, &options).expect("the member is new");
    let Opened { machine, core, identity, encryption, ballast, .. } = opened;
    let views = machine.store().views();
    let shared = Shared::new(env, options, identity, views, encryption, ballast);
    Unassembled { shared, machine, core }
}
