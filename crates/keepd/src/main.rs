//! keepd.
fn main() {}
