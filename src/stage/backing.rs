//! Store and cache of a play: embedded, or on real servers in a database of the play's own.
//!
//! Nothing that the play did not make is touched: the PostgreSQL database is made under a name of its
//! own, a Redis database is used only if it was empty, and both are emptied at the end.

use super::directory::Directory;
use super::reader::facts::Cached;
use super::reader::{ReadError, embedded, redis, sql};
use super::{StageError, Stores, status};
use crate::config::SecretUrl;
use ::redis::aio::MultiplexedConnection;
use ::redis::cmd;
use remeet_protocol::{DomainId, LegId};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, query};
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// Marks a Redis database as taken by a play; outside the scheduler's names.
const CLAIM: &str = "remeet-demo:claim";
/// Making or dropping a database takes well below a second, on a loaded machine some.
const SERVER: Duration = Duration::from_secs(30);
/// A Redis has 16 databases unless it is told otherwise.
const DATABASES: u32 = 16;

/// See the module's page.
pub(crate) struct Backing {
    pub(crate) store_url: String,
    pub(crate) cache_url: String,
    pub(crate) database: sql::Place,
    /// None for the cache inside the scheduler.
    redis: Option<redis::Place>,
    postgres: Option<(PgConnectOptions, String)>,
}

impl Backing {
    /// Makes what is asked for; without URLs everything is embedded.
    pub(crate) async fn open(stores: &Stores, directory: &Directory) -> Result<Self, StageError> {
        let (store_url, database, postgres) = match &stores.postgres {
            None => {
                let path = directory.file("remeet.db");
                (format!("sqlite:{}", path.display()), sql::Place::Sqlite(path), None)
            }
            Some(url) => {
                let (url, place, made) = make_database(url).await?;
                (url, place, Some(made))
            }
        };
        let mut backing = Self { store_url, cache_url: "memory:".to_owned(), database, redis: None, postgres };
        if let Some(url) = &stores.redis {
            match claim_redis(url).await {
                Ok((url, place)) => {
                    backing.cache_url = url;
                    backing.redis = Some(place);
                }
                Err(error) => {
                    backing.close().await?;
                    return Err(error);
                }
            }
        }
        Ok(backing)
    }

    /// What is in use, for people.
    pub(crate) fn name(&self) -> String {
        let store = if self.postgres.is_some() { "PostgreSQL" } else { "SQLite file" };
        let cache = if self.redis.is_some() { "Redis" } else { "cache inside the scheduler" };
        format!("{store}, {cache}")
    }

    /// A connection to Redis, if it is the cache.
    pub(crate) async fn redis(&self) -> Result<Option<MultiplexedConnection>, StageError> {
        match &self.redis {
            Some(place) => Ok(Some(place.connect().await?)),
            None => Ok(None),
        }
    }

    /// Reads the whole cache.
    pub(crate) async fn cached(&self, operator: &Path) -> Result<Cached, StageError> {
        match &self.redis {
            Some(place) => Ok(place.read().await?),
            None => Ok(embedded::read(status::dump_cache(operator).await?)?),
        }
    }

    /// Empties the cache, as an operator's mistake or a restart of Redis would. The cache inside a scheduler is
    /// emptied by its end.
    pub(crate) async fn empty_cache(&self) -> Result<(), StageError> {
        let Some(place) = &self.redis else { return Ok(()) };
        let mut connection = place.connect().await?;
        let mut both = ::redis::pipe();
        both.atomic().cmd("FLUSHDB").ignore().cmd("SET").arg(CLAIM).arg(std::process::id()).ignore();
        let emptied = both.query_async::<()>(&mut connection).await;
        emptied.map_err(|error| StageError::new(format!("the Redis database was not emptied: {error}")))
    }

    /// Deletes keys from the cache.
    pub(crate) async fn forget_keys(
        &self,
        operator: &Path,
        domain: DomainId,
        legs: &[LegId],
    ) -> Result<(), StageError> {
        match &self.redis {
            Some(place) => Ok(place.forget_keys(domain, legs).await?),
            None => status::forget_keys(operator, legs).await,
        }
    }

    /// Drops and empties what was made. The processes that use it must be gone.
    pub(crate) async fn close(&mut self) -> Result<(), StageError> {
        if let Some(place) = self.redis.take() {
            let mut connection = place.connect().await?;
            let flushed = cmd("FLUSHDB").query_async::<()>(&mut connection).await;
            flushed.map_err(|error| StageError::new(format!("the play's Redis database was not emptied: {error}")))?;
        }
        if let Some((options, name)) = self.postgres.take() {
            let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            execute(&options, drop).await.map_err(|error| {
                StageError::new(format!("the play's database {name} was not dropped: {error}; drop it by hand"))
            })?;
        }
        Ok(())
    }
}

async fn execute(options: &PgConnectOptions, sql: String) -> Result<(), ReadError> {
    let work = async {
        let mut connection: PgConnection = options.connect().await?;
        query(AssertSqlSafe(sql)).execute(&mut connection).await?;
        sqlx::Connection::close(connection).await
    };
    let wrong = |reason: String| ReadError::new("on the PostgreSQL server", reason);
    match timeout(SERVER, work).await {
        Ok(done) => done.map_err(|error| wrong(error.to_string())),
        Err(_) => Err(wrong(format!("no answer within {} s", SERVER.as_secs()))),
    }
}

