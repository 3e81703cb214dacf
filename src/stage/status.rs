//! The scheduler's operator socket, asked as an operator would.

use super::StageError;
use crate::ops::operator::{AskError, OperatorRequest, ask};
use crate::ops::status::{LinkState, Phase, RoundReport, Status, Trigger};
use remeet_protocol::{LegId, ServerId};
use serde_json::Value;
use std::path::Path;

/// Legs that are named in one request: a request has at most 64 KiB, a leg takes some 70 bytes.
const LEGS_A_REQUEST: usize = 500;

/// How the scheduler is; `None` while it does not answer.
pub(crate) async fn status(socket: &Path) -> Result<Option<Status>, StageError> {
    match ask(socket, &OperatorRequest::Status).await {
        Ok(items) => match items.into_iter().next() {
            Some(item) => serde_json::from_value(item)
                .map(Some)
                .map_err(|error| StageError::new(format!("the scheduler's status cannot be read: {error}"))),
            None => Ok(None),
        },
        Err(AskError::Unreachable { .. } | AskError::Cut(_)) => Ok(None),
        Err(AskError::Refused(error)) => {
            tracing::debug!(%error, "no status yet");
            Ok(None)
        }
    }
}

/// Everything in the cache inside the scheduler.
pub(crate) async fn dump_cache(socket: &Path) -> Result<Vec<Value>, StageError> {
    ask(socket, &OperatorRequest::DumpCache).await.map_err(StageError::new)
}

/// Deletes keys from the cache inside the scheduler.
pub(crate) async fn forget_keys(socket: &Path, legs: &[LegId]) -> Result<(), StageError> {
    for legs in legs.chunks(LEGS_A_REQUEST) {
        ask(socket, &OperatorRequest::ForgetKeys { legs: legs.to_vec() }).await.map_err(StageError::new)?;
    }
    Ok(())
}

/// The last round of a trigger.
pub(crate) fn round(status: &Status, trigger: Trigger) -> Option<&RoundReport> {
    status.rounds.iter().find(|round| round.trigger == trigger)
}

/// Whether nothing moves: no round runs, every server is attached, nothing waits to be asked or stored.
pub(crate) fn is_quiet(status: &Status) -> bool {
    is_in_control(status)
        && status.store.waiting == 0
        && status.cache.waiting == 0
        && status.counters.get("persists_open").is_none_or(|open| *open == 0)
        && status.servers.iter().all(|server| server.queues.sum() == 0)
}

/// Whether every server is attached and nothing is left to be taken over; clients may be commanding.
pub(crate) fn is_in_control(status: &Status) -> bool {
    status.phase == Phase::Steady && status.servers.iter().all(|server| server.link == LinkState::Attached)
}

/// The state of a server's link.
pub(crate) fn link(status: &Status, server: ServerId) -> Option<LinkState> {
    status.servers.iter().find(|known| known.id == server).map(|known| known.link)
}

/// What keeps the scheduler from being quiet, for people.
pub(crate) fn unrest(status: &Status) -> String {
    let mut text = format!(
        "{}, {} of {} legs in meeting, {} writes and {} cache tasks wait",
        status.phase.name(),
        status.totals.in_meeting,
        status.totals.live,
        status.store.waiting,
        status.cache.waiting
    );
    for server in &status.servers {
        if server.link != LinkState::Attached || server.queues.sum() > 0 {
            text.push_str(&format!("; server {} {}, {} queued", server.id, server.link.name(), server.queues.sum()));
        }
        if let Some(error) = &server.last_error {
            text.push_str(&format!("; server {}: {error}", server.id));
        }
    }
    for alarm in status.alarms.iter().rev().take(3) {
        text.push_str(&format!("; alarm {}: {}", alarm.kind, alarm.text));
    }
    text
}
