//! Opening a durable store by its URL.

use super::postgres::PostgresStore;
use super::sqlite::SqliteStore;
use super::{Store, StoreError};
use std::sync::Arc;
use std::time::Duration;

/// How a durable store is used. The defaults suit one daemon.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Connections for reading, 1 or more. Three: recovery reads in bulk, clients ask singly, one to spare.
    pub read_connections: u32,
    /// Connections for writing, 1 or more (SQLite has always one). Three: grouped status writes, key writes that
    /// somebody waits for, and one to spare.
    pub write_connections: u32,
    /// The longest that a read may take, waiting for a connection included. 5 s: a look-up of 10,000 legs takes
    /// well under one second, and whoever waits longer is better told.
    pub read_deadline: Duration,
    /// The longest that one write transaction may take, waiting for a connection included; a statement in it at most
    /// half. 2 s: a statement holds the term `FOR SHARE` for at most 1 s (design §5).
    pub write_deadline: Duration,
    /// The longest that a whole [`Store::write`] or [`Store::settle`] of many transactions may take. 20 s: ten
    /// transactions at their limit.
    pub call_deadline: Duration,
    /// The most units of one transaction. 2,000: about 50 ms of work, so that a change of term waits for nothing
    /// long, and large enough that the round trips do not count.
    pub batch_units: usize,
    /// The most records of one transaction: bounds the size of a statement's arrays where units are large.
    pub batch_records: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            read_connections: 3,
            write_connections: 3,
            read_deadline: Duration::from_secs(5),
            write_deadline: Duration::from_secs(2),
            call_deadline: Duration::from_secs(20),
            batch_units: 2_000,
            batch_records: 10_000,
        }
    }
}

/// Opens the store that `url` names: `sqlite:PATH` or `postgres://…`. Call it within a tokio runtime.
///
/// Nothing is connected to yet: a database that is down is answered by the calls, with
/// [`StoreError::Unavailable`] within their deadlines. A malformed URL is [`StoreError::Broken`]; the URL itself is
/// not repeated, for it may hold a password.
pub fn open(url: &str, options: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    let Some((scheme, rest)) = url.split_once(':') else {
        return Err(malformed("it has no scheme: write sqlite:PATH or postgres://user@host:port/database"));
    };
    match scheme {
        "sqlite" => Ok(Arc::new(SqliteStore::open(rest, options)?)),
        "postgres" | "postgresql" => Ok(Arc::new(PostgresStore::open(url, options)?)),
        other => Err(malformed(&format!("the scheme {other:?} is not known: write sqlite:PATH or postgres://…"))),
    }
}

/// The URL cannot be used.
pub(super) fn malformed(reason: &str) -> StoreError {
    StoreError::Broken { doing: "opening the store", reason: format!("malformed URL: {reason}") }
}
