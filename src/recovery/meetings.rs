//! Meetings that clients create, start, end and mark.

use super::commands::Waiting;
use super::core::{After, Core, lane};
use super::instances::answer;
use super::leg::Leg;
use super::{CacheTask, Output, Rights};
use crate::model::{RecoveryKey, StoredLeg, StoredState};
use crate::store::{Expect, NewLeg, StateWrite, Unit, Write};
use rand_chacha::rand_core::RngCore;
use remeet_protocol::message::{ClientAnswer, ClientCommand, ClientOp, Create, EndCause, EventKind, Op, Start};
use remeet_protocol::record::{LegRow, Number};
use remeet_protocol::{ErrorCode, LegId, Secret, ServerId};

impl Core {
    /// The recovery key is committed before this is answered.
    pub(super) fn create(&mut self, waiting: &Waiting, create: Create) {
        let leg = LegId { meeting: create.meeting, leg: 0 };
        let Some(server) = self.choose_server(create.server) else {
            let detail = "no such server in the configuration: name another, or 0 to let the scheduler choose";
            return self.refuse(waiting, ErrorCode::UNKNOWN_IDENTITY, detail);
        };
        if self.legs.contains_key(&leg) {
            return self.create_again(leg, waiting, &create);
        }
        if self.legs.len() >= self.settings.legs_max {
            let detail = "this scheduler has as many meetings as it may: end one, or raise clients.meetings_max";
            return self.refuse_for_now(waiting, ErrorCode::TOO_MANY, detail);
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
    pub(super) fn create_again(&mut self, leg: LegId, waiting: &Waiting, create: &Create) {
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

    pub(super) fn start(&mut self, leg: LegId, waiting: &Waiting) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        let Some(key) = known.unstarted.take() else {
            // Its creation is being stored: its key comes with that.
            return self.wait(leg, waiting.clone());
        };
        let start = Start { secret: key.secret.clone(), generation: key.generation, row: leg_row(&key) };
        self.intend_op(leg, Op::Start(start), Some(&waiting.command), Some(StoredState::Starting));
    }

    pub(super) fn end_created(&mut self, leg: LegId, waiting: &Waiting) {
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

    pub(super) fn mark_first(&mut self, leg: LegId, waiting: &Waiting, first: bool) {
        if let Some(known) = self.legs.get_mut(&leg) {
            known.row.first = first;
        }
        let answer = answer(&waiting.command, ErrorCode::OK, "", leg.meeting);
        let unit = Unit { writes: vec![Write::First(leg, first), Write::Answer(self.answer_row(&answer))] };
        self.persist(lane(leg), unit, After::Answered { leg: None, answer: Some(answer) });
    }
}

/// Meeting information of a new leg, as its start says it.
pub(super) fn leg_row(key: &RecoveryKey) -> LegRow {
    LegRow {
        number: key.number.clone(),
        title: key.title.clone(),
        creator: key.creator.clone(),
        creator_name: key.creator_name.clone(),
        chair: key.creator.clone(),
        first_speaker: Number::default(),
        second_speaker: Number::default(),
        started_at_ms: 0,
    }
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
