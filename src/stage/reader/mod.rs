//! The independent reader: what database and cache hold, read with its own SQL and Redis commands, and
//! compared with each server's truth, field by field, in both directions. It uses neither the `Store`
//! nor the `Cache` of the daemon, so that a mistake there cannot hide behind the same mistake here; of
//! the protocol crate it uses the records' types only.
//!
//! - [`facts`] – what a sink or a server holds, in one form.
//! - [`sql`] – reads PostgreSQL and SQLite by the [`schema`]; [`tables`] turns rows into facts.
//! - [`redis`] – reads Redis; [`embedded`] reads the dump of the cache inside the scheduler.
//! - [`compare`] – finds the differences; [`fields`] names the fields that differ.

pub(crate) mod compare;
pub(crate) mod embedded;
pub(crate) mod facts;
pub(crate) mod fields;
pub(crate) mod redis;
pub(crate) mod schema;
pub(crate) mod sql;
pub(crate) mod tables;

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the independent reader, {doing}: {reason}")]
pub(crate) struct ReadError {
    pub(crate) doing: &'static str,
    pub(crate) reason: String,
}

impl ReadError {
    pub(crate) fn new(doing: &'static str, reason: impl ToString) -> Self {
        Self { doing, reason: reason.to_string() }
    }
}
