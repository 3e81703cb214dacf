//! Deterministic simulation: two schedulers, several servers, clients, a modelled store, cache, network and clock
//! under one seed. `docs/testing.md` says what it proves and what it does not.
//!
//! `cargo test --release --test simulation` runs 1,000 seeds of disorder and every crash point of a recovery.
//! `REMEET_SIM_SEEDS=n` (how many seeds), `REMEET_SIM_BASE=b` (from which), `REMEET_SIM_SEED=x` (just this one).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of a test")]

/// As the program itself has: a third of a run is allocation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod world;
