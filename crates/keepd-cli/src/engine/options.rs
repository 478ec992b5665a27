//! `options` and `help`: what can be said on the command line.

use super::GROUP_UTILITY;
use super::answer::print;
use super::command::{self, Call, Command};
use super::exit::Exit;
use super::help;

/// Lists the options every command takes.
pub(crate) static COMMAND: Command = Command {
    usage: "options",
    short: "Show the global command-line flags",
    group: GROUP_UTILITY,
    run: Some(options),
    ..Command::NONE
};

/// Prints the help of another command.
pub(crate) static HELP: Command = Command {
    usage: "help [command]",
    short: "Help about any command",
    long: "Help provides help for any command in the application.
Simply type etcdctl help [path to command] for full details.",
    group: GROUP_UTILITY,
    run: Some(topic),
    ..Command::NONE
};

fn options(call: Call<'_>) -> Result<(), Exit> {
    let flags = help::global_flags(call.program);
    let text = format!("The following options can be passed to any command:\n\n{flags}");
    print(text.as_bytes());
    Ok(())
}

fn topic(call: Call<'_>) -> Result<(), Exit> {
    let path = command::topic(call.program, &call.arguments)?;
    print(help::help(call.program, &path).as_bytes());
    Ok(())
}
