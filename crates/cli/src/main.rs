//! The codegen binary.
fn main() {}