async fn make_database(url: &SecretUrl) -> Result<(String, sql::Place, (PgConnectOptions, String)), StageError> {
    let options: PgConnectOptions = url
        .expose()
        .parse()
        .map_err(|_| StageError::new(format!("--postgres {url}: give a URL such as postgres://user@host/postgres")))?;
    // Made of a number only: no quoting needed.
    let name = format!("remeet_demo_{}", std::process::id());
    execute(&options, format!("CREATE DATABASE {name}"))
        .await
        .map_err(|error| StageError::new(format!("--postgres {url}: cannot make the database {name}: {error}")))?;
    let place = sql::Place::Postgres(Box::new(options.clone().database(&name)));
    Ok((with_database(url.expose(), &name), place, (options, name)))
}

/// `url` with another database.
fn with_database(url: &str, name: &str) -> String {
    let (base, parameters) = match url.split_once('?') {
        Some((base, parameters)) => (base, format!("?{parameters}")),
        None => (url, String::new()),
    };
    let begin = base.find("://").map_or(0, |at| at + 3);
    let authority = base[begin..].find('/').map_or(base, |at| &base[..begin + at]);
    format!("{authority}/{name}{parameters}")
}

/// Finds an empty database: the one that the URL names, or the first empty one.
async fn claim_redis(url: &SecretUrl) -> Result<(String, redis::Place), StageError> {
    let wrong = |text: String| StageError::new(format!("--redis {url}: {text}"));
    let named = named_database(url.expose());
    let candidates = match named {
        Some(number) => vec![number],
        None => (0..databases(url).await.unwrap_or(DATABASES)).collect(),
    };
    for number in candidates {
        let url = with_number(url.expose(), number);
        let client = ::redis::Client::open(url.as_str())
            .map_err(|error| wrong(format!("not a URL of Redis ({:?}): give redis://host:port", error.kind())))?;
        let place = redis::Place { client };
        let mut connection = place.connect().await.map_err(|error| wrong(error.to_string()))?;
        if claim(&mut connection).await.map_err(|error| wrong(error.to_string()))? {
            return Ok((url, place));
        }
    }
    Err(wrong(match named {
        Some(number) => {
            format!("database {number} is not empty, and this program touches nothing of others: name an empty one")
        }
        None => "no database is empty, and this program touches nothing of others: start a Redis of its own".to_owned(),
    }))
}

/// Takes the connection's database if nobody else uses it.
async fn claim(connection: &mut MultiplexedConnection) -> Result<bool, ::redis::RedisError> {
    let size: u64 = cmd("DBSIZE").query_async(connection).await?;
    if size > 0 {
        return Ok(false);
    }
    let mine: bool = cmd("SETNX").arg(CLAIM).arg(std::process::id()).query_async(connection).await?;
    if !mine {
        return Ok(false);
    }
    // Somebody may have written between the look and the claim: then it is theirs.
    let size: u64 = cmd("DBSIZE").query_async(connection).await?;
    if size != 1 {
        cmd("DEL").arg(CLAIM).query_async::<()>(connection).await?;
    }
    Ok(size == 1)
}

async fn databases(url: &SecretUrl) -> Option<u32> {
    let place = redis::Place { client: ::redis::Client::open(url.expose()).ok()? };
    let mut connection = place.connect().await.ok()?;
    let answer: Vec<String> = cmd("CONFIG").arg("GET").arg("databases").query_async(&mut connection).await.ok()?;
    answer.last()?.parse().ok()
}

/// The number in `redis://host:port/NUMBER` or `redis+unix:///path?db=NUMBER`.
fn named_database(url: &str) -> Option<u32> {
    if is_unix(url) {
        let (_, parameters) = url.split_once('?')?;
        return parameters.split('&').find_map(|parameter| parameter.strip_prefix("db=")?.parse().ok());
    }
    let base = url.split('?').next().unwrap_or(url);
    let begin = base.find("://")? + 3;
    base[begin..].split_once('/')?.1.parse().ok()
}

fn with_number(url: &str, number: u32) -> String {
    if !is_unix(url) {
        return with_database(url, &number.to_string());
    }
    match url.split_once('?') {
        None => format!("{url}?db={number}"),
        Some((path, parameters)) => {
            let others = parameters.split('&').filter(|parameter| !parameter.starts_with("db="));
            let all: Vec<String> = others.map(str::to_owned).chain([format!("db={number}")]).collect();
            format!("{path}?{}", all.join("&"))
        }
    }
}

fn is_unix(url: &str) -> bool {
    url.starts_with("redis+unix:") || url.starts_with("unix:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gets_another_database_and_keeps_the_rest() {
        for (url, with) in [
            ("postgres://u:p@h:5432/postgres", "postgres://u:p@h:5432/x"),
            ("postgres://h", "postgres://h/x"),
            ("postgres://h/a?sslmode=require", "postgres://h/x?sslmode=require"),
            ("postgres:///a?host=/run/postgresql", "postgres:///x?host=/run/postgresql"),
        ] {
            assert_eq!(with_database(url, "x"), with);
        }
    }

    #[test]
    fn the_database_that_a_redis_url_names_is_found_and_changed() {
        for (url, named, with) in [
            ("redis://h:6379", None, "redis://h:6379/3"),
            ("redis://h:6379/", None, "redis://h:6379/3"),
            ("redis://:p@h/7", Some(7), "redis://:p@h/3"),
            ("redis+unix:///run/r.sock", None, "redis+unix:///run/r.sock?db=3"),
            ("redis+unix:///run/r.sock?db=2&user=u", Some(2), "redis+unix:///run/r.sock?user=u&db=3"),
        ] {
            assert_eq!((named_database(url), with_number(url, 3).as_str()), (named, with), "{url}");
        }
    }
}
