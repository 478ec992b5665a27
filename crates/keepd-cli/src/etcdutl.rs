//! etcdutl: commands for files rather than for a cluster, with etcd's words and exit codes.
//!
//! The commands look at and restore snapshot files, etcd's and keepd's alike; `etcdctl snapshot`
//! has the same two, as it had before etcd 3.6. The command line is `crate::engine`. `defrag` says
//! that there is nothing to do, because keepd gives space back while it runs.

mod defrag;
mod file;
mod hashkv;
pub(crate) mod snapshot;
mod version;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::engine::answer::{Format, Style};
use crate::engine::command::{Call, Command, Flag, Program};
use crate::engine::exit::Exit;
use crate::engine::{self, completion, options};

/// The options every command takes.
static FLAGS: [Flag; 2] = [
    Flag::duration(
        "timeout",
        "10s",
        "time to wait to obtain a file lock on db file, 0 to block indefinitely",
    ),
    Flag::text(
        "write-out",
        "simple",
        "set the output format (fields, json, protobuf, simple, table)",
    )
    .or('w'),
];

static ROOT: Command = Command {
    usage: "etcdutl",
    short: "An administrative command line tool for etcd3.",
    inherited: &FLAGS,
    commands: &[
        &defrag::COMMAND,
        &snapshot::COMMAND,
        &hashkv::COMMAND,
        &version::COMMAND,
        &completion::COMMAND,
        &options::HELP,
    ],
    ..Command::NONE
};

pub(crate) static PROGRAM: Program = Program {
    root: &ROOT,
    groups: &[],
    describes: false,
    hides_global_flags: false,
    help_hint: "",
    repeats_mistakes: true,
};

/// Runs etcdutl with its arguments, the program's own name left out.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    engine::start(&PROGRAM, arguments)
}

/// The output format a call asks for; without `--hex`, which only etcdctl has.
fn style(call: &Call<'_>) -> Result<Style, Exit> {
    let format = Format::parse(call.string("write-out"))?;
    Ok(Style { format, hex: false, values_only: false })
}
