//! The log against a simulated disk: what it keeps, what it refuses, what it survives.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a step that fails where it must not fails the test"
)]

mod basics;
mod corruption;
mod crash;
mod faults;
mod model;
mod reader;
mod world;
