//! Keys, claims and their answers (design §2 steps 3 and 5). Only the server's acceptance makes a leg
//! in-meeting (rule 7).

use super::core::{After, Core, Reading, Started, lane, same_place};
use super::events::BELOW_ALL;
use super::intents::Done;
use super::leg::{Content, Control, OpenIntent};
use super::report::{Fate, KeySource};
use super::round::Stage;
use super::{AlarmKind, CacheTask, Output, Read, Trigger};
use crate::guard::{Guard, holds};
use crate::model::StoredState;
use crate::session::{PersistId, RequestError, TakeoverResults, Ticket};
use crate::store::{Accepted, CachedKey, Expect, LookUp, StateWrite, Unit, Write};
use remeet_protocol::message::{EndCause, EventKind, Op, TakeoverResult};
use remeet_protocol::record::Mark;
use remeet_protocol::{BootId, ErrorCode, Handle, LegId, ServerId};

/// So many intents of a leg may have been lost with what the database had written last. More is a damaged number: what is
/// stored of it must stay within what the database counts.
const INTENTS_LOST_MAX: u64 = 1 << 20;

impl Core {
    /// Rule 10: the first pass of a term uses the database's keys only, which the look-up brought; later
    /// ones the cache's, where their generation is the one in memory.
    pub(super) fn want_keys(&mut self, server: ServerId, legs: Vec<LegId>) {
        let first_pass = self.servers.get(&server).is_some_and(|known| !known.first_pass_done);
        let first_pass = first_pass && holds(Guard::FirstPassFromDatabase);
        for leg in &legs {
            if let Some(known) = self.legs.get_mut(leg) {
                known.in_round = true;
            }
        }
        let Some(round) = self.round(server) else { return };
        let have_all = legs.iter().all(|leg| round.keys.contains_key(leg)) && holds(Guard::FirstPassFromDatabase);
        if first_pass || have_all {
            return self.claim(server, &legs);
        }
        round.stage = Stage::AwaitKeys;
        let round = round.id;
        let named = legs.iter().filter_map(|leg| self.legs.get(leg).map(|known| (known.row.domain, *leg))).collect();
        let id = self.read_id();
        self.reads.insert(id, Reading::RoundCache(round, legs));
        self.put(Output::Read { id, read: Read::CachedKeys(named) });
    }

    pub(super) fn cached_keys(&mut self, server: ServerId, legs: Vec<LegId>, keys: Vec<CachedKey>) {
        let mut usable = Vec::new();
        for key in keys {
            let Some(known) = self.legs.get(&key.leg) else { continue };
            if known.row.state == StoredState::Adopting {
                // An adoption does not prove this key, it makes it the leg's: only the stored one may become that.
                continue;
            }
            if key.generation == known.row.generation || !holds(Guard::KeyGeneration) {
                usable.push((key.leg, key.secret));
            } else if key.generation > known.row.generation {
                let text = format!(
                    "the cache has generation {} of the key, the database {}: the database wins",
                    key.generation, known.row.generation
                );
                self.alarm(AlarmKind::CacheDisagrees, Some(server), Some(key.leg), text);
            }
        }
        let Some(round) = self.round(server) else { return };
        for (leg, secret) in usable {
            round.keys.entry(leg).or_insert((secret, KeySource::Cache));
        }
        let missing: Vec<LegId> = legs.iter().filter(|leg| !round.keys.contains_key(leg)).copied().collect();
        if missing.is_empty() {
            return self.claim(server, &legs);
        }
        // What the cache does not hold, or holds in another generation: the database.
        let have: Vec<LegId> = legs.into_iter().filter(|leg| !missing.contains(leg)).collect();
        self.read_keys(server, missing);
        self.claim(server, &have);
    }

