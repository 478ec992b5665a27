//! Storing a value anew in another form, while a rewrite copies its record.

use std::fmt;
use std::sync::Arc;

use crate::record::Record;

type Reseal = dyn Fn(&Record) -> Option<Record> + Send + Sync;

/// Gives a record's value the form that it would be stored in today; none if it has it already.
///
/// Everything else of the record must stay as it is, the plaintext's digest included.
#[derive(Clone)]
pub struct Resealer(Arc<Reseal>);

impl Resealer {
    /// A resealer that does what `reseal` does; it runs on the threads of rewrites.
    pub fn new(reseal: impl Fn(&Record) -> Option<Record> + Send + Sync + 'static) -> Self {
        Self(Arc::new(reseal))
    }

    pub(crate) fn reseal(&self, record: &Record) -> Option<Record> {
        (self.0)(record)
    }
}

impl fmt::Debug for Resealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resealer")
    }
}
