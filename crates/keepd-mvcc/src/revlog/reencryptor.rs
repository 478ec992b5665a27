//! Storing a value anew in another form, while a rewrite copies its record.

use std::fmt;
use std::sync::Arc;

use crate::record::Record;

type Reencrypt = dyn Fn(&Record) -> Option<Record> + Send + Sync;

/// Gives a record's value the form that it would be stored in today; none if it has it already.
///
/// Everything else of the record must stay as it is, the plaintext's digest included.
#[derive(Clone)]
pub struct Reencryptor(Arc<Reencrypt>);

impl Reencryptor {
    /// A reencryptor that does what `reencrypt` does; it runs on the threads of rewrites.
    pub fn new(reencrypt: impl Fn(&Record) -> Option<Record> + Send + Sync + 'static) -> Self {
        Self(Arc::new(reencrypt))
    }

    pub(crate) fn reencrypt(&self, record: &Record) -> Option<Record> {
        (self.0)(record)
    }
}

impl fmt::Debug for Reencryptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reencryptor")
    }
}
