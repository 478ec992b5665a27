//! `snapshot status`: what a snapshot file holds; and the group it is in.

mod restore;

use std::io::{self, IsTerminal as _};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use keepd_backup::{Progress, Stage, Status};
use keepd_env::Env;

use super::{file, style};
use crate::engine::answer::{self, Answer, Style, line};
use crate::engine::command::{Call, Command};
use crate::engine::exit::{Exit, bad_arguments, failed};
use crate::engine::json::Object;
use crate::engine::{humanize, table};

pub(crate) use self::restore::RESTORE;

/// The group of commands.
pub(super) static COMMAND: Command = Command {
    usage: "snapshot <subcommand>",
    short: "Manages etcd node snapshots",
    commands: &[&RESTORE, &STATUS],
    ..Command::NONE
};

/// Tells what a snapshot file holds.
pub(crate) static STATUS: Command = Command {
    usage: "status <filename>",
    short: "Gets backend snapshot status of a given file",
    long: "When --write-out is set to simple, this command prints out comma-separated status \
           lists for each endpoint.
The items in the lists are hash, revision, total keys, total size.
",
    run: Some(status),
    ..Command::NONE
};

fn status(call: Call<'_>) -> Result<(), Exit> {
    if call.arguments.len() != 1 {
        return Err(bad_arguments("snapshot status requires exactly one argument"));
    }
    let path = call.text(0);
    file::check(&path)?;
    let style = style(&call)?;
    let bar = Bar::new();
    let real = Env::real();
    let status = keepd_backup::status(&*real.disk, Path::new(&*path), &mut |p| bar.show(p));
    bar.clear();
    answer::show(&status.map_err(failed)?, style)
}

/// A bar where a person watches, nothing in a script.
struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn new() -> Self {
        if !io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        let style = ProgressStyle::with_template(
            "{msg:9} {bar:40} {decimal_bytes}/{decimal_total_bytes} {eta}",
        );
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        Self { bar: ProgressBar::new(0).with_style(style) }
    }

    fn show(&self, Progress { stage, done, total }: Progress) {
        self.bar.set_message(match stage {
            Stage::Verify => "verifying",
            Stage::Read => "reading",
            Stage::Import => "importing",
        });
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn row(status: &Status) -> Vec<String> {
    vec![
        format!("{:x}", status.hash),
        status.revision.to_string(),
        status.total_keys.to_string(),
        humanize::bytes(status.total_size),
        status.version.clone(),
    ]
}

impl Answer for Status {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        line!(out, "{}", row(self).join(", "));
    }

    fn json(&self, _style: Style) -> String {
        Object::new()
            .always("hash", &self.hash.to_string())
            .always("revision", &self.revision.to_string())
            .always("totalKey", &self.total_keys.to_string())
            .always("totalSize", &self.total_size.to_string())
            .always("version", &crate::engine::json::string(&self.version))
            .end()
    }

    fn fields(&self, _style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        line!(out, "\"Hash\" : {}", self.hash);
        line!(out, "\"Revision\" : {}", self.revision);
        line!(out, "\"Keys\" : {}", self.total_keys);
        line!(out, "\"Size\" : {}", self.total_size);
        line!(out, "\"Version\" : {}", self.version);
        Ok(())
    }

    fn table(&self) -> Result<String, Exit> {
        let titles = ["hash", "revision", "total keys", "total size", "version"];
        Ok(table::draw(&titles, &[row(self)]))
    }
}
