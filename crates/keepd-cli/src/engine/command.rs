//! A small command-line engine: trees of commands, flags anywhere, unique prefixes of names.
//!
//! etcdctl and etcdutl are built on cobra, and scripts rely on its habits: a flag may stand before
//! its command, `-w=json` and `-wjson` both work, `etcdctl me list` finds `member list`, and the
//! texts and exit codes of mistakes are fixed. This engine reproduces those habits over constant
//! tables. A [`Command`] says what exists, [`parse`] turns arguments into a [`Call`] or a mistake,
//! `help.rs` renders the same tables. Flag values are checked when parsed, so commands read them
//! without errors.
//!
//! Arguments stay bytes, because keys need not be text; flag values are text.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use bytes::Bytes;
use keepd_gotext::{
    DurationError, GoDuration, NumberError, parse_bool, parse_int, parse_uint, quote,
};

use super::exit::{Exit, failed};
use super::flag_list;
use super::help;

/// The type of a flag's value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// True when named; `--flag=false` also works.
    Bool,
    /// A signed number; `0x` and `0b` prefixes work.
    Int,
    /// An unsigned number.
    Uint,
    /// Text as it is.
    Text,
    /// Comma-separated texts; naming the flag again adds to them.
    List,
    /// A Go duration.
    Duration,
}

/// One flag.
#[derive(Debug)]
pub(crate) struct Flag {
    /// The long name, without dashes.
    pub(crate) name: &'static str,
    /// The letter of the short form.
    pub(crate) short: Option<char>,
    /// The type of its value.
    pub(crate) kind: Kind,
    /// The value it has when it is not given, written as on the command line.
    pub(crate) default: &'static str,
    /// Its line in help.
    pub(crate) usage: &'static str,
}

impl Flag {
    /// A flag that is false unless named.
    pub(crate) const fn bool(name: &'static str, usage: &'static str) -> Self {
        Self { name, short: None, kind: Kind::Bool, default: "false", usage }
    }

    /// A number that is 0 unless given.
    pub(crate) const fn int(name: &'static str, usage: &'static str) -> Self {
        Self { name, short: None, kind: Kind::Int, default: "0", usage }
    }

    /// A text with its default.
    pub(crate) const fn text(
        name: &'static str,
        default: &'static str,
        usage: &'static str,
    ) -> Self {
        Self { name, short: None, kind: Kind::Text, default, usage }
    }

    /// A duration with its default.
    pub(crate) const fn duration(
        name: &'static str,
        default: &'static str,
        usage: &'static str,
    ) -> Self {
        Self { name, short: None, kind: Kind::Duration, default, usage }
    }

    /// The same flag with a letter.
    pub(crate) const fn or(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    /// The same flag with another default.
    pub(crate) const fn unless_given(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }
}

/// The flag every command has.
pub(crate) const HELP: &str = "help";

/// The positional arguments that a command takes, as far as the engine checks them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arguments {
    /// The command checks them itself.
    Any,
    /// Exactly one.
    One,
    /// Exactly one of these words.
    OneOf(&'static [&'static str]),
}

/// The function that runs a command.
pub(crate) type Run = fn(Call<'_>) -> Result<(), Exit>;

/// One command, or a group of commands when it has no `run`.
#[derive(Debug)]
pub(crate) struct Command {
    /// The usage line; its first word is the command's name.
    pub(crate) usage: &'static str,
    /// One line for the list of commands.
    pub(crate) short: &'static str,
    /// The text above the usage, instead of `short`.
    pub(crate) long: &'static str,
    /// Examples, indented.
    pub(crate) example: &'static str,
    /// The title of the group the command is listed in; empty in ungrouped lists.
    pub(crate) group: &'static str,
    /// Its own flags.
    pub(crate) flags: &'static [Flag],
    /// Flags it hands down to its subcommands.
    pub(crate) inherited: &'static [Flag],
    /// Its subcommands, in the order suggestions are made.
    pub(crate) commands: &'static [&'static Self],
    /// Its positional arguments.
    pub(crate) arguments: Arguments,
    /// The flags that must be given.
    pub(crate) required: &'static [&'static str],
    /// The function that runs it; `None` for a group.
    pub(crate) run: Option<Run>,
}

impl Command {
    /// A command without anything; tables fill in what they need.
    pub(crate) const NONE: Self = Self {
        usage: "",
        short: "",
        long: "",
        example: "",
        group: "",
        flags: &[],
        inherited: &[],
        commands: &[],
        arguments: Arguments::Any,
        required: &[],
        run: None,
    };

    /// The word that calls it.
    pub(crate) fn name(&self) -> &'static str {
        self.usage.split(' ').next().unwrap_or_default()
    }
}

