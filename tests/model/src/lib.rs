//! A model of lease, attach and takeover: two schedulers, one server, one meeting, and everything that may go
//! wrong between them. It is checked to exhaustion, and with each of the parts switched off that the design
//! (§5) names as needed; then a counterexample must be found, or the model would prove nothing.
//!
//! **The network** is two sets of packets, one each way. Nothing that could have an effect is taken out. That a packet is lost is that its
//! delivery is never chosen; that it comes twice, late or out of order is that it is chosen again, or later.
//!
//! **Time** is whether the holder is sure of its lease. That nobody else can begin a term while it is, whatever
//! the clocks, the renewals and their answers do, is shown by a model of its own, [`lease`]. A holder that was
//! replaced is not followed further: it sends nothing, and its writes lose, so what is sent to it is of no use.
//! What it has sent is on its way. That no rule but the fifth needs the lease is shown without it
//! ([`Bounds::NO_LEASE`]): there it goes on.
//!
//! Rounds, renewals, crashes and restarts of the server are not counted, hence not bounded.
//!
//! **Merged steps**, and why that loses nothing:
//!
//! - Sending and the commit before it: a crash between them is a packet that is never delivered.
//! - Receiving and what the receiver does: it may be put off at will.
//! - The event of the end is sent with the end, or with the attach that the end has waited for. That the server
//!   sends it again (SPEC E-5) is the same packet once more.
//! - An inventory is asked for, cut and received in three steps. It changes nothing at the server, so that the
//!   question is lost or late is that it is cut later. Of several answers to one question only one is made: that
//!   another is received is that this one was not cut. One to an earlier question is none, as its request id is
//!   another's (SPEC M-5).
//! - The first answer to an attach counts on a link; afterwards its request id is awaited no more. But there are no
//!   request ids here, so one that was on its way when the link broke counts, too: more than the protocol allows.
//! - A session is a term and a life of the table. After a restart that keeps the table an attach of the same term
//!   gives the same one, so that late packets of it count: more than need be (SPEC T-5).
//! - The answer that carries the end out says *ended*, as one to a takeover does.
//! - Without a lease, of the commands that are refused for their old token one is kept: each is refused like any
//!   other. With a lease they are refused when the newer token attaches, for their sender is silent.
//!
//! What is taken out of a state, so that states do not differ by it, is said where that is done (`state.rs`).
//!
//! **Not here**: several meetings and servers, keys and proofs, back-fill, the numbers of events and all events but
//! the end's (so no gaps, and no later event that is acknowledged over the end's), the pages of an inventory, the
//! handshake (what its boot id lets the scheduler refuse early is heard here), answers that only refuse, several
//! commits at a time of unknown outcome, and rule 18 (that things come right once faults stop). The simulation has
//! all of these.

pub mod lease;
pub mod network;
mod scheduler;
mod server;
mod state;
mod store;

pub use state::{Fault, Given, Leg, Row, RowState, State, Unknown, Write};
use stateright::{Model, Property};

/// A part of the protocol that can be switched off, to show that the model sees what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Rule 8: only a table revision above the one stored with the leg makes absence an end.
    TableRevision,
    /// Rule 8: absence says nothing while a start is unanswered.
    UnansweredStart,
    /// An ended leg stays in the server's table and inventories until its end is acknowledged.
    Tombstones,
    /// What was executed is known also after the server's restart (SPEC T-8, C-2).
    ExecutedMemory,
    /// Writes and commands that follow from a plan compare the row with what the plan saw (rule 4).
    CompareAndSet,
    /// Every inventory is followed by a look-up of its own.
    SecondLookUp,
    /// A commit of unknown outcome is settled by a write (rule 12), not by a mere read.
    ReRead,
    /// Writes check the term in their own statement (rule 4).
    TermCheck,
    /// Servers execute commands for the highest attached token only (rule 2).
    Fencing,
}

impl Part {
    /// The seven that the design names.
    pub const NEEDED: [Self; 7] = [
        Self::TableRevision,
        Self::UnansweredStart,
        Self::Tombstones,
        Self::ExecutedMemory,
        Self::CompareAndSet,
        Self::SecondLookUp,
        Self::ReRead,
    ];
}

/// How far the model goes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Terms, of both schedulers together.
    pub terms: u8,
    /// Restarts of the server that lose its table.
    pub losses: u8,
    /// Clients give a command beside start and end.
    pub command: bool,
    /// Commits may be of unknown outcome.
    pub unknown: bool,
    /// The lease holds: nobody begins a term while another is sure of its own, and who is not sure is silent. Without
    /// it terms begin at any time, and who was replaced goes on as if nothing were: safety must come from the fences
    /// alone (design §5).
    pub lease: bool,
}

