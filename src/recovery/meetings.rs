//! Meetings that clients create, start, end and mark.

use super::commands::Waiting;
use super::core::{After, Core, Reading, lane};
use super::instances::answer;
use super::leg::Leg;
use super::{CacheTask, Output, Read, Rights};
use crate::model::{RecoveryKey, StoredLeg, StoredState};
use crate::store::{LookUp, NewLeg, Unit, Write};
use rand_chacha::rand_core::RngCore;
use remeet_protocol::message::{AddLeg, ClientAnswer, ClientCommand, ClientOp, Create, EventKind, LEGS_MAX};
use remeet_protocol::record::{LegRow, Number};
use remeet_protocol::{ErrorCode, LegId, Secret, ServerId};

impl Core {
    /// The recovery key is committed before this is answered.
    pub(super) fn create(&mut self, waiting: &Waiting, create: Create) {
        let leg = LegId { meeting: create.meeting, leg: 0 };
        let Some(server) = self.choose_server(create.server, &[]) else {
            let detail = "no such server in the configuration: name another, or 0 to let the scheduler choose";
            return self.refuse(waiting, ErrorCode::UNKNOWN_IDENTITY, detail);
        };
        if let Some(first) = self.legs_of(create.meeting).first() {
            return self.create_again(*first, waiting, &create);
        }
        if self.legs.len() >= self.settings.legs_max {
            let detail = "this scheduler has as many meetings as it may: end one, or raise clients.meetings_max";
            return self.refuse_for_now(waiting, ErrorCode::TOO_MANY, detail);
        }
        let key = self.new_key(leg, server, &create);
        let row = StoredLeg::new(&key, StoredState::Created);
        let answer = answer(&waiting.command, ErrorCode::OK, "", create.meeting);
        let unit = Unit {
            writes: vec![
                Write::NewLeg(Box::new(NewLeg { row: row.clone(), key: key.clone() })),
                Write::Answer(self.answer_row(&answer)),
            ],
        };
        self.insert_leg(Leg::unstored(row));
        self.whole.insert(create.meeting);
        self.persist(lane(leg), unit, After::Created { leg, key: Box::new(key), answer: Box::new(answer) });
    }

    /// A further leg of a meeting (SPEC K-14); `template`: the key of another of its legs, once it is read.
    pub(super) fn add_leg(&mut self, waiting: &Waiting, add: &AddLeg, template: Option<&RecoveryKey>) {
        let meeting = waiting.command.meeting;
        let leg = LegId { meeting, leg: add.leg };
        let live = self.live_legs_of(meeting);
        let Some(first) = live.first().copied() else {
            return self.refuse(waiting, ErrorCode::ENDED, "the meeting has ended");
        };
        if add.leg == 0 || add.leg >= LEGS_MAX {
            let detail = format!("a further leg is numbered 1 to {}", LEGS_MAX - 1);
            return self.refuse(waiting, ErrorCode::TOO_MANY, &detail);
        }
        if let Some(known) = self.legs.get(&leg) {
            let same = known.row.state != StoredState::Ended && [ServerId(0), known.row.server].contains(&add.server);
            return if same {
                self.refuse(waiting, ErrorCode::OK, "it exists on this server")
            } else {
                self.refuse(waiting, ErrorCode::EXISTS, "a leg of this number exists on another server, or has ended")
            };
        }
        let taken: Vec<ServerId> = live.iter().filter_map(|leg| Some(self.legs.get(leg)?.row.server)).collect();
        if taken.contains(&add.server) {
            return self.refuse(waiting, ErrorCode::EXISTS, "this server carries a leg of the meeting already");
        }
        let Some(server) = self.choose_server(add.server, &taken) else {
            let detail = "no such server in the configuration, or each carries a leg of the meeting already";
            return self.refuse(waiting, ErrorCode::UNKNOWN_IDENTITY, detail);
        };
        if self.legs.len() >= self.settings.legs_max {
            let detail = "this scheduler has as many meetings as it may: end one, or raise clients.meetings_max";
            return self.refuse_for_now(waiting, ErrorCode::TOO_MANY, detail);
        }
        let unstarted = self.legs.get(&first).and_then(|known| known.unstarted.clone());
        let Some(template) = template.cloned().or(unstarted.map(|key| *key)) else {
            // People's names of the meeting stand in its keys, and these are in the store only.
            let id = self.read_id();
            self.reads.insert(id, Reading::AddLeg(Box::new(waiting.clone())));
            return self.put(Output::Read { id, read: Read::Legs(vec![first]) });
        };
        let create = Create {
            meeting,
            server,
            number: template.number,
            title: template.title,
            creator: template.creator,
            creator_name: template.creator_name,
        };
        let key = self.new_key(leg, server, &create);
        let row = StoredLeg::new(&key, StoredState::Created);
        let answer = answer(&waiting.command, ErrorCode::OK, "", meeting);
        let new = Write::NewLeg(Box::new(NewLeg { row: row.clone(), key: key.clone() }));
        let unit = Unit { writes: vec![new, Write::Answer(self.answer_row(&answer))] };
        self.insert_leg(Leg::unstored(row));
        self.persist(lane(leg), unit, After::Created { leg, key: Box::new(key), answer: Box::new(answer) });
    }