/// A program: its commands, and the layout of its help.
#[derive(Debug)]
pub(crate) struct Program {
    /// The command without a name of its own on the command line.
    pub(crate) root: &'static Command,
    /// Titles of the groups in the root's list, in their order; empty for one plain list.
    pub(crate) groups: &'static [&'static str],
    /// Whether help opens with the command's description.
    pub(crate) describes: bool,
    /// Whether the root's inherited flags stay out of help.
    pub(crate) hides_global_flags: bool,
    /// The last line of help.
    pub(crate) help_hint: &'static str,
    /// Whether a mistake on the command line is named again below the usage.
    pub(crate) repeats_mistakes: bool,
}

#[derive(Clone, Debug)]
enum Value {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Text(String),
    List(Vec<String>),
    Duration(Duration),
}

/// A parsed command line: which command, its flags and its arguments.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// The program called.
    pub(crate) program: &'a Program,
    /// The commands from the root to the one called.
    pub(crate) path: Vec<&'static Command>,
    /// The positional arguments.
    pub(crate) arguments: Vec<Bytes>,
    /// The position of `--` among the positional arguments.
    pub(crate) dashes: Option<usize>,
    values: BTreeMap<&'static str, Value>,
    changed: BTreeSet<&'static str>,
}

impl Call<'_> {
    /// The command called.
    pub(crate) fn command(&self) -> &'static Command {
        self.path.last().expect("a path begins with the root")
    }

    /// A positional argument as text, for messages and for what must be text.
    pub(crate) fn text(&self, position: usize) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.arguments[position])
    }

    /// Whether the flag was given, on the command line or by the environment.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.changed.contains(name)
    }

    fn value(&self, name: &str) -> &Value {
        self.values.get(name).expect("the command declares the flags it reads")
    }

    /// The value of a claim.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.value(name), Value::Bool(true))
    }

    /// The value of a signed number.
    pub(crate) fn int(&self, name: &str) -> i64 {
        if let Value::Int(number) = self.value(name) { *number } else { 0 }
    }

    /// The value of an unsigned number.
    pub(crate) fn uint(&self, name: &str) -> u64 {
        if let Value::Uint(number) = self.value(name) { *number } else { 0 }
    }

    /// The value of a text.
    pub(crate) fn string(&self, name: &str) -> &str {
        if let Value::Text(text) = self.value(name) { text } else { "" }
    }

    /// The value of a list.
    pub(crate) fn list(&self, name: &str) -> &[String] {
        if let Value::List(list) = self.value(name) { list } else { &[] }
    }

    /// The value of a duration.
    pub(crate) fn duration(&self, name: &str) -> Duration {
        if let Value::Duration(duration) = self.value(name) { *duration } else { Duration::ZERO }
    }

    /// Gives a flag a value, as the environment does. The error is Go's, without its frame.
    pub(crate) fn set(&mut self, flag: &'static Flag, text: &str) -> Result<(), String> {
        let value = read(flag, text)?;
        match (value, self.values.get_mut(flag.name)) {
            (Value::List(mut more), Some(Value::List(list)))
                if self.changed.contains(flag.name) =>
            {
                list.append(&mut more);
            }
            (value, _) => {
                self.values.insert(flag.name, value);
            }
        }
        self.changed.insert(flag.name);
        Ok(())
    }

    /// The flags the called command takes from the commands above it.
    pub(crate) fn inherited(&self) -> impl Iterator<Item = &'static Flag> {
        let above = &self.path[..self.path.len() - 1];
        above.iter().flat_map(|command| command.inherited.iter())
    }
}

fn read(flag: &Flag, text: &str) -> Result<Value, String> {
    let number = |error: NumberError| error.to_string();
    let duration = |error: DurationError| error.to_string();
    Ok(match flag.kind {
        Kind::Bool => Value::Bool(parse_bool(text).map_err(number)?),
        Kind::Int => Value::Int(parse_int(text, 0).map_err(number)?),
        Kind::Uint => Value::Uint(parse_uint(text, 0, u64::MAX).map_err(number)?),
        Kind::Text => Value::Text(text.to_owned()),
        Kind::List if text.is_empty() => Value::List(Vec::new()),
        Kind::List => Value::List(flag_list::split_list(text)?),
        Kind::Duration => Value::Duration(text.parse::<GoDuration>().map_err(duration)?.or_zero()),
    })
}

