//! The one place that talks to SQLite: one writing connection, a few reading ones, transactions in tasks of
//! their own, and no connection used again that is not known to be clean.

use crate::store::StoreOptions;
use crate::store::fault::Fault;
use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Executor, Sqlite, SqliteConnection, SqlitePool};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

/// How much longer than its transaction a commit (a write to the disk) is awaited before it counts as unknown.
const COMMIT_GRACE: Duration = Duration::from_secs(3);

/// Whether a transaction reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One snapshot.
    Read,
    /// Under the write lock from its first statement: reading first and writing then fails at once otherwise.
    Write,
}

/// The connections of one file.
#[derive(Debug)]
pub(super) struct Sessions {
    options: StoreOptions,
    read: SqlitePool,
    write: SqlitePool,
    tasks: TaskTracker,
}

/// A transaction's connection.
struct Session {
    /// There until the drop.
    connection: Option<PoolConnection<Sqlite>>,
    clean: bool,
}

impl Session {
    fn connection(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("taken by the drop only")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && !self.clean
        {
            // Closing rolls back, as soon as the running statement is done.
            drop(connection.detach());
        }
    }
}

impl Sessions {
    pub(super) fn new(path: &Path, options: StoreOptions) -> Self {
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A commit is on the disk when it returns.
            .synchronous(SqliteSynchronous::Full)
            // Another process may hold the write lock: the one before, ending.
            .busy_timeout(options.write_deadline / 2);
        let pool = |connections: u32, span: Duration, connect: SqliteConnectOptions| {
            // A file does not go away: connections live as long as the store.
            let pool = SqlitePoolOptions::new().max_connections(connections).max_lifetime(None).idle_timeout(None);
            pool.acquire_timeout(span).test_before_acquire(false).connect_lazy_with(connect)
        };
        let read_only = connect.clone().pragma("query_only", "1");
        Self {
            read: pool(options.read_connections.max(1), options.read_deadline, read_only),
            write: pool(1, options.write_deadline, connect),
            options,
            tasks: TaskTracker::new(),
        }
    }

    pub(super) fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// Runs `body` in one transaction and commits it if it answers `Ok`.
    pub(super) async fn transaction<T, F>(self: &Arc<Self>, kind: Kind, body: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut SqliteConnection) -> BoxFuture<'s, Result<T, Fault>> + Send + 'static,
    {
        let span = match kind {
            Kind::Read => self.options.read_deadline,
            Kind::Write => self.options.write_deadline,
        };
        self.transaction_within(span, kind, body).await
    }

    /// The same under another deadline.
    pub(super) async fn transaction_within<T, F>(
        self: &Arc<Self>,
        span: Duration,
        kind: Kind,
        body: F,
    ) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut SqliteConnection) -> BoxFuture<'s, Result<T, Fault>> + Send + 'static,
    {
        let sessions = Arc::clone(self);
        let task = self.tasks.spawn(async move { sessions.run(span, kind, body).await });
        task.await.unwrap_or_else(|error| Err(Fault::Down(format!("the transaction's task failed: {error}"))))
    }

    async fn run<T, F>(&self, span: Duration, kind: Kind, body: F) -> Result<T, Fault>
    where
        F: for<'s> FnOnce(&'s mut SqliteConnection) -> BoxFuture<'s, Result<T, Fault>>,
    {
        let (pool, begin) = match kind {
            Kind::Read => (&self.read, "BEGIN"),
            Kind::Write => (&self.write, "BEGIN IMMEDIATE"),
        };
        let deadline = Instant::now() + span;
        let late = || Fault::Slow(format!("not done within {span:?}"));
        // Who waits for the lock gains nothing by asking for less.
        let busy = || Fault::Down(format!("no turn within {span:?}: the file's write lock or every reader is taken"));
        let connection = timeout_at(deadline, pool.acquire()).await.map_err(|_| busy())?.map_err(|e| fault(&e))?;
        let mut session = Session { connection: Some(connection), clean: false };
        let begun = timeout_at(deadline, session.connection().execute(begin)).await;
        begun.map_err(|_| busy())?.map_err(|error| match fault(&error) {
            Fault::Slow(_) => busy(),
            fault => fault,
        })?;
        let done = timeout_at(deadline, body(session.connection())).await.unwrap_or_else(|_| Err(late()));
        match done {
            Ok(value) => {
                match timeout_at(deadline + COMMIT_GRACE, session.connection().execute("COMMIT")).await {
                    Ok(Ok(_)) => session.clean = true,
                    Ok(Err(error)) => return Err(Fault::CommitUnknown(error.to_string())),
                    Err(_) => return Err(Fault::CommitUnknown("the disk does not answer".to_owned())),
                }
                Ok(value)
            }
            Err(fault) => {
                let ended = timeout_at(deadline, session.connection().execute("ROLLBACK")).await;
                session.clean = matches!(ended, Ok(Ok(_))) && matches!(fault, Fault::Fenced);
                Err(fault)
            }
        }
    }

    /// Runs `body` on the writing connection outside a transaction: migrations begin their own.
    pub(super) async fn alone<T, F>(self: &Arc<Self>, span: Duration, body: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut SqliteConnection) -> BoxFuture<'s, Result<T, Fault>> + Send + 'static,
    {
        let sessions = Arc::clone(self);
        let task = self.tasks.spawn(async move {
            let deadline = Instant::now() + span;
            let late = || Fault::Down(format!("not done within {span:?}"));
            let connection = timeout_at(deadline, sessions.write.acquire()).await.map_err(|_| late())?;
            let connection = connection.map_err(|error| fault(&error))?;
            let mut session = Session { connection: Some(connection), clean: false };
            let done = timeout_at(deadline, body(session.connection())).await.unwrap_or_else(|_| Err(late()));
            session.clean = done.is_ok();
            done
        });
        task.await.unwrap_or_else(|error| Err(Fault::Down(format!("the session's task failed: {error}"))))
    }

    /// Waits for what runs, then closes every connection; both bounded.
    pub(super) async fn close(&self) {
        self.tasks.close();
        let span = self.options.read_deadline + self.options.write_deadline + COMMIT_GRACE;
        drop(timeout_at(Instant::now() + span, self.tasks.wait()).await);
        let both = async { tokio::join!(self.read.close(), self.write.close()) };
        drop(tokio::time::timeout(span, both).await);
    }
}

/// What an error means. SQLite's primary codes: 5 busy, 6 locked, 10 input or output, 13 full, 14 cannot open.
pub(super) fn fault(error: &sqlx::Error) -> Fault {
    let sqlx::Error::Database(answer) = error else {
        return match error {
            sqlx::Error::PoolTimedOut => Fault::Down("every connection is busy".to_owned()),
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Encode(_) => {
                Fault::Broken(error.to_string())
            }
            other => Fault::Down(other.to_string()),
        };
    };
    let code = answer.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or(1);
    let reason = format!("{} (SQLite code {code})", answer.message());
    match code & 0xff {
        1 if answer.message().contains("no such table") || answer.message().contains("no such column") => {
            Fault::Broken(format!("{reason}: the schema is not up to date, migrate it"))
        }
        5 | 6 => Fault::Slow(reason),
        1 | 11 | 26 => Fault::Broken(reason),
        _ => Fault::Down(reason),
    }
}
