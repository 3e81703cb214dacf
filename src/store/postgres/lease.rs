//! Renewing, releasing and awaiting the lease, each on a connection of its own that is kept open: neither the pools
//! nor the writers of meeting data, who lock the term's row, can delay a renewal. It touches the lease's row only.

use super::session::{fault, name_of};
use super::term::standing;
use crate::store::StoreError;
use crate::store::fault::Fault;
use crate::store::lease::{milliseconds, renewal_span};
use remeet_protocol::{Holder, Token};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Acquire, Connection, PgConnection};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// How long a release may take: the process is ending, and its lease runs out anyway.
const RELEASE_SPAN: Duration = Duration::from_secs(2);
/// How long the listening connection may take to answer.
const LISTENER_SPAN: Duration = Duration::from_secs(2);
/// Where a release is told.
const CHANNEL: &str = "remeet_lease_released";

/// Late, of an older term: the lease's epoch is another, and nothing is touched.
const RENEW: &str = "WITH w AS (UPDATE lease SET expires_at = clock_timestamp() + make_interval(secs => $3 / 1000.0), \
       lasts_ms = $3 WHERE epoch = $1 AND EXISTS (SELECT 1 FROM term WHERE epoch = $1 AND holder = $2) RETURNING 1) \
     SELECT EXISTS (SELECT 1 FROM w)";
/// The epoch goes with it: a renewal that was asked before and comes after does not bring the lease back.
const RELEASE: &str = "WITH w AS (UPDATE lease SET expires_at = clock_timestamp(), epoch = 0 \
       WHERE epoch = $1 AND EXISTS (SELECT 1 FROM term WHERE epoch = $1 AND holder = $2) RETURNING 1), \
     told AS (SELECT pg_notify($3, $1::text) FROM w) \
     SELECT EXISTS (SELECT 1 FROM term WHERE epoch = $1 AND holder = $2) AND (SELECT count(*) FROM told) >= 0";

/// The connections.
#[derive(Debug)]
pub(super) struct Lines {
    base: PgConnectOptions,
    renewing: Mutex<Option<Line>>,
    listening: Mutex<Option<PgListener>>,
}

/// The connection that renews, named after the holder as its other sessions are.
#[derive(Debug)]
struct Line {
    holder: Holder,
    connection: PgConnection,
}

/// What is said of a lease.
#[derive(Debug, Clone, Copy)]
enum Word {
    Renew(i64),
    Release,
}

impl Lines {
    pub(super) fn new(base: PgConnectOptions) -> Self {
        Self { base, renewing: Mutex::default(), listening: Mutex::default() }
    }

    pub(super) async fn renew(&self, token: Token, lease: Duration) -> Result<(), StoreError> {
        let word = Word::Renew(milliseconds(lease));
        self.say("renewing the lease", token, word, renewal_span(lease)).await
    }

    pub(super) async fn release(&self, token: Token) -> Result<(), StoreError> {
        self.say("releasing the lease", token, Word::Release, RELEASE_SPAN).await
    }

    async fn say(&self, doing: &'static str, token: Token, word: Word, span: Duration) -> Result<(), StoreError> {
        let said = timeout(span, self.say_it(token, word, span)).await;
        // It may have been sent.
        let said = said.unwrap_or_else(|_| Err(Fault::CommitUnknown(format!("no answer within {span:?}"))));
        said.map_err(|fault| fault.told(doing, token))
    }

    async fn say_it(&self, token: Token, word: Word, span: Duration) -> Result<(), Fault> {
        let mut place = self.renewing.lock().await;
        // Taken out: whoever goes away half-way leaves no half-used connection behind.
        let kept = place.take().filter(|line| line.holder == token.holder);
        if let Some(mut line) = kept {
            // The server may have been restarted meanwhile, or the network swallows what is sent.
            match timeout(span / 2, line.say(token, word)).await {
                Ok(Ok(stands)) => {
                    *place = Some(line);
                    return if stands { Ok(()) } else { Err(Fault::Fenced) };
                }
                Ok(Err(fault)) => tracing::debug!("the lease's connection is replaced: {fault:?}"),
                Err(_) => tracing::debug!("the lease's connection is silent and is replaced"),
            }
        }
        let mut line = self.connect(token.holder, span).await?;
        let stands = line.say(token, word).await?;
        *place = Some(line);
        if stands { Ok(()) } else { Err(Fault::Fenced) }
    }

