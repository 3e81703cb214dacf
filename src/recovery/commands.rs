//! Client commands: intent committed, sent, result committed, client answered (design §3). On a leg that
//! is being recovered they wait, bounded and with a deadline, or are answered `retry`.

use super::core::{After, Asked, Core, Reading, lane};
use super::instances::{Repeat, answer};
use super::leg::{Control, Leg, OpenIntent};
use super::takeover::Place;
use super::{CacheTask, Command, Output, Read, Rights, Trigger};
use crate::model::{ClientAnswerRow, CommandId, Intent, IntentResult, Moment, RecoveryKey, StoredLeg, StoredState};
use crate::session::{PersistId, Request, RequestError, Ticket};
use crate::store::{Expect, Instance, LookUp, NewLeg, StateWrite, Unit, Write};
use rand_chacha::rand_core::RngCore;
use remeet_protocol::message::{
    self, ClientAnswer, ClientCommand, ClientOp, CommandAnswer, Create, End, EndCause, EventKind, Op, Start,
};
use remeet_protocol::record::{LegRow, Number};
use remeet_protocol::{ErrorCode, Handle, LegId, Secret, ServerId};
use std::collections::BTreeSet;

/// A command that waits for its meeting.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub rights: Rights,
    pub command: ClientCommand,
    pub deadline: Moment,
}

impl Core {
    pub(super) fn command(&mut self, command: Command) {
        let needs_operator = matches!(command.command.op, ClientOp::Mark(_) | ClientOp::Adopt(_));
        let allowed = if needs_operator { command.rights.operator } else { command.rights.control };
        if !allowed {
            let detail =
                if needs_operator { "this needs the operator's right" } else { "this needs the control right" };
            return self.answer_now(command.waiter, &command.command, ErrorCode::NOT_ALLOWED, detail);
        }
        if self.token.is_none() {
            let detail = "the scheduler has no term yet: it waits for the database";
            return self.answer_now(command.waiter, &command.command, ErrorCode::UNAVAILABLE, detail);
        }
        self.admit(command);
    }

    fn admit(&mut self, command: Command) {
        let (waiter, sent) = (command.waiter, command.command.clone());
        match self.instances.admit(command) {
            Repeat::New(command) => {
                let deadline = self.now + self.settings.waiting_deadline;
                self.place(Waiting { rights: command.rights, command: command.command, deadline });
            }
            Repeat::Answered(answer) => self.put(Output::Answer(waiter, *answer)),
            Repeat::Joined | Repeat::Waits => {}
            Repeat::TooOld => {
                let detail = "a command of this number may have run; its answer is no longer kept";
                self.answer_now(waiter, &sent, ErrorCode::TOO_OLD, detail);
            }
            Repeat::Read => {
                let id = self.read_id();
                self.reads.insert(id, Reading::Instance(sent.instance));
                self.put(Output::Read { id, read: Read::Instance(sent.instance) });
            }
            Repeat::Full => self.answer_now(waiter, &sent, ErrorCode::RETRY, "too many commands wait"),
        }
    }

    pub(super) fn instance_read(&mut self, instance: u64, kept: Instance) {
        // Intents of legs that are not in memory: the leg may have ended, and nobody else would read it.
        let legs: BTreeSet<LegId> = kept.open.iter().map(|(_, leg, _)| *leg).collect();
        let legs: Vec<LegId> = legs.into_iter().filter(|leg| !self.legs.contains_key(leg)).collect();
        if !legs.is_empty() {
            let id = self.read_id();
            self.reads.insert(id, Reading::Legs(legs.clone()));
            self.put(Output::Read { id, read: Read::Legs(legs) });
        }
        for command in self.instances.loaded(instance, kept) {
            self.admit(command);
        }
    }

    pub(super) fn instance_unread(&mut self, instance: u64, reason: &str) {
        for command in self.instances.unread(instance) {
            self.answer_now(command.waiter, &command.command, ErrorCode::UNAVAILABLE, reason);
        }
    }

    /// Finds the command's leg: in memory, or in the store.
    fn place(&mut self, waiting: Waiting) {
        match &waiting.command.op {
            ClientOp::Create(create) => {
                let create = create.clone();
                return self.create(&waiting, create);
            }
            ClientOp::Adopt(adopt) => {
                let adopt = adopt.clone();
                return self.adopt(waiting, &adopt);
            }
            _ => {}
        }
        let leg = first_leg(&waiting.command);
        if self.legs.contains_key(&leg) {
            return self.run(leg, waiting);
        }
        self.read_for(leg, waiting);
    }

