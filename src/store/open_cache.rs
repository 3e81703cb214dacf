//! Opens a cache by its URL.

use super::memory::MemoryCache;
use super::redis::{RedisCache, RedisLimits};
use super::{Cache, CacheError};
use std::sync::Arc;
use std::time::Duration;

/// Opens the cache that `url` names: `memory:` for the one in this process, `redis://`, `rediss://`,
/// `redis+unix://` or `unix://` for Redis.
///
/// Nothing is connected yet: a Redis that is down now is used as soon as it answers. Fails only if the
/// URL cannot be understood; the message never repeats the URL, which may hold a password.
pub fn open_cache(url: &str) -> Result<Arc<dyn Cache>, CacheError> {
    open_cache_with(url, CacheLimits::default())
}

/// What the configuration bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// For one pipeline to Redis, connecting included. Default 1 s.
    pub deadline: Duration,
    /// The most legs of the cache in this process, at 20 entries each: ten terminals with some windows and
    /// extra information. Default 100,000.
    pub legs_max: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(1), legs_max: 100_000 }
    }
}

/// Entries that a leg is reckoned to have.
const ENTRIES_PER_LEG: usize = 20;

/// As [`open_cache`], with limits.
pub fn open_cache_with(url: &str, limits: CacheLimits) -> Result<Arc<dyn Cache>, CacheError> {
    if matches!(url, "memory" | "memory:" | "memory://") {
        return Ok(Arc::new(MemoryCache::bounded(limits.legs_max.saturating_mul(ENTRIES_PER_LEG))));
    }
    let redis = RedisLimits { answer: limits.deadline, call: limits.deadline * 5, ..RedisLimits::default() };
    Ok(Arc::new(RedisCache::with_limits(url, redis)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_names_no_cache_is_refused_without_repeating_it() {
        for url in ["", "postgres://someone:hunter2@host/", "redis://:hunter2@[broken"] {
            let refused = open_cache(url).err().map(|error| error.to_string());
            assert!(refused.as_ref().is_some_and(|text| !text.contains("hunter2")), "{url}: {refused:?}");
        }
    }

    #[test]
    fn a_cache_opens_without_a_server_and_without_a_runtime() {
        for url in ["memory:", "redis://127.0.0.1:1", "redis+unix:///nowhere/redis.sock"] {
            assert!(open_cache(url).is_ok(), "{url}");
        }
    }
}
