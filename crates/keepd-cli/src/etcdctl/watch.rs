//! `watch`: prints changes as they happen, and runs a command for each when told to.
//!
//! All watches of one run share a stream. When the stream breaks, the watches are made again on
//! another member, each from the revision after the last one it saw, so no change is missed or
//! shown twice. The interactive mode reads `watch` and `progress` lines meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead as _};
use std::os::unix::ffi::OsStringExt as _;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use keepd_api::etcdserverpb::watch_request::RequestUnion;
use keepd_api::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use keepd_api::mvccpb::Event;
use keepd_gotext::quote;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::client::{Client, Failure, Method, Repeat, explain, may_go_on, with_client};
use super::get::prefix_end;
use super::{GROUP_KV, exec, shell_words};
use crate::engine::answer::simple_pair;
use crate::engine::answer::{self, Answer, Style, complain, field_header, field_pair, line, print};
use crate::engine::command::{self, Call, Command, Flag, Parsed, Program};
use crate::engine::exit::{BAD_ARGUMENTS, Exit, INTERRUPTED, INVALID_INPUT, bad_arguments, failed};
use crate::engine::json::{self, Object};
use crate::output;

/// Watches.
pub(super) const WATCH: Method<WatchRequest, WatchResponse> =
    Method::new("/etcdserverpb.Watch/Watch", Repeat::Allowed);

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "watch [options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
    short: "Watches events stream on keys or prefixes",
    group: GROUP_KV,
    flags: &[
        Flag::bool("interactive", "Interactive mode").or('i'),
        Flag::bool("prefix", "Watch on a prefix if prefix is set"),
        Flag::int("rev", "Revision to start watching"),
        Flag::bool("prev-kv", "get the previous key-value pair before the event happens"),
        Flag::bool("progress-notify", "get periodic watch progress notification from server"),
    ],
    run: Some(run),
    ..Command::NONE
};

/// The command a line of the interactive mode may be.
static LINES: Program = Program {
    root: &Command { commands: &[&COMMAND], ..Command::NONE },
    groups: &[],
    describes: false,
    hides_global_flags: false,
    help_hint: "",
    repeats_mistakes: false,
};

/// Key and end of the range, as the environment may give them instead of the arguments.
struct Environment {
    key: Bytes,
    end: Bytes,
}

impl Environment {
    fn read() -> Result<Self, Exit> {
        let read = |name| Bytes::from(env::var_os(name).unwrap_or_default().into_vec());
        let found = Self { key: read("ETCDCTL_WATCH_KEY"), end: read("ETCDCTL_WATCH_RANGE_END") };
        if found.key.is_empty() && !found.end.is_empty() {
            return Err(bad_arguments(format_args!(
                "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={}",
                quote(&found.end)
            )));
        }
        Ok(found)
    }
}

/// One watch: its request, which is kept up to date so that it can be repeated, and its command.
struct Watch {
    create: WatchCreateRequest,
    command: Vec<Bytes>,
}

impl Watch {
    /// Reads the arguments of `watch`. The error is the text of bad arguments.
    fn read(call: &Call<'_>, environment: &Environment) -> Result<Self, &'static str> {
        let (keys, command) = match call.dashes {
            Some(dashes) => call.arguments.split_at(dashes),
            None => (&call.arguments[..], &[][..]),
        };
        if call.dashes.is_some() && command.is_empty() {
            return Err("bad number of arguments (found separator --, but no commands)");
        }
        if !environment.key.is_empty() && !keys.is_empty() {
            return Err("bad number of arguments (found conflicting environment key)");
        }
        let (key, end) = match keys {
            [] => (environment.key.clone(), environment.end.clone()),
            // With more than two, the further ones do not even make a range.
            [key, end] => (key.clone(), end.clone()),
            [key, ..] => (key.clone(), Bytes::new()),
        };
        if keys.is_empty() && key.is_empty() {
            return Err("bad number of arguments");
        }
        let prefix = call.flag("prefix");
        if prefix && !end.is_empty() {
            return Err("`range_end` and `--prefix` are mutually exclusive");
        }
        let everything = Bytes::from_static(b"\0");
        let (key, range_end) = match prefix {
            true if key.is_empty() => (everything.clone(), everything),
            true => {
                let end = prefix_end(&key);
                (key, end)
            }
            false => (key, end),
        };
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: call.int("rev"),
            progress_notify: call.flag("progress-notify"),
            prev_kv: call.flag("prev-kv"),
            ..WatchCreateRequest::default()
        };
        Ok(Self { create, command: command.to_vec() })
    }
}

