//! The invariants: they hold, whatever happens. Each file has one: it observes the members or the history
//! of the clients, and says what is broken.

pub mod acknowledged_writes;
pub mod durable_logs;
pub mod election_safety;
pub mod equal_members;
pub mod leader_completeness;
pub mod lease_bounds;
pub mod log_matching;
pub mod nonces;
pub mod nothing_plain;
pub mod reads;
pub mod real_time;
pub mod state_machine_safety;
pub mod watch_events;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The name of its file.
    pub invariant: &'static str,
    /// The contradiction that was seen.
    pub what: String,
}

/// Whether an invariant holds.
pub type Verdict = Result<(), Broken>;

/// The verdict of an invariant by what it found.
pub(crate) fn verdict(invariant: &'static str, found: Result<(), String>) -> Verdict {
    found.map_err(|what| Broken { invariant, what })
}
