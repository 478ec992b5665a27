//! The revision store: key index, revlog, views, transactions, history, compaction, hashes.
