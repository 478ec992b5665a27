//! The places at which this build can be told to stop or to pause, told as etcd's builds are: over HTTP
//! at `GOFAIL_HTTP`, or at the start by `GOFAIL_FAILPOINTS`. For harnesses; never in a release.
//!
//! A `panic` ends the process at once, without anything being flushed or unwound.

mod http;
mod terms;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use keepd_env::failpoints::{self, Effect, Place};
use keepd_machine::levels;
use parking_lot::Mutex;

use terms::{Act, Terms};

/// The terms of places that have some.
static ACTIVE: OnceLock<Mutex<BTreeMap<&'static str, Terms>>> = OnceLock::new();

fn active() -> &'static Mutex<BTreeMap<&'static str, Terms>> {
    ACTIVE.get_or_init(Mutex::default)
}

/// Arms the places, and serves whoever sets them.
///
/// # Errors
/// If the environment names no place, no terms, or an address that cannot be listened on.
#[cfg_attr(
    not(feature = "failpoints"),
    expect(dead_code, reason = "called in builds for harnesses")
)]
pub(crate) fn start() -> Result<(), String> {
    tracing::warn!(
        "this build has failpoints: whoever reaches GOFAIL_HTTP can stop it; never serve data with it"
    );
    let text = std::env::var("GOFAIL_FAILPOINTS").unwrap_or_default();
    for (name, terms) in several(&text)? {
        set(name, terms)?;
    }
    failpoints::arm(decide);
    match std::env::var("GOFAIL_HTTP") {
        Ok(address) if !address.is_empty() => http::serve(&address),
        _ => Ok(()),
    }
}

/// The feature level that this build is to stand for, as a binary of that level does.
///
/// # Errors
/// If the environment names none that this version knows.
#[cfg_attr(
    not(feature = "failpoints"),
    expect(dead_code, reason = "called in builds for harnesses")
)]
pub(crate) fn feature_level() -> Result<u32, String> {
    let Ok(text) = std::env::var("KEEPD_TEST_FEATURE_LEVEL") else { return Ok(levels::NEWEST) };
    let level = text.parse().ok().filter(|level| (levels::FIRST..=levels::NEWEST).contains(level));
    let level = level.ok_or_else(|| {
        format!(
            "KEEPD_TEST_FEATURE_LEVEL={text}: give a feature level from {} to {}",
            levels::FIRST,
            levels::NEWEST
        )
    })?;
    tracing::warn!(level, "this member stands for one of a feature level");
    Ok(level)
}

/// `name=terms;name=terms`.
fn several(text: &str) -> Result<Vec<(&str, &str)>, String> {
    let mut pairs = Vec::new();
    for item in text.split(';').filter(|item| !item.is_empty()) {
        let pair = item.split_once('=').filter(|(_, terms)| !terms.contains('='));
        pairs.push(pair.ok_or_else(|| format!("bad failpoint {item:?}"))?);
    }
    Ok(pairs)
}

fn place(name: &str) -> Result<Place, String> {
    let found = Place::ALL.iter().find(|place| place.name() == name).copied();
    found.ok_or_else(|| "failpoint: failpoint does not exist".to_owned())
}

fn set(name: &str, terms: &str) -> Result<(), String> {
    let place = place(name)?;
    let terms = Terms::parse(terms).ok_or_else(|| "failpoint: could not parse terms".to_owned())?;
    active().lock().insert(place.name(), terms);
    Ok(())
}

fn clear(name: &str) -> Result<(), String> {
    let removed = active().lock().remove(place(name)?.name());
    removed.map(|_| ()).ok_or_else(|| "failpoint: failpoint is disabled".to_owned())
}

/// The terms of a place and the number of times that they did something; none if it has none.
fn status(name: &str) -> Result<(String, u64), String> {
    let place = place(name)?;
    let active = active().lock();
    let terms = active.get(place.name());
    Ok(terms.map_or_else(Default::default, |terms| (terms.text().to_owned(), terms.count())))
}

/// The effect of a place now.
fn decide(place: Place) -> Effect {
    let act = active().lock().get_mut(place.name()).and_then(Terms::evaluate);
    match act {
        None | Some(Act::Off) => Effect::Nothing,
        Some(Act::Return) => Effect::Skip,
        Some(Act::Sleep(time)) => Effect::Sleep(time),
        Some(Act::Print) => {
            crate::complain(&format!("failpoint print: {}", place.name()));
            Effect::Nothing
        }
        Some(Act::Panic) => {
            crate::complain(&format!("panic: failpoint panic: {}", place.name()));
            // Without unwinding: destructors must not save what a crash would lose.
            std::process::abort()
        }
    }
}