    /// Reads keys from the database, for claims that follow.
    fn read_keys(&mut self, server: ServerId, legs: Vec<LegId>) {
        let Some(round) = self.round(server) else { return };
        // They count as claims from now on, so that control is not said to be complete without them.
        round.claims.extend(legs.iter().copied());
        let round = round.id;
        let id = self.read_id();
        self.reads.insert(id, Reading::RoundStore(round, legs.clone()));
        self.put(Output::Read { id, read: Read::Legs(legs) });
    }

    pub(super) fn stored_keys(&mut self, server: ServerId, legs: Vec<LegId>, found: LookUp) {
        let Some(round) = self.round(server) else { return };
        for found in found.found {
            if let Some(key) = found.key {
                round.keys.insert(key.leg, (key.secret, KeySource::Database));
            }
        }
        // What has left the round since is claimed no more; if all did, control may be settled and the plan dropped.
        let legs: Vec<LegId> = legs.into_iter().filter(|leg| round.claims.contains(leg)).collect();
        if legs.is_empty() {
            return self.try_back_fill(server);
        }
        self.claim(server, &legs);
    }

    pub(super) fn takeover_answered(
        &mut self,
        server: ServerId,
        ticket: Ticket,
        result: Result<TakeoverResults, (Vec<LegId>, RequestError)>,
    ) {
        match result {
            Ok(answer) => {
                let legs: Vec<LegId> = answer.results.iter().map(|result| result.leg).collect();
                // One leg may be busy alone (SPEC T-4).
                let busy = answer.results.iter().all(|result| result.code == ErrorCode::BUSY);
                let of_round = self.claims_over(server, ticket, &legs, !busy);
                for result in answer.results.iter().filter(|result| of_round.contains(&result.leg)) {
                    self.claim_answered(server, answer.boot, answer.table_revision, result);
                }
                if busy && !of_round.is_empty() {
                    let longest = answer.results.iter().map(|result| result.retry_after_ms).max();
                    self.pause_claims(server, longest.unwrap_or(0));
                }
            }
            // The link's end follows and ends the round: nothing is concluded from it.
            Err((legs, RequestError::LinkLost)) => {
                self.claims_over(server, ticket, &legs, false);
                return;
            }
            Err((legs, error)) => {
                let of_round = self.claims_over(server, ticket, &legs, false);
                let mut reason = "unreachable";
                if let RequestError::Refused(failure) = &error {
                    let now = self.now;
                    if let Some(known) = self.servers.get_mut(&server) {
                        known.is_busy(now, failure.retry_after_ms);
                    }
                    match failure.code {
                        ErrorCode::BUSY => reason = "busy",
                        ErrorCode::STALE_TOKEN => reason = "stale token",
                        _ => {}
                    }
                    self.pause_claims(server, failure.retry_after_ms);
                }
                tracing::warn!(server = server.0, legs = legs.len(), "takeover: {error}");
                for leg in of_round {
                    self.claim_failed(server, leg, reason);
                }
            }
        }
        self.want_claims(server);
        self.hand_out_look_ups();
        self.try_back_fill(server);
    }

    fn claim_answered(&mut self, server: ServerId, boot: BootId, table_revision: u64, result: &TakeoverResult) {
        let leg = result.leg;
        if self.legs.get(&leg).is_none_or(|known| known.control != Control::AwaitAnswer) {
            return;
        }
        match result.code {
            ErrorCode::OK => {
                self.count_key(server, leg);
                if !self.intents_executed(server, leg, result.intent) {
                    return self.claim_failed(server, leg, "refused");
                }
                let place = Place { boot, handle: result.handle, table_revision };
                self.accepted(server, leg, place, result.mark, None);
            }
            // Its ended event, or the next inventory's tombstone, says why and closes it.
            ErrorCode::ENDED => {
                self.claim_done(server, leg, Fate::Ended);
                self.expect_end(server, leg);
            }
            ErrorCode::UNKNOWN_MEETING => self.unknown_meeting(server, leg, boot),
            ErrorCode::BAD_KEY => self.bad_key(server, leg),
            ErrorCode::STALE_TOKEN => self.claim_failed(server, leg, "stale token"),
            ErrorCode::BUSY => {
                let now = self.now;
                if let Some(known) = self.servers.get_mut(&server) {
                    known.is_busy(now, result.retry_after_ms);
                }
                self.claim_failed(server, leg, "busy");
            }
            code => {
                tracing::warn!(server = server.0, %leg, "takeover refused: {code}");
                self.claim_failed(server, leg, "refused");
            }
        }
    }

