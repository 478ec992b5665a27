//! `bench`: keepd beside etcd, and beside the floor that the gRPC library sets.
//!
//! One run measures both servers on the same disk in interleaved rounds and reports medians of
//! the rounds' ratios: absolute figures belong to one machine, ratios carry further. The load
//! comes from foreign programs (h2load, etcd's own `benchmark`), so that keepd's client code
//! cannot flatter its server. How to read the figures is in docs/performance.md.
//!
//! It proves nothing about correctness beyond this: what was to be written is there.

#![expect(clippy::print_stdout, reason = "a command line prints its results")]

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod client;
mod cluster;
mod clusters;
mod echo;
mod hot;
mod lists;
mod load;
mod parse;
mod plan;
mod process;
mod profile;
mod report;
mod servers;
mod tools;
mod watches;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures keepd against etcd.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures everything and writes the result file.
    Run(plan::Options),
    /// Measures one key with millions of versions and how their space comes back.
    HotKey(hot::Options),
    /// Measures three members: requests, the loss of a leader, a member that joins.
    Clusters(clusters::Options),
    /// Measures lists of big objects.
    Lists(lists::Options),
    /// Measures how events reach many watchers.
    Watches(watches::Options),
    /// Shows where the server's CPU time goes under puts and ranges (needs perf).
    Profile(profile::Options),
    /// Serves fixed answers through bare tonic: what no server built on it can undercut.
    Echo {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(options) => plan::run(&options),
        Command::HotKey(options) => hot::run(&options),
        Command::Clusters(options) => clusters::run(&options),
        Command::Lists(options) => lists::run(&options),
        Command::Watches(options) => watches::run(&options),
        Command::Profile(options) => profile::run(&options),
        Command::Echo { listen } => echo::serve(listen),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
