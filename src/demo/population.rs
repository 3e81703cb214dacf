//! Meeting clients create and start the meetings, and add terminals, roles, layouts, extra information.

use super::Options;
use super::clients::Crew;
use crate::stage::StageError;
use crate::stage::meetings::{call_terminal, create, meeting_id};
use crate::stage::progress::Progress;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use remeet_protocol::message::{ClientOp, EndCause, SetDecode, SetExtra, SetRole, TerminalRole, WindowSetting};
use remeet_protocol::record::{DisplayMode, MediaCodec, Number};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{LegId, MeetingId, ServerId};
use std::sync::atomic::{AtomicU64, Ordering};

/// Meetings of one client that are set up at the same time. One command of a leg is in flight at a time, so
/// each gives one after the other, and together they fill the client's window of 128.
const MEETINGS_AT_ONCE: usize = 120;
/// A meeting of the demo.
#[derive(Debug, Clone)]
pub(crate) struct Meeting {
    pub(crate) id: MeetingId,
    pub(crate) server: ServerId,
    /// Number of its client, from 0.
    pub(crate) client: usize,
    /// A part in one of the demo's troubles: the changes while the scheduler is dead leave it alone.
    pub(crate) reserved: bool,
    /// Why it has ended, if it has.
    pub(crate) ended: Option<EndCause>,
}

impl Meeting {
    pub(crate) fn leg(&self) -> LegId {
        LegId { meeting: self.id, leg: 0 }
    }
}

/// All meetings of the demo.
#[derive(Debug, Clone)]
pub(crate) struct Population {
    pub(crate) meetings: Vec<Meeting>,
    pub(crate) clients: usize,
    pub(crate) rng: ChaCha8Rng,
}

impl Population {
    /// Who is where; nothing is created yet.
    pub(crate) fn plan(options: &Options, clients: u32) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let meetings = (0..options.meetings)
            .map(|number| Meeting {
                id: meeting_id(number, &mut rng),
                server: ServerId(1 + number % options.servers),
                client: ((number / options.servers) % clients) as usize,
                reserved: false,
                ended: None,
            })
            .collect();
        Self { meetings, clients: clients as usize, rng }
    }

    /// Live meetings of a server that have no part in a trouble, by place in `meetings`.
    pub(crate) fn free(&self, server: ServerId) -> Vec<usize> {
        let free = |meeting: &Meeting| meeting.server == server && meeting.ended.is_none() && !meeting.reserved;
        (0..self.meetings.len()).filter(|place| free(&self.meetings[*place])).collect()
    }

    /// Takes a free meeting of a server for a part.
    pub(crate) fn reserve(&mut self, server: ServerId) -> Result<usize, StageError> {
        let place = self.free(server).first().copied();
        let place = place.ok_or_else(|| StageError::new(format!("server {server} has no meeting left for a part")))?;
        self.meetings[place].reserved = true;
        Ok(place)
    }

    /// A seeded choice of `fraction` of a server's live meetings; one stays out at least.
    pub(crate) fn choose(&mut self, server: ServerId, fraction: f64) -> Vec<MeetingId> {
        let mut free = self.free(server);
        let live = self.meetings.iter().filter(|meeting| meeting.server == server && meeting.ended.is_none()).count();
        let count = part_of(live, fraction).min(free.len().saturating_sub(1));
        let mut chosen = Vec::with_capacity(count);
        for _ in 0..count {
            let place = free.swap_remove(self.rng.random_range(0..free.len()));
            chosen.push(self.meetings[place].id);
        }
        chosen
    }

    pub(crate) fn of_client(&self, client: usize) -> impl Iterator<Item = &Meeting> {
        self.meetings.iter().filter(move |meeting| meeting.client == client)
    }

    /// A live meeting without a part for each client.
    pub(crate) fn probes(&self) -> Vec<MeetingId> {
        let probe = |client| {
            let mut own = self.of_client(client).filter(|meeting| meeting.ended.is_none() && !meeting.reserved);
            own.next().map(|meeting| meeting.id).unwrap_or_default()
        };
        (0..self.clients).map(probe).collect()
    }

    /// Meetings are created, started and filled; those in `unstarted` only created. Says how many commands
    /// that took.
    pub(crate) async fn move_in(
        &self,
        options: &Options,
        crew: &Crew,
        unstarted: &[usize],
        progress: &Progress,
    ) -> Result<u64, StageError> {
        let commands = AtomicU64::new(0);
        let filled = self.meetings.len().saturating_sub(unstarted.len()) as u64;
        // Create, start, terminals and, on average, two settings.
        let total = filled * (u64::from(options.terminals) + 4) + unstarted.len() as u64;
        let of_clients = (0..self.clients).map(|client| {
            let commands = &commands;
            let own = self.meetings.iter().enumerate().filter(move |(_, meeting)| meeting.client == client);
            stream::iter(own).map(Ok).try_for_each_concurrent(MEETINGS_AT_ONCE, move |(place, meeting)| async move {
                let work = SetUp { options, crew, meeting, place, commands, total, progress };
                work.create().await?;
                if !unstarted.contains(&place) {
                    work.start_and_fill().await?;
                }
                Ok::<_, StageError>(())
            })
        });
        future::try_join_all(of_clients).await?;
        Ok(commands.load(Ordering::Relaxed))
    }
}

