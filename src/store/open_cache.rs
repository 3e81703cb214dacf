//! Opens a cache by its URL.

use super::memory::MemoryCache;
use super::redis::RedisCache;
use super::{Cache, CacheError};
use std::sync::Arc;

/// Opens the cache that `url` names: `memory:` for the one in this process, `redis://`, `rediss://`,
/// `redis+unix://` or `unix://` for Redis.
///
/// Nothing is connected yet: a Redis that is down now is used as soon as it answers. Fails only if the
/// URL cannot be understood; the message never repeats the URL, which may hold a password.
pub fn open_cache(url: &str) -> Result<Arc<dyn Cache>, CacheError> {
    if matches!(url, "memory" | "memory:" | "memory://") {
        return Ok(Arc::new(MemoryCache::default()));
    }
    Ok(Arc::new(RedisCache::open(url)?))
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
