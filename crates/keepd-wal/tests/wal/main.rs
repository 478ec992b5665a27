//! The log against a simulated disk: what it keeps, what it refuses, what it survives.

mod basics;
mod corruption;
mod crash;
mod faults;
mod model;
mod world;
