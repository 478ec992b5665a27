//! Runs `tests/golden/*.txt`: the log on a simulated disk, through syncs, crashes and damage.
//!
//! | command | effect |
//! |---|---|
//! | `create [index=0] [term=0] [segment=4096]` | a new log that starts after an index; segments of this size |
//! | `append 1/1 1/2 2/3 [commit=2] [vote=1] [len=10]` | one batch: entries as term/index, and a hard state of the last term |
//! | `sync`, `rotate`, `close` | as the calls of the log |
//! | `release 2 term=1` | truncates the log up to an index |
//! | `crash [torn]` | the power is cut: unsynced writes are lost, or torn |
//! | `kill` | the process ends: unsynced writes are in the page cache |
//! | `open` | what recovery finds, or refuses |
//! | `frames` | every frame on the disk |
//! | `segments` | the files |
//! | `flip 1 2` | damages frame 2 of segment 1; `cut 1 10` removes the last 10 written bytes of segment 1 |
//! | `remove 1` | removes the file of segment 1 |
//! | `full`, `space` | the disk has no free space; has it again |
//! | `fail-sync`, `fail-write` | the next such call fails |

#![expect(clippy::unwrap_used, clippy::panic, reason = "a wrong script fails the test")]

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keepd_crypto::FileKeys;
use keepd_env::sim::{CrashMode, FaultPlan};
use keepd_env::{Env, IoOp, ManualClock, SeededRandom, SimDisk};
use keepd_wal::{
    Batch, Dump, Entry, EntryKind, HardState, LogStart, Options, Record, Recovered, Result, Wal,
};
use testkit::golden::{self, Command};

const DIR: &str = "/wal";

#[test]
fn scripts() {
    golden::check(Path::new("tests/golden"), || {
        let mut bench = Bench { disk: SimDisk::new(), wal: None, segment_bytes: 4096 };
        move |command| bench.run(command)
    });
}

struct Bench {
    disk: SimDisk,
    wal: Option<Wal>,
    segment_bytes: u64,
}

impl Bench {
    fn run(&mut self, command: &Command) -> String {
        match self.try_run(command) {
            Ok(output) => output,
            Err(error) => format!("error: {error}\n"),
        }
    }

    fn try_run(&mut self, command: &Command) -> Result<String> {
        let number = |position| u64::try_from(command.number(position)).unwrap();
        let named = |name| u64::try_from(command.named_number(name, 0)).unwrap();
        match command.name.as_str() {
            "create" => self.create(command)?,
            "append" => return self.append(command),
            "sync" => self.wal().sync()?,
            "rotate" => self.wal().rotate()?,
            "close" => self.wal.take().expect("the log is open").close()?,
            "release" => self.wal().release(number(0), named("term"))?,
            "crash" => {
                let torn = command.has("torn");
                let mode = if torn { CrashMode::Torn { seed: 3 } } else { CrashMode::LoseUnsynced };
                self.wal = None;
                self.disk = self.disk.crash(mode);
            }
            "kill" => {
                self.wal = None;
                self.disk = self.disk.kill();
            }
            "open" => return self.open(),
            "frames" => return Ok(self.frames()),
            "segments" => return Ok(self.segments()),
            "flip" => self.flip(number(0), number(1)),
            "cut" => self.cut(number(0), usize::try_from(number(1)).unwrap()),
            "remove" => {
                let env = self.env();
                env.disk.remove(&self.segment(number(0)))?;
            }
            "full" => self.disk.set_capacity(Some(self.disk.used_bytes())),
            "space" => self.disk.set_capacity(None),
            "fail-sync" => self.disk.fail(FaultPlan::once(Some(IoOp::Sync), 0, ErrorKind::Other)),
            "fail-write" => self.disk.fail(FaultPlan::once(Some(IoOp::Write), 0, ErrorKind::Other)),
            other => panic!("no command {other}: {}", command.line),
        }
        Ok(String::new())
    }

    fn wal(&mut self) -> &mut Wal {
        self.wal.as_mut().expect("the log is open")
    }

    fn env(&self) -> Env {
        Env {
            disk: Arc::new(self.disk.clone()),
            clock: Arc::new(ManualClock::new()),
            random: Arc::new(SeededRandom::new(1)),
        }
    }

    fn options(&self) -> Options {
        Options { segment_bytes: self.segment_bytes, reserve_bytes: 512, frame_bytes: 256 }
    }

    fn create(&mut self, command: &Command) -> Result<()> {
        let named = |name, default| u64::try_from(command.named_number(name, default)).unwrap();
        self.segment_bytes = named("segment", 4096);
        let start = LogStart { index: named("index", 0), term: named("term", 0) };
        let (env, options) = (self.env(), self.options());
        let keys = FileKeys::plain();
        self.wal = Some(Wal::create_with(env, Path::new(DIR), keys, options, b"member", start)?);
        Ok(())
    }