/// A parsed command line.
#[derive(Debug)]
pub(crate) enum Parsed<'a> {
    /// Run the command.
    Call(Call<'a>),
    /// Print the help of the last command of the path.
    Help(Vec<&'static Command>),
}

/// Reads a command line, without the program's own name.
pub(crate) fn parse(program: &Program, words: Vec<OsString>) -> Result<Parsed<'_>, Exit> {
    let words: Vec<Vec<u8>> = words.into_iter().map(OsString::into_vec).collect();
    let (path, words) = find(program, words)?;
    let command: &'static Command = path.last().expect("a path begins with the root");
    let mut call = Call {
        program,
        path,
        arguments: Vec::new(),
        dashes: None,
        values: BTreeMap::new(),
        changed: BTreeSet::new(),
    };
    let flags: Vec<&'static Flag> = flags_of(&call.path).collect();
    for flag in &flags {
        let value = read(flag, flag.default).expect("the tables hold good defaults");
        call.values.insert(flag.name, value);
    }
    let mistake =
        |text: String| failed(text).followed_by(help::usage_after_mistake(program, &call.path));
    let help_wanted = match read_words(&flags, words) {
        Ok(read) => {
            call.arguments = read.arguments;
            call.dashes = read.dashes;
            for (flag, text) in read.given {
                if let Err(why) = call.set(flag, &text) {
                    let usage = help::usage_after_mistake(program, &call.path);
                    return Err(failed(invalid_value(flag, &text, &why)).followed_by(usage));
                }
            }
            read.help_wanted
        }
        Err(text) => return Err(mistake(text)),
    };
    if help_wanted || command.run.is_none() {
        return Ok(Parsed::Help(call.path));
    }
    check_arguments(&call)?;
    Ok(Parsed::Call(call))
}

fn check_arguments(call: &Call<'_>) -> Result<(), Exit> {
    let command = call.command();
    let (count, missing) = (call.arguments.len(), missing_flags(call));
    let is_known = |words: &[&str]| words.iter().any(|word| word.as_bytes() == call.arguments[0]);
    let text = match command.arguments {
        Arguments::One | Arguments::OneOf(_) if count != 1 => {
            format!("accepts 1 arg(s), received {count}")
        }
        Arguments::OneOf(words) if !is_known(words) => {
            let quoted = quote(&call.arguments[0]);
            format!("invalid argument {quoted} for \"{}\"", help::path_text(&call.path))
        }
        _ if !missing.is_empty() => format!("required flag(s) {missing} not set"),
        _ => return Ok(()),
    };
    Err(failed(text).followed_by(help::usage_after_mistake(call.program, &call.path)))
}

fn missing_flags(call: &Call<'_>) -> String {
    let required = call.command().required.iter().filter(|name| !call.is_given(name));
    let quoted: Vec<String> = required.map(|name| format!("\"{name}\"")).collect();
    quoted.join(", ")
}

/// The path to the command some words name, as far as they name one.
pub(crate) fn topic(program: &Program, words: &[Bytes]) -> Result<Vec<&'static Command>, Exit> {
    let mut path = vec![program.root];
    for word in words {
        match child(path.last().expect("never empty"), word) {
            Some(command) => path.push(command),
            None if path.len() == 1 => {
                let topic = String::from_utf8_lossy(word);
                let usage = help::usage_after_mistake(program, &path);
                let text = format!("Unknown help topic [`{topic}`]\n{}", usage.trim_end());
                return Err(Exit::silent(0).followed_by(text));
            }
            None => break,
        }
    }
    Ok(path)
}

fn flags_of<'p>(path: &'p [&'static Command]) -> impl Iterator<Item = &'static Flag> + 'p {
    let own = path.last().expect("a path begins with the root").flags.iter();
    own.chain(path.iter().flat_map(|command| command.inherited.iter()))
}

/// Walks down from the root along the words that are neither flags nor their values, and takes
/// the names of the commands out of the words.
fn find(
    program: &Program,
    mut words: Vec<Vec<u8>>,
) -> Result<(Vec<&'static Command>, Vec<Vec<u8>>), Exit> {
    let mut path = vec![program.root];
    loop {
        let command: &'static Command = path.last().expect("never empty");
        let Some(position) = first_plain_word(&path, &words) else { break };
        let Some(next) = child(command, &words[position]) else {
            if path.len() == 1 {
                return Err(unknown_command(program, &words[position]));
            }
            break;
        };
        words.remove(position);
        path.push(next);
    }
    Ok((path, words))
}

