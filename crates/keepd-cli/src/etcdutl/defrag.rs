//! `defrag`: says that a data directory of keepd needs none.
//!
//! Scripts run it on a schedule, so it succeeds on keepd's directories without touching them. A
//! directory of etcd is refused: keepd does not change etcd's files.

use std::path::Path;

use crate::engine::answer::complain;
use crate::engine::command::{Call, Command, Flag};
use crate::engine::exit::{Exit, failed};

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "defrag",
    short: "Defragments the storage of the etcd",
    flags: &[Flag::text(
        "data-dir",
        "",
        "Required. Defragments a data directory not in use by etcd.",
    )],
    required: &["data-dir"],
    run: Some(run),
    ..Command::NONE
};

fn run(call: Call<'_>) -> Result<(), Exit> {
    let dir = call.string("data-dir");
    let refused = |why: &str| failed(format_args!("Failed to defragment etcd data[{dir}] ({why})"));
    let exists = |name: &str| Path::new(dir).join(name).exists();
    if exists("member/snap/db") {
        return Err(refused("the directory is etcd's, use etcd's own etcdutl"));
    }
    if !exists("member") {
        return Err(refused(&format!("stat {dir}/member: no such file or directory")));
    }
    complain("keepd gives space back while it runs: there is nothing to defragment");
    Ok(())
}
