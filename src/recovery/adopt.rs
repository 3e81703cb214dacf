//! Adoption of orphans: a new key under the stored state *adopting*, then the server is told. Only for an
//! operator's right; recovery repeats it with the same secret.
//!
//! It is a command like every other: with the new leg its intents are committed, and with them whose command it
//! is. The first is the leg's start under the new key, though the server is told by a message of its own; the
//! second, if that is asked, its end. The server's acceptance settles the first.

use super::AlarmKind;
use super::commands::Waiting;
use super::core::{After, Asked, Core, lane};
use super::instances::answer;
use super::leg::{Control, Leg, OpenIntent};
use super::meetings::leg_row;
use super::plan::adopted_title;
use super::report::Fate;
use super::takeover::Place;
use crate::model::{CommandId, Intent, StoredLeg, StoredState};
use crate::session::{PersistId, Request, RequestError, Ticket};
use crate::store::{Expect, NewLeg, StateWrite, Unit, Write};
use rand_chacha::rand_core::RngCore;
use remeet_protocol::message::{Adopt, AdoptAnswer, AdoptOrphan, Create, End, EndCause, Op, Start};
use remeet_protocol::record::Number;
use remeet_protocol::wire::Text;
use remeet_protocol::{Epoch, ErrorCode, Handle, LegId, MeetingId, ServerId};

impl Core {
    pub(super) fn adopt(&mut self, waiting: Waiting, adopt: &AdoptOrphan) {
        if let Some(leg) = self.adopted_before(adopt) {
            return self.adopt_again(leg, &waiting, adopt.end);
        }
        let known = self.servers.get(&adopt.server);
        if known.is_some_and(|known| known.attached.is_none() || !known.first_pass_done) {
            return self.refuse(&waiting, ErrorCode::RETRY, "the server's meetings are not compared yet");
        }
        let orphan = known.and_then(|known| known.orphans.get(&adopt.handle)).filter(|entry| entry.leg == adopt.leg);
        let (Some(orphan), Some((boot, _))) = (orphan.cloned(), known.and_then(|known| known.attached)) else {
            let detail = "no such orphan: `remeet troubled` lists them by server and handle";
            return self.refuse(&waiting, ErrorCode::UNKNOWN_MEETING, detail);
        };
        // Its id is foreign or that of an ended meeting: it gets a new one.
        let leg = LegId { meeting: self.new_meeting_id(), leg: 0 };
        let create = Create {
            meeting: leg.meeting,
            server: adopt.server,
            number: Number::default(),
            title: adopted_title(orphan.leg),
            creator: Number::default(),
            creator_name: Text::default(),
        };
        let key = self.new_key(leg, adopt.server, &create);
        let mut row = StoredLeg::new(&key, StoredState::Adopting);
        row.boot = Some(boot);
        row.handle = Some(adopt.handle);
        let request = Adopt {
            handle: adopt.handle,
            old: orphan.leg,
            new: leg,
            secret: key.secret.clone(),
            generation: key.generation,
        };
        let command = Some(CommandId::from(&waiting.command));
        let start = Op::Start(Start { secret: key.secret.clone(), generation: key.generation, row: leg_row(&key) });
        let mut intents = vec![Intent { leg, number: 1, op: start, command: command.filter(|_| !adopt.end) }];
        if adopt.end {
            intents.push(Intent { leg, number: 2, op: Op::End(End { cause: EndCause::Operator }), command });
        }
        let mut writes = vec![Write::NewLeg(Box::new(NewLeg { row: row.clone(), key }))];
        writes.extend(intents.iter().cloned().map(Box::new).map(Write::Intent));
        let unit = Unit { writes };
        row.intent = intents.len() as u64;
        let mut memory = Leg::unstored(row);
        memory.open = intents.into_iter().map(OpenIntent::stored).collect();
        self.insert_leg(memory);
        let after = self.persist(lane(leg), unit, After::Adopting(leg));
        self.ask_adoption(adopt.server, request, Some(after));
    }

    /// The leg that this orphan has become, or is becoming: a command repeated over a crash finds it.
    fn adopted_before(&self, adopt: &AdoptOrphan) -> Option<LegId> {
        let server = self.servers.get(&adopt.server)?;
        let (title, boot) = (adopted_title(adopt.leg), server.last_boot);
        let is_it = |leg: &&LegId| {
            self.legs.get(leg).map(|known| &known.row).is_some_and(|row| {
                // One that was refused never was a leg of ours: the orphan is still there.
                let ours = row.state != StoredState::Ended || row.epoch != Epoch::default();
                ours && row.handle == Some(adopt.handle) && row.boot == boot && row.title == title
            })
        };
        server.legs.iter().find(is_it).copied()
    }