impl Bounds {
    /// Checked to exhaustion in every run of the tests.
    pub const SMALL: Self = Self { terms: 3, losses: 1, command: true, unknown: true, lease: true };
    /// Checked to exhaustion, too: two terms at a time, with nothing but the fences between them.
    pub const NO_LEASE: Self = Self { terms: 2, losses: 0, command: false, unknown: false, lease: false };
    /// Checked to a depth, by `scripts/model`.
    pub const LARGE: Self = Self { terms: 4, losses: 1, command: true, unknown: true, lease: true };
}

/// The model: all parts, or all but one.
#[derive(Debug, Clone, Copy)]
pub struct Recovery {
    /// How far it goes.
    pub bounds: Bounds,
    /// What is switched off.
    pub without: Option<Part>,
}

impl Recovery {
    fn has(&self, part: Part) -> bool {
        self.without != Some(part)
    }
}

/// One of the two schedulers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    /// The first.
    A,
    /// The second.
    B,
}

impl Who {
    const BOTH: [Self; 2] = [Self::A, Self::B];

    fn index(self) -> usize {
        self as usize
    }
}

/// How a commit ends for who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Commit {
    /// It stands, and that is known.
    Known,
    /// Nothing came back: it stands, or will, or never.
    Unknown,
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time passes: the holder of the lease stops, and it runs out.
    TimePasses,
    /// A standby begins a term: the lease has run out, or is of its own node.
    BeginTerm(Who),
    /// The holder renews its lease.
    Renew(Who),
    /// The process dies. What starts anew on its node is a standby.
    Crash(Who),
    /// A holder learns from a refused write or command that it is none.
    StepDown(Who),
    /// The link breaks: a new round follows.
    LinkLost(Who),
    /// Asks the server to attach.
    AskAttach(Who),
    /// Asks the server for an inventory.
    AskInventory(Who),
    /// The server cuts the inventory that the scheduler asks for, and sends it.
    CutInventory(Who),
    /// Reads what is stored about the meeting.
    LookUp(Who),
    /// Plans, and does what the plan says.
    Plan(Who, Commit),
    /// A client starts the meeting.
    ClientStart(Who, Commit),
    /// A client gives the meeting a command (add a terminal, say).
    ClientCommand(Who, Commit),
    /// A client ends the meeting.
    ClientEnd(Who, Commit),
    /// Finds out what became of a commit of unknown outcome.
    Settle(Who),
    /// The server receives a packet.
    Deliver(network::Packet),
    /// A scheduler receives an answer, or the event that the meeting has ended.
    Answered(Who, network::Answer, Commit),
    /// A commit of unknown outcome stands after all.
    LateCommit,
    /// The meeting ends by itself.
    EndsItself,
    /// The server restarts with its table.
    Restart,
    /// The server restarts and has lost its table.
    Loss,
}

