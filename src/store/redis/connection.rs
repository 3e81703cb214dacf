//! The one connection to Redis, and how it is given up.
//!
//! Measured traps of the client library, each with a test in `tests/suite/cache_traps.rs`:
//!
//! - Its `ConnectionManager` reconnects when a connection breaks, but not when answers stop coming. So
//!   consecutive time-outs are counted here, and the manager is replaced by a new one.
//! - It does not repeat the command on which it noticed a break. Every command of this cache may be sent
//!   twice, so it is repeated once.
//! - A Redis that is down at start must not stop the scheduler: the first call connects.
//! - It keeps for ever the refusal of a server that lets it connect but not in (password, database): the
//!   manager is replaced then too.
//! - A silent Redis would cost every call its full deadline: after a second replacement in a row, calls
//!   fail at once for a while.

use super::life::{LifeLimits, Lives, NoLife};
use crate::store::CacheError;
use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::{Client, Pipeline, ServerError, Value};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Deadlines and bounds of the connection.
#[derive(Debug, Clone, Copy)]
pub struct RedisLimits {
    /// For one pipeline, connecting included. Default 1 s: a pipeline takes some milliseconds, and
    /// recovery, which has 3 s to be in control, asks the database instead.
    pub answer: Duration,
    /// For a whole call, and a tenth of [`answer`](Self::answer) more for each of its pipelines, which is
    /// about twice what one takes. Default 5 s, thus 6 s for the keys of 10,000 legs.
    pub call: Duration,
    /// Consecutive time-outs after which the connection is replaced. Default 2: one may be a pause of
    /// the server, and waiting for more only costs time.
    pub timeouts: u32,
    /// How long calls fail at once after a second replacement in a row, doubled with each further one up to
    /// sixteen times. Default 250 ms, thus 4 s at most.
    pub rest: Duration,
}

impl Default for RedisLimits {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(1),
            call: Duration::from_secs(5),
            timeouts: 2,
            rest: Duration::from_millis(250),
        }
    }
}

/// See the module's page. When it is given up is decided by [`Lives`].
#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    limits: RedisLimits,
    lives: Lives<ConnectionManager>,
}

impl Connection {
    pub(super) fn new(url: &str, limits: RedisLimits) -> Result<Self, CacheError> {
        let client = Client::open(url).map_err(|error| CacheError {
            doing: "open the cache",
            // The library's message names the fault, not the URL and its password.
            reason: format!("the URL is not one of Redis, such as redis://HOST:PORT/DB ({:?})", error.kind()),
        })?;
        let lives = Lives::new(LifeLimits { timeouts: limits.timeouts, rest: limits.rest });
        Ok(Self { client, limits, lives })
    }

    /// When a call of `pipelines` pipelines that begins now must be over.
    pub(super) fn call_deadline(&self, pipelines: usize) -> Instant {
        let pipelines = u32::try_from(pipelines).unwrap_or(u32::MAX);
        Instant::now() + self.limits.call + (self.limits.answer / 10).saturating_mul(pipelines.min(10_000))
    }

    /// Sends `pipeline` and gives its answers, one a command. Errors that are about one name only
    /// (a wrong type) or the script are left among the answers; any other is the call's.
    pub(super) async fn exchange(
        &self,
        doing: &'static str,
        pipeline: &Pipeline,
        until: Instant,
    ) -> Result<Vec<Value>, CacheError> {
        let until = until.min(Instant::now() + self.limits.answer);
        let fail = |reason: String| CacheError { doing, reason };
        let mut broke_before = false;
        loop {
            let (mut manager, number) = self.manager().map_err(fail)?;
            let sent = timeout_at(until, manager.send_packed_commands(pipeline, 0, pipeline.len())).await;
            match sent {
                Ok(Ok(values)) => {
                    self.answered(number);
                    return match values.iter().find_map(general_error) {
                        Some(reason) => Err(fail(reason)),
                        None if values.len() == pipeline.len() => Ok(values),
                        None => Err(fail(format!("{} answers to {} commands", values.len(), pipeline.len()))),
                    };
                }
                Ok(Err(error)) if error.is_timeout() => {
                    self.timed_out(number);
                    return Err(fail(format!("no answer in time: {error}")));
                }
                Err(_) => {
                    self.timed_out(number);
                    return Err(fail(format!("no answer within {:?}", self.limits.answer)));
                }
                // Broken since it was last used: the manager connects anew, the command is ours to repeat.
                Ok(Err(error)) if error.is_io_error() && !broke_before => broke_before = true,
                Ok(Err(error)) => {
                    // Connected but not admitted (password, database): the manager would keep the refusal.
                    if !error.is_io_error() {
                        self.lives.give_up(number);
                    }
                    return Err(fail(error.to_string()));
                }
            }
        }
    }

    fn manager(&self) -> Result<(ConnectionManager, u64), String> {
        let config = ConnectionManagerConfig::new()
            // Retries would only hold the call that waits for them: the next call tries again.
            .set_number_of_retries(0)
            .set_connection_timeout(Some(self.limits.answer))
            // The deadline is `exchange`'s own; the library's default of 500 ms would cut it short.
            .set_response_timeout(None);
        let make = || ConnectionManager::new_lazy_with_config(self.client.clone(), config);
        self.lives.get(Instant::now(), make).map_err(|none| match none {
            NoLife::Resting(replaced) => format!("not asked: {replaced} connections in a row fell silent"),
            NoLife::NotMade(error) => error.to_string(),
        })
    }

    fn answered(&self, number: u64) {
        if self.lives.answered(number) {
            tracing::info!("the cache answers again");
        }
    }

    fn timed_out(&self, number: u64) {
        if self.lives.timed_out(number, Instant::now()) {
            tracing::warn!(timeouts = self.limits.timeouts, "the cache is silent: its connection is replaced");
        }
    }
}

/// The text of an error that concerns the whole server: LOADING, READONLY, OOM, NOAUTH and the like.
fn general_error(value: &Value) -> Option<String> {
    match value {
        Value::ServerError(error) if !matches!(error.code(), "WRONGTYPE" | "NOSCRIPT") => Some(server_text(error)),
        _ => None,
    }
}

/// What the server said, with its code as it sent it: the words that its operator looks up.
pub(super) fn server_text(error: &ServerError) -> String {
    format!("{} {}", error.code(), error.details().unwrap_or_default())
}
