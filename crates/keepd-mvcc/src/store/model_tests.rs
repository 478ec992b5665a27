//! The store against a plain model of etcd's: random writes, reads, flushes, checkpoints, rewrites,
//! restarts and power cuts.

mod damaged;
mod deep;
mod faults;
mod reclaim;
mod run;
mod space;
mod state;