struct SetUp<'a> {
    options: &'a Options,
    crew: &'a Crew,
    meeting: &'a Meeting,
    place: usize,
    commands: &'a AtomicU64,
    total: u64,
    progress: &'a Progress,
}

impl SetUp<'_> {
    async fn create(&self) -> Result<(), StageError> {
        let Meeting { id, server, client, .. } = *self.meeting;
        self.command(create(id, server, self.place, client)).await
    }

    async fn start_and_fill(&self) -> Result<(), StageError> {
        self.command(ClientOp::Start).await?;
        for number in 0..self.options.terminals {
            self.command(add_terminal(self.place, number)).await?;
        }
        for op in self.settings() {
            self.command(op).await?;
        }
        Ok(())
    }

    /// Every meeting has a chair; every second one a speaker; every fourth a layout and an entry.
    fn settings(&self) -> Vec<ClientOp> {
        let first = terminal_number(self.place, 0);
        let last = terminal_number(self.place, self.options.terminals - 1);
        let role = |number: &Number, role| ClientOp::SetRole(SetRole { number: number.clone(), role });
        let mut settings = vec![role(&first, TerminalRole::Chair)];
        if self.place.is_multiple_of(2) {
            settings.push(role(&last, TerminalRole::FirstSpeaker));
        }
        if self.place.is_multiple_of(4) {
            let window = |window, source: &Number| WindowSetting {
                window,
                source: source.clone(),
                channel: window,
                video: true,
                audio: window == 0,
            };
            settings.push(ClientOp::SetDecode(SetDecode {
                number: first.clone(),
                display_mode: DisplayMode::TwoSplit,
                output: Text::cut("HDMI 1"),
                codec: MediaCodec::H265,
                windows: vec![window(0, &first), window(1, &last)],
            }));
            // Opaque bytes, not a text.
            let value = Blob::new(vec![0, 159, 146, 150, 255]).unwrap_or_default();
            settings.push(ClientOp::SetExtra(SetExtra {
                number: last,
                key: Text::cut("seat: row"),
                value: Some(value),
            }));
        }
        settings
    }

    async fn command(&self, op: ClientOp) -> Result<(), StageError> {
        let name = op.name();
        let answer = self.crew.client(self.meeting.client).command(self.meeting.id, op).await;
        let failed = |reason: &dyn std::fmt::Display| {
            StageError::new(format!(
                "{name} of meeting {} on server {}: {reason}",
                self.meeting.id, self.meeting.server
            ))
        };
        let answer = answer.map_err(|error| failed(&error))?;
        let done = self.commands.fetch_add(1, Ordering::Relaxed) + 1;
        self.progress.at(done.min(self.total), self.total, "commands that create, start and fill meetings");
        if answer.code.is_ok() { Ok(()) } else { Err(failed(&format!("{}: {}", answer.code, answer.detail))) }
    }
}

/// The terminal's number: every twentieth has a colon in it, which Redis' names must bear.
pub(crate) fn terminal_number(meeting: usize, terminal: u16) -> Number {
    let colon = if terminal % 20 == 1 { ":" } else { "" };
    Text::cut(&format!("{:06}{colon}{terminal:03}", meeting + 1))
}

/// The command that calls a terminal.
pub(crate) fn add_terminal(meeting: usize, terminal: u16) -> ClientOp {
    call_terminal(terminal_number(meeting, terminal), &format!("Raum {terminal} ✓"))
}

/// `fraction` of `count`, rounded; at least one if any part was asked for.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // small counts
fn part_of(count: usize, fraction: f64) -> usize {
    if fraction <= 0.0 { 0 } else { ((count as f64 * fraction).round() as usize).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::collections::BTreeSet;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        options: Options,
    }

    fn plan(seed: &str) -> Population {
        Population::plan(&Program::parse_from(["demo", "--seed", seed]).options, 4)
    }

    #[test]
    fn the_same_seed_gives_the_same_meetings_and_the_same_choice() {
        let (mut one, mut two, other) = (plan("7"), plan("7"), plan("8"));
        let ids = |population: &Population| population.meetings.iter().map(|m| m.id).collect::<Vec<_>>();
        assert_eq!(ids(&one), ids(&two));
        assert_ne!(ids(&one), ids(&other));
        assert_eq!(one.choose(ServerId(1), 0.3), two.choose(ServerId(1), 0.3));
    }

    #[test]
    fn a_choice_leaves_out_reserved_meetings_and_always_one_more() {
        let mut population = plan("1");
        let reserved = population.reserve(ServerId(2)).map(|place| population.meetings[place].id);
        let chosen: BTreeSet<_> = population.choose(ServerId(2), 1.0).into_iter().collect();
        assert_eq!(chosen.len(), 48);
        assert!(reserved.is_ok_and(|id| !chosen.contains(&id)));
    }

    #[test]
    fn every_client_has_meetings_and_every_server_too() {
        let population = plan("1");
        for number in 0..4_u32 {
            let of_client = population.of_client(number as usize).count();
            assert!((48..=52).contains(&of_client), "client {number} has {of_client}");
            assert_eq!(population.free(ServerId(number + 1)).len(), 50);
        }
        assert!(!population.probes().contains(&MeetingId::default()));
    }
}
