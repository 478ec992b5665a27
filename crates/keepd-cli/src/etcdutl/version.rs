//! `version`: says which etcd this tool speaks like.

use crate::engine::answer::print;
use crate::engine::command::{Call, Command};
use crate::engine::exit::Exit;

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "version",
    short: "Prints the version of etcdutl",
    run: Some(run),
    ..Command::NONE
};

fn run(_call: Call<'_>) -> Result<(), Exit> {
    let text = format!(
        "etcdutl version: {}\nAPI version: {}\n",
        keepd_api::SERVER_VERSION,
        keepd_api::API_VERSION
    );
    print(text.as_bytes());
    Ok(())
}
