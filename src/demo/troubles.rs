//! What goes on at the moment of the kill: starts, ends and an added terminal that are on their way, in
//! both forms: the server never got the command, or it carried it out and its answer was lost.

use super::clients::{Crew, Pending};
use super::population::{Population, add_terminal};
use crate::simulator::Request;
use crate::stage::backing::Backing;
use crate::stage::{LOOK, Stage, StageError};
use remeet_protocol::ErrorCode;
use remeet_protocol::message::{ClientOp, EndCause};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Answers of the one server are held back for longer than the scheduler has left to live.
const LATENCY_MS: u64 = 60_000;
/// Six commands are committed and three of them executed within this.
const UNDER_WAY: Duration = Duration::from_secs(20);

/// The meetings that have a part, by place in the population.
pub(crate) struct Troubles {
    /// Index of the server that refuses as busy: commands never reach their leg.
    busy: usize,
    /// Index of the server whose answers are late: commands are executed, nobody hears of it.
    late: usize,
    start_lost: usize,
    end_lost: usize,
    add_lost: usize,
    start_executed: usize,
    end_executed: usize,
    add_executed: usize,
    pending: Vec<Pending>,
}

impl Troubles {
    /// Gives out the parts.
    pub(crate) fn cast(population: &mut Population, stage: &Stage) -> Result<Self, StageError> {
        let (busy, late) = (0, 1 % stage.servers.len());
        let mut part = |server: usize| population.reserve(stage.servers[server].id);
        Ok(Self {
            busy,
            late,
            start_lost: part(busy)?,
            end_lost: part(busy)?,
            add_lost: part(busy)?,
            start_executed: part(late)?,
            end_executed: part(late)?,
            add_executed: part(late)?,
            pending: Vec::new(),
        })
    }

    /// Meetings that are to be created and not started.
    pub(crate) fn unstarted(&self) -> [usize; 2] {
        [self.start_lost, self.start_executed]
    }

    /// Lets the commands begin, and returns when all are committed and none is answered.
    pub(crate) async fn begin(
        &mut self,
        stage: &mut Stage,
        crew: &Crew,
        population: &Population,
        backing: &Backing,
        added: u16,
    ) -> Result<(), StageError> {
        let late = &mut stage.servers[self.late].control;
        let before = late.stats().await?.commands_executed;
        late.call(&Request::SetLatency { ms: LATENCY_MS }).await?;
        self.send(crew, population, [self.start_executed, self.end_executed, self.add_executed], added);
        let begun = Instant::now();
        while stage.servers[self.late].control.stats().await?.commands_executed < before + 3 {
            within(begun, "the late server executes three commands")?;
            sleep(LOOK).await;
        }
        stage.servers[self.busy].control.call(&Request::Busy { on: true, retry_after_ms: None }).await?;
        self.send(crew, population, [self.start_lost, self.end_lost, self.add_lost], added);
        loop {
            let now = backing.database.in_flight().await?;
            if now.starting == 2 && now.ending == 2 && now.open_intents == 6 {
                break;
            }
            within(begun, &format!("six commands are committed (now: {now:?})"))?;
            sleep(LOOK).await;
        }
        if let Some(early) = self.pending.iter().find(|pending| pending.is_answered()) {
            return Err(StageError::new(format!("{} was answered before the kill", early.what())));
        }
        Ok(())
    }

    fn send(&mut self, crew: &Crew, population: &Population, places: [usize; 3], added: u16) {
        let ops = [ClientOp::Start, ClientOp::End, add_terminal(places[2], added)];
        for (place, op) in places.into_iter().zip(ops) {
            let meeting = &population.meetings[place];
            self.pending.push(crew.begin(meeting.client, meeting.id, op));
        }
    }

    /// The scheduler is dead: the servers are as they were.
    pub(crate) async fn stop_faults(&self, stage: &mut Stage, population: &mut Population) -> Result<(), StageError> {
        stage.servers[self.busy].control.call(&Request::Busy { on: false, retry_after_ms: None }).await?;
        stage.servers[self.late].control.call(&Request::SetLatency { ms: 0 }).await?;
        for place in [self.end_lost, self.end_executed] {
            population.meetings[place].ended = Some(EndCause::Commanded);
        }
        Ok(())
    }

    /// Legs that are live when the scheduler comes back and whose end it must finish.
    pub(crate) fn ends_to_finish(&self) -> u64 {
        1
    }

    /// The clients repeated their commands over the restart, with the same ids: each had one effect. A
    /// second one would have been answered *exists* or *wrong state*.
    pub(crate) async fn answers(&mut self) -> Result<Vec<String>, StageError> {
        let mut problems = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            let is_end = pending.what().starts_with(ClientOp::End.name());
            let (what, answer) = pending.answer().await?;
            // An end whose answer was lost may find the meeting ended.
            let is_done = answer.code.is_ok() || (is_end && answer.code == ErrorCode::ENDED);
            if !is_done {
                problems.push(format!("{what}, repeated over the restart: {}: {}", answer.code, answer.detail));
            }
        }
        Ok(problems)
    }

    /// Meetings that were starting are commanded: a terminal is added to each.
    pub(crate) async fn command_the_started(
        &self,
        crew: &Crew,
        population: &Population,
    ) -> Result<Vec<String>, StageError> {
        let mut problems = Vec::new();
        for place in self.unstarted() {
            let meeting = &population.meetings[place];
            let (what, answer) = crew.begin(meeting.client, meeting.id, add_terminal(place, 0)).answer().await?;
            if !answer.code.is_ok() {
                problems.push(format!("{what}, after the restart: {}: {}", answer.code, answer.detail));
            }
        }
        Ok(problems)
    }
}

fn within(begun: Instant, what: &str) -> Result<(), StageError> {
    if begun.elapsed() < UNDER_WAY {
        return Ok(());
    }
    Err(StageError::new(format!("waited {} s in vain until {what}", UNDER_WAY.as_secs())))
}
