//! The bbolt file format: a reader and a streaming writer that know nothing of etcd.
