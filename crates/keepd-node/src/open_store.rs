//! Opening the store of a member directory, with its log at hand for a repair.

use std::path::Path;

use keepd_crypto::FileKeys;
use keepd_env::Env;
use keepd_member::Layout;
use keepd_mvcc::{LogSpan, Store};
use keepd_wal::Wal;

/// The span of the log from which a damaged store can be repaired; `None` if there is no log that can be read.
fn log_span(env: &Env, member_dir: &Path, keys: &FileKeys) -> Option<LogSpan> {
    let log = Wal::read(env, &Layout::wal(member_dir), keys).ok()?;
    let start = log.start.index;
    Some(LogSpan { mark: start, last: log.entries.last().map_or(start, |entry| entry.index) })
}

/// Opens the store of a member directory, or makes it.
pub(crate) fn open_store(
    env: &Env,
    member_dir: &Path,
    keys: FileKeys,
) -> Result<Store, keepd_mvcc::Error> {
    let (dir, options) = (Layout::store(member_dir), keepd_mvcc::Options::default());
    let log = || log_span(env, member_dir, &keys);
    Store::open_with_log(env.clone(), &dir, keys.clone(), options, &log)
}
