//! The state that a restart begins from.

use std::sync::Arc;

use crate::index::KeyIndex;
use crate::meta::Meta;
use crate::revlog::format::FlushCommit;

/// The store at the end of a flush: what a restart begins from.
#[derive(Clone, Debug)]
pub(crate) struct Durable {
    pub(crate) commit: FlushCommit,
    pub(crate) index: KeyIndex,
    pub(crate) meta: Arc<Meta>,
}

impl Durable {
    /// The state before the first flush.
    pub(crate) fn nothing() -> Self {
        Self {
            commit: FlushCommit::NONE,
            index: KeyIndex::default(),
            meta: Arc::new(Meta::default()),
        }
    }
}
