//! Fuzz targets. `cargo test` gives each the kept corpus and a thousand inputs; `scripts/fuzz` as many as are wanted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cores;
mod measure;
mod shelf;
mod wire;

use remeet_fuzz::counting::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
