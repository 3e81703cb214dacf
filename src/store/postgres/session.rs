//! The one place that talks to Postgres: acquires a connection, runs one transaction under a deadline, and
//! never gives a connection back that is not known to be clean.
//!
//! - A transaction runs in a task of its own, which nobody drops half-way: a caller that goes away leaves no
//!   open transaction behind.
//! - After a time-out, an error or a panic the connection is closed, not returned: a returned one would be pinged
//!   without end on a silent server, and would keep its pool slot until the server finishes.
//! - `statement_timeout` is below the client's deadline, so the server stops working on what nobody awaits.

use super::lot::{Lot, Taken};
use crate::store::StoreOptions;
use crate::store::fault::Fault;
use futures_util::future::BoxFuture;
use remeet_protocol::Holder;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

/// How much longer than its transaction a commit is awaited before its outcome counts as unknown.
const COMMIT_GRACE: Duration = Duration::from_secs(1);
/// Backends whose commit is unknown that are remembered; more than there are connections can never be alive.
const SUSPECTS_MAX: usize = 64;

/// Whether a transaction reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One snapshot, read only.
    Read,
    /// Read committed.
    Write,
}

impl Kind {
    pub(super) fn begin(self) -> &'static str {
        match self {
            Kind::Read => "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
            Kind::Write => "BEGIN",
        }
    }
}

/// The pools, and what they are made of.
#[derive(Debug)]
pub(super) struct Sessions {
    base: PgConnectOptions,
    options: StoreOptions,
    pools: RwLock<Pools>,
    tasks: TaskTracker,
    suspects: Mutex<BTreeSet<i32>>,
}

#[derive(Debug, Clone)]
struct Pools {
    read: Arc<Lot>,
    write: Arc<Lot>,
    name: String,
}

/// A transaction's connection.
#[derive(Debug)]
pub(super) struct Session {
    lot: Arc<Lot>,
    /// There until the drop.
    taken: Option<Taken>,
    /// The backend, once a fenced statement has said it.
    pub(super) backend: Option<i32>,
    clean: bool,
    /// Given back behind the connection.
    _permit: OwnedSemaphorePermit,
}

impl Session {
    pub(super) fn new(lot: Arc<Lot>, taken: Taken, permit: OwnedSemaphorePermit) -> Self {
        Self { lot, taken: Some(taken), backend: None, clean: false, _permit: permit }
    }

    /// The connection.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        self.taken.as_mut().expect("taken by the drop only").connection()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(taken) = self.taken.take() else { return };
        if self.clean {
            self.lot.keep(taken);
        } else {
            taken.close();
        }
    }
}

impl Sessions {
    pub(super) fn new(base: PgConnectOptions, options: StoreOptions) -> Self {
        let pools = RwLock::new(Pools::new(&base, &options, "remeet".to_owned()));
        Self { base, options, pools, tasks: TaskTracker::new(), suspects: Mutex::default() }
    }

    pub(super) fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// The name that this process's sessions have (`application_name`).
    pub(super) fn name(&self) -> String {
        self.pools().name
    }

