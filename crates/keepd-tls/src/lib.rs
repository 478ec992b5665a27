//! TLS for clients and peers: configuration, reload, verification, own CA.
