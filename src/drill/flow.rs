//! The clients' commands: a seat for each meeting, all at the same time, until they are told to pause.

use super::fates::Fates;
use super::meeting::{Meaning, Meeting};
use super::plan::dice;
use crate::cms::client::Client;
use crate::stage::StageError;
use crate::stage::meetings::{create, meeting_id};
use futures_util::future::join_all;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use remeet_protocol::message::{ClientAnswer, ClientCommand, ClientOp, EndCause};
use remeet_protocol::{LegId, ServerId};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// A client thinks for so long between two batches: two dozen clients command some hundred times a second then,
/// and what their commands do to the scheduler is not hidden by its being busy.
const THINK_MS: Range<u64> = 10..80;
/// Every command is answered within this, all restarts and repeats included: rule 18, twice over.
const COMMAND: Duration = Duration::from_secs(60);
/// Every fourth meeting is a lively one.
const LIVELY_EVERY: usize = 4;

/// What every seat needs.
pub(crate) struct Room {
    pub(crate) clients: Vec<Client>,
    pub(crate) fates: Arc<Fates>,
    pub(crate) servers: u32,
    pub(crate) terminals_max: usize,
    pub(crate) seed: u64,
}

/// A command and its first answer.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    /// By place among the clients.
    pub(crate) client: usize,
    pub(crate) command: ClientCommand,
    pub(crate) answer: ClientAnswer,
}

/// One meeting after the other.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    place: usize,
    pub(crate) meeting: Option<Meeting>,
    /// Of this cycle.
    pub(crate) said: Vec<Said>,
    /// Meetings that ended in this cycle, each with the ways in which it may have.
    pub(crate) ended: Vec<(LegId, BTreeSet<EndCause>)>,
    /// What may not be, of this cycle.
    pub(crate) wrong: Vec<String>,
}

/// Commands under way.
pub(crate) struct Flow {
    pause: CancellationToken,
    tasks: Vec<JoinHandle<Seat>>,
}

impl Flow {
    /// Lets every seat command.
    pub(crate) fn begin(room: &Arc<Room>, seats: Vec<Seat>, cycle: u32) -> Self {
        let pause = CancellationToken::new();
        let tasks = seats.into_iter().map(|mut seat| {
            let (room, pause) = (room.clone(), pause.clone());
            tokio::spawn(async move {
                seat.command(&room, cycle, &pause).await;
                seat
            })
        });
        let tasks = tasks.collect();
        Self { pause, tasks }
    }

    /// No more commands; waits for the answers of those under way.
    pub(crate) async fn end(self) -> Result<Vec<Seat>, StageError> {
        self.pause.cancel();
        match timeout(COMMAND * 2, join_all(self.tasks)).await {
            Ok(seats) => seats.into_iter().collect::<Result<_, _>>().map_err(StageError::new),
            Err(_) => Err(StageError::new(format!("clients' commands have no end after {} s", COMMAND.as_secs() * 2))),
        }
    }
}

impl Seat {
    /// Seats without meetings.
    pub(crate) fn all(count: u32) -> Vec<Self> {
        (0..count as usize).map(|place| Self { place, ..Self::default() }).collect()
    }

    /// Forgets what was said.
    pub(crate) fn clear(&mut self) {
        self.said.clear();
        self.ended.clear();
    }

    async fn command(&mut self, room: &Room, cycle: u32, pause: &CancellationToken) {
        let mut rng = dice(room.seed, cycle, 1_000 + self.place as u64);
        while !pause.is_cancelled() && self.wrong.is_empty() {
            match self.meeting.take() {
                None => self.open(room, &mut rng).await,
                Some(mut meeting) => {
                    let ops = meeting.next(room.terminals_max, &mut rng);
                    self.give(room, meeting, ops).await;
                }
            }
            let think = Duration::from_millis(rng.random_range(THINK_MS));
            tokio::select! {
                () = sleep(think) => {}
                () = pause.cancelled() => {}
            }
        }
    }

    /// Creates and starts the next meeting.
    async fn open(&mut self, room: &Room, rng: &mut ChaCha8Rng) {
        let place = u32::try_from(self.place).unwrap_or(u32::MAX);
        let id = meeting_id(place, rng);
        let server = ServerId(1 + place % room.servers);
        let lively = self.place % LIVELY_EVERY == LIVELY_EVERY - 1;
        // Written down before anything is commanded: whoever does harm must know of it.
        room.fates.begin(id, server, lively);
        let meeting = Meeting::new(id, self.place, lively, rng);
        self.give(room, meeting, vec![create(id, server, self.place, self.client(room))]).await;
        if let Some(meeting) = self.meeting.take() {
            self.give(room, meeting, vec![ClientOp::Start]).await;
        }
    }

    fn client(&self, room: &Room) -> usize {
        self.place % room.clients.len().max(1)
    }

    /// Gives commands at the same time and takes their answers in; the meeting stays unless it is over.
    async fn give(&mut self, room: &Room, mut meeting: Meeting, ops: Vec<ClientOp>) {
        let client = self.client(room);
        let given = ops.iter().map(|op| room.clients[client].command_within(meeting.id, op.clone(), COMMAND));
        let answers = join_all(given).await;
        let mut over: Option<BTreeSet<EndCause>> = None;
        for (op, answer) in ops.into_iter().zip(answers) {
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    self.wrong.push(format!("{} of meeting {}: {error}", op.name(), meeting.id));
                    continue;
                }
            };
            match meeting.answered(&op, &answer, room.fates.ends(meeting.id)) {
                Meaning::GoesOn => {}
                Meaning::Over(ends) => over.get_or_insert_default().extend(ends),
                Meaning::Wrong(text) => self.wrong.push(format!("meeting {}: {text}", meeting.id)),
            }
            let (instance, number) = (answer.instance, answer.number);
            let command = ClientCommand { instance, number, meeting: meeting.id, op };
            self.said.push(Said { client, command, answer });
        }
        match over {
            Some(ends) => {
                room.fates.forget(meeting.id);
                self.ended.push((meeting.leg(), ends));
            }
            None => self.meeting = Some(meeting),
        }
    }
}
