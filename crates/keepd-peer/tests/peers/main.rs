//! Networks of several members on real sockets.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what is wrong fails the test")]

mod fixture;
mod messages;
mod refusals;
mod states;
mod strangers;
