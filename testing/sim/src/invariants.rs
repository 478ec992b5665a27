//! The invariants: they hold, whatever happens. Each file has one: it observes the members or the history
//! of the clients, and says what is broken. Those of the history are in `testing/histories`.

pub mod durable_logs;
pub mod election_safety;
pub mod equal_members;
pub mod leader_completeness;
pub mod log_matching;
pub mod nonces;
pub mod nothing_plain;
pub mod state_machine_safety;

pub use histories::{
    Broken, Verdict, acknowledged_writes, lease_bounds, reads, real_time, verdict, watch_events,
};
