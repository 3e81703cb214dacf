//! The `remeet` program: see [`remeet::cli`].

fn main() {}
