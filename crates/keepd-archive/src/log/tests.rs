//! Logs of real machines, shipped through a folder and applied again.

mod drills;
mod planned;
mod shipped;
mod world;