    /// The last intent that the server has executed on the live leg. If the database has lost some (design §6), their
    /// numbers are not used again: the server would answer each with what it said to the lost one, and do nothing.
    /// False: the number cannot be.
    pub(super) fn intents_executed(&mut self, server: ServerId, leg: LegId, executed: u64) -> bool {
        let Some(known) = self.legs.get_mut(&leg).filter(|_| holds(Guard::LostIntents)) else { return true };
        let stored = known.row.intent;
        if executed.saturating_sub(stored) > INTENTS_LOST_MAX {
            let text =
                format!("says that it has executed intent {executed} of the leg; the last one stored is {stored}");
            self.alarm(AlarmKind::Misbehaviour, Some(server), Some(leg), text);
            return false;
        }
        if stored < executed {
            tracing::warn!(
                server = server.0, %leg, executed, stored,
                "the server has executed commands that the database has lost: numbers go on above them"
            );
            known.row.intent = executed;
        }
        // An end that was stored after the loss, before this term: its number had been another command's. It will be answered
        // as that was, and what then stands as ended is live, which the next round ends.
        let ends = |open: &OpenIntent| matches!(open.intent.op, Op::End(_)) && open.intent.number <= executed;
        if known.open.iter().any(ends) {
            self.want_round_later(server);
        }
        true
    }

    /// A leg has ended, and if no event has told it yet, the one that did may be lost. Its server forgets the leg when
    /// a later event is acknowledged, and would then start it again: nothing is acknowledged until a round has compared
    /// everything.
    fn expect_end(&mut self, server: ServerId, leg: LegId) {
        let told = self.legs.get(&leg).is_some_and(|known| {
            known.closing.is_some() || known.held.iter().any(|event| event.ended != EndCause::None)
        });
        if !told {
            self.gap(server, BELOW_ALL);
            self.want_round(server, Trigger::Reconcile);
        }
    }

    fn count_key(&mut self, server: ServerId, leg: LegId) {
        let Some(round) = self.round(server) else { return };
        match round.keys.remove(&leg) {
            Some((_, KeySource::Cache)) => round.report.keys_from_cache += 1,
            Some((_, KeySource::Database)) => round.report.keys_from_database += 1,
            None => {}
        }
    }

    /// Rule 8: *unknown meeting*, answered to this term's takeover under the boot id of the inventory
    /// that reported the leg, is an end.
    fn unknown_meeting(&mut self, server: ServerId, leg: LegId, boot: BootId) {
        let same_life = self.servers.get(&server).and_then(|known| known.attached).is_some_and(|(b, _)| b == boot);
        if same_life {
            self.claim_done(server, leg, Fate::Ended);
            let ending = self.legs.get(&leg).is_some_and(|known| known.row.state == StoredState::Ending);
            if !ending {
                if let Some(round) = self.round(server) {
                    round.report.vanished += 1;
                }
                let text = "reported live, but unknown to its server when it was taken over: closed".to_owned();
                self.alarm(AlarmKind::Vanished, Some(server), Some(leg), text);
            }
            self.close(leg, if ending { EndCause::Commanded } else { EndCause::Vanished });
        } else {
            self.claim_failed(server, leg, "unclear");
        }
    }

