//! Which store and cache a play uses: a part of its command line.

use crate::config::SecretUrl;

/// Real servers instead of the embedded ones.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Stores {
    /// Keep meetings in a PostgreSQL database of their own, made on this server and dropped at the end. Without it: an
    /// SQLite file.
    #[arg(long, value_name = "URL", value_parser = secret_url)]
    pub postgres: Option<SecretUrl>,
    /// Use an empty database of this Redis server as cache, emptied again at the end. Without it: the cache inside the
    /// scheduler.
    #[arg(long, value_name = "URL", value_parser = secret_url)]
    pub redis: Option<SecretUrl>,
}

fn secret_url(text: &str) -> Result<SecretUrl, String> {
    Ok(SecretUrl::new(text))
}
