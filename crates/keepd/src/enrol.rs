//! Growing a cluster by invitation: `keepd cluster invite` on a machine with the CA's key, and `keepd
//! server --join TOKEN` on an empty one.
//!
//! ```text
//!  invite                                     server --join
//!    token: CA digest, secret, addresses  -->  (a person carries it)
//!    <-- TLS 1.3, pinned by the digest --------
//!    <-- proof of the secret, key request, name and URLs
//!    checks, adds a learner, signs ---------->  certificate, members, perhaps the configuration
//!    promotes it <---- it catches up, by the peer ports
//! ```
//!
//! Decision 0601 says why the CA's key stays with a process that lives for minutes. What is said between
//! the two is in `message.rs`, the token in `token.rs`.

mod grant;
mod invite;
mod message;
mod newcomer;
pub(crate) mod token;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::verb;

pub(crate) use self::message::{Granted, JoinRequest};
pub(crate) use self::newcomer::enrol;
pub(crate) use self::token::Token;

/// Chores of a whole cluster.
#[derive(Debug, Parser)]
#[command(name = "keepd cluster", bin_name = "keepd cluster")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Let machines join: prints a token for `keepd server --join`, and waits for them.
    Invite(Box<invite::Arguments>),
}

/// Runs the verb with its arguments.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    verb::run("keepd cluster", arguments, |arguments: Arguments| match arguments.verb {
        Verb::Invite(arguments) => invite::main(*arguments),
    })
}
