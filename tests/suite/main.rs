//! The test suite: one binary, a file for each behaviour.

mod cache_contract;
mod cache_proxy;
mod cache_records;
mod cache_speed;
mod cache_traps;
mod servers;
