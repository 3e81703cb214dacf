//! Reads PostgreSQL and SQLite with SQL of its own, in one snapshot.

use super::ReadError;
use super::facts::Database;
use super::schema::{Cell, Kind, TABLES, Table};
use super::tables::Row;
use futures_util::TryStreamExt;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, ColumnIndex, ConnectOptions, Connection, Decode, Type, query};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;

/// A whole reading must be done within this: 10,000 meetings take a few seconds on a busy machine.
const READING: Duration = Duration::from_secs(120);
/// A small statement must be done within this.
const STATEMENT: Duration = Duration::from_secs(20);

/// Where the database is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A file.
    Sqlite(PathBuf),
    /// A database on a server.
    Postgres(Box<PgConnectOptions>),
}

/// What is on its way at a moment: how a play sees that commands are committed and not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct InFlight {
    pub(crate) starting: i64,
    pub(crate) ending: i64,
    pub(crate) open_intents: i64,
}

impl Place {
    /// Reads everything that a comparison needs.
    pub(crate) async fn read(&self) -> Result<Database, ReadError> {
        let reading = async {
            let mut found = Database::default();
            match self {
                Place::Sqlite(path) => {
                    let mut connection = sqlite(path, true).await?;
                    query("BEGIN").execute(&mut connection).await.map_err(wrong)?;
                    for table in TABLES {
                        let sql = select(table, |column, _| column.to_owned());
                        let mut rows = query(AssertSqlSafe(sql)).fetch(&mut connection);
                        while let Some(row) = rows.try_next().await.map_err(wrong)? {
                            (table.take)(&mut Row::new(table, cells::<SqliteRow>(&row, table)?), &mut found)?;
                        }
                    }
                    connection.close().await.map_err(wrong)?;
                }
                Place::Postgres(options) => {
                    let mut connection = postgres(options).await?;
                    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
                    query(begin).execute(&mut connection).await.map_err(wrong)?;
                    for table in TABLES {
                        let sql = select(table, in_postgres);
                        let mut rows = query(AssertSqlSafe(sql)).fetch(&mut connection);
                        while let Some(row) = rows.try_next().await.map_err(wrong)? {
                            (table.take)(&mut Row::new(table, cells::<PgRow>(&row, table)?), &mut found)?;
                        }
                    }
                    connection.close().await.map_err(wrong)?;
                }
            }
            Ok(found)
        };
        within(READING, reading).await
    }

    /// A connection to a file of SQLite.
    pub(crate) async fn sqlite(&self) -> Result<SqliteConnection, ReadError> {
        match self {
            Place::Sqlite(path) => sqlite(path, false).await,
            Place::Postgres(_) => Err(ReadError::new("opening a file", "the database is on a server")),
        }
    }

    /// A connection to PostgreSQL, with plans as the scheduler's sessions have them.
    pub(crate) async fn postgres(&self) -> Result<PgConnection, ReadError> {
        match self {
            Place::Postgres(options) => {
                let settings = [("random_page_cost", "0.1"), ("plan_cache_mode", "force_generic_plan")];
                postgres(&options.clone().options(settings)).await
            }
            Place::Sqlite(_) => Err(ReadError::new("connecting to a server", "the database is a file")),
        }
    }

    /// What autovacuum and the checkpointer would have done in the meantime: so that each run of a bench begins alike.
    pub(crate) async fn tidy(&self) -> Result<(), ReadError> {
        let Place::Postgres(options) = self else { return Ok(()) };
        let tidied = async {
            let mut connection = postgres(options).await?;
            query("VACUUM (ANALYZE)").execute(&mut connection).await.map_err(wrong)?;
            // Not everybody may; then it comes when it comes.
            drop(query("CHECKPOINT").execute(&mut connection).await);
            connection.close().await.map_err(wrong)
        };
        within(READING, tidied).await
    }

