//! etcd's snapshot files over keepd-bolt: export from a view, import into a data directory.
