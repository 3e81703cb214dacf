//! What the benches share: the stage, and waiting until nothing moves.

use super::options::Network;
use crate::ops::status::{LinkState, Status, Trigger};
use crate::stage::backing::Backing;
use crate::stage::directory::Directory;
use crate::stage::progress::Progress;
use crate::stage::{Setting, Stage, StageError, status};
use remeet_protocol::ServerId;
use std::collections::BTreeSet;
use std::time::Duration;

/// Nothing that is waited for takes longer: a million meetings on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(900);

/// Starts the servers; the scheduler is not started.
pub(super) async fn set(
    network: &Network,
    clients: u32,
    progress: &Progress,
    backing: &Backing,
    directory: Directory,
) -> Result<Stage, StageError> {
    progress.note(&format!(
        "{} servers, {} meetings, {} terminals each, seed {}; {}",
        network.servers,
        network.meetings,
        network.terminals,
        network.seed,
        backing.name()
    ));
    let setting = Setting::of_one("bench", network.servers, network.seed, clients);
    Stage::set(&setting, backing, directory).await
}

/// Ends every process, whatever came of the bench; shows the log if that was nothing good.
pub(super) async fn strike<T>(
    stage: Stage,
    progress: &Progress,
    result: Result<T, StageError>,
) -> Result<T, StageError> {
    if result.is_err() {
        progress.note(&format!("the end of the scheduler's log:\n{}", stage.logs()));
    }
    stage.strike().await?;
    result
}

/// The scheduler's status once it has everything, but for the servers that hang. `meetings`: how many that is.
pub(super) async fn until_quiet(
    stage: &mut Stage,
    progress: &Progress,
    meetings: u64,
    hung: &BTreeSet<ServerId>,
) -> Result<Status, StageError> {
    let each = |status: &Status| progress.at(status.totals.in_meeting, meetings, "meetings in control");
    stage.status_when(0, "the recovery", PATIENCE, each, |status| is_quiet(status, hung)).await
}

/// Whether nothing moves, but for the servers that hang.
fn is_quiet(status: &Status, hung: &BTreeSet<ServerId>) -> bool {
    let round = status::round(status, Trigger::Restart);
    let mut answer = status.servers.iter().filter(|server| !hung.contains(&server.id));
    answer.all(|server| {
        server.link == LinkState::Attached
            && server.legs.recovering == 0
            && server.legs.in_meeting == server.legs.live
            && server.queues.sum() == 0
            && round.is_some_and(|round| round.servers.contains(&server.id))
    }) && status.store.waiting == 0
        && status.cache.waiting == 0
        && status.counters.get("persists_open").is_none_or(|open| *open == 0)
}
