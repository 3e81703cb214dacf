//! Connections that are kept for the next transaction. The pool would ping each one as it comes back, and it would have to
//! be asked whether it is alive as it is taken: two of some ten round trips of a small batch. Here one round trip begins
//! the transaction and says both.

use super::session::{Kind, Session, plans_are_old, within};
use crate::store::fault::Fault;
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Row};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Transactions in a row on one connection; then the pool looks at it, which closes what has lived long enough.
const USES_MAX: u32 = 1_000;
/// How long the pool may ping a connection that comes back.
const RELEASE_SPAN: Duration = Duration::from_secs(1);

/// A pool, and those of its connections that wait for the next transaction.
#[derive(Debug)]
pub(super) struct Lot {
    pool: PgPool,
    connections: u32,
    /// One a connection: who has one need not wait for the pool.
    permits: Arc<Semaphore>,
    kept: Mutex<Vec<Taken>>,
    uses: AtomicU64,
}

/// A connection, for one transaction.
#[derive(Debug)]
pub(super) struct Taken {
    connection: PoolConnection<Postgres>,
    uses: u32,
}

impl Taken {
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Its socket closes now and its slot is free at once; a polite close would wait for a silent server.
    pub(super) fn close(self) {
        drop(self.connection.detach());
    }
}

/// Begins a transaction, and says whether the server is no standby.
async fn begun(connection: &mut PgConnection, sql: &str) -> Result<bool, sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(connection).await?.try_get(0)
}

impl Lot {
    pub(super) fn new(pool: PgPool, connections: u32) -> Self {
        let permits = Arc::new(Semaphore::new(connections as usize));
        Self { pool, connections, permits, kept: Mutex::default(), uses: AtomicU64::new(0) }
    }

    /// A connection in a transaction. One that was kept and has died since, or whose server has become a standby, is
    /// replaced unnoticed.
    pub(super) async fn begin(self: &Arc<Self>, kind: Kind, deadline: Instant) -> Result<Session, Fault> {
        let permits = Arc::clone(&self.permits);
        let permit = tokio::time::timeout_at(deadline, permits.acquire_owned()).await;
        let permit = permit.ok().and_then(Result::ok);
        let permit = permit.ok_or_else(|| Fault::Down("all connections are busy".to_owned()))?;
        let discard = if plans_are_old(self.uses.fetch_add(1, Ordering::Relaxed), self.connections) {
            "; DISCARD PLANS"
        } else {
            ""
        };
        let sql = format!("{}{discard}; SELECT NOT pg_is_in_recovery()", kind.begin());
        let mut kept = None;
        while let Some(taken) = self.take() {
            let mut session = Session::new(Arc::clone(self), taken);
            if let Ok(true) = within(deadline, begun(session.connection(), &sql)).await {
                kept = Some(session);
                break;
            }
        }
        let mut session = match kept {
            Some(session) => session,
            None => {
                let connection = Box::pin(within(deadline, self.pool.acquire())).await?;
                let mut session = Session::new(Arc::clone(self), Taken { connection, uses: 0 });
                if !within(deadline, begun(session.connection(), &sql)).await? {
                    return Err(Fault::Down("the server is a standby in recovery".to_owned()));
                }
                session
            }
        };
        session.permit = Some(permit);
        Ok(session)
    }

    fn take(&self) -> Option<Taken> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Keeps a connection that is known to be clean.
    pub(super) fn keep(&self, mut taken: Taken) {
        taken.uses += 1;
        if taken.uses >= USES_MAX {
            // The pool pings what comes back, without a deadline: a server that falls silent just then would keep the
            // slot for ever.
            tokio::spawn(tokio::time::timeout(RELEASE_SPAN, taken.connection.return_to_pool()));
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // A closed pool takes them back to close them.
        if !self.pool.is_closed() {
            kept.push(taken);
        }
    }

    pub(super) async fn close(&self) {
        let closed = self.pool.close();
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
        closed.await;
    }
}
