//! The Raft core without I/O; the only crate that names the raft crate.
