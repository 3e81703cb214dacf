//! Intents: committed, sent one at a time a leg, their results committed (design §3, *Commands to servers*).

use super::Trigger;
use super::commands::Waiting;
use super::core::{After, Asked, Core, Started, lane};
use super::leg::{Control, Leg, OpenIntent};
use super::takeover::Place;
use crate::model::{CommandId, Intent, IntentResult, StoredState};
use crate::session::{PersistId, Request, RequestError, Ticket};
use crate::store::{Expect, StateWrite, Unit, Write};
use remeet_protocol::message::{
    self, ClientAnswer, ClientCommand, ClientOp, CommandAnswer, End, EndCause, EventKind, Op,
};
use remeet_protocol::{ErrorCode, Handle, LegId, ServerId};

/// An intent's result, as it is stored.
#[derive(Debug)]
pub(super) struct Done {
    pub number: u64,
    pub writes: Vec<Write>,
    pub answer: Option<ClientAnswer>,
}

impl Core {
    pub(super) fn intend(&mut self, leg: LegId, waiting: &Waiting) {
        let op = match &waiting.command.op {
            ClientOp::End => {
                let cause = if waiting.rights.operator { EndCause::Operator } else { EndCause::Commanded };
                return self.intend_op(leg, Op::End(End { cause }), Some(&waiting.command), Some(StoredState::Ending));
            }
            ClientOp::AddTerminal(op) => Op::AddTerminal(op.clone()),
            ClientOp::RemoveTerminal(op) => Op::RemoveTerminal(op.clone()),
            ClientOp::SetRole(op) => Op::SetRole(op.clone()),
            ClientOp::SetDecode(op) if op.windows.len() > message::WINDOWS_MAX => {
                return self.refuse(waiting, ErrorCode::TOO_MANY, "a terminal has at most 16 windows");
            }
            ClientOp::SetDecode(op) => Op::SetDecode(op.clone()),
            ClientOp::SetExtra(op) => Op::SetExtra(op.clone()),
            ClientOp::Create(_) | ClientOp::Start | ClientOp::Mark(_) | ClientOp::Adopt(_) | ClientOp::AddLeg(_) => {
                return;
            }
        };
        let full = self.legs.get(&leg).is_some_and(|known| known.open.len() >= self.settings.intents_per_leg);
        if full {
            return self.refuse(waiting, ErrorCode::RETRY, "too many commands of the meeting are under way");
        }
        self.intend_op(leg, op, Some(&waiting.command), None);
    }

    /// Commits an intent (with a change of state, if the operation is one) and sends it after that.
    pub(super) fn intend_op(
        &mut self,
        leg: LegId,
        op: Op,
        command: Option<&ClientCommand>,
        state: Option<StoredState>,
    ) {
        let command = command.map(CommandId::from);
        let Some((intent, writes)) = self.new_intent(leg, op, command, state) else { return };
        let after = self.persist(lane(leg), Unit { writes }, After::Intent(leg, intent.number));
        if let Some(known) = self.legs.get_mut(&leg) {
            known.open.push(OpenIntent::storing(intent, after));
        }
        self.send_open(leg);
    }

    /// The leg's next intent, with what commits it.
    pub(super) fn new_intent(
        &mut self,
        leg: LegId,
        op: Op,
        command: Option<CommandId>,
        state: Option<StoredState>,
    ) -> Option<(Intent, Vec<Write>)> {
        let known = self.legs.get_mut(&leg)?;
        let mut writes = Vec::new();
        if let Some(state) = state {
            let expect = Expect { version: known.row.version, state: known.row.state };
            if state == StoredState::Ending {
                known.ends(state);
                known.ending = Some(known.row.intent + 1);
            } else {
                known.row.state = state;
                known.row.version += 1;
            }
            writes.push(Write::State(StateWrite { leg, expect, state, cause: EndCause::None, accepted: None }));
        }
        known.row.intent += 1;
        let intent = Intent { leg, number: known.row.intent, op, command };
        writes.push(Write::Intent(Box::new(intent.clone())));
        Some((intent, writes))
    }

    pub(super) fn intent_stored(&mut self, leg: LegId, number: u64) {
        if let Some(known) = self.legs.get_mut(&leg) {
            known.ending_stored(number);
            if let Some(open) = known.open.iter_mut().find(|open| open.intent.number == number) {
                open.after = None;
            }
        }
        self.send_open(leg);
    }

