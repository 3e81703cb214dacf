//! A cycle: strike, recover, settle, judge.

use super::faults::Faults;
use super::flow::{Flow, Room, Said, Seat};
use super::gate::Gate;
use super::oracle::{Oracle, Reading};
use super::plan::{self, Common, Crash, Moment, Pause};
use super::repeats::Repeater;
use super::verdict::Tally;
use crate::ops::status::{LinkState, Phase, Status, Trigger};
use crate::stage::backing::Backing;
use crate::stage::{DOMAIN, Stage, StageError, now_ms, status};
use remeet_protocol::{DomainId, Epoch};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Everything is in control, stored and acknowledged within this: rule 18, twice over.
pub(crate) const QUIET: Duration = Duration::from_secs(60);
/// Clients fill their meetings for so long before the first cycle.
const MOVE_IN: Duration = Duration::from_millis(500);
/// A difference is reported once two readings in a row agree on it, at the latest after this.
const READINGS: Duration = Duration::from_secs(10);
/// The scheduler says within this what it is doing, or is killed without having said so.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// What the cycles share.
pub(crate) struct Drill<'a> {
    pub(crate) stage: &'a mut Stage,
    pub(crate) backing: &'a Backing,
    pub(crate) room: Arc<Room>,
    pub(crate) seats: Vec<Seat>,
    pub(crate) oracle: Oracle,
    pub(crate) tally: &'a mut Tally,
    /// When the cycle began.
    pub(crate) began_at_ms: u64,
    /// The scheduler that commands, by place.
    pub(crate) active: usize,
    /// Where clients connect, if there is a pair.
    pub(crate) gate: Option<Gate>,
}

