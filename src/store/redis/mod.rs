//! The cache on Redis (6 or later).
//!
//! # What stands in Redis
//!
//! Everything that a leg needs is under three names. `<domain>` is the number of the autonomous domain
//! in braces, Redis' hash tag, so that the names of one leg share a slot; `<meeting>` is the meeting's
//! UUID, `<leg>` the leg's number:
//!
//! | name | type | holds |
//! |---|---|---|
//! | `remeet:{<domain>}:key:<meeting>:<leg>` | hash | the recovery key |
//! | `remeet:{<domain>}:leg:<meeting>:<leg>` | hash | the status: head, mark, and a field for each record |
//! | `remeet:{<domain>}:gone:<meeting>:<leg>` | string | the epoch that forgot the leg; expires after ten minutes |
//!
//! Both hashes have the field `format`, the version of this layout: `1`, also if it is absent. Another one counts as a
//! miss, and is replaced by the next write that does not lose.
//!
//! The **key** hash: `epoch`, `generation`, `secret` (32 hexadecimal digits), `domain`, `server`, `number`,
//! `title`, `creator`, `creator_name`, `made_at_ms`.
//!
//! The **leg** hash, its head: `epoch`, `domain`, `server`, `boot` (a UUID), `handle`, `state` (`created`,
//! `starting`, `in-meeting`, `recovering`, `unreachable`, `ending`, `ended`, `partly`, `adopting`; the bare
//! number for one of a later version). Its mark: `revision`, `count`, `digest` (32 hexadecimal digits). Its
//! records, `count` of them:
//!
//! | field | record |
//! |---|---|
//! | `leg` | the leg row |
//! | `t:<terminal>` | a terminal |
//! | `w:<terminal>:<window>` | a decode window |
//! | `e:<terminal>:<key>` | an entry of a terminal's extra information |
//!
//! In `<terminal>` the characters `:` and `%` stand as `%3A` and `%25`. A record's value is JSON: the
//! revision that wrote it and the record by the field names of the protocol's specification. Enumerated
//! fields are the specification's numbers, an entry's value is the list of its bytes, `null` is *unknown*:
//!
//! ```text
//! redis-cli HGET 'remeet:{7}:leg:0192…:0' t:1001
//! {"revision":12,"record":{"terminal":{"number":"1001","home_domain":7,"name":"Hall","online":true,…}}}
//! ```
//!
//! All numbers are decimal, unsigned 64-bit, without leading zeros. Plain commands read everything:
//! `SCAN` with `MATCH remeet:*`, `HGETALL`.
//!
//! # Which write wins
//!
//! A write is decided and made by one script on the server (`scripts.rs`): lower (epoch, generation) and
//! lower (epoch, revision) lose there, whenever the write lands and whatever was sent in between. A write
//! whose time-out has passed may thus still land, and only if nothing higher stands. Content that is the
//! same already is not written again; an older epoch is then raised by itself.
//!
//! # When Redis fails
//!
//! Whatever fails (down, silent, LOADING, READONLY, OOM) is a [`CacheError`], within [`RedisLimits`]: see
//! `connection.rs`. A name that holds what cannot be read is a miss for its leg only, and is logged.

mod connection;
pub(crate) mod layout;
mod life;
mod read;
mod scripts;

pub use connection::RedisLimits;

use super::{Cache, CacheDump, CacheError, CacheOutcome, CacheStamp, CacheWrite, CachedKey, CachedLeg};
use crate::model::RecoveryKey;
use ::redis::{Pipeline, Value};
use connection::Connection;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use layout::Kind;
use remeet_protocol::{DomainId, Epoch, LegId};
use scripts::{Script, Scripts};
use std::ops::Range;
use tokio::time::Instant;

/// Commands in a pipeline: enough that round trips no longer count (measured: 1,000 MGETs reach 1.5
/// million keys/s), few enough that its answer stays a few megabytes.
const CHUNK_COMMANDS: usize = 1_000;

/// Bytes in a pipeline, roughly: at most this much is encoded ahead of the server.
const CHUNK_BYTES: usize = 2 << 20;

/// Legs whose content is read in one pipeline: its answer has no other bound, and a leg of ten
/// terminals is some 10 to 30 KB.
const CHUNK_CONTENTS: usize = 200;

/// Pipelines under way at once: one is encoded or read here while the server works on another.
const CHUNKS_IN_FLIGHT: usize = 3;

type Name = (DomainId, LegId);

/// The cache on Redis.
#[derive(Debug)]
pub struct RedisCache {
    connection: Connection,
    scripts: Scripts,
}

impl RedisCache {
    /// A cache at `url` with the default limits. Connects at the first call.
    pub fn open(url: &str) -> Result<Self, CacheError> {
        Self::with_limits(url, RedisLimits::default())
    }

    /// A cache at `url` with `limits`.
    pub fn with_limits(url: &str, limits: RedisLimits) -> Result<Self, CacheError> {
        Ok(Self { connection: Connection::new(url, limits)?, scripts: Scripts::new() })
    }

