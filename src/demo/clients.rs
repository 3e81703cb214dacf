//! The meeting clients: they reconnect by themselves and must see their meetings again.

use super::population::Population;
use crate::cms::client::{Client, ClientSettings, Notice};
use crate::stage::{Stage, StageError};
use futures_util::future::join_all;
use remeet_protocol::message::{ClientAnswer, ClientOp, MeetingState};
use remeet_protocol::wire::Text;
use remeet_protocol::{Epoch, MeetingId};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;

/// A command with all its repeats, over a restart of the scheduler.
const COMMAND: Duration = Duration::from_secs(90);
/// A client is connected again and has been told of its meetings within this: rule 18.
const BACK: Duration = Duration::from_secs(30);

/// The clients, and how often each has connected.
pub(crate) struct Crew {
    clients: Vec<Client>,
}

/// What became of the clients in an act.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Connected, and see all of their meetings.
    pub(crate) connected: u64,
    /// The others, each with its reason.
    pub(crate) lost: Vec<String>,
}

impl Crew {
    /// Connects them all.
    pub(crate) async fn connect(stage: &Stage) -> Result<Self, StageError> {
        let mut clients = Vec::new();
        for (id, name) in &stage.client_names {
            let mut settings = ClientSettings::new(stage.schedulers[0].clients_at, *id, Text::cut(name));
            settings.deadline = COMMAND;
            // The scheduler is on the same machine: its clients look for it soon.
            settings.reconnect_max = Duration::from_millis(250);
            let connected = Client::connect(settings).await;
            clients.push(connected.map_err(|error| StageError::new(format!("{name}: {error}")))?);
        }
        Ok(Self { clients })
    }

    pub(crate) fn client(&self, number: usize) -> &Client {
        &self.clients[number % self.clients.len()]
    }

    /// How often each client has connected.
    pub(crate) fn connects(&self) -> Vec<u64> {
        self.clients.iter().map(|client| client.link().borrow().connects).collect()
    }

    /// A command whose answer is awaited later, in a task of its own.
    pub(crate) fn begin(&self, number: usize, meeting: MeetingId, op: ClientOp) -> Pending {
        let what = format!("{} of meeting {meeting}", op.name());
        let client = self.client(number).clone();
        Pending { what, task: tokio::spawn(async move { client.command(meeting, op).await }) }
    }

    /// After a restart: waits until every client has connected once more than `before`, asks at once for
    /// a meeting of its own, and awaits the update if it is still being recovered.
    pub(crate) async fn come_back(&self, before: &[u64], probes: &[MeetingId]) -> Vec<Result<(), String>> {
        let each = self.clients.iter().zip(before).zip(probes).enumerate();
        join_all(each.map(|(number, ((client, before), probe))| come_back(number, client, *before, *probe))).await
    }

    /// Whether every client is connected and sees all its meetings that are not ended.
    pub(crate) async fn look(&self, population: &Population, epoch: Epoch, back: &[Result<(), String>]) -> Seen {
        let each = self.clients.iter().enumerate();
        let looked = join_all(each.map(|(number, client)| look(number, client, population, epoch))).await;
        let mut seen = Seen::default();
        for (number, looked) in looked.into_iter().enumerate() {
            match back.get(number).cloned().unwrap_or(Ok(())).and(looked) {
                Ok(()) => seen.connected += 1,
                Err(reason) => seen.lost.push(reason),
            }
        }
        seen
    }

    pub(crate) async fn close(&self) {
        join_all(self.clients.iter().map(Client::close)).await;
    }
}

async fn come_back(number: usize, client: &Client, before: u64, probe: MeetingId) -> Result<(), String> {
    let who = format!("client {}", number + 1);
    let mut link = client.link();
    match timeout(BACK, link.wait_for(|link| link.up && link.connects > before)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) => return Err(format!("{who} was closed")),
        Err(_) => return Err(format!("{who} did not connect again within {} s", BACK.as_secs())),
    }
    let got = client.get(probe).await.map_err(|error| format!("{who}, get of meeting {probe}: {error}"))?;
    let view = match got.update {
        None => got.view,
        Some(update) => {
            update.wait(BACK).await.map_err(|error| format!("{who}, update of meeting {probe}: {error}"))?
        }
    };
    if view.info.state == MeetingState::InMeeting && !view.info.recovering && !view.records.is_empty() {
        return Ok(());
    }
    Err(format!("{who}: meeting {probe} came back as {:?} with {} records", view.info.state, view.records.len()))
}

async fn look(number: usize, client: &Client, population: &Population, epoch: Epoch) -> Result<(), String> {
    let who = format!("client {}", number + 1);
    if !client.link().borrow().up {
        return Err(format!("{who} is not connected"));
    }
    // A subscription tells the term, and lists what is not ended.
    let all = async {
        let mut subscription = client.subscribe(None).await.map_err(|error| error.to_string())?;
        loop {
            match subscription.next().await {
                Some(Notice::Snapshot { epoch, meetings }) => return Ok((epoch, meetings)),
                Some(Notice::Event(_)) => {}
                None => return Err("the subscription ended".to_owned()),
            }
        }
    };
    let (told, listed) = match timeout(BACK, all).await {
        Ok(listed) => listed.map_err(|error| format!("{who}: {error}"))?,
        Err(_) => return Err(format!("{who}: no list of meetings within {} s", BACK.as_secs())),
    };
    if told != epoch {
        return Err(format!("{who} is told of term {told}, the present one is {epoch}"));
    }
    let listed: BTreeMap<MeetingId, MeetingState> = listed.iter().map(|entry| (entry.meeting, entry.state)).collect();
    for meeting in population.of_client(number) {
        match (listed.get(&meeting.id), meeting.ended) {
            (Some(MeetingState::InMeeting), None) | (None, Some(_)) => {}
            (Some(state), _) => return Err(format!("{who} sees meeting {} as {state:?}", meeting.id)),
            (None, None) => return Err(format!("{who} does not see its meeting {}", meeting.id)),
        }
    }
    Ok(())
}

/// A command under way.
pub(crate) struct Pending {
    what: String,
    task: tokio::task::JoinHandle<Result<ClientAnswer, crate::cms::client::ClientError>>,
}

impl Pending {
    /// Its answer, whatever its code.
    pub(crate) async fn answer(self) -> Result<(String, ClientAnswer), StageError> {
        match self.task.await {
            Ok(Ok(answer)) => Ok((self.what, answer)),
            Ok(Err(error)) => Err(StageError::new(format!("{}: {error}", self.what))),
            Err(error) => Err(StageError::new(format!("{}: {error}", self.what))),
        }
    }

    /// Which command.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Whether it has been answered.
    pub(crate) fn is_answered(&self) -> bool {
        self.task.is_finished()
    }
}
