//! The protocol: .proto files, generated types and the error table.