    fn append(&mut self, command: &Command) -> Result<String> {
        let len = usize::try_from(command.named_number("len", 10)).unwrap();
        let entries: Vec<Entry> = command.words.iter().map(|word| entry(word, len)).collect();
        let mut state = self.wal().hard_state();
        state.term = entries.last().map_or(state.term, |last| last.term).max(state.term);
        for (name, field) in [("commit", &mut state.commit), ("vote", &mut state.vote)] {
            let value = command.named(name).map(|value| value.parse().unwrap());
            *field = value.unwrap_or(*field);
        }
        self.wal().append(&Batch { entries: &entries, hard_state: Some(state) })?;
        Ok(format!("last index {}\n", self.wal().last_index()))
    }

    fn open(&mut self) -> Result<String> {
        self.wal = None;
        let (env, options) = (self.env(), self.options());
        let opened = Wal::open_with(env, Path::new(DIR), FileKeys::plain(), options);
        let (wal, recovered) = opened?;
        self.wal = Some(wal);
        Ok(recovered_text(&recovered))
    }

    fn frames(&self) -> String {
        let mut out = String::new();
        let mut dump = Dump::new(self.env(), Path::new(DIR), FileKeys::plain()).unwrap();
        loop {
            let frame = dump.next();
            if let Some(torn) = dump.take_torn() {
                let (segment, number, at) = (number_of(&torn.path), torn.frame, torn.offset);
                writeln!(out, "{segment}.{number} cut off at byte {at}").unwrap();
            }
            let Some(frame) = frame else { break };
            match frame {
                Ok(frame) => {
                    let (segment, number) = (number_of(&frame.path), frame.frame);
                    writeln!(out, "{segment}.{number} {}", record_text(&frame.record)).unwrap();
                }
                Err(error) => writeln!(out, "error: {error}").unwrap(),
            }
        }
        out
    }

    fn segments(&self) -> String {
        let files = self.disk.files().into_iter();
        files.map(|path| format!("{}\n", path.file_name().unwrap().display())).collect()
    }

    fn segment(&self, number: u64) -> PathBuf {
        let mut files = self.disk.files().into_iter();
        files.find(|path| number_of(path) == number).expect("there is such a segment")
    }

    fn flip(&self, segment: u64, frame: u64) {
        let dump = Dump::new(self.env(), Path::new(DIR), FileKeys::plain()).unwrap();
        let mut frames = dump.map(|frame| frame.unwrap());
        let frame = frames.find(|f| number_of(&f.path) == segment && f.frame == frame).unwrap();
        assert!(self.disk.flip(&frame.path, frame.offset + 18, 1));
    }

    fn cut(&self, segment: u64, bytes: usize) {
        let path = self.segment(segment);
        let content = self.disk.peek(&path).unwrap();
        let written = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        self.disk.poke(&path, &content[..written - bytes]);
    }
}

/// The number of a segment, which its name begins with.
fn number_of(path: &Path) -> u64 {
    let name = path.file_name().unwrap().to_str().unwrap();
    u64::from_str_radix(&name[..16], 16).unwrap()
}

/// An entry from `term/index`.
fn entry(word: &str, len: usize) -> Entry {
    let (term, index) = word.split_once('/').unwrap();
    let (term, index) = (term.parse().unwrap(), index.parse().unwrap());
    let data = vec![b'x'; len].into();
    Entry { index, term, kind: EntryKind::Normal, data }
}

fn entries_text(entries: &[Entry]) -> String {
    let entries: Vec<_> = entries.iter().map(|e| format!("{}/{}", e.term, e.index)).collect();
    format!("[{}]", entries.join(" "))
}

fn state_text(state: HardState) -> String {
    format!("term={} vote={} commit={}", state.term, state.vote, state.commit)
}

fn recovered_text(recovered: &Recovered) -> String {
    let Recovered { start, hard_state, entries, torn_tail, .. } = recovered;
    let mut out = format!("starts after {}/{}, ", start.term, start.index);
    writeln!(out, "{}, entries {}", state_text(*hard_state), entries_text(entries)).unwrap();
    if let Some(torn) = torn_tail {
        let (segment, frame) = (number_of(&torn.path), torn.frame);
        writeln!(out, "torn tail at frame {segment}.{frame}").unwrap();
    }
    out
}

fn record_text(record: &Record) -> String {
    let durable = |frames: u64| format!("(durable: {frames} frames)");
    match record {
        Record::Head(head) => {
            let previous = head.previous.map_or_else(
                || "first".to_owned(),
                |p| format!("after segment {} of {} frames", p.sequence, p.end.frames),
            );
            let state = state_text(head.hard_state);
            format!("header: next index {}, {state}, {previous}", head.first_index)
        }
        Record::Batch(batch) => {
            let state =
                batch.hard_state.map_or_else(String::new, |s| format!(" {}", state_text(s)));
            let entries = entries_text(&batch.entries);
            format!("batch: {entries}{state} {}", durable(batch.watermark.frames))
        }
        Record::Start(record) => {
            let LogStart { index, term } = record.start;
            format!("start: after {term}/{index} {}", durable(record.watermark.frames))
        }
        Record::Closed(watermark) => format!("closed {}", durable(watermark.frames)),
    }
}