fn first_plain_word(path: &[&'static Command], words: &[Vec<u8>]) -> Option<usize> {
    if path.last()?.commands.is_empty() {
        return None;
    }
    let takes_value = |flag: Option<&Flag>| flag.is_none_or(|flag| flag.kind != Kind::Bool);
    let mut position = 0;
    while let Some(word) = words.get(position) {
        let valued = match word.as_slice() {
            b"--" => return None,
            [b'-', b'-', name @ ..] if !word.contains(&b'=') => {
                name != HELP.as_bytes()
                    && takes_value(flags_of(path).find(|flag| flag.name.as_bytes() == name))
            }
            [b'-', letter] => {
                *letter != b'h'
                    && takes_value(
                        flags_of(path).find(|flag| flag.short == Some(char::from(*letter))),
                    )
            }
            [b'-', ..] | [] => false,
            _ => return Some(position),
        };
        position += if valued { 2 } else { 1 };
    }
    None
}

fn child(command: &Command, word: &[u8]) -> Option<&'static Command> {
    let exact = command.commands.iter().find(|child| child.name().as_bytes() == word);
    if let Some(exact) = exact {
        return Some(exact);
    }
    let mut matches =
        command.commands.iter().filter(|child| child.name().as_bytes().starts_with(word));
    match (matches.next(), matches.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

fn unknown_command(program: &Program, word: &[u8]) -> Exit {
    let name = program.root.name();
    let typed = String::from_utf8_lossy(word).to_lowercase();
    let similar: Vec<&str> = program
        .root
        .commands
        .iter()
        .map(|command| command.name())
        .filter(|name| name.starts_with(&typed) || edits(&typed, name) <= 2)
        .collect();
    let mut text = format!("unknown command {} for \"{name}\"", quote(word));
    if !similar.is_empty() {
        text.push_str("\n\nDid you mean this?\n");
        for name in similar {
            text.push_str(&format!("\t{name}\n"));
        }
    }
    failed(text).followed_by(format!("Run '{name} --help' for usage.\n"))
}

/// The Levenshtein distance, one row of the table at a time.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

struct Words {
    given: Vec<(&'static Flag, String)>,
    arguments: Vec<Bytes>,
    dashes: Option<usize>,
    help_wanted: bool,
}

fn read_words(flags: &[&'static Flag], words: Vec<Vec<u8>>) -> Result<Words, String> {
    let mut read =
        Words { given: Vec::new(), arguments: Vec::new(), dashes: None, help_wanted: false };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_slice() {
            b"--" => {
                read.dashes = Some(read.arguments.len());
                read.arguments.extend(words.by_ref().map(Bytes::from));
            }
            [b'-', b'-', name @ ..] => read_long(flags, name, &mut words, &mut read)?,
            [b'-', letters @ ..] if !letters.is_empty() => {
                read_short(flags, letters, &mut words, &mut read)?;
            }
            _ => read.arguments.push(word.into()),
        }
    }
    Ok(read)
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read_long(
    flags: &[&'static Flag],
    word: &[u8],
    words: &mut impl Iterator<Item = Vec<u8>>,
    read: &mut Words,
) -> Result<(), String> {
    let word = text_of(word);
    if word.starts_with(['-', '=']) {
        return Err(format!("bad flag syntax: --{word}"));
    }
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (word.as_str(), None),
    };
    let Some(flag) = flags.iter().find(|flag| flag.name == name) else {
        if name == HELP {
            read.help_wanted = value.as_deref().is_none_or(|v| parse_bool(v) != Ok(false));
            return Ok(());
        }
        return Err(format!("unknown flag: --{name}"));
    };
    let value = match value {
        Some(value) => value,
        None if flag.kind == Kind::Bool => "true".to_owned(),
        None => match words.next() {
            Some(next) => text_of(&next),
            None => return Err(format!("flag needs an argument: --{name}")),
        },
    };
    read.given.push((flag, value));
    Ok(())
}

fn read_short(
    flags: &[&'static Flag],
    letters: &[u8],
    words: &mut impl Iterator<Item = Vec<u8>>,
    read: &mut Words,
) -> Result<(), String> {
    let word = text_of(letters);
    let mut rest = word.as_str();
    while let Some(letter) = rest.chars().next() {
        let group = rest;
        rest = &rest[letter.len_utf8()..];
        let Some(flag) = flags.iter().find(|flag| flag.short == Some(letter)) else {
            if letter == 'h' {
                read.help_wanted = true;
                continue;
            }
            return Err(format!("unknown shorthand flag: '{letter}' in -{group}"));
        };
        if let Some(value) = rest.strip_prefix('=') {
            read.given.push((flag, value.to_owned()));
            return Ok(());
        }
        if flag.kind == Kind::Bool {
            read.given.push((flag, "true".to_owned()));
            continue;
        }
        let value = if rest.is_empty() {
            let missing = || format!("flag needs an argument: '{letter}' in -{group}");
            text_of(&words.next().ok_or_else(missing)?)
        } else {
            rest.to_owned()
        };
        read.given.push((flag, value));
        return Ok(());
    }
    Ok(())
}

fn invalid_value(flag: &Flag, text: &str, why: &str) -> String {
    let name = match flag.short {
        Some(short) => format!("-{short}, --{}", flag.name),
        None => format!("--{}", flag.name),
    };
    format!("invalid argument {} for \"{name}\" flag: {why}", quote(text))
}