    /// What is on its way now.
    pub(crate) async fn in_flight(&self) -> Result<InFlight, ReadError> {
        let counted = async {
            let mut counts = [0; 3];
            const STATEMENTS: [&str; 3] = [
                "SELECT count(*) FROM legs WHERE state = 'starting'",
                "SELECT count(*) FROM legs WHERE state = 'ending'",
                "SELECT count(*) FROM intents WHERE code IS NULL",
            ];
            match self {
                Place::Sqlite(path) => {
                    let mut connection = sqlite(path, true).await?;
                    for (count, sql) in counts.iter_mut().zip(STATEMENTS) {
                        *count = sqlx::query_scalar(sql).fetch_one(&mut connection).await.map_err(wrong)?;
                    }
                    connection.close().await.map_err(wrong)?;
                }
                Place::Postgres(options) => {
                    let mut connection = postgres(options).await?;
                    for (count, sql) in counts.iter_mut().zip(STATEMENTS) {
                        *count = sqlx::query_scalar(sql).fetch_one(&mut connection).await.map_err(wrong)?;
                    }
                    connection.close().await.map_err(wrong)?;
                }
            }
            let [starting, ending, open_intents] = counts;
            Ok(InFlight { starting, ending, open_intents })
        };
        within(STATEMENT, counted).await
    }

    /// Alters one field of a stored row behind the scheduler's back. Says which.
    pub(crate) async fn plant_difference(&self) -> Result<String, ReadError> {
        const PLANT: &str = "UPDATE terminals SET name = name || ' (planted)' WHERE (meeting, leg, number) IN \
             (SELECT t.meeting, t.leg, t.number FROM terminals t JOIN legs l ON l.meeting = t.meeting AND l.leg = t.leg \
             WHERE l.state = 'in-meeting' ORDER BY t.meeting, t.leg, t.number LIMIT 1)";
        let planted = async {
            let altered = match self {
                Place::Sqlite(path) => {
                    let mut connection = sqlite(path, false).await?;
                    let done = query(PLANT).execute(&mut connection).await.map_err(wrong)?;
                    connection.close().await.map_err(wrong)?;
                    done.rows_affected()
                }
                Place::Postgres(options) => {
                    let mut connection = postgres(options).await?;
                    let done = query(PLANT).execute(&mut connection).await.map_err(wrong)?;
                    connection.close().await.map_err(wrong)?;
                    done.rows_affected()
                }
            };
            if altered == 1 {
                Ok("the name of one terminal in table terminals".to_owned())
            } else {
                Err(ReadError::new("planting a difference", format!("{altered} rows were altered instead of one")))
            }
        };
        within(STATEMENT, planted).await
    }
}

fn wrong(error: sqlx::Error) -> ReadError {
    ReadError::new("reading the database", error)
}

async fn within<T>(deadline: Duration, work: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
    let late = |_| ReadError::new("reading the database", format!("no end within {} s", deadline.as_secs()));
    timeout(deadline, work).await.map_err(late)?
}

async fn sqlite(path: &PathBuf, read_only: bool) -> Result<SqliteConnection, ReadError> {
    let options = SqliteConnectOptions::new().filename(path).read_only(read_only).create_if_missing(false);
    options.busy_timeout(Duration::from_secs(5)).connect().await.map_err(wrong)
}

async fn postgres(options: &PgConnectOptions) -> Result<PgConnection, ReadError> {
    options.clone().application_name("remeet independent reader").connect().await.map_err(wrong)
}

fn select(table: &Table, column: impl Fn(&str, Kind) -> String) -> String {
    let columns: Vec<String> = table.columns.iter().map(|(name, kind)| column(name, *kind)).collect();
    format!("SELECT {} FROM {}{}", columns.join(", "), table.name, table.condition)
}

/// Brings PostgreSQL's types to the few that a [`Cell`] has.
fn in_postgres(column: &str, kind: Kind) -> String {
    match kind {
        Kind::Int => format!("{column}::bigint"),
        Kind::Truth => format!("{column}::int::bigint"),
        Kind::Text | Kind::Uuid => format!("{column}::text"),
        Kind::Bytes => column.to_owned(),
    }
}

fn cells<'r, R: sqlx::Row>(row: &'r R, table: &Table) -> Result<Vec<Cell>, ReadError>
where
    usize: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
{
    let cell = |(at, (_, kind)): (usize, &(&str, Kind))| {
        Ok(match kind {
            Kind::Int | Kind::Truth => row.try_get::<Option<i64>, _>(at).map_err(wrong)?.map_or(Cell::Null, Cell::Int),
            Kind::Text | Kind::Uuid => {
                row.try_get::<Option<String>, _>(at).map_err(wrong)?.map_or(Cell::Null, Cell::Text)
            }
            Kind::Bytes => row.try_get::<Option<Vec<u8>>, _>(at).map_err(wrong)?.map_or(Cell::Null, Cell::Bytes),
        })
    };
    table.columns.iter().enumerate().map(cell).collect()
}
