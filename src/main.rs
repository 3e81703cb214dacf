//! The `remeet` program: see [`remeet::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: the TLS of the database's and the cache's drivers takes the process's
    // provider. It can only be installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    remeet::cli::main()
}

/// A recovery is many small pieces of memory, taken by one thread and given back by another, for which the C library's
/// allocator is not made: with it 100,000 meetings were in control after 3.9 s instead of 3.3 s (BENCHMARKS.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
