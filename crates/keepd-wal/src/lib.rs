//! The sealed write-ahead log: segments, records, group commit, recovery.