    fn pools(&self) -> Pools {
        self.pools.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on sessions are named after the holder, so that the next term can end them.
    pub(super) fn name_after(&self, holder: Holder) {
        let name = name_of(holder);
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        if pools.name != name {
            let old = std::mem::replace(&mut *pools, Pools::new(&self.base, &self.options, name));
            self.tasks.spawn(old.close());
        }
    }

    /// Runs `body` in one transaction and commits it if it answers `Ok`.
    pub(super) async fn transaction<T, F>(self: &std::sync::Arc<Self>, kind: Kind, body: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut Session) -> BoxFuture<'s, Result<T, Fault>> + Send + 'static,
    {
        let sessions = std::sync::Arc::clone(self);
        let task = self.tasks.spawn(async move { sessions.run(kind, body).await });
        task.await.unwrap_or_else(|error| Err(Fault::Down(format!("the transaction's task failed: {error}"))))
    }

    async fn run<T, F>(&self, kind: Kind, body: F) -> Result<T, Fault>
    where
        F: for<'s> FnOnce(&'s mut Session) -> BoxFuture<'s, Result<T, Fault>>,
    {
        let pools = self.pools();
        let (lot, span) = match kind {
            Kind::Read => (pools.read, self.options.read_deadline),
            Kind::Write => (pools.write, self.options.write_deadline),
        };
        let deadline = Instant::now() + span;
        let mut session = lot.begin(kind, deadline).await?;
        let done = match timeout_at(deadline, body(&mut session)).await {
            Ok(done) => done,
            Err(_) => Err(silent(span)),
        };
        match done {
            Ok(value) => {
                self.commit(&mut session, deadline + COMMIT_GRACE).await?;
                Ok(value)
            }
            Err(fault @ (Fault::Fenced | Fault::Misfit)) => {
                if within(deadline, session.connection().execute("ROLLBACK")).await.is_ok() {
                    session.clean = true;
                }
                Err(fault)
            }
            // The connection is closed, and the server rolls back.
            Err(fault) => Err(fault),
        }
    }

    async fn commit(&self, session: &mut Session, deadline: Instant) -> Result<(), Fault> {
        let reason = match timeout_at(deadline, session.connection().execute("COMMIT")).await {
            Ok(Ok(_)) => {
                session.clean = true;
                return Ok(());
            }
            Ok(Err(error)) => match fault(&error) {
                // The only answers to a commit that say for certain that nothing was committed.
                contended @ Fault::Contended(_) => return Err(contended),
                _ => error.to_string(),
            },
            Err(_) => format!("no answer within {COMMIT_GRACE:?}"),
        };
        if let Some(backend) = session.backend {
            let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
            while suspects.len() >= SUSPECTS_MAX {
                suspects.pop_first();
            }
            suspects.insert(backend);
        }
        Err(Fault::CommitUnknown(reason))
    }

    /// Backends whose commit is unknown.
    pub(super) fn suspects(&self) -> Vec<i32> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// These backends are gone: what they committed stands, the rest never will.
    pub(super) fn cleared(&self, backends: &[i32]) {
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        suspects.retain(|backend| !backends.contains(backend));
    }

    /// Runs `body` on a connection of its own, outside the pools and in no transaction: for what must not wait for
    /// them (a term, a migration). `settings` are run-time parameters.
    pub(super) async fn alone<T, F>(
        self: &std::sync::Arc<Self>,
        span: Duration,
        settings: Vec<(&'static str, String)>,
        body: F,
    ) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut PgConnection) -> BoxFuture<'s, Result<T, Fault>> + Send + 'static,
    {
        let options = self.base.clone().application_name(&self.name()).options(settings);
        let task = self.tasks.spawn(async move {
            let deadline = Instant::now() + span;
            let mut connection = within(deadline, PgConnection::connect_with(&options)).await?;
            let done = timeout_at(deadline, body(&mut connection)).await.unwrap_or_else(|_| Err(silent(span)));
            // Politely, but not for long: the answer counts.
            drop(timeout_at(Instant::now() + COMMIT_GRACE, connection.close()).await);
            done
        });
        task.await.unwrap_or_else(|error| Err(Fault::Down(format!("the session's task failed: {error}"))))
    }

    /// Waits for what runs, then closes every connection; both bounded.
    pub(super) async fn close(&self) {
        self.tasks.close();
        let span = self.options.read_deadline + self.options.write_deadline;
        drop(timeout_at(Instant::now() + span, self.tasks.wait()).await);
        self.pools().close().await;
    }
}

