//! Model clients: they repeat a command under its id until it has a final answer, over crashes too.

use super::{Happening, World};
use remeet::model::Moment;
use remeet::recovery::{Command, Input, Rights, Waiter};
use remeet_protocol::message::{AddLeg, AddTerminal, ClientAnswer, ClientCommand, ClientOp, Create, SetExtra};
use remeet_protocol::record::Number;
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{ErrorCode, LegId, MeetingId, ServerId, Token};
use std::collections::BTreeMap;
use std::time::Duration;

/// A client asks again when it heard nothing for so long.
const PATIENCE: Duration = Duration::from_secs(4);

/// So many of a client's last answers are kept, or some more (`recovery::Settings`).
pub(super) const ANSWERS_KEPT: u64 = 250;

/// A client: one life of its memory.
#[derive(Default)]
pub(super) struct Client {
    next: u64,
    /// Commands without a final answer.
    pub(super) open: BTreeMap<u64, ClientCommand>,
    /// Final answers.
    pub(super) answered: BTreeMap<u64, ClientAnswer>,
    /// Everything ever sent.
    pub(super) sent: BTreeMap<u64, ClientCommand>,
    /// When the last command arrives: a client's stream keeps their order.
    last: Moment,
    /// The last wait of each command: earlier ones are void.
    waits: BTreeMap<u64, u64>,
    /// Answers that said *not now*.
    pub(super) put_off: BTreeMap<u64, Vec<ErrorCode>>,
}

impl World {
    /// A client commands; answers the command's number.
    pub(super) fn ask(&mut self, client: u64, meeting: MeetingId, op: ClientOp) -> u64 {
        let state = self.clients.entry(client).or_default();
        state.next += 1;
        let number = state.next;
        let command = ClientCommand { instance: client, number, meeting, op };
        state.open.insert(number, command.clone());
        state.sent.insert(number, command);
        self.client_sends(client, number);
        number
    }

    /// An operator asks the scheduler for something.
    pub(super) fn operator(&mut self, asks: impl FnOnce(Waiter) -> Input) {
        let Some(node) = self.commander() else { return };
        let Some(process) = &mut self.nodes[node].process else { return };
        process.last_waiter += 1;
        let waiter = Waiter(process.last_waiter);
        self.input_at(node, asks(waiter));
    }

    /// Sends a command, again if need be.
    pub(super) fn client_sends(&mut self, client: u64, number: u64) {
        let pause = self.dice.pause(self.options.delay);
        let Some(state) = self.clients.get_mut(&client) else { return };
        let Some(command) = state.sent.get(&number).cloned() else { return };
        state.last = state.last.max(self.calendar.now() + pause);
        self.calendar.at(state.last, Happening::ClientAsks { command });
        self.client_waits(client, number, PATIENCE);
    }

