//! Durable store and cache.
