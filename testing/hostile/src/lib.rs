//! Any bytes for every reader of files and words: the bodies of the fuzz targets.
//!
//! A target takes bytes, hands them to one reader and uses what comes of it. The reader may refuse
//! them; it must not panic, hang, or allocate out of proportion. Where a checksum or a seal stands
//! in front, a target also makes files of the bytes whose sums and seals are right, for otherwise
//! nothing behind them would be met.
//!
//! `fuzz/` runs the targets under libFuzzer by hand, `tests/corpus.rs` replays their corpora in
//! every run of the tests. A target also says here what its first inputs are.
//!
//! Deliberately missing: the decoders of clients' requests, which `testing/interop` attacks from
//! outside.

mod bolt;
mod command;
mod config;
mod files;
mod frames;
mod keyring;
mod messages;
mod records;
mod store;
mod varints;
mod wal;
mod words;

pub use self::bolt::bolt;
pub use self::command::command;
pub use self::config::config;
pub use self::frames::frames;
pub use self::keyring::keyring;
pub use self::messages::messages;
pub use self::records::records;
pub use self::store::store;
pub use self::wal::wal;
pub use self::words::words;

/// Takes any bytes and must come back.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("bolt", bolt),
    ("command", command),
    ("config", config),
    ("frames", frames),
    ("keyring", keyring),
    ("messages", messages),
    ("records", records),
    ("store", store),
    ("wal", wal),
    ("words", words),
];

/// What a target is begun with: valid files and texts, made by those who write them.
///
/// # Panics
/// If there is no such target.
#[must_use]
pub fn first_inputs(target: &str) -> Vec<Vec<u8>> {
    match target {
        "bolt" => bolt::first_inputs(),
        "command" => command::first_inputs(),
        "config" => config::first_inputs(),
        "frames" => frames::first_inputs(),
        "keyring" => keyring::first_inputs(),
        "messages" => messages::first_inputs(),
        "records" => records::first_inputs(),
        "store" => store::first_inputs(),
        "wal" => wal::first_inputs(),
        "words" => words::first_inputs(),
        unknown => unreachable!("no target is called {unknown}"),
    }
}