    async fn connect(&self, holder: Holder, span: Duration) -> Result<Line, Fault> {
        let limit = span.as_millis().max(1).to_string();
        let options = self.base.clone().application_name(&name_of(holder)).options([
            ("statement_timeout", limit.as_str()),
            ("idle_in_transaction_session_timeout", limit.as_str()),
            ("synchronous_commit", "on"),
        ]);
        let connection = PgConnection::connect_with(&options).await.map_err(|error| fault(&error))?;
        Ok(Line { holder, connection })
    }

    pub(super) async fn released(&self, at_most: Duration) {
        let end = Instant::now() + at_most;
        match timeout_at(end, self.listen(end)).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => {
                tracing::debug!("a release of the lease cannot be heard: {fault:?}");
                sleep_until(end).await;
            }
            Err(_) => tracing::debug!("a release of the lease cannot be heard: others listen"),
        }
    }

    /// Waits until a release was told, the lease has run out, or `end`.
    async fn listen(&self, end: Instant) -> Result<(), Fault> {
        let mut place = self.listening.lock().await;
        let answers = end.min(Instant::now() + LISTENER_SPAN);
        let silent = || Fault::Down("no answer from the listening connection".to_owned());
        let ready = timeout_at(answers, async {
            let mut listener = match place.take() {
                Some(listener) => listener,
                None => self.subscribe().await?,
            };
            // Each time, although a release is told: this shows that the connection still answers, and what was
            // released before it listened.
            let connection = listener.acquire().await.map_err(|error| fault(&error))?;
            let stands = standing(connection).await?;
            Ok::<_, Fault>((listener, stands))
        });
        let (mut listener, stands) = ready.await.map_err(|_| silent())??;
        let left = stands.map_or(Duration::ZERO, |stands| stands.remaining);
        let runs_out = Instant::now() + left;
        match timeout_at(end.min(runs_out), listener.try_recv()).await {
            Ok(Ok(Some(_))) | Err(_) => {
                *place = Some(listener);
                Ok(())
            }
            Ok(Ok(None)) => Err(Fault::Down("the listening connection was closed".to_owned())),
            Ok(Err(error)) => Err(fault(&error)),
        }
    }

    async fn subscribe(&self) -> Result<PgListener, Fault> {
        // Not the holder's name: a standby is not ended with whom it waits for.
        let options = self.base.clone().application_name("remeet");
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(LISTENER_SPAN)
            .connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&pool).await.map_err(|error| fault(&error))?;
        // A lost connection is said; the caller polls meanwhile.
        listener.eager_reconnect(false);
        listener.ignore_pool_close_event(true);
        listener.listen(CHANNEL).await.map_err(|error| fault(&error))?;
        Ok(listener)
    }

    pub(super) async fn close(&self) {
        let line = timeout(RELEASE_SPAN, self.renewing.lock()).await.ok().and_then(|mut place| place.take());
        if let Some(line) = line {
            drop(timeout(RELEASE_SPAN, line.connection.close()).await);
        }
        drop(timeout(RELEASE_SPAN, self.listening.lock()).await.ok().and_then(|mut place| place.take()));
    }
}

impl Line {
    /// Whether the term stands and the lease is its.
    async fn say(&mut self, token: Token, word: Word) -> Result<bool, Fault> {
        let epoch = token.epoch.0.cast_signed();
        let said = match word {
            Word::Renew(lease_ms) => {
                sqlx::query_scalar::<_, bool>(RENEW).bind(epoch).bind(token.holder.0).bind(lease_ms)
            }
            Word::Release => sqlx::query_scalar::<_, bool>(RELEASE).bind(epoch).bind(token.holder.0).bind(CHANNEL),
        };
        said.fetch_one(&mut self.connection).await.map_err(|error| match fault(&error) {
            // No answer: whether it was done, nobody knows.
            Fault::Down(reason) if error.as_database_error().is_none() => Fault::CommitUnknown(reason),
            fault => fault,
        })
    }
}
