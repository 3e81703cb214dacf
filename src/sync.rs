//! The primitives that shared structures are made of, under one name.
//!
//! `tests/interleave` builds the sources of those structures with another module of this name, whose every operation
//! is a step at which another task may go on, and so runs them in orders that a machine shows once in years. A
//! structure of the driver that more than one task or thread holds, and that is more than one lock, one number or one
//! channel of tokio's by itself, takes its primitives from here, and is named there.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
pub(crate) use tokio::sync::{Semaphore, TryAcquireError, mpsc};
