//! Notifications to the service manager (sd_notify(3)): ready, status, stopping, watchdog.
//!
//! Nothing here can fail the daemon: without `NOTIFY_SOCKET` every call does nothing, and a manager
//! that does not read loses the notification (the socket is never waited for).

use super::heartbeat::{Heartbeat, Watch};
use super::said::Said;
use sd_notify::NotifyState;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The most bytes of a status text: `systemctl status` shows one line.
const STATUS_BYTES_MAX: usize = 256;

/// The service manager, as far as it listens. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ServiceManager {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    socket: UnixDatagram,
    /// The status text: one that did not change is not sent.
    said: Said,
}

impl ServiceManager {
    /// The one named by `NOTIFY_SOCKET`; none if there is no such variable.
    ///
    /// # Errors
    /// The variable is set, but the socket cannot be reached.
    pub fn from_environment() -> io::Result<Self> {
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(path) => Self::at(path),
            None => Ok(Self::default()),
        }
    }

    /// The one that listens at `path`; a leading `@` names an abstract socket.
    ///
    /// # Errors
    /// The socket cannot be reached.
    pub fn at(path: impl Into<OsString>) -> io::Result<Self> {
        let path = path.into();
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        Ok(Self { inner: Some(Arc::new(Inner { socket, said: Said::default() })) })
    }

    /// Whether a service manager listens.
    #[must_use]
    pub fn listens(&self) -> bool {
        self.inner.is_some()
    }

    /// Configuration is valid and every port answers.
    pub fn ready(&self) {
        self.send(&[NotifyState::Ready]);
    }

    /// One line for people; sent only when it changed.
    pub fn status(&self, text: &str) {
        let Some(inner) = &self.inner else { return };
        inner.said.say(&one_line(text), |text| self.send(&[NotifyState::Status(text)]));
    }

    /// The daemon is stopping.
    pub fn stopping(&self) {
        self.send(&[NotifyState::Stopping]);
    }

    fn watchdog(&self) {
        self.send(&[NotifyState::Watchdog]);
    }

    /// Whether the manager has got it.
    fn send(&self, states: &[NotifyState<'_>]) -> bool {
        let Some(inner) = &self.inner else { return false };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        let sent = inner.socket.send(message.as_bytes());
        if let Err(error) = &sent {
            tracing::debug!(%error, "a notification to the service manager was lost");
        }
        sent.is_ok()
    }
}

/// Line breaks would begin another assignment in the notification: names from peers reach status texts.
fn one_line(text: &str) -> String {
    let mut end = text.len().min(STATUS_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// How often the service manager wants the watchdog fed, if it does: `WATCHDOG_USEC` of this process.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// Feeds the watchdog three times an `interval`, but only while `heartbeat` advances; a scheduler that
/// stands still is restarted by the service manager, and its meetings are taken over again. After `stop`
/// it is fed in any case: the end of a stopping process is bounded by its own deadline. Runs until it is
/// dropped.
pub async fn feed_watchdog(service: ServiceManager, interval: Duration, heartbeat: Heartbeat, stop: CancellationToken) {
    let mut watch = Watch::default();
    let mut ticks = tokio::time::interval(interval / 3);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if watch.moved(&heartbeat) || stop.is_cancelled() {
            service.watchdog();
        } else {
            let count = heartbeat.count();
            tracing::warn!(count, "the scheduler's loop has not moved: the watchdog is not fed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_text_cannot_smuggle_in_another_assignment() {
        assert_eq!(one_line("name\nWATCHDOG=trigger\r"), "name WATCHDOG=trigger ");
        let long = "ü".repeat(200);
        assert_eq!(one_line(&long).chars().count(), STATUS_BYTES_MAX / 2);
    }
}
