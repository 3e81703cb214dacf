//! `remeet run` and `remeet check`.
//!
//! ```text
//!   configuration ─► log ─► signals ─► node lock ─► operator's socket ─► scheduler ─► READY
//!                                                                           │
//!   first signal: STOPPING, clean end within its deadline;  second signal: at once
//! ```

use super::output::{self, Failure};
use crate::config::{self, ConfigError};
use crate::ops::lock::NodeLock;
use crate::ops::{Heartbeat, OperatorSocket, Seam, ServiceManager, systemd, telemetry};
use crate::scheduler;
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A clean end takes no longer than this: commands in flight are answered, writes committed, the lease
/// released. Below the unit's `TimeoutStopSec=30`.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

pub(super) async fn run(path: &Path) -> Result<(), Failure> {
    let config = config::load(path, &config::process_environment()).map_err(|error| wrong(path, &error))?;
    telemetry::init(&config.log).map_err(Failure::usage)?;
    let stop = stop_on_signal()?;
    let lock = NodeLock::take(&config.scheduler.state_directory).map_err(Failure::failed)?;
    let service = service_manager();
    service.status("starting");
    let operator = OperatorSocket::bind(&config.operator.socket).map_err(Failure::failed)?;
    for remark in config.remarks() {
        tracing::warn!("{remark}");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        name = config.scheduler.name,
        domain = config.scheduler.domain.0,
        node = config.scheduler.node,
        servers = config.servers.len(),
        store = %config.store.url,
        cache = %config.cache.url,
        "the scheduler starts"
    );

    let heartbeat = Heartbeat::default();
    if let Some(interval) = systemd::watchdog_interval() {
        tokio::spawn(systemd::feed_watchdog(service.clone(), interval, heartbeat.clone(), stop.clone()));
    }
    let seam = Seam { service: service.clone(), heartbeat, operator };
    let late = async {
        stop.cancelled().await;
        tracing::info!("the scheduler stops");
        service.stopping();
        service.status("stopping");
        tokio::time::sleep(STOP_DEADLINE).await;
    };
    let result = tokio::select! {
        result = Box::pin(scheduler::run(config, lock.id(), seam, stop.clone())) => result.map_err(Failure::failed),
        () = late => Err(Failure::failed(format!(
            "the scheduler did not stop within {} s and was left: its meetings go on and are taken over at the next start",
            STOP_DEADLINE.as_secs()
        ))),
    };
    match &result {
        Ok(()) => tracing::info!("the scheduler has stopped"),
        Err(failure) => tracing::error!(?failure, "the scheduler has ended"),
    }
    // Held to the very end: until then no other process of this node may replace the lease.
    drop(lock);
    result
}

pub(super) fn check(path: &Path) -> Result<(), Failure> {
    let config = config::load(path, &config::process_environment()).map_err(|error| wrong(path, &error))?;
    output::line(&format!(
        "{} is valid: scheduler {:?} of domain {}, {} servers, {} clients, store {}, cache {}",
        path.display(),
        config.scheduler.name,
        config.scheduler.domain,
        config.servers.len(),
        config.identities.len(),
        config.store.url,
        config.cache.url
    ))?;
    for remark in config.remarks() {
        output::line(&format!("  remark: {remark}"))?;
    }
    Ok(())
}

pub(super) fn wrong(path: &Path, error: &ConfigError) -> Failure {
    match error {
        ConfigError::Unreadable { .. } => Failure::usage(error),
        ConfigError::Wrong(_) => Failure::usage(format!("{}: {error}", path.display())),
    }
}

/// A service manager that cannot be told is no reason not to serve meetings.
fn service_manager() -> ServiceManager {
    ServiceManager::from_environment().unwrap_or_else(|error| {
        tracing::warn!(%error, "NOTIFY_SOCKET cannot be reached: the service manager is not told anything");
        ServiceManager::default()
    })
}

/// Cancelled by the first SIGTERM or SIGINT; the second ends the process at once, with exit code 1.
pub(super) fn stop_on_signal() -> Result<CancellationToken, Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot wait for signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        token.cancel();
        either(&mut terminate, &mut interrupt).await;
        tracing::warn!("a second signal: the process ends at once");
        std::process::exit(1);
    });
    Ok(stop)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
