//! The values of one statement's parameters.

use crate::store::fault::Fault;
use crate::store::records::{Sink, Value};
use crate::store::text::stored;
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteArguments, SqliteQueryResult};
use sqlx::{Arguments as _, AssertSqlSafe, SqliteConnection};
use std::sync::Arc;

use super::session::fault;

/// Parameters `?1`, `?2`, … in the order in which they are put.
#[derive(Default)]
pub(super) struct Parameters {
    arguments: SqliteArguments,
    failed: Option<BoxDynError>,
}

impl Parameters {
    /// Parameters that `put` puts.
    pub(super) fn of(put: impl FnOnce(&mut Self)) -> Self {
        let mut parameters = Self::default();
        put(&mut parameters);
        parameters
    }

    /// What a query takes.
    pub(super) fn into_arguments(self) -> Result<SqliteArguments, Fault> {
        match self.failed {
            None => Ok(self.arguments),
            Some(error) => Err(Fault::Broken(error.to_string())),
        }
    }
}

impl Sink for Parameters {
    fn put(&mut self, value: Value<'_>) {
        let added = match value {
            Value::Uuid(value) => self.arguments.add(value.map(|id| id.to_string())),
            Value::Small(value) => self.arguments.add(value),
            Value::Int(value) => self.arguments.add(value),
            Value::Big(value) => self.arguments.add(value),
            Value::Text(value) => self.arguments.add(value.map(stored)),
            Value::Truth(value) => self.arguments.add(value),
            Value::Bytes(value) => self.arguments.add(value.map(<[u8]>::to_vec)),
        };
        if let Err(error) = added {
            self.failed.get_or_insert(error);
        }
    }
}

/// A statement that is made once.
pub(super) type Sql = Arc<str>;

/// Carries a statement out; how many rows it wrote.
pub(super) async fn execute(
    connection: &mut SqliteConnection,
    sql: &Sql,
    parameters: Parameters,
) -> Result<u64, Fault> {
    let query = sqlx::query_with(AssertSqlSafe(Arc::clone(sql)), parameters.into_arguments()?);
    let done = query.execute(connection).await.map_err(|error| fault(&error))?;
    Ok(SqliteQueryResult::rows_affected(&done))
}