    /// Sends `items` as pipelines of whole items and gives what `read` makes of each pipeline's items and answers, in order: at
    /// once, since answers that are not read yet take many times as much memory. All are sent, also if one cannot be read.
    async fn send<T: Sync, R>(
        &self,
        doing: &'static str,
        items: &[T],
        chunks: Vec<Range<usize>>,
        script: Option<&Script>,
        build: impl Fn(&mut Pipeline, &T) + Sync,
        read: impl Fn(&[T], Vec<Value>) -> Result<Vec<R>, CacheError> + Sync,
    ) -> Result<Vec<R>, CacheError> {
        let until = self.connection.call_deadline(chunks.len());
        let (build, read) = (&build, &read);
        let read: Vec<Result<Vec<R>, CacheError>> = stream::iter(chunks)
            .map(|range| async move {
                let items = &items[range];
                let mut pipeline = Pipeline::with_capacity(items.len());
                items.iter().for_each(|item| build(&mut pipeline, item));
                Ok::<_, CacheError>(read(items, self.exchange(doing, &pipeline, script, until).await?))
            })
            .buffered(CHUNKS_IN_FLIGHT)
            .try_collect()
            .await?;
        let read = read.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(read.into_iter().flatten().collect())
    }

    /// One pipeline. A server that does not know the script (restarted, flushed) is taught it, and the
    /// pipeline is sent again: every script gives the same end when its write is made twice.
    async fn exchange(
        &self,
        doing: &'static str,
        pipeline: &Pipeline,
        script: Option<&Script>,
        until: Instant,
    ) -> Result<Vec<Value>, CacheError> {
        let values = self.connection.exchange(doing, pipeline, until).await?;
        let Some(script) = script else { return Ok(values) };
        if !values.iter().any(scripts::is_unknown_script) {
            return Ok(values);
        }
        let mut load = Pipeline::new();
        load.cmd("SCRIPT").arg("LOAD").arg(&script.code);
        self.connection.exchange(doing, &load, until).await?;
        self.connection.exchange(doing, pipeline, until).await
    }

    /// The names of `kind`, each once, in order; at most `max`.
    async fn scan(&self, kind: Kind, max: usize, until: Instant) -> Result<Vec<Name>, CacheError> {
        let mut names = std::collections::BTreeSet::new();
        let mut cursor = 0_u64;
        loop {
            let mut scan = Pipeline::new();
            scan.cmd("SCAN").arg(cursor).arg("MATCH").arg(kind.pattern()).arg("COUNT").arg(CHUNK_COMMANDS);
            let answer = self.connection.exchange("list what is cached", &scan, until).await?;
            let (next, found) = read::scanned("list what is cached", answer)?;
            names.extend(found.iter().filter_map(|name| layout::parse_name(kind, name)));
            cursor = next;
            // A scan of a data set that others fill may go on: the call's deadline ends it.
            if cursor == 0 || names.len() >= max {
                return Ok(names.into_iter().take(max).collect());
            }
        }
    }
}

impl Cache for RedisCache {
    fn put_keys<'a>(&'a self, epoch: Epoch, keys: &'a [RecoveryKey]) -> BoxFuture<'a, Result<(), CacheError>> {
        Box::pin(async move {
            let scripts = &self.scripts;
            let chunks = chunks(keys, CHUNK_COMMANDS, |_| layout::KEY_BYTES);
            let doing = "mirror keys";
            let build = |pipeline: &mut Pipeline, key: &RecoveryKey| scripts.put_key(pipeline, epoch, key);
            let read = |_: &[RecoveryKey], values: Vec<Value>| read::outcomes(doing, &values);
            self.send(doing, keys, chunks, Some(&scripts.put_key), build, read).await.map(|_| ())
        })
    }

    fn keys<'a>(&'a self, legs: &'a [Name]) -> BoxFuture<'a, Result<Vec<CachedKey>, CacheError>> {
        Box::pin(async move {
            let chunks = chunks(legs, CHUNK_COMMANDS, |_| 0);
            let build = |pipeline: &mut Pipeline, name: &Name| {
                pipeline.cmd("HMGET").arg(layout::name(Kind::Key, *name)).arg(layout::KEY_FIELDS);
            };
            let read = |legs: &[Name], values: Vec<Value>| {
                Ok(legs.iter().zip(&values).filter_map(|((_, leg), value)| read::key(*leg, value)).collect())
            };
            self.send("read keys", legs, chunks, None, build, read).await
        })
    }

    fn stamps<'a>(&'a self, legs: &'a [Name]) -> BoxFuture<'a, Result<Vec<CacheStamp>, CacheError>> {
        Box::pin(async move {
            let chunks = chunks(legs, CHUNK_COMMANDS / 2, |_| 0);
            let build = |pipeline: &mut Pipeline, name: &Name| layout::ask_stamp(pipeline, *name);
            let read = |legs: &[Name], values: Vec<Value>| {
                let pairs = values.chunks_exact(2).zip(legs);
                Ok(pairs.map(|(pair, (_, leg))| read::stamp(*leg, &pair[0], &pair[1])).collect())
            };
            self.send("read stamps", legs, chunks, None, build, read).await
        })
    }

