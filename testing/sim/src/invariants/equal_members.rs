//! In the end all members are equal: digest, etcd's hash, and the keys that the history leads to.

use std::sync::Arc;

use keepd_mvcc::View;
use keepd_types::{KeyRange, MemberId};

use super::{Verdict, verdict};
use crate::history::Pair;
use histories::truth::{Replay, Truth};

/// The last view of a member.
#[derive(Debug)]
pub struct Final {
    /// The member.
    pub member: MemberId,
    /// Its view.
    pub view: Arc<View>,
    /// All its keys.
    pub pairs: Vec<Pair>,
}

/// Compares all members.
///
/// # Errors
/// If they differ.
pub fn conclude(members: &[Final], truth: &Truth) -> Verdict {
    verdict("equal_members", check(members, truth))
}

fn check(members: &[Final], truth: &Truth) -> Result<(), String> {
    let mut replay = Replay::default();
    replay.go_to(truth, truth.revision());
    let expected = replay.range(&KeyRange::all());
    let hash = |of: &Final| of.view.hash_kv(0).map_err(|error| error.to_string());
    let Some(first) = members.first() else { return Ok(()) };
    let first_hash = hash(first)?;
    for of in members {
        let Final { member, view, pairs } = of;
        if view.digest() != first.view.digest() {
            let digests = (view.digest(), first.view.digest());
            return Err(format!("{member} and {} have the digests {digests:?}", first.member));
        }
        if hash(of)? != first_hash {
            return Err(format!("{member} and {} have other hashes", first.member));
        }
        if *pairs != expected {
            return Err(format!("{member} has {pairs:?}, the history leads to {expected:?}"));
        }
    }
    Ok(())
}