impl Drill<'_> {
    /// Meetings begin, before anything goes wrong.
    pub(crate) async fn move_in(&mut self) -> Result<(), StageError> {
        let flow = self.begin_commands(0);
        sleep(MOVE_IN).await;
        self.end_commands(flow).await
    }

    /// Kills the scheduler as the plan says, and starts it again.
    pub(crate) async fn crash(&mut self, cycle: u32) -> Result<(), StageError> {
        let Crash { common, moment, dead, recovery_kills } =
            plan::crash(self.room.seed, cycle, self.stage.servers.len());
        self.began_at_ms = now_ms();
        let mut faults = Faults::new(&self.stage.servers, self.room.fates.clone());
        let mut flow = (moment != Moment::Quiet).then(|| self.begin_commands(cycle));
        faults.begin(&common.before);
        faults.change(common.script);
        sleep(common.strike_after).await;
        self.stage.schedulers[0].kill().await?;
        self.tally.struck(if flow.is_some() { Moment::Commands } else { Moment::Quiet });
        self.while_struck(&mut faults, &common).await?;
        sleep(dead).await;
        let mut since_ms = self.stage.schedulers[0].start()?;
        for (number, after) in recovery_kills.into_iter().enumerate() {
            sleep(after).await;
            let said = phase(&self.stage.schedulers[0].operator).await;
            self.tally.struck_while(said);
            self.stage.schedulers[0].kill().await?;
            self.tally.struck(if number == 0 { Moment::Recovery } else { Moment::SecondRecovery });
            since_ms = self.stage.schedulers[0].start()?;
        }
        let flow = flow.take().unwrap_or_else(|| self.begin_commands(cycle));
        faults.begin(&common.recovering);
        faults.change(common.script.wrapping_add(2_000));
        let steady =
            self.stage.status_when(0, "the recovery after the kill", QUIET, |_| {}, status::is_in_control).await?;
        self.recovered(&steady, since_ms);
        sleep(common.commands_after).await;
        self.end_commands(flow).await?;
        faults.over().await
    }

    /// Stops the active one of the pair until the other commands everything, and lets it go on.
    pub(crate) async fn pause(&mut self, cycle: u32) -> Result<(), StageError> {
        let Pause { common, continue_after } = plan::pause(self.room.seed, cycle, self.stage.servers.len());
        self.began_at_ms = now_ms();
        let (stopped, other) = (self.active, 1 - self.active);
        let mut faults = Faults::new(&self.stage.servers, self.room.fates.clone());
        let flow = self.begin_commands(cycle);
        faults.begin(&common.before);
        faults.change(common.script);
        sleep(common.strike_after).await;
        let since_ms = now_ms();
        self.stage.schedulers[stopped].pause()?;
        self.tally.struck(Moment::Commands);
        self.turn(other);
        self.while_struck(&mut faults, &common).await?;
        let steady =
            self.stage.status_when(other, "the takeover by the standby", QUIET, |_| {}, status::is_in_control).await?;
        self.recovered(&steady, since_ms);
        self.active = other;
        faults.begin(&common.recovering);
        faults.change(common.script.wrapping_add(2_000));
        sleep(continue_after).await;
        self.stage.schedulers[stopped].go_on()?;
        sleep(common.commands_after).await;
        self.stands_by(stopped).await?;
        self.end_commands(flow).await?;
        faults.over().await
    }

    /// Waits until a scheduler is a standby with every link up.
    pub(crate) async fn stands_by(&mut self, place: usize) -> Result<(), StageError> {
        let warm = |status: &Status| {
            status.phase == Phase::Standby && status.servers.iter().all(|server| server.link == LinkState::Up)
        };
        self.stage.status_when(place, "it stands by", QUIET, |_| {}, warm).await.map(drop)
    }

    fn begin_commands(&mut self, cycle: u32) -> Flow {
        Flow::begin(&self.room, std::mem::take(&mut self.seats), cycle)
    }

    async fn end_commands(&mut self, flow: Flow) -> Result<(), StageError> {
        self.seats = flow.end().await?;
        self.tally.commands += self.seats.iter().map(|seat| seat.said.len() as u64).sum::<u64>();
        Ok(())
    }

    fn turn(&self, place: usize) {
        if let Some(gate) = &self.gate {
            gate.turn(self.stage.schedulers[place].clients_at);
        }
    }

    /// What happens while nobody commands.
    async fn while_struck(&self, faults: &mut Faults, common: &Common) -> Result<(), StageError> {
        if common.empty_cache {
            self.backing.empty_cache().await?;
        }
        faults.begin(&common.struck);
        faults.change(common.script.wrapping_add(1_000));
        Ok(())
    }

    fn recovered(&mut self, steady: &Status, since_ms: u64) {
        let restart = status::round(steady, Trigger::Restart).and_then(|round| round.in_control_at_ms);
        if let Some(at_ms) = restart {
            self.tally.recoveries_ms.push(at_ms.saturating_sub(since_ms));
        }
    }

    /// Everything settles, answered commands are repeated, and the oracle compares. Answers the differences.
    pub(crate) async fn judge(&mut self) -> Result<Vec<String>, StageError> {
        let mut wrong: Vec<String> = self.seats.iter_mut().flat_map(|seat| seat.wrong.drain(..)).collect();
        let settled = self.stage.settled(self.active, "all is stored after the cycle", QUIET).await?;
        for trigger in [Trigger::Restart, Trigger::LinkRestored] {
            let round = status::round(&settled, trigger).filter(|round| round.began_at_ms >= self.began_at_ms);
            if let Some(round) = round {
                self.tally.round(round);
            }
        }
        wrong.extend(self.repeat().await?);
        let settled = self.stage.settled(self.active, "all is stored after the repeats", QUIET).await?;
        let epoch = epoch(&settled);
        let truth = self.stage.truth().await?;
        self.oracle.learn(&mut self.seats, &truth, &self.room.fates);
        wrong.extend(self.compare(epoch).await?);
        let stats = self.stage.stats().await?;
        self.tally.stale_refused = stats.values().map(|stats| stats.stale_refused).sum();
        self.tally.stale_executed = stats.values().map(|stats| stats.stale_executed).sum();
        if self.tally.stale_executed > 0 {
            wrong.push(format!("{} commands were executed for a stale token", self.tally.stale_executed));
        }
        self.room.fates.survived();
        self.seats.iter_mut().for_each(Seat::clear);
        Ok(wrong)
    }

    async fn compare(&mut self, epoch: Epoch) -> Result<Vec<String>, StageError> {
        let begun = Instant::now();
        let mut before = self.read_and_judge(epoch).await?;
        while !before.is_empty() && begun.elapsed() < READINGS {
            self.stage.settled(self.active, "a second reading", QUIET).await?;
            let again = self.read_and_judge(epoch).await?;
            if again == before {
                break;
            }
            self.tally.unconfirmed += 1;
            before = again;
        }
        Ok(before)
    }

    async fn read_and_judge(&mut self, epoch: Epoch) -> Result<Vec<String>, StageError> {
        let truth = self.stage.truth().await?;
        let operator = &self.stage.schedulers[self.active].operator;
        let (database, cached) = tokio::try_join!(
            async { self.backing.database.read().await.map_err(StageError::from) },
            self.backing.cached(operator),
        )?;
        let reading = Reading { epoch, truth, database, cached };
        Ok(self.oracle.judge(&reading, &self.seats, self.room.fates.orphans()))
    }

    async fn repeat(&mut self) -> Result<Vec<String>, StageError> {
        let mut wrong = Vec::new();
        for (place, (id, name)) in self.stage.client_names.iter().enumerate() {
            let repeater = Repeater {
                address: self.stage.schedulers[self.active].clients_at,
                id: *id,
                name: name.clone(),
                domain: DomainId(DOMAIN),
            };
            let said = self.seats.iter().flat_map(|seat| &seat.said).filter(|said| said.client == place);
            let mut said: Vec<&Said> = said.collect();
            said.sort_by_key(|said| said.command.number);
            let (repeats, otherwise) = repeater.repeat(&said).await?;
            self.tally.repeats += repeats;
            wrong.extend(otherwise);
        }
        Ok(wrong)
    }
}

/// The present term.
pub(crate) fn epoch(status: &Status) -> Epoch {
    status.term.map(|term| term.epoch).unwrap_or_default()
}

/// What a scheduler says that it is doing, if it says so at once.
async fn phase(operator: &Path) -> Option<Phase> {
    let asked = timeout(LAST_WORDS, status::status(operator)).await;
    asked.ok()?.ok()?.map(|status| status.phase)
}