fn run(call: Call<'_>) -> Result<(), Exit> {
    let environment = Environment::read()?;
    if call.flag("interactive") {
        return with_client(call, async |_, client| {
            let mut watching = Watching::new(client);
            let lines = lines_of_standard_input();
            watching.follow(Some(lines), &environment).await
        });
    }
    let watch = Watch::read(&call, &environment).map_err(bad_arguments)?;
    with_client(call, async |_, client| {
        let mut watching = Watching::new(client);
        watching.add(watch).await;
        watching.follow(None, &environment).await
    })
}

/// Reads lines on a thread of its own: a blocked read must not hold up the changes.
fn lines_of_standard_input() -> mpsc::Receiver<Vec<u8>> {
    let (lines_tx, lines_rx) = mpsc::channel(1);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = input.read_until(b'\n', &mut line);
            let whole = line.pop_if(|byte| *byte == b'\n').is_some();
            if read.is_err() || !whole || lines_tx.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines_rx
}

/// All watches of one run.
struct Watching<'a> {
    client: &'a Client,
    style: Style,
    /// The stream; none before the first watch and after it broke.
    stream: Option<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>)>,
    /// Asked for and not confirmed yet, in the order asked.
    pending: VecDeque<Watch>,
    /// Confirmed, by the server's id.
    active: BTreeMap<i64, Watch>,
}

/// BOUND: requests typed wait here only until the stream takes them; nobody types faster.
const REQUESTS_MAX: usize = 64;

/// Pause before a broken stream is opened again.
const PAUSE: Duration = Duration::from_millis(100);

impl<'a> Watching<'a> {
    fn new(client: &'a Client) -> Self {
        Self {
            client,
            style: client.options.style,
            stream: None,
            pending: VecDeque::new(),
            active: BTreeMap::new(),
        }
    }

    async fn add(&mut self, watch: Watch) {
        let union = RequestUnion::CreateRequest(watch.create.clone());
        self.send(union).await;
        self.pending.push_back(watch);
    }

    /// Without a stream nothing is sent: opening one sends what is pending.
    async fn send(&self, union: RequestUnion) {
        if let Some((requests, _)) = &self.stream {
            let _stream_gone = requests.send(WatchRequest { request_union: Some(union) }).await;
        }
    }

    async fn open(&mut self) -> Result<(), Failure> {
        let again = std::mem::take(&mut self.active).into_values();
        self.pending.extend(again);
        let (requests_tx, requests_rx) = mpsc::channel(self.pending.len() + REQUESTS_MAX);
        for watch in &self.pending {
            let union = RequestUnion::CreateRequest(watch.create.clone());
            let request = WatchRequest { request_union: Some(union) };
            requests_tx.try_send(request).expect("the channel has room for all that is pending");
        }
        let requests = ReceiverStream::new(requests_rx);
        let answers = self.client.duplex(&WATCH, requests, true).await?;
        self.stream = Some((requests_tx, answers));
        Ok(())
    }

