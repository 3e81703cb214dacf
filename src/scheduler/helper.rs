//! The driver's helper tasks: each works a socket of its own kind and tells the driver what came of it. One that
//! panicked would never tell, and its part would stand still while the rest goes on and the watchdog is fed. So a
//! panic is caught here and ends the process: the service manager starts it anew, and its meetings go on meanwhile.

use futures_util::FutureExt;
use std::any::Any;
use std::panic::AssertUnwindSafe;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Starts helper tasks. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Helpers {
    panicked: mpsc::Sender<&'static str>,
}

impl Helpers {
    /// The receiver is told what a task that panicked did. One is enough to end everything: more are not kept.
    pub(super) fn new() -> (Self, mpsc::Receiver<&'static str>) {
        let (panicked, receiver) = mpsc::channel(1);
        (Self { panicked }, receiver)
    }

    /// Starts a task; `doing` says what it does.
    pub(super) fn spawn(&self, doing: &'static str, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let panicked = self.panicked.clone();
        tokio::spawn(async move {
            // Nothing that the task has touched is used afterwards: its driver ends.
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                tracing::error!("a task of the scheduler has panicked, {doing}: {}", text(panic.as_ref()));
                // Full: another one is told already. Closed: the driver has ended.
                let _ = panicked.try_send(doing);
            }
        })
    }
}

/// What a panic said.
fn text(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&'static str>().copied();
    literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it said nothing")
}
