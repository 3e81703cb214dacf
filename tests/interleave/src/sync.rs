//! The primitives of `crate::sync` (`src/sync.rs` of the daemon) as shuttle sees them.
//!
//! Locks and atomics are shuttle's own. Tokio's channels and semaphore are tokio's: each of their operations takes
//! effect at one moment, which their own authors check, and a step goes before it.

pub use shuttle::sync::atomic::{AtomicU64, Ordering};
pub use shuttle::sync::{Arc, Mutex, MutexGuard, RwLock};
pub use std::sync::PoisonError;
pub use tokio::sync::TryAcquireError;

/// Another task may go on here.
pub fn step() {
    // What is read does not matter: an operation on an atomic is a step.
    AtomicU64::new(0).load(Ordering::SeqCst);
}

/// Tokio's, a step before each operation.
#[derive(Debug)]
pub struct Semaphore(tokio::sync::Semaphore);

impl Semaphore {
    /// The most permits that there can be.
    pub const MAX_PERMITS: usize = tokio::sync::Semaphore::MAX_PERMITS;

    /// With so many permits.
    #[must_use]
    pub fn new(permits: usize) -> Self {
        Self(tokio::sync::Semaphore::new(permits))
    }

    /// Permits that are free.
    #[must_use]
    pub fn available_permits(&self) -> usize {
        step();
        self.0.available_permits()
    }

    /// Gives permits.
    pub fn add_permits(&self, permits: usize) {
        step();
        self.0.add_permits(permits);
    }

    /// Waits for permits.
    ///
    /// # Errors
    /// It is closed.
    pub async fn acquire_many(
        &self,
        permits: u32,
    ) -> Result<tokio::sync::SemaphorePermit<'_>, tokio::sync::AcquireError> {
        step();
        let permit = self.0.acquire_many(permits).await;
        step();
        permit
    }

    /// Takes permits that are free.
    ///
    /// # Errors
    /// There are too few, or it is closed.
    pub fn try_acquire_many(&self, permits: u32) -> Result<tokio::sync::SemaphorePermit<'_>, TryAcquireError> {
        step();
        self.0.try_acquire_many(permits)
    }

    /// Ends every wait.
    pub fn close(&self) {
        step();
        self.0.close();
    }
}

/// Tokio's, a step before each operation.
pub mod mpsc {
    use super::step;
    use tokio::sync::mpsc;

    /// Sends.
    #[derive(Debug)]
    pub struct UnboundedSender<T>(mpsc::UnboundedSender<T>);

    /// Receives.
    #[derive(Debug)]
    pub struct UnboundedReceiver<T>(mpsc::UnboundedReceiver<T>);

    /// A channel.
    #[must_use]
    pub fn unbounded_channel<T>() -> (UnboundedSender<T>, UnboundedReceiver<T>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (UnboundedSender(sender), UnboundedReceiver(receiver))
    }

    impl<T> Clone for UnboundedSender<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    impl<T> UnboundedSender<T> {
        /// Sends.
        ///
        /// # Errors
        /// The receiver is gone.
        pub fn send(&self, value: T) -> Result<(), mpsc::error::SendError<T>> {
            step();
            self.0.send(value)
        }
    }

    impl<T> UnboundedReceiver<T> {
        /// Waits for the next value.
        pub async fn recv(&mut self) -> Option<T> {
            step();
            self.0.recv().await
        }

        /// A value that is there.
        ///
        /// # Errors
        /// There is none.
        pub fn try_recv(&mut self) -> Result<T, mpsc::error::TryRecvError> {
            step();
            self.0.try_recv()
        }
    }
}