    /// Prints responses until every watch has ended, or the lines have.
    async fn follow(
        &mut self,
        mut lines: Option<mpsc::Receiver<Vec<u8>>>,
        environment: &Environment,
    ) -> Result<(), Exit> {
        loop {
            let mut all = self.pending.iter().chain(self.active.values());
            let only_prints = all.all(|watch| watch.command.is_empty());
            let idle = self.pending.is_empty() && self.active.is_empty();
            if idle && lines.is_none() {
                return Err(Exit::new(INTERRUPTED, "watch is canceled by the server"));
            }
            if !idle && self.stream.is_none() {
                match self.open().await {
                    Ok(()) => {}
                    Err(Failure::Status(status)) => self.broken(status).await,
                    Err(failure) => return Err(failed(failure)),
                }
                continue;
            }
            tokio::select! {
                line = next_line(&mut lines) => match line {
                    Some(line) => self.obey(&line, environment).await?,
                    None => {
                        let text = "error reading watch request line: EOF";
                        return Err(Exit::new(INVALID_INPUT, text));
                    }
                },
                answer = next_answer(&mut self.stream) => match answer {
                    Ok(Some(answer)) => self.show(answer)?,
                    Ok(None) => self.broken(Status::unavailable("EOF")).await,
                    Err(status) => self.broken(status).await,
                },
                () = output::reader_gone(), if only_prints && lines.is_none() => {
                    output::end_by_broken_pipe();
                }
            }
        }
    }

    /// Another member may go on where this one stopped, unless the error would be the same there.
    async fn broken(&mut self, status: Status) {
        self.stream = None;
        self.client.turn();
        let Err(status) = may_go_on(status) else {
            sleep(PAUSE).await;
            return;
        };
        complain(&format!("watch was canceled ({})", explain(&status)));
        self.pending.clear();
        self.active.clear();
    }

    async fn obey(&mut self, line: &[u8], environment: &Environment) -> Result<(), Exit> {
        let text = String::from_utf8_lossy(line);
        let words = shell_words::split(line)?;
        let invalid = |why: &str| complain(&format!("Invalid command {text} ({why})"));
        match words.first().map(|word| &word[..]) {
            None => complain(&format!("Invalid command: {text} (watch and progress supported)")),
            Some(b"progress") => {
                self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
            }
            Some(b"watch") if words.len() < 2 && environment.key.is_empty() => {
                invalid("command type or key is not provided");
            }
            Some(b"watch") => {
                let words = words.into_iter().map(|word| OsString::from_vec(word.into())).collect();
                let call = match command::parse(&LINES, words) {
                    Ok(Parsed::Call(call)) => call,
                    Ok(Parsed::Help(_)) => return Err(bad_arguments("pflag: help requested")),
                    // A usage block would only get in the way of the changes.
                    Err(exit) => {
                        return Err(Exit { code: BAD_ARGUMENTS, after: String::new(), ..exit });
                    }
                };
                match Watch::read(&call, environment) {
                    Ok(watch) => self.add(watch).await,
                    Err(why) if why.starts_with('`') => invalid(why),
                    Err(why) => return Err(bad_arguments(why)),
                }
            }
            Some(_) => invalid("only support watch"),
        }
        Ok(())
    }

    fn show(&mut self, answer: WatchResponse) -> Result<(), Exit> {
        if answer.created {
            let Some(watch) = self.pending.pop_front() else { return Ok(()) };
            if answer.canceled {
                // What was never a watch has nothing but its end to show.
                let shown = WatchResponse { canceled: true, ..WatchResponse::default() };
                return self.cancelled(&answer, &shown);
            }
            self.active.insert(answer.watch_id, watch);
            return Ok(());
        }
        if answer.canceled {
            return match self.active.remove(&answer.watch_id) {
                Some(_) => self.cancelled(&answer, &answer),
                None => Ok(()),
            };
        }
        // The answer to `progress` is for every watch there is.
        let ids: Vec<i64> = match answer.watch_id {
            -1 => self.active.keys().copied().collect(),
            id => vec![id],
        };
        for id in ids {
            let Some(watch) = self.active.get_mut(&id) else { continue };
            print_changes(watch, &answer, self.style)?;
        }
        Ok(())
    }

