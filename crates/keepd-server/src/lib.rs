//! The edges: gRPC services, health, metrics, HTTP.
