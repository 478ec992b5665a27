//! The fuzz targets over their corpora, each input as it is and with some changes.

use std::fs;
use std::panic::catch_unwind;
use std::path::PathBuf;

use hostile::{TARGETS, Target, first_inputs};
use keepd_env::{Random, SeededRandom};

/// Changed copies of each input.
const CHANGES: u64 = 20;

fn corpus(target: &str) -> PathBuf {
    // Cargo runs tests in the folder of their crate.
    PathBuf::from("../../fuzz/corpus").join(target)
}

fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = fs::read_dir(corpus(target)).expect("every target has a corpus");
    let mut inputs: Vec<(String, Vec<u8>)> = folder
        .map(|entry| {
            let path = entry.expect("a folder can be listed").path();
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            (format!("{target}/{name}"), fs::read(path).expect("a file can be read"))
        })
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{target}: an empty corpus proves nothing");
    inputs
}

/// A copy with a few bytes flipped, set, removed, doubled or cut off.
fn changed(input: &[u8], random: &SeededRandom) -> Vec<u8> {
    let mut bytes = input.to_vec();
    let below = |bound: usize| usize::try_from(random.next_u64() >> 33).expect("31 bits") % bound;
    for _ in 0..=below(3) {
        if bytes.is_empty() {
            break;
        }
        let at = below(bytes.len());
        match below(6) {
            0 => bytes[at] ^= 1 << below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][below(5)],
            2 => drop(bytes.drain(at..(at + 1 + below(8)).min(bytes.len()))),
            3 => bytes.insert(at, bytes[at]),
            4 => bytes.truncate(at),
            _ => {
                let piece = bytes[at..(at + 1 + below(16)).min(bytes.len())].to_vec();
                let to = below(bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
    bytes
}

/// Runs a target and says which input it was, should it panic.
fn run(target: Target, name: &str, input: &[u8]) {
    let came_back = catch_unwind(|| target(input)).is_ok();
    assert!(came_back, "{name}: {input:02x?}");
}

fn replay(name: &str) {
    let (_, target) = TARGETS.iter().find(|(found, _)| *found == name).expect("a target's name");
    for (seed, (name, input)) in (1..).zip(inputs(name)) {
        run(*target, &name, &input);
        let random = SeededRandom::new(seed);
        for change in 0..CHANGES {
            run(*target, &format!("{name}, change {change}"), &changed(&input, &random));
        }
    }
}

macro_rules! replays {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target));
        })*

        #[test]
        fn every_target_is_replayed() {
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($target)),*]);
        }
    };
}

replays! { bolt command config frames keyring messages records store wal words }

/// Writes what a corpus is begun with: `cargo test -p hostile -- --ignored first_inputs_are_written`.
#[test]
#[ignore = "changes the corpora"]
fn first_inputs_are_written() {
    for (target, _) in TARGETS {
        let folder = corpus(target);
        fs::create_dir_all(&folder).unwrap();
        for (number, input) in first_inputs(target).iter().enumerate() {
            fs::write(folder.join(format!("first-{number:02}")), input).unwrap();
        }
    }
}
