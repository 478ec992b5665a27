//! The replicated state machine: commands of the log in, outcomes and events out.