    /// One command of a leg is in flight: the first open intent. The session holds it until it is stored.
    pub(super) fn send_open(&mut self, leg: LegId) {
        let Some(known) = self.legs.get(&leg) else { return };
        let Some(open) = known.open.first() else { return };
        let attached = self.servers.get(&known.row.server).is_some_and(|server| server.attached.is_some());
        // An adoption is told by a message of its own, and what has ended is not started.
        let waits = matches!(known.row.state, StoredState::Starting | StoredState::Ending);
        let starts = matches!(open.intent.op, Op::Start(_)) && waits;
        if open.asked.is_some() || !attached || !(starts || known.takes_commands()) {
            return;
        }
        if self.needs_siblings(leg, open) {
            if !self.reads.values().any(|reading| reading.reads_meeting(leg.meeting)) {
                self.read_meetings(vec![leg.meeting]);
            }
            if let Some(known) = self.legs.get_mut(&leg) {
                known.unsent = true;
            }
            return;
        }
        let request = message::Command {
            leg,
            handle: known.row.handle.filter(|_| !starts).unwrap_or(Handle(0)),
            intent: open.intent.number,
            op: open.intent.op.clone(),
        };
        // Of two in the leg's lane the first can be lost and the later one stored: a request awaits one of them, so the
        // intent's own must be stored before the result of the one before it is awaited.
        let after = match (open.after, known.settling) {
            (Some(_), Some(_)) => return,
            (own, settling) => own.or(settling),
        };
        let (server, number) = (known.row.server, open.intent.number);
        let ticket = self.ask(server, Asked::Intent(leg, number), Request::Command(request), after);
        if let Some(open) = self.legs.get_mut(&leg).and_then(|known| known.open.first_mut()) {
            (open.asked, open.awaits) = (Some(ticket), after);
        }
    }

