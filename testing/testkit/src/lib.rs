//! What tests share: golden scripts, and starting real processes.

#![expect(clippy::panic, reason = "what is wrong fails the test")]

pub mod golden;