    fn client_waits(&mut self, client: u64, number: u64, pause: Duration) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        let wait = state.waits.entry(number).or_default();
        *wait += 1;
        self.calendar.after(pause, Happening::ClientWaited { client, number, wait: *wait });
    }

    pub(super) fn client_waited(&mut self, client: u64, number: u64, wait: u64) {
        let waits = |state: &Client| state.open.contains_key(&number) && state.waits.get(&number) == Some(&wait);
        if self.clients.get(&client).is_some_and(waits) {
            self.client_sends(client, number);
        }
    }

    /// It asks the scheduler that commands, now and then the other one; one that stands still is asked again later.
    pub(super) fn client_asks(&mut self, command: ClientCommand) {
        let now = self.calendar.now();
        let strays = self.nodes.len() > 1 && self.dice.chance(0.1);
        let node = if strays { self.nodes.iter().rposition(|node| node.process.is_some()) } else { self.commander() };
        let Some(node) = node.filter(|node| !self.nodes[*node].is_paused(now)) else { return };
        let Some(process) = &mut self.nodes[node].process else { return };
        process.last_waiter += 1;
        let waiter = Waiter(process.last_waiter);
        process.waiters.insert(waiter, (command.instance, command.number));
        let rights = Rights { control: true, operator: true };
        self.input_at(node, Input::Command(Command { waiter, rights, command }));
    }

    /// Rule 11: whatever happens, the final answers to one command are the same.
    pub(super) fn client_hears(&mut self, client: u64, term: Option<Token>, answer: ClientAnswer) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        let number = answer.number;
        let not_now = [ErrorCode::RETRY, ErrorCode::UNAVAILABLE, ErrorCode::UNREACHABLE, ErrorCode::NOT_DURABLE];
        if not_now.contains(&answer.code) {
            state.put_off.entry(number).or_default().push(answer.code);
            if state.open.contains_key(&number) {
                let pause = Duration::from_millis(answer.retry_after_ms.max(100).into());
                self.client_waits(client, number, pause);
            }
            return;
        }
        state.open.remove(&number);
        // Its answer is lost, and a repeat may be given another one.
        if self.seen.lost.term(term) {
            return;
        }
        let command = &state.sent[&number];
        let first = state.answered.entry(number).or_insert_with(|| answer.clone());
        // One that is no longer kept is all that may be told beside it: of so many commands open at a time, repeats of the
        // oldest meet its end.
        let late = |answer: &ClientAnswer| answer.code == ErrorCode::TOO_OLD && state.next - number >= ANSWERS_KEPT;
        if late(&answer) || late(first) {
            if late(first) {
                *first = answer;
            }
            return;
        }
        assert_eq!(
            (first.code, first.meeting, &first.detail),
            (answer.code, answer.meeting, &answer.detail),
            "rule 11: another answer to a repeat of {command:?}: {:?}, then {:?}",
            first.detail,
            answer.detail
        );
    }

    /// Every client asks once more for everything that was answered: it gets the first answers, from memory, and
    /// after a restart from the store.
    pub(super) fn repeat_everything(&mut self) {
        let made = self.store.made.clone();
        let legs: Vec<LegId> = self.store.legs.keys().copied().collect();
        for restart in [false, true] {
            if restart {
                self.restart(Duration::from_millis(5));
                self.quiet();
            }
            let mut repeated = Vec::new();
            for (client, state) in &mut self.clients {
                let kept = state.answered.keys().filter(|number| state.next - **number < ANSWERS_KEPT);
                for number in kept {
                    state.open.insert(*number, state.sent[number].clone());
                    repeated.push((*client, *number));
                }
            }
            for (client, number) in repeated {
                self.client_sends(client, number);
            }
            // Each has its answer, which is the first one.
            self.quiet();
        }
        assert_eq!(self.store.made, made, "rule 11: a repeat made an intent");
        let now: Vec<LegId> = self.store.legs.keys().copied().collect();
        assert_eq!(now, legs, "rule 11: a repeat made a leg");
    }

    pub(super) fn answer(&self, client: u64, number: u64) -> Option<&ClientAnswer> {
        self.clients.get(&client)?.answered.get(&number)
    }

    /// Runs until the command has its final answer.
    pub(super) fn await_answer(&mut self, client: u64, number: u64) -> ClientAnswer {
        self.run_until("a client's answer", |world| world.answer(client, number).is_some());
        self.answer(client, number).cloned().expect("just seen")
    }

    /// A client asks and waits for `ok`.
    pub(super) fn done(&mut self, client: u64, meeting: MeetingId, op: ClientOp) {
        let text = op.name();
        let number = self.ask(client, meeting, op);
        let answer = self.await_answer(client, number);
        assert_eq!(answer.code, ErrorCode::OK, "{text}: {}", answer.detail);
    }

    // ---- what clients do ----

    /// A meeting's id, as clients choose them.
    pub(super) fn new_meeting(&mut self) -> MeetingId {
        let random: [u8; 10] = self.dice.bytes();
        MeetingId(uuid::Builder::from_unix_timestamp_millis(self.wall_ms(), &random).into_uuid())
    }

    /// Creates and starts meetings with terminals, all at once, and waits until they run.
    pub(super) fn start_meetings(&mut self, server: ServerId, meetings: usize, terminals: usize) -> Vec<LegId> {
        let mut asked = Vec::new();
        let mut legs = Vec::new();
        for _ in 0..meetings {
            let meeting = self.new_meeting();
            legs.push(LegId { meeting, leg: 0 });
            asked.push(self.ask(1, meeting, create(meeting, server)));
        }
        self.all_done(1, &asked);
        let asked: Vec<u64> = legs.iter().map(|leg| self.ask(1, leg.meeting, ClientOp::Start)).collect();
        self.all_done(1, &asked);
        let mut asked = Vec::new();
        for leg in &legs {
            for terminal in 0..terminals {
                asked.push(self.ask(1, leg.meeting, add(terminal)));
            }
        }
        self.all_done(1, &asked);
        legs
    }

    /// Waits until all these commands are answered `ok`.
    pub(super) fn all_done(&mut self, client: u64, numbers: &[u64]) {
        for number in numbers {
            let answer = self.await_answer(client, *number);
            assert_eq!(answer.code, ErrorCode::OK, "{:?}: {}", self.clients[&client].sent[number], answer.detail);
        }
    }
}

pub(super) fn number(terminal: usize) -> Number {
    Text::cut(&format!("42{terminal:03}"))
}

pub(super) fn create(meeting: MeetingId, server: ServerId) -> ClientOp {
    ClientOp::Create(Create {
        meeting,
        server,
        number: Text::cut("8001"),
        title: Text::cut("meeting of the world"),
        creator: number(0),
        creator_name: Text::cut("first"),
    })
}

pub(super) fn add_leg(leg: u16, server: ServerId) -> ClientOp {
    ClientOp::AddLeg(AddLeg { leg, server })
}

pub(super) fn add(terminal: usize) -> ClientOp {
    ClientOp::AddTerminal(AddTerminal {
        number: number(terminal),
        home_domain: super::servers::DOMAIN,
        name: Text::cut("terminal"),
    })
}

pub(super) fn tell(terminal: usize, key: &str, value: &str) -> ClientOp {
    ClientOp::SetExtra(SetExtra {
        number: number(terminal),
        key: Text::cut(key),
        value: Some(Blob::new(value.as_bytes().to_vec()).expect("short")),
    })
}
