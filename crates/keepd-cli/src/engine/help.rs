//! Renders help and usage from the command tables, laid out as cobra does.
//!
//! Only text is made here; the caller prints it.

use std::fmt::Write as _;

use keepd_gotext::quote;

use super::command::{Arguments, Command, Flag, HELP, Kind, Program};

/// The narrowest column for command names.
const NAME_WIDTH: usize = 11;

/// The words that call the last command of a path.
pub(crate) fn path_text(path: &[&Command]) -> String {
    let names: Vec<&str> = path.iter().map(|command| command.name()).collect();
    names.join(" ")
}

/// The whole help of the last command of a path.
pub(crate) fn help(program: &Program, path: &[&'static Command]) -> String {
    let command = path.last().expect("a path begins with the root");
    let mut out = String::new();
    let description = if command.long.is_empty() { command.short } else { command.long };
    if program.describes && !description.is_empty() {
        out.push_str(description.trim_end());
        out.push_str("\n\n");
    }
    out.push_str(&usage(program, path));
    if !program.help_hint.is_empty() {
        out.push_str(program.help_hint);
        out.push('\n');
    }
    out
}

/// The usage as it follows a mistake on standard error.
pub(crate) fn usage_after_mistake(program: &Program, path: &[&'static Command]) -> String {
    let mut out = usage(program, path);
    out.push('\n');
    out
}

/// The flags every command takes, for the `options` command.
pub(crate) fn global_flags(program: &Program) -> String {
    flag_lines(program.root.inherited.iter())
}

fn usage(program: &Program, path: &[&'static Command]) -> String {
    let command = path.last().expect("a path begins with the root");
    let has_commands = !command.commands.is_empty();
    let mut out = String::from("Usage:");
    if command.run.is_some() {
        write!(out, "\n  {}", usage_line(path)).expect("a string takes everything");
    }
    if has_commands {
        write!(out, "\n  {} [command]", path_text(path)).expect("a string takes everything");
    }
    if !command.example.is_empty() {
        write!(out, "\n\nExamples:\n{}", command.example).expect("a string takes everything");
    }
    if has_commands {
        command_lists(program, path, &mut out);
    }
    flag_lists(program, path, &mut out);
    if has_commands {
        write!(
            out,
            "\n\nUse \"{} [command] --help\" for more information about a command.",
            path_text(path)
        )
        .expect("a string takes everything");
    }
    out.push('\n');
    out
}

fn usage_line(path: &[&Command]) -> String {
    let command = path.last().expect("a path begins with the root");
    let above = path_text(&path[..path.len() - 1]);
    let line = if above.is_empty() {
        command.usage.to_owned()
    } else {
        format!("{above} {}", command.usage)
    };
    // A command that names its only words takes no flags worth a mention.
    if matches!(command.arguments, Arguments::OneOf(_)) { line } else { format!("{line} [flags]") }
}

fn command_lists(program: &Program, path: &[&Command], out: &mut String) {
    let command = path.last().expect("a path begins with the root");
    let mut sorted: Vec<&Command> = command.commands.to_vec();
    sorted.sort_by_key(|command| command.name());
    let width =
        sorted.iter().map(|command| command.name().len()).max().unwrap_or(0).max(NAME_WIDTH);
    let mut list = |title: &str, group: Option<&str>| {
        write!(out, "\n\n{title}").expect("a string takes everything");
        let listed = sorted.iter().filter(|command| group.is_none_or(|name| command.group == name));
        for command in listed {
            write!(out, "\n  {:width$} {}", command.name(), command.short)
                .expect("a string takes everything");
        }
    };
    if path.len() == 1 && !program.groups.is_empty() {
        for group in program.groups {
            list(group, Some(group));
        }
    } else {
        list("Available Commands:", None);
    }
}

fn flag_lists(program: &Program, path: &[&'static Command], out: &mut String) {
    let command = path.last().expect("a path begins with the root");
    let is_root = path.len() == 1;
    let help = Flag::bool(HELP, "").or('h');
    let help_usage = format!("help for {}", command.name());
    let help_line = (!(is_root && program.hides_global_flags)).then_some((&help, help_usage));
    let own = command.flags.iter();
    let handed_down = command.inherited.iter().filter(|_| !(is_root && program.hides_global_flags));
    let mut lines: Vec<(&Flag, String)> =
        own.chain(handed_down).map(|flag| (flag, flag.usage.to_owned())).collect();
    lines.extend(help_line);
    if !lines.is_empty() {
        write!(out, "\n\nFlags:\n{}", aligned(lines).trim_end())
            .expect("a string takes everything");
    }
    let above = path[..path.len() - 1].iter().enumerate();
    let inherited: Vec<&Flag> = above
        .filter(|(depth, _)| !(*depth == 0 && program.hides_global_flags))
        .flat_map(|(_, command)| command.inherited.iter())
        .collect();
    if !inherited.is_empty() {
        let lines = flag_lines(inherited.into_iter());
        write!(out, "\n\nGlobal Flags:\n{}", lines.trim_end()).expect("a string takes everything");
    }
}

fn flag_lines<'a>(flags: impl Iterator<Item = &'a Flag>) -> String {
    aligned(flags.map(|flag| (flag, flag.usage.to_owned())).collect())
}

fn aligned(mut lines: Vec<(&Flag, String)>) -> String {
    lines.sort_by_key(|(flag, _)| flag.name);
    let left: Vec<String> = lines.iter().map(|(flag, _)| left_side(flag)).collect();
    let width = left.iter().map(String::len).max().unwrap_or(0) + 3;
    let mut out = String::new();
    for ((flag, usage), left) in lines.iter().zip(left) {
        let default = default_note(flag);
        writeln!(out, "{left:width$}{usage}{default}").expect("a string takes everything");
    }
    out
}

fn left_side(flag: &Flag) -> String {
    let short = flag.short.map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
    let kind = match flag.kind {
        Kind::Bool => "",
        Kind::Int => " int",
        Kind::Uint => " uint",
        Kind::Text => " string",
        Kind::List => " strings",
        Kind::Duration => " duration",
    };
    format!("  {short}--{}{kind}", flag.name)
}

fn default_note(flag: &Flag) -> String {
    match (flag.kind, flag.default) {
        (Kind::Bool, "false") | (Kind::Int | Kind::Uint, "0") | (_, "") => String::new(),
        (Kind::Text, text) => format!(" (default {})", quote(text)),
        (Kind::List, text) => format!(" (default [{text}])"),
        (_, text) => format!(" (default {text})"),
    }
}
