//! What an operator and the service manager see: readiness, watchdog, status, the local socket, the log.
//!
//! - [`systemd`] – notifications to the service manager; nothing without `NOTIFY_SOCKET`.
//! - [`operator`] – the operator's local socket and its client side.
//! - [`status`] – the status report and how it is printed.
//! - [`lock`] – one process a node.
//! - [`telemetry`] – the log.
//!
//! [`Seam`] is what `remeet run` hands to the scheduler.

mod heartbeat;
pub mod lock;
pub mod operator;
mod said;
pub mod status;
pub mod systemd;
pub mod telemetry;

pub use heartbeat::Heartbeat;
pub use operator::OperatorSocket;
pub use systemd::ServiceManager;

/// What `remeet run` hands to the scheduler: how to tell the outside how it is.
///
/// ```text
///   service.status("recovering 120 of 200 meetings")   whenever the phase or a count changes
///   service.ready()                                    once every port answers
///   heartbeat.beat()                                   each time round the driver's loop
///   operator.serve(handle, stop)                       spawned, as soon as `handle` can answer
/// ```
#[derive(Debug)]
pub struct Seam {
    /// The service manager.
    pub service: ServiceManager,
    /// Proof of life: the watchdog is fed only while it advances.
    pub heartbeat: Heartbeat,
    /// The operator's socket, bound already: a second process has been refused before anything began.
    pub operator: OperatorSocket,
}