impl Pools {
    fn new(base: &PgConnectOptions, options: &StoreOptions, name: String) -> Self {
        let pool = |connections: u32, span: Duration, statement: Duration| {
            let connect = base.clone().application_name(&name).options([
                ("statement_timeout", statement.as_millis().to_string()),
                ("idle_in_transaction_session_timeout", span.as_millis().to_string()),
                // All that these sessions do is look rows up by key; see also [`Lot`]. What cannot do without a
                // scan has a price for it that would have it compiled.
                ("random_page_cost", "0.1".to_owned()),
                ("enable_seqscan", "off".to_owned()),
                ("enable_mergejoin", "off".to_owned()),
                ("jit", "off".to_owned()),
                // Else the first five executions of a statement are planned for their arrays' real size, and a batch
                // of 10,000 rows chooses a scan of the whole table.
                ("plan_cache_mode", "force_generic_plan".to_owned()),
            ]);
            let pool = PgPoolOptions::new()
                .max_connections(connections.max(1))
                .acquire_timeout(span)
                // Instead of the ping: one round trip that also finds a server that has become a standby.
                .test_before_acquire(false)
                .before_acquire(|connection, _| Box::pin(is_primary(connection)))
                .after_connect(|connection, _| {
                    Box::pin(async move {
                        if is_primary(connection).await? {
                            return Ok(());
                        }
                        Err(sqlx::Error::Configuration("the server is a standby in recovery".into()))
                    })
                })
                .connect_lazy_with(connect);
            Arc::new(Lot::new(pool, connections.max(1)))
        };
        let below = |span: Duration| span.mul_f32(0.9);
        Self {
            read: pool(options.read_connections, options.read_deadline, below(options.read_deadline)),
            write: pool(options.write_connections, options.write_deadline, options.write_deadline / 2),
            name,
        }
    }

    async fn close(self) {
        // What is in use is closed when it is done, which is bounded by the deadlines.
        let both = async { tokio::join!(self.read.close(), self.write.close()) };
        drop(tokio::time::timeout(Duration::from_secs(10), both).await);
    }
}

async fn is_primary(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar::<_, bool>("SELECT NOT pg_is_in_recovery()").fetch_one(connection).await
}

/// The sessions' name of a holder.
pub(super) fn name_of(holder: Holder) -> String {
    format!("remeet/{holder}")
}

pub(super) async fn within<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Fault> {
    match timeout_at(deadline, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(fault(&error)),
        Err(_) => Err(Fault::Down("no answer within the deadline".to_owned())),
    }
}

fn silent(span: Duration) -> Fault {
    Fault::Down(format!("no answer within {span:?}"))
}

/// What an error means.
pub(super) fn fault(error: &sqlx::Error) -> Fault {
    let sqlx::Error::Database(answer) = error else {
        return match error {
            sqlx::Error::PoolTimedOut => Fault::Down(
                "no connection in time: the server is down, starting, a standby, or all connections are busy"
                    .to_owned(),
            ),
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Encode(_) => {
                Fault::Broken(error.to_string())
            }
            other => Fault::Down(other.to_string()),
        };
    };
    let code = answer.code().unwrap_or_default();
    let reason = format!("{} (SQLSTATE {code})", answer.message());
    match &*code {
        "40001" | "40P01" => Fault::Contended(reason),
        "57014" | "55P03" => Fault::Slow(reason),
        "0A000" if answer.message().contains("cached plan must not change result type") => Fault::StalePlan(reason),
        "42P01" | "42703" => Fault::Broken(format!("{reason}: the schema is not up to date, migrate it")),
        // Value errors and constraints; 21000 is a statement that met one row twice.
        value if value.starts_with("22") || value.starts_with("23") || value == "21000" || value == "54000" => {
            Fault::Refused(reason)
        }
        other if other.starts_with("42") || other.starts_with("28") || other.starts_with("3D") => Fault::Broken(reason),
        // 08 connection, 25006 read-only, 53 resources, 57P0x shutdown and start-up, 58 system, and the unforeseen.
        _ => Fault::Down(reason),
    }
}