    fn cancelled(&self, answer: &WatchResponse, shown: &WatchResponse) -> Result<(), Exit> {
        let reason = if answer.compact_revision != 0 {
            keepd_api::Error::Compacted.text().to_owned()
        } else if answer.cancel_reason.is_empty() {
            keepd_api::Error::FutureRevision.text().to_owned()
        } else {
            answer.cancel_reason.clone()
        };
        complain(&format!("watch was canceled ({reason})"));
        answer::show(shown, self.style)
    }
}

/// Without lines to read, none ever comes.
async fn next_line(lines: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match lines {
        Some(lines) => lines.recv().await,
        None => std::future::pending().await,
    }
}

async fn next_answer(
    stream: &mut Option<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>)>,
) -> Result<Option<WatchResponse>, Status> {
    match stream {
        Some((_, answers)) => answers.message().await,
        None => std::future::pending().await,
    }
}

fn print_changes(watch: &mut Watch, answer: &WatchResponse, style: Style) -> Result<(), Exit> {
    let revision = answer.header.unwrap_or_default().revision;
    if answer.events.is_empty() {
        print(format!("progress notify: {revision}\n").as_bytes());
        watch.create.start_revision = watch.create.start_revision.max(revision + 1);
    }
    answer::show(answer, style)?;
    for event in &answer.events {
        let seen = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        watch.create.start_revision = watch.create.start_revision.max(seen + 1);
        run_command(&watch.command, revision, event)?;
    }
    Ok(())
}

fn event_name(event: &Event) -> &'static str {
    event.r#type().as_str_name()
}

fn run_command(command: &[Bytes], revision: i64, event: &Event) -> Result<(), Exit> {
    let Some(mut program) = exec::command(command) else { return Ok(()) };
    let kv = event.kv.clone().unwrap_or_default();
    let result = program
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", quote(event_name(event).as_bytes()))
        .env("ETCD_WATCH_KEY", quote(&kv.key))
        .env("ETCD_WATCH_VALUE", quote(&kv.value))
        .stdin(Stdio::null())
        .status();
    let why = match result {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => exec::ended(status),
        Err(error) => exec::not_started(&command[0], &error),
    };
    let words: Vec<String> = command.iter().map(quote).collect();
    complain(&format!("command [{}] error ({why})", words.join(" ")));
    Err(Exit::silent(1))
}

impl Answer for WatchResponse {
    fn simple(&self, style: Style, out: &mut Vec<u8>) {
        for event in &self.events {
            line!(out, "{}", event_name(event));
            if let Some(kv) = &event.prev_kv {
                simple_pair(kv, style, out);
            }
            simple_pair(&event.kv.clone().unwrap_or_default(), style, out);
        }
    }

    fn json(&self, _style: Style) -> String {
        let event = |event: &Event| {
            Object::new()
                .int("type", event.r#type.into())
                .object("kv", event.kv.as_ref(), json::key_value)
                .object("prev_kv", event.prev_kv.as_ref(), json::key_value)
                .end()
        };
        let events = match self.events.as_slice() {
            [] => "null".to_owned(),
            events => json::array(events.iter().map(event)),
        };
        let claim = |claim: bool| if claim { "true" } else { "false" };
        Object::new()
            .always("Header", &json::header(&self.header.unwrap_or_default()).end())
            .always("Events", &events)
            .always("CompactRevision", &self.compact_revision.to_string())
            .always("Canceled", claim(self.canceled))
            .always("Created", claim(self.created))
            .always("CancelReason", &json::string(&self.cancel_reason))
            .end()
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        field_header(self.header.as_ref(), style, out);
        for event in &self.events {
            line!(out, "\"Type\" : {}", event_name(event));
            if let Some(kv) = &event.prev_kv {
                field_pair("Prev", kv, style, out);
            }
            field_pair("", &event.kv.clone().unwrap_or_default(), style, out);
        }
        Ok(())
    }

    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Ok(self.encode_to_vec())
    }
}