    fn write<'a>(&'a self, writes: &'a [CacheWrite]) -> BoxFuture<'a, Result<Vec<CacheOutcome>, CacheError>> {
        Box::pin(async move {
            let scripts = &self.scripts;
            let chunks = chunks(writes, CHUNK_COMMANDS, layout::write_bytes);
            let doing = "write status";
            let build = |pipeline: &mut Pipeline, write: &CacheWrite| scripts.write(pipeline, write);
            let read = |_: &[CacheWrite], values: Vec<Value>| read::outcomes(doing, &values);
            self.send(doing, writes, chunks, Some(&scripts.write), build, read).await
        })
    }

    fn contents<'a>(&'a self, legs: &'a [Name]) -> BoxFuture<'a, Result<Vec<CachedLeg>, CacheError>> {
        Box::pin(async move {
            let chunks = chunks(legs, CHUNK_CONTENTS, |_| 0);
            let build = |pipeline: &mut Pipeline, name: &Name| {
                pipeline.cmd("HGETALL").arg(layout::name(Kind::Leg, *name));
            };
            let read = |legs: &[Name], values: Vec<Value>| {
                Ok(legs.iter().zip(values).filter_map(|(name, value)| read::leg(*name, value)).collect())
            };
            self.send("read status", legs, chunks, None, build, read).await
        })
    }

    fn forget<'a>(&'a self, epoch: Epoch, legs: &'a [Name]) -> BoxFuture<'a, Result<(), CacheError>> {
        Box::pin(async move {
            let scripts = &self.scripts;
            let chunks = chunks(legs, CHUNK_COMMANDS, |_| 0);
            let doing = "forget legs";
            let build = |pipeline: &mut Pipeline, name: &Name| scripts.forget(pipeline, epoch, *name);
            let read = |_: &[Name], values: Vec<Value>| read::outcomes(doing, &values);
            self.send(doing, legs, chunks, Some(&scripts.forget), build, read).await.map(|_| ())
        })
    }

    fn forget_keys<'a>(&'a self, legs: &'a [Name]) -> BoxFuture<'a, Result<(), CacheError>> {
        Box::pin(async move {
            let chunks = chunks(legs, CHUNK_COMMANDS, |_| 0);
            let build = |pipeline: &mut Pipeline, name: &Name| {
                pipeline.cmd("DEL").arg(layout::name(Kind::Key, *name));
            };
            let read = |_: &[Name], _: Vec<Value>| Ok(Vec::<()>::new());
            self.send("forget keys", legs, chunks, None, build, read).await.map(|_| ())
        })
    }

    fn names(&self, domain: DomainId, max: usize) -> BoxFuture<'_, Result<Vec<LegId>, CacheError>> {
        Box::pin(async move {
            let until = self.connection.call_deadline(max.div_ceil(CHUNK_COMMANDS));
            let mut names = self.scan(Kind::Leg, max, until).await?;
            names.extend(self.scan(Kind::Key, max, until).await?);
            let names = names.into_iter().filter(|(of, _)| *of == domain).map(|(_, leg)| leg);
            let names: std::collections::BTreeSet<LegId> = names.collect();
            Ok(names.into_iter().take(max).collect())
        })
    }

    fn dump(&self, max: usize) -> BoxFuture<'_, Result<CacheDump, CacheError>> {
        Box::pin(async move {
            let until = self.connection.call_deadline(max.div_ceil(CHUNK_COMMANDS));
            let legs = self.scan(Kind::Leg, max, until).await?;
            let keys = self.scan(Kind::Key, max, until).await?;
            Ok(CacheDump { legs: self.contents(&legs).await?, keys: self.keys(&keys).await? })
        })
    }
}

/// Cuts `items` into runs of at most `max` items and about [`CHUNK_BYTES`] bytes; an item that is larger
/// alone is a run of its own.
fn chunks<T>(items: &[T], max: usize, bytes: impl Fn(&T) -> usize) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let (mut start, mut used) = (0, 0_usize);
    for (place, item) in items.iter().enumerate() {
        let size = bytes(item);
        if place - start == max || (place > start && used.saturating_add(size) > CHUNK_BYTES) {
            chunks.push(start..place);
            (start, used) = (place, 0);
        }
        used = used.saturating_add(size);
    }
    if start < items.len() {
        chunks.push(start..items.len());
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_17_chunks_are_bounded_in_items_and_bytes_and_lose_nothing() {
        let sizes: Vec<usize> = (0..5_000).map(|i| (i * 7_919) % 40_000).chain([CHUNK_BYTES * 3, 1]).collect();
        let chunks = chunks(&sizes, 1_000, |size| *size);
        assert_eq!(chunks.iter().cloned().flatten().collect::<Vec<_>>(), (0..sizes.len()).collect::<Vec<_>>());
        for chunk in chunks {
            assert!(chunk.len() <= 1_000);
            assert!(chunk.len() == 1 || sizes[chunk].iter().sum::<usize>() <= CHUNK_BYTES);
        }
    }
}
