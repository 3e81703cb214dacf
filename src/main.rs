//! The `remeet` program: see [`remeet::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: the TLS of the database's and the cache's drivers takes the process's
    // provider. It can only be installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    remeet::cli::main()
}