    /// A bad key from the cache says nothing yet: the database is read before anything else.
    fn bad_key(&mut self, server: ServerId, leg: LegId) {
        let source = self.round(server).and_then(|round| round.keys.remove(&leg)).map(|(_, source)| source);
        if source == Some(KeySource::Cache) {
            let text = "the server refused the cache's key: the database's is tried".to_owned();
            self.alarm(AlarmKind::CacheDisagrees, Some(server), Some(leg), text);
            self.read_keys(server, vec![leg]);
        } else {
            let text = "the server refused the database's recovery key: the leg runs under another key".to_owned();
            self.alarm(AlarmKind::BadKey, Some(server), Some(leg), text);
            self.claim_failed(server, leg, "bad key");
        }
    }

    pub(super) fn claim_failed(&mut self, server: ServerId, leg: LegId, reason: &'static str) {
        if let Some(known) = self.legs.get_mut(&leg) {
            known.control = Control::None;
        }
        self.release_held(server, leg);
        self.claim_done(server, leg, Fate::Pending(reason));
    }

    fn claim_done(&mut self, server: ServerId, leg: LegId, fate: Fate) {
        if let Some(known) = self.legs.get_mut(&leg) {
            if known.control == Control::AwaitAnswer {
                known.control = Control::None;
            }
            known.in_round = matches!(fate, Fate::Recovered);
        }
        if let Some(round) = self.round(server) {
            round.claims.remove(&leg);
        }
        self.note_fate(server, leg, fate);
    }

    /// The server accepted this term's token for the leg: by a takeover, a start or an adoption. The result of
    /// a `start` is stored in one unit with the new state: of two units the first could be lost alone, and the
    /// leg would stand as starting with nothing open that starts it.
    pub(super) fn accepted(&mut self, server: ServerId, leg: LegId, place: Place, mark: Mark, start: Option<Done>) {
        let Some(token) = self.token else { return };
        let (now, wall_ms) = (self.now, self.wall_ms);
        let start = start.or_else(|| self.start_by_acceptance(leg));
        let accepted_at = Ticket(self.last_id);
        let Some(known) = self.legs.get_mut(&leg) else { return };
        let before = known.row.state;
        known.control = Control::Ours;
        known.accepted_at = accepted_at;
        let moved = !same_place(&known.row, place.boot, place.handle);
        known.behind = !moved && mark.revision < known.row.mark.revision;
        // Also of the place that it has something else may be stored, if its mark never stood: a term that was to pull it
        // whole has ended before that.
        let unsure = known.content_unsure && (moved || known.row.mark.revision == 0);
        let content_reset = unsure || moved && known.row.mark.revision > 0;
        let stored = matches!(before, StoredState::Starting | StoredState::Adopting | StoredState::InMeeting)
            && (moved || before != StoredState::InMeeting || known.row.epoch != token.epoch);
        known.row.table_revision = place.table_revision;
        if stored {
            // Rule 4: a compare-and-set on the row that the plan saw.
            let expect = Expect { version: known.row.version, state: before };
            let accepted = Accepted {
                epoch: token.epoch,
                boot: place.boot,
                handle: place.handle,
                table_revision: place.table_revision,
                content_reset,
            };
            // After an acceptance that was lost, also in an earlier term, the state before it may have been cached with
            // the content; no mark tells.
            let once_lost = known.content_unsure || known.lost > 0 || known.row.mark.revision > 0;
            known.cache_behind |= before != StoredState::InMeeting && once_lost;
            known.row.state = StoredState::InMeeting;
            known.row.epoch = token.epoch;
            known.row.boot = Some(place.boot);
            known.row.handle = Some(place.handle);
            known.row.version += 1;
            if content_reset {
                known.row.mark = super::core::NOTHING;
                known.stored = super::core::NOTHING;
                known.reset = true;
                known.gap.clear();
                known.removed_meanwhile.clear();
                known.cache_behind = true;
            }
            let write = StateWrite {
                leg,
                expect,
                state: StoredState::InMeeting,
                cause: EndCause::None,
                accepted: Some(accepted),
            };
            let mut unit = Unit::one(Write::State(write));
            let started = start.map(|start| {
                unit.writes.extend(start.writes);
                known.done = known.done.max(start.number);
                known.reopened.take_if(|reopened| *reopened == start.number);
                Box::new(Started { number: start.number, answer: start.answer })
            });
            let settles = started.is_some();
            let id = self.persist(lane(leg), unit, After::Accepted { leg, started });
            if let Some(known) = self.legs.get_mut(&leg) {
                known.accepting = Some(id);
                known.settling = if settles { Some(id) } else { known.settling };
            }
            if let Some(round) = self.round(server) {
                round.storing.insert(leg);
            }
        } else {
            // The row is as memory thinks: what was lost before has been mended.
            known.lost = 0;
            known.reset |= unsure;
        }
        let claimed = self.round(server).is_some_and(|round| round.claims.contains(&leg));
        if let Some(round) = self.round(server).filter(|round| round.claims.contains(&leg)) {
            round.report.in_control_ms = millis(now.since(round.begun));
            round.report.in_control_at_ms = wall_ms;
            *round.report.accepted_at_ms.entry(wall_ms).or_default() += 1;
            round.backfill.insert(leg);
            round.targets.insert(leg, mark);
            let fate = if matches!(before, StoredState::Ending | StoredState::Ended) {
                round.backfill.remove(&leg);
                round.finishing.insert(leg);
                Fate::Ended
            } else {
                Fate::Recovered
            };
            self.claim_done(server, leg, fate);
        }
        if matches!(before, StoredState::Ended | StoredState::Ending) {
            if let Some(known) = self.legs.get_mut(&leg) {
                // It is ended where it lives: that may be another handle than the stored one.
                known.row.handle = Some(place.handle);
            }
            self.end_zombie(leg);
        }
        if content_reset {
            // An event from its first revision on would leave nothing to pull, and what stands of the former leg.
            self.want_pull(server, leg, true);
        }
        self.take_held(server, leg);
        let behind = self.legs.get(&leg).is_some_and(|known| known.row.mark.revision < mark.revision);
        if behind && !claimed {
            // Some of its events came before this and were let go: they are read again.
            self.want_pull(server, leg, false);
        }
        self.send_open(leg);
        self.flush_waiting(leg);
    }

