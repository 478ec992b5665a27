//! The small replicated state beside the keys: leases, alarms, members, users.
//!
//! Tables of bytes, numbered by their owner. They ride in the revlog with the records, so that data
//! and applied index become durable in one step. A table is persistent: a view holds it for free.

use std::collections::BTreeMap;

use bytes::Bytes;
use keepd_types::varint;

/// One table, sorted by key.
pub type MetaTable = imbl::OrdMap<Bytes, Bytes>;

/// A write to a table; no value deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetaOp {
    pub(crate) table: u8,
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
}

/// All tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meta {
    tables: BTreeMap<u8, MetaTable>,
    empty: MetaTable,
}

impl Meta {
    pub(crate) fn table(&self, table: u8) -> &MetaTable {
        self.tables.get(&table).unwrap_or(&self.empty)
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = (u8, &MetaTable)> {
        self.tables.iter().map(|(number, table)| (*number, table))
    }

    pub(crate) fn remove(&mut self, table: u8) {
        self.tables.remove(&table);
    }

    pub(crate) fn apply(&mut self, op: MetaOp) {
        let table = self.tables.entry(op.table).or_default();
        match op.value {
            Some(value) => {
                table.insert(op.key, value);
            }
            None => {
                table.remove(&op.key);
            }
        }
    }
}

impl MetaOp {
    /// Appends: table, 1 for a put or 0 for a deletion, key length, key, value length, value.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend([self.table, u8::from(self.value.is_some())]);
        for bytes in [Some(&self.key), self.value.as_ref()].into_iter().flatten() {
            varint::write_u64(bytes.len() as u64, out);
            out.extend_from_slice(bytes);
        }
    }

    /// Reads all operations of a payload; `None` if it is malformed.
    pub(crate) fn decode_all(payload: &Bytes) -> Option<Vec<Self>> {
        let mut rest: &[u8] = payload;
        let mut ops = Vec::new();
        while let [table, kind, after @ ..] = rest {
            rest = after;
            let mut bytes = || {
                let len = usize::try_from(varint::read_u64(&mut rest)?).ok()?;
                let (bytes, after) = rest.split_at_checked(len)?;
                rest = after;
                Some(payload.slice_ref(bytes))
            };
            let key = bytes()?;
            let value = match kind {
                0 => None,
                1 => Some(bytes()?),
                _ => return None,
            };
            ops.push(Self { table: *table, key, value });
        }
        rest.is_empty().then_some(ops)
    }
}
