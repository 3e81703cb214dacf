//! Adoption of orphans: a new key under the stored state *adopting*, then the server is told. Only for an
//! operator's right; recovery repeats it with the same secret.

use super::Trigger;
use super::commands::Waiting;
use super::core::{After, Asked, Core, lane};
use super::instances::answer;
use super::leg::{Control, Leg};
use super::meetings::new_row;
use super::report::Fate;
use super::takeover::Place;
use crate::model::StoredState;
use crate::session::{PersistId, Request, RequestError, Ticket};
use crate::store::{NewLeg, Unit, Write};
use rand_chacha::rand_core::RngCore;
use remeet_protocol::message::{Adopt, AdoptAnswer, AdoptOrphan, ClientOp, Create, End, EndCause, Op};
use remeet_protocol::record::Number;
use remeet_protocol::wire::Text;
use remeet_protocol::{ErrorCode, LegId, MeetingId, ServerId};

impl Core {
    pub(super) fn adopt(&mut self, waiting: Waiting, adopt: &AdoptOrphan) {
        if let Some(leg) = self.adopted_before(adopt) {
            return self.adopt_again(leg, waiting);
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
            title: title(orphan.leg),
            creator: Number::default(),
            creator_name: Text::default(),
        };
        let key = self.new_key(leg, adopt.server, &create);
        let mut row = new_row(&key, StoredState::Adopting);
        row.boot = Some(boot);
        row.handle = Some(adopt.handle);
        let request = Adopt {
            handle: adopt.handle,
            old: orphan.leg,
            new: leg,
            secret: key.secret.clone(),
            generation: key.generation,
        };
        let unit = Unit::one(Write::NewLeg(Box::new(NewLeg { row: row.clone(), key })));
        let mut memory = Leg::new(row);
        memory.adoption = Some(waiting);
        self.insert_leg(memory);
        let after = self.persist(lane(leg), unit, After::Adopting(leg));
        self.ask_adoption(adopt.server, request, Some(after));
    }

    /// The leg that this orphan has become, or is becoming: a command repeated over a crash finds it.
    fn adopted_before(&self, adopt: &AdoptOrphan) -> Option<LegId> {
        let server = self.servers.get(&adopt.server)?;
        let (title, boot) = (title(adopt.leg), server.last_boot);
        let is_it = |leg: &&LegId| {
            self.legs.get(leg).map(|known| &known.row).is_some_and(|row| {
                let stands = matches!(row.state, StoredState::Adopting | StoredState::InMeeting);
                stands && row.handle == Some(adopt.handle) && row.boot == boot && row.title == title
            })
        };
        server.legs.iter().find(is_it).copied()
    }

    fn adopt_again(&mut self, leg: LegId, waiting: Waiting) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        match (known.row.state, &known.adoption) {
            (StoredState::InMeeting, _) => self.adoption_done(leg, &waiting),
            (_, None) => {
                let server = known.row.server;
                known.adoption = Some(waiting);
                if known.control == Control::None {
                    self.want_round(server, Trigger::Reconcile);
                }
            }
            (_, Some(_)) => self.refuse(&waiting, ErrorCode::RETRY, "it is being adopted for another command"),
        }
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
            Ok(done) if done.code.is_ok() => {
                let handle = known.row.handle.unwrap_or_default();
                let place = Place { boot: done.boot, handle, table_revision: done.table_revision };
                self.accepted(server, leg, place, done.mark);
                self.note_fate(server, leg, Fate::Recovered);
                if let Some(known) = self.servers.get_mut(&server) {
                    known.orphans.remove(&handle);
                }
                self.want_pull(server, leg, true);
                // That of an earlier term's attempt may not have come to it.
                self.mirror_key(leg);
            }
            Ok(done) => self.adoption_refused(server, leg, done.code, "the server refused the adoption"),
            Err(RequestError::Refused(failure)) if failure.code != ErrorCode::BUSY => {
                self.adoption_refused(server, leg, failure.code, failure.detail.as_str());
            }
            // It may have been carried out: the next round repeats it with the same secret.
            Err(error) => {
                known.control = Control::None;
                if error != RequestError::LinkLost {
                    tracing::warn!(server = server.0, %leg, "adoption: {error}");
                    self.want_round(server, Trigger::Reconcile);
                }
            }
        }
        // A round that repeated it may end.
        if let Some(round) = self.round(server) {
            round.finishing.remove(&leg);
        }
        self.try_back_fill(server);
    }

    pub(super) fn adoption_done(&mut self, leg: LegId, waiting: &Waiting) {
        let end = matches!(&waiting.command.op, ClientOp::Adopt(adopt) if adopt.end);
        if end {
            // Ending an orphan is adopt, then end; the end's result answers the client.
            let op = Op::End(End { cause: EndCause::Operator });
            return self.intend_op(leg, op, Some(&waiting.command), Some(StoredState::Ending));
        }
        let answer = answer(&waiting.command, ErrorCode::OK, "", leg.meeting);
        self.answer_kept(answer);
    }

    fn adoption_refused(&mut self, server: ServerId, leg: LegId, code: ErrorCode, detail: &str) {
        let waiting = self.legs.get_mut(&leg).and_then(|known| known.adoption.take());
        self.close(leg, EndCause::ByServer);
        self.pend(server, leg, "refused");
        if let Some(waiting) = waiting {
            self.refuse(&waiting, code, detail);
        }
    }

    fn new_meeting_id(&mut self) -> MeetingId {
        let mut random = [0; 10];
        self.random.fill_bytes(&mut random);
        MeetingId(uuid::Builder::from_unix_timestamp_millis(self.wall_ms, &random).into_uuid())
    }
}

/// The title of an adopted meeting names the orphan: a repeated command finds it by that.
fn title(orphan: LegId) -> Text<256> {
    Text::cut(&format!("adopted from {orphan}"))
}