    /// The key of another leg of the meeting was read, for a new one.
    pub(super) fn template_read(&mut self, waiting: &Waiting, found: Result<LookUp, String>) {
        let ClientOp::AddLeg(add) = waiting.command.op.clone() else { return };
        match found.map(|found| found.found.into_iter().find_map(|found| found.key)) {
            Ok(Some(key)) => self.add_leg(waiting, &add, Some(&key)),
            Ok(None) => self.refuse(waiting, ErrorCode::RETRY, "the meeting is being created"),
            Err(reason) => self.refuse(waiting, ErrorCode::UNAVAILABLE, &reason),
        }
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

    fn choose_server(&self, wanted: ServerId, taken: &[ServerId]) -> Option<ServerId> {
        if wanted != ServerId(0) {
            return self.servers.contains_key(&wanted).then_some(wanted);
        }
        // The least loaded of those that answer; else of all.
        let free = self.servers.values().filter(|server| !taken.contains(&server.id));
        free.min_by_key(|server| (server.attached.is_none(), server.legs.len())).map(|server| server.id)
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
        let ended = self.live_legs_of(create.meeting).is_empty();
        match (ended, same) {
            (true, _) => self.refuse(waiting, ErrorCode::ENDED, "a meeting of this id has ended"),
            (_, true) => self.refuse(waiting, ErrorCode::OK, "it exists with the same content"),
            (_, false) => self.refuse(waiting, ErrorCode::EXISTS, "a meeting of this id exists with other content"),
        }
    }

    /// The store has the id already: its row says what to answer.
    pub(super) fn create_lost(&mut self, leg: LegId, key: &RecoveryKey, answer: &ClientAnswer) {
        let waiting = self.take_waiting(leg);
        self.forget_leg(leg);
        self.whole.remove(&leg.meeting);
        let op = if leg.leg == 0 {
            ClientOp::Create(Create {
                meeting: leg.meeting,
                server: key.server,
                number: key.number.clone(),
                title: key.title.clone(),
                creator: key.creator.clone(),
                creator_name: key.creator_name.clone(),
            })
        } else {
            ClientOp::AddLeg(AddLeg { leg: leg.leg, server: key.server })
        };
        let command = ClientCommand { instance: answer.instance, number: answer.number, meeting: leg.meeting, op };
        let deadline = self.now + self.settings.waiting_deadline;
        self.read_for(leg.meeting, Waiting { rights: Rights::default(), command, deadline });
        for waiting in waiting {
            self.read_for(leg.meeting, waiting);
        }
    }

    pub(super) fn start(&mut self, leg: LegId, waiting: &Waiting) {
        let Some(start) = self.start_of(leg) else {
            // Its creation is being stored: its key comes with that.
            return self.wait(leg, waiting.clone());
        };
        self.intend_op(leg, start, Some(&waiting.command), Some(StoredState::Starting));
    }

    pub(super) fn end_created(&mut self, leg: LegId, waiting: &Waiting) {
        let answer = answer(&waiting.command, ErrorCode::OK, "", leg.meeting);
        let row = self.answer_row(&answer);
        let Some(write) = self.close_created(leg) else { return };
        let unit = Unit { writes: vec![write, Write::Answer(row)] };
        let id = self.persist(lane(leg), unit, After::Closed { leg, answer: Some(Box::new(answer)) });
        if let Some(known) = self.legs.get_mut(&leg) {
            known.closing = Some(id);
        }
    }

    pub(super) fn mark_first(&mut self, legs: &[LegId], waiting: &Waiting, first: bool) {
        let meeting = waiting.command.meeting;
        let answer = answer(&waiting.command, ErrorCode::OK, "", meeting);
        let mut writes = Vec::with_capacity(legs.len() + 1);
        for leg in legs {
            if let Some(known) = self.legs.get_mut(leg) {
                known.row.first = first;
            }
            writes.push(Write::First(*leg, first));
        }
        writes.push(Write::Answer(self.answer_row(&answer)));
        let after = After::Answered { leg: None, answer: Some(Box::new(answer)) };
        self.persist(lane(LegId { meeting, leg: 0 }), Unit { writes }, after);
    }
}

/// Meeting information of a new leg, as its start says it.
pub(super) fn leg_row(key: &RecoveryKey) -> LegRow {
    LegRow {
        number: key.number.clone(),
        title: key.title.clone(),
        creator: key.creator.clone(),
        creator_name: key.creator_name.clone(),
        // Who creates the meeting leads it, and is on its first leg.
        chair: if key.leg.leg == 0 { key.creator.clone() } else { Number::default() },
        first_speaker: Number::default(),
        second_speaker: Number::default(),
        started_at_ms: 0,
    }
}
