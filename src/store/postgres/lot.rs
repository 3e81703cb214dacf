//! Connections that are kept for the next transaction. The pool would ping each one as it comes back, and it would have to
//! be asked whether it is alive as it is taken: two of some ten round trips of a small batch. Here one round trip begins
//! the transaction and says both.

use super::session::{Kind, Session, within};
use crate::store::fault::Fault;
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Row};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Transactions on one connection; then the pool looks at it, which ends what has lived long enough.
const USES_MAX: u32 = 1_000;
/// One that was kept for longer is closed: a firewall may have forgotten it and say nothing.
const KEPT_MAX: Duration = Duration::from_secs(60);
/// How long one that was kept is waited for before another is tried.
const KEPT_SPAN: Duration = Duration::from_secs(1);
/// How long the pool may ping a connection that comes back.
const RELEASE_SPAN: Duration = Duration::from_secs(1);

/// A pool, and those of its connections that wait for the next transaction.
#[derive(Debug)]
pub(super) struct Lot {
    pool: PgPool,
    /// One a connection: who has one need not wait for the pool.
    permits: Arc<Semaphore>,
    /// Taken from the front and put at the back, so that each has its turn.
    kept: Mutex<VecDeque<Taken>>,
}

/// A connection, for one transaction.
#[derive(Debug)]
pub(super) struct Taken {
    connection: PoolConnection<Postgres>,
    uses: u32,
    kept_at: Instant,
}

impl Taken {
    fn new(connection: PoolConnection<Postgres>) -> Self {
        Self { connection, uses: 0, kept_at: Instant::now() }
    }

    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Begins a transaction, and says whether the server is no standby. A plan is made while a table is empty and kept while
    /// it grows, until it is analyzed: then to read all of it with every batch, or for every leg, looks cheaper than any
    /// look-up by key. So plans are made anew when the connection has been used twice as often as the last time.
    async fn begin(&mut self, kind: Kind, deadline: Instant) -> Result<bool, Fault> {
        let discard = if self.uses.is_power_of_two() { "; DISCARD PLANS" } else { "" };
        let sql = format!("{}{discard}; SELECT NOT pg_is_in_recovery()", kind.begin());
        let asked = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(self.connection());
        within(deadline, async { asked.await?.try_get(0) }).await
    }

    /// Its socket closes now and its slot is free at once; a polite close would wait for a silent server.
    pub(super) fn close(self) {
        drop(self.connection.detach());
    }
}

impl Lot {
    pub(super) fn new(pool: PgPool, connections: u32) -> Self {
        Self { pool, permits: Arc::new(Semaphore::new(connections as usize)), kept: Mutex::default() }
    }

    /// A connection in a transaction. One that was kept and has died since, or whose server has become a standby, is
    /// replaced unnoticed.
    pub(super) async fn begin(self: &Arc<Self>, kind: Kind, deadline: Instant) -> Result<Session, Fault> {
        let permit = tokio::time::timeout_at(deadline, Arc::clone(&self.permits).acquire_owned()).await;
        let permit = permit.ok().and_then(Result::ok);
        let permit = permit.ok_or_else(|| Fault::Down("all connections are busy".to_owned()))?;
        while let Some(mut taken) = self.take() {
            let fresh = taken.kept_at.elapsed() < KEPT_MAX;
            if fresh && matches!(taken.begin(kind, deadline.min(Instant::now() + KEPT_SPAN)).await, Ok(true)) {
                return Ok(Session::new(Arc::clone(self), taken, permit));
            }
            taken.close();
        }
        let mut taken = Taken::new(Box::pin(within(deadline, self.pool.acquire())).await?);
        let begun = taken.begin(kind, deadline).await;
        if let Ok(true) = begun {
            return Ok(Session::new(Arc::clone(self), taken, permit));
        }
        taken.close();
        Err(begun.err().unwrap_or_else(|| Fault::Down("the server is a standby in recovery".to_owned())))
    }

    fn take(&self) -> Option<Taken> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Keeps a connection that is known to be clean.
    pub(super) fn keep(&self, mut taken: Taken) {
        (taken.uses, taken.kept_at) = (taken.uses + 1, Instant::now());
        if taken.uses >= USES_MAX {
            // The pool pings what comes back, without a deadline: a server that falls silent just then would keep the
            // slot for ever.
            tokio::spawn(tokio::time::timeout(RELEASE_SPAN, taken.connection.return_to_pool()));
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // A closed pool takes them back to close them.
        if !self.pool.is_closed() {
            kept.push_back(taken);
        }
    }

    pub(super) async fn close(&self) {
        let closed = self.pool.close();
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
        closed.await;
    }
}