    /// Reads the leg that a command waits for.
    fn read_for(&mut self, leg: LegId, waiting: Waiting) {
        if self.waiting >= self.settings.waiting_total {
            return self.refuse(&waiting, ErrorCode::RETRY, "too many commands wait for recovery");
        }
        self.waiting += 1;
        let queue = self.unplaced.entry(leg).or_default();
        queue.push_back(waiting);
        if queue.len() == 1 {
            let id = self.read_id();
            self.reads.insert(id, Reading::Legs(vec![leg]));
            self.put(Output::Read { id, read: Read::Legs(vec![leg]) });
        }
    }

    pub(super) fn legs_read(&mut self, legs: Vec<LegId>, found: LookUp) {
        for found in found.found {
            self.take_found(found);
        }
        for leg in legs {
            if self.legs.contains_key(&leg) {
                self.place_waiting(leg);
                self.settle_if_ended(leg);
                continue;
            }
            for waiting in self.unplaced.remove(&leg).into_iter().flatten() {
                self.waiting = self.waiting.saturating_sub(1);
                self.refuse(&waiting, ErrorCode::UNKNOWN_MEETING, "no such meeting: create it first");
            }
        }
    }

    pub(super) fn legs_unread(&mut self, legs: Vec<LegId>, reason: &str) {
        for leg in legs {
            for waiting in self.unplaced.remove(&leg).into_iter().flatten() {
                self.waiting = self.waiting.saturating_sub(1);
                self.refuse(&waiting, ErrorCode::UNAVAILABLE, reason);
            }
        }
    }

    /// A leg came into memory: commands that waited for it run.
    pub(super) fn place_waiting(&mut self, leg: LegId) {
        for waiting in self.unplaced.remove(&leg).into_iter().flatten() {
            self.waiting = self.waiting.saturating_sub(1);
            self.run(leg, waiting);
        }
    }

    fn run(&mut self, leg: LegId, waiting: Waiting) {
        let Some(known) = self.legs.get(&leg) else { return };
        let attached = self.servers.get(&known.row.server).is_some_and(|server| server.attached.is_some());
        match (&waiting.command.op, known.row.state) {
            (ClientOp::Create(create), _) => {
                let create = create.clone();
                self.create_again(leg, &waiting, &create);
            }
            // Ending what has ended is done (SPEC K-6).
            (ClientOp::End, StoredState::Ended) => self.refuse(&waiting, ErrorCode::OK, "it had ended"),
            (_, StoredState::Ended) => self.refuse(&waiting, ErrorCode::ENDED, "the meeting has ended"),
            (ClientOp::Mark(first), _) => {
                let first = *first;
                self.mark_first(leg, &waiting, first);
            }
            (ClientOp::Start, StoredState::Created) if attached => self.start(leg, &waiting),
            (ClientOp::Start, StoredState::Created) => self.wait(leg, waiting),
            // Starting what has started is done (SPEC K-6); one under way is waited for.
            (ClientOp::Start, StoredState::InMeeting) => self.refuse(&waiting, ErrorCode::OK, "it had started"),
            (ClientOp::End, StoredState::Created) => self.end_created(leg, &waiting),
            (_, StoredState::Created) => {
                self.refuse(&waiting, ErrorCode::WRONG_STATE, "the meeting is not started: start it first");
            }
            (_, StoredState::Ending) => self.refuse(&waiting, ErrorCode::WRONG_STATE, "the meeting is being ended"),
            (_, StoredState::InMeeting) if known.is_ours(self.token) => self.intend(leg, &waiting),
            (_, StoredState::InMeeting | StoredState::Starting | StoredState::Adopting) => self.wait(leg, waiting),
        }
    }

    fn wait(&mut self, leg: LegId, waiting: Waiting) {
        let full = self.waiting >= self.settings.waiting_total;
        let per_leg = self.settings.waiting_per_leg;
        match self.legs.get_mut(&leg) {
            Some(known) if known.waiting.len() < per_leg && !full => {
                self.waiting += 1;
                known.waiting.push_back(waiting);
            }
            _ => self.refuse(&waiting, ErrorCode::RETRY, "too many commands wait for the meeting's recovery"),
        }
    }