impl Model for Recovery {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault.is_some() || (state.is_over() && self.has(Part::CompareAndSet)) {
            return;
        }
        actions.extend([Action::TimePasses, Action::LateCommit, Action::EndsItself, Action::Restart, Action::Loss]);
        actions.extend(state.packets.iter().map(Action::Deliver));
        for who in Who::BOTH {
            actions.extend([Action::BeginTerm(who)]);
            if state.of(who).term.is_none() {
                continue;
            }
            actions.extend(
                [
                    Action::Renew,
                    Action::Crash,
                    Action::StepDown,
                    Action::LinkLost,
                    Action::AskAttach,
                    Action::AskInventory,
                    Action::CutInventory,
                    Action::LookUp,
                    Action::Settle,
                ]
                .map(|action| action(who)),
            );
            for commit in [Commit::Known, Commit::Unknown] {
                actions.extend(
                    [Action::Plan, Action::ClientStart, Action::ClientCommand, Action::ClientEnd]
                        .map(|action| action(who, commit)),
                );
                actions.extend(state.answers.iter().map(|answer| Action::Answered(who, answer, commit)));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = *last;
        next.begin_step();
        let before = next;
        let happened = match action {
            Action::TimePasses => self.time_passes(&mut next),
            Action::BeginTerm(who) => self.begin_term(&mut next, who),
            Action::Renew(who) => self.renew(&mut next, who),
            Action::Crash(who) => self.crash(&mut next, who),
            Action::StepDown(who) => self.step_down(&mut next, who),
            Action::LinkLost(who) => self.link_lost(&mut next, who),
            Action::AskAttach(who) => self.ask_attach(&mut next, who),
            Action::AskInventory(who) => self.ask_inventory(&mut next, who),
            Action::CutInventory(who) => self.cut_inventory(&mut next, who),
            Action::LookUp(who) => self.look_up(&mut next, who),
            Action::Plan(who, commit) => self.plan(&mut next, who, commit),
            Action::ClientStart(who, commit) => self.client_start(&mut next, who, commit),
            Action::ClientCommand(who, commit) => self.client_command(&mut next, who, commit),
            Action::ClientEnd(who, commit) => self.client_end(&mut next, who, commit),
            Action::Settle(who) => self.settle(&mut next, who),
            Action::Deliver(packet) => self.deliver(&mut next, packet),
            Action::Answered(who, answer, commit) => self.answered(&mut next, who, answer, commit),
            Action::LateCommit => self.late_commit(&mut next),
            Action::EndsItself => self.ends_itself(&mut next),
            Action::Restart => self.restart(&mut next),
            Action::Loss => self.loss(&mut next),
        };
        // A step that changes nothing is none.
        (happened.is_some() && next != before).then(|| {
            if self.has(Part::CompareAndSet) {
                next.forget_stale_rows();
            }
            if self.has(Part::CompareAndSet) && self.has(Part::SecondLookUp) {
                next.forget_rows_that_say_nothing();
            }
            next.forget_what_the_plan_does_not_ask();
            next.forget_what_is_of_no_use(self);
            next
        })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = Property::<Self>::always;
        let sometimes = Property::<Self>::sometimes;
        vec![
            always("rule 1: every term has one holder", |_, state| {
                let [a, b] = &state.schedulers;
                a.term.is_none() || a.term != b.term
            }),
            always("rules 2, 3: no stale command is executed", |_, state| state.fault != Some(Fault::StaleCommand)),
            always("rule 4: no write of an older term stands", |_, state| state.fault != Some(Fault::StaleWrite)),
            always("rule 6: no meeting of ours is called an orphan", |_, state| state.fault != Some(Fault::Orphaned)),
            always("rule 8: no live meeting is closed", |_, state| !(state.row.has_ended() && state.leg == Leg::Live)),
            always("rule 9: ended stays ended", |_, state| state.fault != Some(Fault::CameBack)),
            always("rule 11: no meeting runs twice", |_, state| state.fault != Some(Fault::RanTwice)),
            always("rule 11: no command is executed twice", |_, state| state.fault != Some(Fault::ExecutedTwice)),
            always("rule 12: no meeting is ended after its end was refused", |_, state| {
                state.fault != Some(Fault::Killed)
            }),
            sometimes("a failover happens: the other scheduler commands the meeting", |_, state| {
                state.leg == Leg::Live && state.row.state == RowState::InMeeting && state.owner > 1 && {
                    state.of(Who::B).term == Some(state.owner)
                }
            }),
            sometimes("a stale command is refused", |_, state| state.refused),
            sometimes("an unknown commit is found to stand", |_, state| state.unknown.settled == Some(true)),
            sometimes("an unknown commit is found to be lost", |_, state| state.unknown.settled == Some(false)),
            sometimes("a command is executed, and its client told", |_, state| state.row.command == Given::Done),
            sometimes("a meeting is ended by its client and forgotten by its server", |_, state| {
                state.leg == Leg::Forgotten && state.row.has_ended() && !state.refused_end
            }),
            sometimes("the event of a lost table comes late, to who has not heard of the loss", |_, state| {
                state.late_event_is_heard()
            }),
            sometimes("an acknowledgement comes late, over a restart of the server", |_, state| {
                let asked = |packet: network::Packet| packet.request == network::Request::Acknowledge;
                !state.session && state.leg == Leg::Tombstone && state.packets.iter().any(asked)
            }),
            sometimes("an acknowledgement comes late, when the next term has begun", |_, state| {
                let asked = |packet: network::Packet| packet.request == network::Request::Acknowledge;
                state.packets.iter().any(|packet| asked(packet) && packet.term < state.term)
            }),
            sometimes("the answer to an attach comes late, from a lost table", |_, state| {
                state.is_late(|reply| matches!(reply, network::Reply::Attached(_)))
            }),
            sometimes("an inventory comes late, from a lost table", |_, state| {
                state.is_late(|reply| matches!(reply, network::Reply::Inventory(_)))
            }),
        ]
    }
}