    pub(super) fn accepted_stored(&mut self, id: PersistId, leg: LegId) {
        // The content follows by back-fill; subscribers hear `Refreshed` when it stands.
        let Some(known) = self.legs.get_mut(&leg) else { return };
        known.accepting.take_if(|accepting| *accepting == id);
        // A start whose result waited for this.
        for open in &mut known.open {
            open.after.take_if(|after| *after == id);
        }
        known.lost = 0;
        known.content_unsure = false;
        let server = known.row.server;
        if std::mem::take(&mut known.refreshed) {
            self.publish(leg, EventKind::Refreshed, Vec::new());
        }
        if let Some(round) = self.round(server) {
            round.storing.remove(&leg);
        }
        self.send_open(leg);
        self.try_end_round(server);
    }

    /// Closes a leg: ended is absorbing (rule 9), and its cause is stored.
    pub(super) fn close(&mut self, leg: LegId, cause: EndCause) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        if known.row.state == StoredState::Ended {
            return;
        }
        let expect = Expect { version: known.row.version, state: known.row.state };
        known.ends(StoredState::Ended);
        known.row.cause = cause;
        known.control = Control::None;
        known.content = Content::Idle;
        let write = StateWrite { leg, expect, state: StoredState::Ended, cause, accepted: None };
        let unit = known.end_unit(write);
        let id = self.persist(lane(leg), unit, After::Closed { leg, answer: None });
        if let Some(known) = self.legs.get_mut(&leg) {
            known.closing = Some(id);
        }
    }

    pub(super) fn closed(&mut self, id: PersistId, leg: LegId) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        known.end_is_known();
        let server = known.row.server;
        self.persist_stored(server, id);
        self.settle_ended(leg);
    }

    /// A leg's end is stored: the cache forgets it, subscribers hear of it, whoever waits is answered.
    pub(super) fn settle_ended(&mut self, leg: LegId) {
        let Some(known) = self.legs.get(&leg) else { return };
        let (server, domain) = (known.row.server, known.row.domain);
        self.put(Output::Cache(CacheTask::Forget(domain, leg)));
        self.publish_end(leg);
        self.end_open_intents(leg);
        self.release_held(server, leg);
        self.leg_settled(server, leg);
        let Some(known) = self.legs.get(&leg) else { return };
        if known.reopened.is_some() {
            // Of the start that was lost only the store knows more: its row was read while the end was on its way.
            self.read_leg_again(leg);
        } else if !known.in_round && known.open.is_empty() {
            self.forget_leg(leg);
        }
    }

    /// A leg that stands as starting is not at the server: it is started again, with the same intent.
    pub(super) fn finish_start(&mut self, server: ServerId, leg: LegId) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        if known.open.first().is_some_and(|open| open.asked.is_some()) {
            // This term's own start is under way.
            return;
        }
        if known.open.is_empty() {
            let text = "stored as starting, but its start intent is missing: end it and create it again".to_owned();
            self.alarm(AlarmKind::BadRow, Some(server), Some(leg), text);
            return self.pend(server, leg, UNSTARTED);
        }
        if let Some(round) = self.round(server) {
            round.report.started += 1;
            round.finishing.insert(leg);
        }
        self.send_open(leg);
    }

    /// A leg has nothing open any more: the round may end.
    pub(super) fn leg_settled(&mut self, server: ServerId, leg: LegId) {
        if let Some(round) = self.round(server) {
            let claimed = round.claims.contains(&leg);
            // Also of one in trouble: it is over. One whose adoption was refused lives on under its old name.
            let over = |fate: &&mut Fate| claimed || matches!(fate, Fate::Pending(reason) if *reason != "refused");
            if let Some(fate) = round.fates.get_mut(&leg).filter(over) {
                *fate = Fate::Ended;
            }
            round.leave(leg);
        }
        if let Some(known) = self.legs.get_mut(&leg) {
            known.in_round = false;
        }
        self.try_back_fill(server);
    }

    /// Servers that do not answer and whose legs, as stored, are not in memory: none of them is among [`Core::pending`].
    #[must_use]
    pub fn unread_servers(&self) -> Vec<ServerId> {
        self.servers.values().filter(|server| !server.up && !server.looked_up).map(|server| server.id).collect()
    }

    /// Legs in trouble: not in control, their server does not answer, or their back-fill is quarantined; with
    /// the reason.
    #[must_use]
    pub fn pending(&self) -> Vec<(ServerId, LegId, String)> {
        let mut pending = Vec::new();
        for server in self.servers.values() {
            pending.extend(server.pending.iter().map(|(leg, reason)| (server.id, *leg, (*reason).to_owned())));
            for leg in &server.legs {
                let Some(known) = self.legs.get(leg) else { continue };
                let live = !matches!(known.row.state, StoredState::Ended | StoredState::Created);
                if live && !server.up && server.looked_up && !server.pending.contains_key(leg) {
                    pending.push((server.id, *leg, "unreachable".to_owned()));
                }
                let reason = known.row.quarantine.as_ref();
                pending.extend(reason.map(|reason| (server.id, *leg, format!("quarantined: {reason}"))));
            }
        }
        pending
    }
}

/// Why a leg is pending that stands as starting, with nothing that would start it, and that its server does not have.
pub(super) const UNSTARTED: &str = "not started";

/// Where a leg stands on its server, as an acceptance says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub boot: BootId,
    pub handle: Handle,
    pub table_revision: u64,
}

pub(super) fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
