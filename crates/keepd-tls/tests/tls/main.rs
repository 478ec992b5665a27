//! Real handshakes over an in-memory pipe, with certificates from our own CA, from the `openssl`
//! binary and from `cfssl`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests, outside their functions"
)]

mod authority;
mod foreign;
mod refusals;
mod reload;
mod support;