    /// The leg is ours: what waited for it runs, in order.
    pub(super) fn flush_waiting(&mut self, leg: LegId) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        let waiting = std::mem::take(&mut known.waiting);
        for waiting in waiting {
            self.waiting = self.waiting.saturating_sub(1);
            self.run(leg, waiting);
        }
    }

    pub(super) fn waiting_until(&self) -> Option<Moment> {
        if self.waiting == 0 {
            return None;
        }
        let on_legs = self.legs.values().filter_map(|known| known.waiting.front());
        let unplaced = self.unplaced.values().filter_map(|queue| queue.front());
        on_legs.chain(unplaced).map(|waiting| waiting.deadline).min()
    }

    pub(super) fn expire_waiting(&mut self) {
        if self.waiting == 0 {
            return;
        }
        let now = self.now;
        let mut late = Vec::new();
        let queues = self.legs.values_mut().map(|known| &mut known.waiting).chain(self.unplaced.values_mut());
        for queue in queues {
            while queue.front().is_some_and(|waiting| waiting.deadline <= now) {
                late.extend(queue.pop_front());
            }
        }
        self.unplaced.retain(|_, queue| !queue.is_empty());
        for waiting in late {
            self.waiting = self.waiting.saturating_sub(1);
            let leg = first_leg(&waiting.command);
            let server = self.legs.get(&leg).and_then(|known| self.servers.get(&known.row.server));
            if server.is_some_and(|server| !server.up) {
                let detail = "the meeting's server does not answer; the meeting goes on";
                self.refuse(&waiting, ErrorCode::UNREACHABLE, detail);
            } else {
                self.refuse(&waiting, ErrorCode::RETRY, "the meeting is not recovered yet");
            }
        }
    }

    /// Answers a command that has no effect. What may be otherwise later is not kept, so that the same
    /// command may be sent again; what is final is kept, so that a repeat gets the same.
    pub(super) fn refuse(&mut self, waiting: &Waiting, code: ErrorCode, detail: &str) {
        let command = &waiting.command;
        if matches!(code, ErrorCode::RETRY | ErrorCode::UNAVAILABLE | ErrorCode::UNREACHABLE) {
            for waiter in self.instances.dropped(command.instance, command.number) {
                self.answer_now(waiter, command, code, detail);
            }
            return;
        }
        let answer = answer(command, code, detail, command.meeting);
        self.answer_kept(answer);
    }

    /// Commits an answer that no other write goes with.
    pub(super) fn answer_kept(&mut self, answer: ClientAnswer) {
        let unit = Unit::one(Write::Answer(self.answer_row(&answer)));
        self.persist(answer.instance, unit, After::Answered { leg: None, answer: Some(answer) });
    }

    fn answer_row(&self, answer: &ClientAnswer) -> ClientAnswerRow {
        ClientAnswerRow {
            command: CommandId { instance: answer.instance, number: answer.number },
            meeting: answer.meeting,
            code: answer.code,
            detail: answer.detail.as_str().to_owned(),
            at_ms: self.wall_ms,
        }
    }

    pub(super) fn answer_stored(&mut self, answer: ClientAnswer) {
        for waiter in self.instances.answered(&answer) {
            self.put(Output::Answer(waiter, answer.clone()));
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

    // ---- create, start, end ----

    /// The recovery key is committed before this is answered.
    fn create(&mut self, waiting: &Waiting, create: Create) {
        let leg = LegId { meeting: create.meeting, leg: 0 };
        let Some(server) = self.choose_server(create.server) else {
            let detail = "no such server in the configuration: name another, or 0 to let the scheduler choose";
            return self.refuse(waiting, ErrorCode::UNKNOWN_IDENTITY, detail);
        };
        if self.legs.contains_key(&leg) {
            return self.create_again(leg, waiting, &create);
        }
        let key = self.new_key(leg, server, &create);
        let row = new_row(&key, StoredState::Created);
        let answer = answer(&waiting.command, ErrorCode::OK, "", create.meeting);
        let unit = Unit {
            writes: vec![
                Write::NewLeg(Box::new(NewLeg { row: row.clone(), key: key.clone() })),
                Write::Answer(self.answer_row(&answer)),
            ],
        };
        self.insert_leg(Leg::new(row));
        self.persist(lane(leg), unit, After::Created { leg, key: Box::new(key), answer });
    }

    pub(super) fn new_key(&mut self, leg: LegId, server: ServerId, create: &Create) -> RecoveryKey {
        let mut secret = [0; 16];
        self.random.fill_bytes(&mut secret);
        RecoveryKey {
            leg,
            domain: self.servers.get(&server).map(|known| known.domain).unwrap_or_default(),
            server,
            secret: Secret::new(secret),
            generation: 1,
            number: create.number.clone(),
            title: create.title.clone(),
            creator: create.creator.clone(),
            creator_name: create.creator_name.clone(),
            made_at_ms: self.wall_ms,
        }
    }

    fn choose_server(&self, wanted: ServerId) -> Option<ServerId> {
        if wanted != ServerId(0) {
            return self.servers.contains_key(&wanted).then_some(wanted);
        }
        // The least loaded of those that answer; else of all.
        self.servers.values().min_by_key(|server| (server.attached.is_none(), server.legs.len())).map(|s| s.id)
    }

    pub(super) fn created(&mut self, leg: LegId, key: Box<RecoveryKey>, answer: ClientAnswer) {
        self.put(Output::Cache(CacheTask::PutKey(key.clone())));
        if let Some(known) = self.legs.get_mut(&leg)
            && known.row.state == StoredState::Created
        {
            known.unstarted = Some(key);
        }
        self.publish(leg, EventKind::Created, Vec::new());
        self.answer_stored(answer);
        self.flush_waiting(leg);
    }

    /// The id exists (SPEC K-5): with the same content that is a success, else not.
    fn create_again(&mut self, leg: LegId, waiting: &Waiting, create: &Create) {
        let Some(row) = self.legs.get(&leg).map(|known| &known.row) else { return };
        let same = row.number == create.number && row.title == create.title;
        match (row.state, same) {
            (StoredState::Ended, _) => self.refuse(waiting, ErrorCode::ENDED, "a meeting of this id has ended"),
            (_, true) => self.refuse(waiting, ErrorCode::OK, "it exists with the same content"),
            (_, false) => self.refuse(waiting, ErrorCode::EXISTS, "a meeting of this id exists with other content"),
        }
    }

    /// The store has the id already: its row says what to answer.
    pub(super) fn create_lost(&mut self, leg: LegId, key: &RecoveryKey, answer: &ClientAnswer) {
        let waiting = self.legs.get_mut(&leg).map(|known| std::mem::take(&mut known.waiting));
        self.forget_leg(leg);
        let op = ClientOp::Create(Create {
            meeting: leg.meeting,
            server: key.server,
            number: key.number.clone(),
            title: key.title.clone(),
            creator: key.creator.clone(),
            creator_name: key.creator_name.clone(),
        });
        let command = ClientCommand { instance: answer.instance, number: answer.number, meeting: leg.meeting, op };
        let deadline = self.now + self.settings.waiting_deadline;
        self.read_for(leg, Waiting { rights: Rights::default(), command, deadline });
        for waiting in waiting.into_iter().flatten() {
            self.waiting = self.waiting.saturating_sub(1);
            self.read_for(leg, waiting);
        }
    }

    fn start(&mut self, leg: LegId, waiting: &Waiting) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        let Some(key) = known.unstarted.take() else {
            // Its creation is being stored: its key comes with that.
            return self.wait(leg, waiting.clone());
        };
        let start = Start {
            secret: key.secret.clone(),
            generation: key.generation,
            row: LegRow {
                number: key.number.clone(),
                title: key.title.clone(),
                creator: key.creator.clone(),
                creator_name: key.creator_name.clone(),
                chair: key.creator.clone(),
                first_speaker: Number::default(),
                second_speaker: Number::default(),
                started_at_ms: 0,
            },
        };
        self.intend_op(leg, Op::Start(start), Some(&waiting.command), Some(StoredState::Starting));
    }

    fn end_created(&mut self, leg: LegId, waiting: &Waiting) {
        let answer = answer(&waiting.command, ErrorCode::OK, "", leg.meeting);
        let row = self.answer_row(&answer);
        let Some(known) = self.legs.get_mut(&leg) else { return };
        let expect = Expect { version: known.row.version, state: StoredState::Created };
        known.row.state = StoredState::Ended;
        known.row.cause = EndCause::Commanded;
        known.row.version += 1;
        known.unstarted = None;
        let write = StateWrite { leg, expect, state: StoredState::Ended, cause: EndCause::Commanded, accepted: None };
        let unit = Unit { writes: vec![Write::State(write), Write::Answer(row)] };
        let id = self.persist(lane(leg), unit, After::Closed { leg, answer: Some(answer) });
        if let Some(known) = self.legs.get_mut(&leg) {
            known.closing = Some(id);
        }
    }

    fn mark_first(&mut self, leg: LegId, waiting: &Waiting, first: bool) {
        if let Some(known) = self.legs.get_mut(&leg) {
            known.row.first = first;
        }
        let answer = answer(&waiting.command, ErrorCode::OK, "", leg.meeting);
        let unit = Unit { writes: vec![Write::First(leg, first), Write::Answer(self.answer_row(&answer))] };
        self.persist(lane(leg), unit, After::Answered { leg: None, answer: Some(answer) });
    }

    // ---- intents ----

    fn intend(&mut self, leg: LegId, waiting: &Waiting) {
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
            ClientOp::Create(_) | ClientOp::Start | ClientOp::Mark(_) | ClientOp::Adopt(_) => return,
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
        let Some(known) = self.legs.get_mut(&leg) else { return };
        let mut writes = Vec::new();
        if let Some(state) = state {
            let expect = Expect { version: known.row.version, state: known.row.state };
            known.row.state = state;
            known.row.version += 1;
            writes.push(Write::State(StateWrite { leg, expect, state, cause: EndCause::None, accepted: None }));
        }
        known.row.intent += 1;
        let number = known.row.intent;
        let command = command.map(|command| CommandId { instance: command.instance, number: command.number });
        let intent = Intent { leg, number, op, command };
        writes.push(Write::Intent(intent.clone()));
        let after = self.persist(lane(leg), Unit { writes }, After::Intent(leg, number));
        if let Some(known) = self.legs.get_mut(&leg) {
            known.open.push_back(OpenIntent { intent, asked: None, after: Some(after) });
        }
        self.send_open(leg);
    }

    pub(super) fn intent_stored(&mut self, leg: LegId, number: u64) {
        if let Some(known) = self.legs.get_mut(&leg)
            && let Some(open) = known.open.iter_mut().find(|open| open.intent.number == number)
        {
            open.after = None;
        }
        self.send_open(leg);
    }

    /// One command of a leg is in flight: the first open intent. The session holds it until it is stored.
    pub(super) fn send_open(&mut self, leg: LegId) {
        let Some(known) = self.legs.get(&leg) else { return };
        let Some(open) = known.open.front() else { return };
        let attached = self.servers.get(&known.row.server).is_some_and(|server| server.attached.is_some());
        let starts = matches!(open.intent.op, Op::Start(_)) && known.row.state != StoredState::InMeeting;
        if open.asked.is_some() || !attached || !(starts || known.takes_commands()) {
            return;
        }
        let request = message::Command {
            leg,
            handle: known.row.handle.filter(|_| !starts).unwrap_or(Handle(0)),
            intent: open.intent.number,
            op: open.intent.op.clone(),
        };
        // Both are in the leg's lane: the later one stored, both are.
        let (server, after, number) = (known.row.server, open.after.max(known.settling), open.intent.number);
        let ticket = self.ask(server, Asked::Intent(leg, number), Request::Command(request), after);
        if let Some(open) = self.legs.get_mut(&leg).and_then(|known| known.open.front_mut()) {
            open.asked = Some(ticket);
        }
    }

    pub(super) fn commanded(&mut self, ticket: Ticket, result: Result<CommandAnswer, RequestError>) {
        let Some(Asked::Intent(leg, number)) = self.tickets.remove(&ticket) else { return };
        let Some(known) = self.legs.get_mut(&leg) else { return };
        let server = known.row.server;
        let Some(open) = known.open.front_mut().filter(|open| open.asked == Some(ticket)) else { return };
        if open.intent.number != number {
            return;
        }
        match result {
            Ok(answer) if matches!(answer.code, ErrorCode::STALE_TOKEN | ErrorCode::NOT_ATTACHED) => {
                // The leg is not ours any more: its intent stays open until it is taken over again.
                open.asked = None;
                known.control = Control::None;
                self.want_round(server, Trigger::Reconcile);
            }
            Ok(answer) => {
                let Some(open) = known.open.pop_front() else { return };
                self.carried_out(server, leg, &open, &answer);
                self.intent_done(leg, &open, answer.code, answer.detail.as_str());
                self.send_open(leg);
                self.intents_settled(leg);
            }
            Err(RequestError::Refused(failure)) if is_final(failure.code) => {
                let Some(open) = known.open.pop_front() else { return };
                if matches!(open.intent.op, Op::Start(_)) && known.row.state == StoredState::Starting {
                    self.close(leg, EndCause::ByServer);
                }
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
                    self.want_round(server, Trigger::Reconcile);
                    self.try_end_round(server);
                }
                self.settle_if_ended(leg);
            }
        }
    }

    fn carried_out(&mut self, server: ServerId, leg: LegId, open: &OpenIntent, answer: &CommandAnswer) {
        match (&open.intent.op, answer.code) {
            (Op::Start(_), ErrorCode::OK) => {
                if self.legs.get(&leg).is_some_and(|known| known.row.state == StoredState::Starting) {
                    let place =
                        Place { boot: answer.boot, handle: answer.handle, table_revision: answer.table_revision };
                    self.accepted(server, leg, place, answer.mark);
                    self.publish_started(leg);
                }
            }
            (Op::Start(_), _) => {
                // Refused for good: the meeting never ran (or its tombstone says that it is over).
                self.close(leg, EndCause::ByServer);
            }
            (Op::End(end), ErrorCode::OK | ErrorCode::ENDED | ErrorCode::UNKNOWN_MEETING) => {
                // The ended event came before, as a rule; else this is the explicit end.
                self.close(leg, end.cause);
            }
            (_, ErrorCode::UNKNOWN_MEETING | ErrorCode::ENDED) => self.want_round(server, Trigger::Reconcile),
            _ => {}
        }
    }

    fn publish_started(&mut self, leg: LegId) {
        self.publish(leg, EventKind::Started, Vec::new());
        self.mirror_key(leg);
    }

    /// Commits an intent's result, and with it the client's answer.
    pub(super) fn intent_done(&mut self, leg: LegId, open: &OpenIntent, code: ErrorCode, detail: &str) {
        let result = IntentResult { leg, number: open.intent.number, code };
        let mut writes = vec![Write::IntentDone(result)];
        let after = match open.intent.command {
            Some(id) => {
                let answer = ClientAnswer {
                    instance: id.instance,
                    number: id.number,
                    code,
                    retry_after_ms: 0,
                    detail: remeet_protocol::wire::Text::cut(detail),
                    meeting: leg.meeting,
                };
                writes.push(Write::Answer(self.answer_row(&answer)));
                After::Answered { leg: Some(leg), answer: Some(answer) }
            }
            None => After::Answered { leg: Some(leg), answer: None },
        };
        let id = self.persist(lane(leg), Unit { writes }, after);
        if let Some(known) = self.legs.get_mut(&leg) {
            known.settling = Some(id);
            known.done = known.done.max(open.intent.number);
        }
    }

    /// Nothing is open on the leg: a round that finishes its start or end may end.
    fn intents_settled(&mut self, leg: LegId) {
        let Some(known) = self.legs.get(&leg) else { return };
        if !known.open.is_empty() {
            return;
        }
        let (server, state) = (known.row.server, known.row.state);
        if let Some(round) = self.round(server) {
            round.finishing.remove(&leg);
        }
        if state == StoredState::Ended && known_is_settled(self.legs.get(&leg)) {
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

fn known_is_settled(leg: Option<&Leg>) -> bool {
    leg.is_some_and(|leg| leg.closing.is_none() && !leg.in_round)
}

/// The leg that a client's command is for: the first one.
pub(super) fn first_leg(command: &ClientCommand) -> LegId {
    LegId { meeting: command.meeting, leg: 0 }
}

/// The control row of a new leg.
pub(super) fn new_row(key: &RecoveryKey, state: StoredState) -> StoredLeg {
    StoredLeg {
        leg: key.leg,
        domain: key.domain,
        server: key.server,
        state,
        cause: EndCause::None,
        epoch: remeet_protocol::Epoch(0),
        boot: None,
        handle: None,
        table_revision: 0,
        mark: super::core::NOTHING,
        generation: key.generation,
        intent: 0,
        first: false,
        quarantine: None,
        version: 1,
        number: key.number.clone(),
        title: key.title.clone(),
    }
}
