//! The truth of a run, taken from the views of members: a published view shows what is committed, so what
//! the first member shows all others must show too.

use histories::history::{Moment, Pair};
use histories::truth::{Fact, Truth};
use keepd_crypto::ValueSealer;
use keepd_mvcc::{Change, ChangeKind, View};
use keepd_types::{KeyValue, StoredValue};

/// BOUND: revisions taken from a view at once.
const PAGE_REVISIONS: usize = 1000;

/// Takes in what a view shows beyond what is known.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn learn(
    truth: &mut Truth,
    view: &View,
    sealer: &ValueSealer,
    mut moment: impl FnMut() -> Moment,
) -> Result<(), String> {
    truth.compact(view.compact_revision());
    while truth.revision() < view.revision() {
        let shown = moment();
        let page = view.changes(truth.revision() + 1, PAGE_REVISIONS);
        let page = page.map_err(|error| format!("the history cannot be read: {error}"))?;
        for change in &page.changes {
            truth.push(fact(change, sealer, shown)?);
        }
        truth.reach(page.next - 1);
    }
    Ok(())
}

/// A change as a client sees it.
pub(crate) fn fact(change: &Change, sealer: &ValueSealer, shown: Moment) -> Result<Fact, String> {
    let pair = match change.kind {
        ChangeKind::Put => Some(pair(&change.record, sealer)?),
        ChangeKind::Delete => None,
    };
    Ok(Fact { revision: change.revision, pair, key: change.key.clone(), shown })
}

/// A record as a client sees it.
pub(crate) fn pair(record: &keepd_mvcc::Record, sealer: &ValueSealer) -> Result<Pair, String> {
    let found = KeyValue::decode(&record.encoded).map_err(|error| error.to_string())?;
    let stored = StoredValue { bytes: found.value, seal: record.seal };
    let value = sealer.open(&found.key, &stored);
    Ok(Pair {
        value: value.map_err(|error| format!("the value of {:?}: {error}", found.key))?,
        key: found.key,
        mod_revision: found.mod_revision,
        create_revision: found.create_revision,
        version: found.version,
        lease: found.lease,
    })
}