    /// What a request awaited was lost: the session has forgotten it without an answer. It is sent anew once the
    /// leg is ours again.
    pub(super) fn recall(&mut self, leg: LegId, lost: PersistId) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        for open in known.open.iter_mut().filter(|open| open.awaits == Some(lost)) {
            if let Some(ticket) = open.asked.take() {
                self.tickets.remove(&ticket);
            }
            open.awaits = None;
        }
        for open in &mut known.open {
            open.after.take_if(|after| *after == lost);
        }
    }

    pub(super) fn commanded(&mut self, ticket: Ticket, result: Result<CommandAnswer, RequestError>) {
        let Some(Asked::Intent(leg, number)) = self.tickets.remove(&ticket) else { return };
        // Asked for a start only: it looks through every read.
        let asked = |open: &OpenIntent| open.asked == Some(ticket) && matches!(open.intent.op, Op::Start(_));
        let starts = self.legs.get(&leg).is_some_and(|known| known.open.iter().any(asked));
        let read_again = starts && self.is_read_again(leg);
        let Some(known) = self.legs.get_mut(&leg) else { return };
        let server = known.row.server;
        // The first, unless a start before it was lost after it had left (rule 12).
        let Some(place) = known.open.iter().position(|open| open.asked == Some(ticket)) else { return };
        let Some(open) = known.open.get_mut(place).filter(|open| open.intent.number == number) else { return };
        match result {
            Ok(answer) if matches!(answer.code, ErrorCode::STALE_TOKEN | ErrorCode::NOT_ATTACHED) => {
                // The leg is not ours any more: its intent stays open until it is taken over again.
                open.asked = None;
                // A claim that is under way has an answer of its own, and one that was accepted meanwhile came after this.
                if known.control == Control::Ours && known.accepted_at < ticket {
                    known.control = Control::None;
                }
                self.want_round(server, Trigger::Reconcile);
            }
            // A takeover came before the start's answer, and its acceptance is on its way to the store still, or was lost and
            // the row is being read. The result counts once that stands: alone it would stand when the acceptance is lost,
            // and the leg would be one that is starting with nothing open that starts it. The server answers once more then.
            Ok(_) if starts && (known.accepting.is_some() || read_again) => {
                (open.asked, open.after) = (None, known.accepting);
                // What is read leads to another acceptance, and that to the start.
                if !read_again {
                    self.send_open(leg);
                }
            }
            Ok(answer) => {
                let open = known.open.remove(place);
                let starts = matches!(open.intent.op, Op::Start(_)) && known.row.state == StoredState::Starting;
                if starts && answer.code == ErrorCode::OK {
                    let place =
                        Place { boot: answer.boot, handle: answer.handle, table_revision: answer.table_revision };
                    let done = self.done(leg, &open, answer.code, answer.detail.as_str());
                    self.accepted(server, leg, place, answer.mark, Some(done));
                } else {
                    self.carried_out(server, leg, &open, &answer);
                    self.intent_done(leg, &open, answer.code, answer.detail.as_str());
                    self.send_open(leg);
                }
                self.intents_settled(leg);
            }
            Err(RequestError::Refused(failure)) if is_final(failure.code) => {
                let open = known.open.remove(place);
                self.close_unstarted(leg, &open);
                self.intent_done(leg, &open, failure.code, failure.detail.as_str());
                self.send_open(leg);
                self.intents_settled(leg);
            }
            // It may or may not have run: it stays open and is sent again, with the same number.
            Err(error) => {
                open.asked = None;
                if error != RequestError::LinkLost {
                    tracing::warn!(server = server.0, %leg, "{}: {error}", open.intent.op.name());
                    if let Some(round) = self.round(server)
                        && round.finishing.remove(&leg)
                    {
                        self.pend(server, leg, "unreachable");
                    }
                    self.want_round_later(server);
                    self.try_end_round(server);
                }
                self.settle_if_ended(leg);
            }
        }
    }

    fn carried_out(&mut self, server: ServerId, leg: LegId, open: &OpenIntent, answer: &CommandAnswer) {
        match (&open.intent.op, answer.code) {
            // A takeover came before the start's answer.
            (Op::Start(_), ErrorCode::OK) => {}
            (Op::Start(_), _) => self.close_unstarted(leg, open),
            (Op::End(end), ErrorCode::OK | ErrorCode::ENDED | ErrorCode::UNKNOWN_MEETING) => {
                // The ended event came before, as a rule; else this is the explicit end.
                self.close(leg, end.cause);
            }
            (_, ErrorCode::UNKNOWN_MEETING | ErrorCode::ENDED) => self.want_round(server, Trigger::Reconcile),
            _ => {}
        }
    }

    /// A start was refused for good: the meeting never ran, or its tombstone says that it is over. One that a
    /// takeover found running meanwhile stays.
    fn close_unstarted(&mut self, leg: LegId, open: &OpenIntent) {
        let starting = self.legs.get(&leg).is_some_and(|known| known.row.state == StoredState::Starting);
        if starting && matches!(open.intent.op, Op::Start(_)) {
            self.close(leg, EndCause::ByServer);
        }
    }

    /// A start's result and the state that it led to are stored.
    pub(super) fn start_stored(&mut self, id: PersistId, leg: LegId, started: Started) {
        self.publish(leg, EventKind::Started, Vec::new());
        self.mirror_key(leg);
        if let Some(answer) = started.answer {
            self.answer_stored(answer);
        }
        self.result_stored(id, leg);
    }

    /// What commits an intent's result, and with it the client's answer.
    pub(super) fn done(&self, leg: LegId, open: &OpenIntent, code: ErrorCode, detail: &str) -> Done {
        let over = matches!(code, ErrorCode::ENDED | ErrorCode::UNKNOWN_MEETING);
        // Ending what has ended is done (SPEC K-6).
        let code = if over && matches!(open.intent.op, Op::End(_)) { ErrorCode::OK } else { code };
        let number = open.intent.number;
        let mut writes = vec![Write::IntentDone(IntentResult { leg, number, code })];
        let told = open.intent.command.and_then(|id| Some((id, self.result_of(leg, open, code, detail)?)));
        let answer = told.map(|(id, (code, detail))| ClientAnswer {
            instance: id.instance,
            number: id.number,
            code,
            retry_after_ms: 0,
            detail: remeet_protocol::wire::Text::cut(&detail),
            meeting: leg.meeting,
        });
        writes.extend(answer.as_ref().map(|answer| Write::Answer(self.answer_row(answer))));
        Done { number, writes, answer }
    }

    /// Commits an intent's result, and with it the client's answer.
    pub(super) fn intent_done(&mut self, leg: LegId, open: &OpenIntent, code: ErrorCode, detail: &str) {
        let Done { number, writes, answer } = self.done(leg, open, code, detail);
        let id =
            self.persist(lane(leg), Unit { writes }, After::Answered { leg: Some(leg), answer: answer.map(Box::new) });
        if let Some(known) = self.legs.get_mut(&leg) {
            known.settling = Some(id);
            known.done = known.done.max(number);
            known.reopened.take_if(|reopened| *reopened == number);
        }
    }

    /// An intent's result is stored.
    pub(super) fn result_stored(&mut self, id: PersistId, leg: LegId) {
        if let Some(known) = self.legs.get_mut(&leg)
            && known.settling == Some(id)
        {
            known.settling = None;
        }
        self.intents_settled(leg);
    }

    /// Nothing is open on the leg: a round that finishes its start or end may end.
    pub(super) fn intents_settled(&mut self, leg: LegId) {
        let Some(known) = self.legs.get(&leg) else { return };
        if !known.open.is_empty() {
            return;
        }
        let (server, state) = (known.row.server, known.row.state);
        if let Some(round) = self.round(server) {
            round.finishing.remove(&leg);
        }
        if state == StoredState::Ended && self.legs.get(&leg).is_some_and(is_settled) {
            self.forget_leg(leg);
        }
        self.try_back_fill(server);
    }
}

/// A failure means that the command was not looked at (SPEC C-6), so it is sent again; but one that says
/// that it cannot be read, or is not allowed, will be said again.
fn is_final(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::MALFORMED
            | ErrorCode::NOT_ALLOWED
            | ErrorCode::UNSUPPORTED
            | ErrorCode::TOO_MANY
            | ErrorCode::EXISTS
    )
}

fn is_settled(leg: &Leg) -> bool {
    leg.closing.is_none() && leg.reopened.is_none() && !leg.in_round
}