    /// Another command for an orphan that is adopted, or is being: the same command finds its intent.
    fn adopt_again(&mut self, leg: LegId, waiting: &Waiting, end: bool) {
        let Some(known) = self.legs.get(&leg) else { return };
        match known.row.state {
            StoredState::InMeeting if !end || known.is_ours(self.token) => {}
            StoredState::Ending => {
                return self.refuse(waiting, ErrorCode::WRONG_STATE, "it was adopted, and is being ended");
            }
            StoredState::Ended => return self.refuse(waiting, ErrorCode::ENDED, "it was adopted, and has ended"),
            _ => return self.refuse(waiting, ErrorCode::RETRY, "it is being adopted for another command"),
        }
        if end {
            let op = Op::End(End { cause: EndCause::Operator });
            return self.intend_op(leg, op, Some(&waiting.command), Some(StoredState::Ending));
        }
        let answer = answer(&waiting.command, ErrorCode::OK, "", leg.meeting);
        self.answer_kept(answer);
    }

    pub(super) fn ask_adoption(&mut self, server: ServerId, request: Adopt, after: Option<PersistId>) {
        if let Some(known) = self.legs.get_mut(&request.new) {
            known.control = Control::AwaitAnswer;
        }
        self.ask(server, Asked::Adopt(request.new), Request::Adopt(request), after);
    }

    pub(super) fn adopted(&mut self, server: ServerId, ticket: Ticket, result: Result<AdoptAnswer, RequestError>) {
        let Some(Asked::Adopt(leg)) = self.tickets.remove(&ticket) else { return };
        let Some(known) = self.legs.get_mut(&leg) else { return };
        match result {
            // Its ended event came first: the end stands, and what is open is settled with it.
            Ok(done) if done.code.is_ok() && known.row.state == StoredState::Ended => {
                known.control = Control::None;
                let handle = known.row.handle.unwrap_or_default();
                self.no_orphan(server, handle);
                self.settle_if_ended(leg);
            }
            Ok(done) if done.code.is_ok() => {
                let handle = known.row.handle.unwrap_or_default();
                if !self.intents_executed(server, leg, done.intent) {
                    return self.claim_failed(server, leg, "refused");
                }
                let place = Place { boot: done.boot, handle, table_revision: done.table_revision };
                self.accepted(server, leg, place, done.mark, None);
                self.note_fate(server, leg, Fate::Recovered);
                self.no_orphan(server, handle);
                self.want_pull(server, leg, true);
                // That of an earlier term's attempt may not have come to it.
                self.mirror_key(leg);
            }
            Ok(done) => self.adoption_refused(server, leg, done.code, "the server refused the adoption"),
            // Said again whenever it is asked again. Any other failure means that it was not looked at (SPEC C-6): an
            // earlier copy may have been carried out, so nothing is closed for it.
            Err(RequestError::Refused(failure))
                if matches!(failure.code, ErrorCode::NOT_ALLOWED | ErrorCode::MALFORMED | ErrorCode::UNSUPPORTED) =>
            {
                self.adoption_refused(server, leg, failure.code, failure.detail.as_str());
            }
            // It may have been carried out: the next round repeats it with the same secret.
            Err(error) => {
                known.control = Control::None;
                if error != RequestError::LinkLost {
                    tracing::warn!(server = server.0, %leg, "adoption: {error}");
                    self.want_round_later(server);
                }
            }
        }
        // A round that repeated it may end.
        if let Some(round) = self.round(server) {
            round.finishing.remove(&leg);
        }
        self.try_back_fill(server);
    }

    /// The orphan has become a leg of ours.
    fn no_orphan(&mut self, server: ServerId, handle: Handle) {
        if let Some(known) = self.servers.get_mut(&server) {
            let orphan = known.orphans.remove(&handle).map(|entry| entry.leg);
            self.condition_over(AlarmKind::Orphan, Some(server), orphan);
        }
    }

    /// The leg never became ours: it is closed, and whoever asked hears why, all in one unit.
    fn adoption_refused(&mut self, server: ServerId, leg: LegId, code: ErrorCode, detail: &str) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        if known.row.state != StoredState::Adopting {
            return;
        }
        let cause = EndCause::ByServer;
        let expect = Expect { version: known.row.version, state: known.row.state };
        let open = std::mem::take(&mut known.open);
        known.ends(StoredState::Ended);
        known.row.cause = cause;
        known.control = Control::None;
        let state = StateWrite { leg, expect, state: StoredState::Ended, cause, accepted: None };
        let mut writes = vec![Write::State(state)];
        let mut answer = None;
        for open in open {
            let done = self.done(leg, &open, code, detail);
            writes.extend(done.writes);
            answer = answer.or(done.answer);
        }
        let id = self.persist(lane(leg), Unit { writes }, After::Closed { leg, answer: answer.map(Box::new) });
        if let Some(known) = self.legs.get_mut(&leg) {
            known.closing = Some(id);
        }
        self.pend(server, leg, "refused");
    }

    fn new_meeting_id(&mut self) -> MeetingId {
        let mut random = [0; 10];
        self.random.fill_bytes(&mut random);
        MeetingId(uuid::Builder::from_unix_timestamp_millis(self.wall_ms, &random).into_uuid())
    }
}
