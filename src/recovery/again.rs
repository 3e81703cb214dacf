//! Rows that are not what memory thought: a compare-and-set was lost, so the row is read again and
//! everything is planned anew (rule 4). Nothing follows from a write that was lost.

use super::core::{After, Asked, Core, Reading};
use super::leg::{Leg, OpenIntent};
use super::{AlarmKind, Output, Read, Trigger};
use crate::cascade::LegStands;
use crate::model::{CommandId, StoredLeg, StoredState};
use crate::session::PersistId;
use crate::store::{Found, LookUp};
use remeet_protocol::{ErrorCode, LegId, ServerId};

impl Core {
    /// A compare-and-set was lost: the row is not what the plan saw.
    pub(super) fn lost(&mut self, id: PersistId, after: After, version: u64) {
        let leg = match after {
            After::Created { leg, key, answer } => return self.create_lost(leg, &key, &answer),
            // No compare-and-set is in it: the store does not lose it.
            After::Answered { answer, .. } => return answer.into_iter().for_each(|answer| self.answer_stored(*answer)),
            After::Event { server, event, .. } => {
                // Nothing of it is stored, so it is not acknowledged: it is held until the row is read.
                let leg = event.leg;
                tracing::warn!(server = server.0, %leg, "an event's write was lost against a newer row");
                // Of a boot id that is over: nobody waits for it.
                if self.servers.get(&server).is_some_and(|known| known.unacknowledged.waits(event.number, id)) {
                    self.hold(server, *event);
                }
                self.compare_waiting(server, id);
                leg
            }
            After::Page | After::Noted => return,
            // No compare-and-set is in it: lost only with the leg.
            After::Lifted(leg) => return self.answer_lifts(leg, ErrorCode::WRONG_STATE, "the leg is no longer stored"),
            After::Intent(leg, number) => {
                self.intent_lost(leg, number);
                leg
            }
            After::Closed { leg, answer } => {
                if let Some(answer) = answer {
                    let command = CommandId { instance: answer.instance, number: answer.number };
                    self.put_off(command, leg);
                }
                leg
            }
            After::Accepted { leg, started } => {
                if let (Some(started), Some(known)) = (started, self.legs.get_mut(&leg)) {
                    // Not stored, so not done: the row that is read now holds the start as open. What followed it
                    // may be done meanwhile.
                    known.reopened = Some(started.number);
                    known.settling.take_if(|settling| *settling == id);
                }
                if let Some(known) = self.legs.get_mut(&leg) {
                    known.accepting.take_if(|accepting| *accepting == id);
                    known.content_unsure = true;
                }
                leg
            }
            After::Pulled { server, leg, .. } => {
                self.compare_waiting(server, id);
                leg
            }
            After::Adopting(leg) => {
                // The session forgets it without an answer.
                self.tickets.retain(|_, asked| *asked != Asked::Adopt(leg));
                leg
            }
            After::All(all) => return all.into_iter().for_each(|after| self.lost(id, after, version)),
        };
        self.recall(leg, id);
        let limit = self.settings.lost_retries;
        let Some(known) = self.legs.get_mut(&leg) else { return };
        // A close that was lost still counts as under way until the row is read: memory says ended, and must
        // not forget the leg for that.
        known.marking.take_if(|marking| *marking == id);
        known.lost += 1;
        if known.lost > limit {
            known.lost = 0;
            let text = format!("the leg's row changed under this term {limit} times in a row (version {version})");
            let server = known.row.server;
            self.alarm(AlarmKind::Conflict, Some(server), Some(leg), text);
        }
        self.read_leg_again(leg);
    }

    /// Events at or below a mark waited for the persist that carried it, and that was lost: they are acknowledged
    /// once a round has compared everything.
    fn compare_waiting(&mut self, server: ServerId, id: PersistId) {
        let Some(known) = self.servers.get_mut(&server) else { return };
        for number in known.unacknowledged.written(id) {
            self.gap(server, number);
        }
    }

    /// The intent is not stored, so it was never sent: its client may command again.
    fn intent_lost(&mut self, leg: LegId, number: u64) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        let Some(place) = known.open.iter().position(|open| open.intent.number == number) else { return };
        let open = known.open.remove(place);
        if let Some(ticket) = open.asked {
            // The session forgets it without an answer.
            self.tickets.remove(&ticket);
        }
        if let Some(command) = open.intent.command {
            self.put_off(command, leg);
        }
    }

    /// Nothing of a command was stored: whoever waits is told to ask again.
    fn put_off(&mut self, command: CommandId, leg: LegId) {
        for waiter in self.instances.dropped(command.instance, command.number) {
            self.put(Output::Answer(waiter, super::instances::put_off(command, leg.meeting)));
        }
    }

    /// Only the newest such read counts: the answer of one before may come after what was planned on this one's.
    pub(super) fn read_leg_again(&mut self, leg: LegId) {
        self.reads.retain(|_, reading| !matches!(reading, Reading::Again(again) if *again == leg));
        let read = self.read_id();
        self.reads.insert(read, Reading::Again(leg));
        self.put(Output::Read { id: read, read: Read::Legs(vec![leg]) });
    }

    /// What memory has of the leg's row was lost against a newer one, which is not read yet.
    pub(super) fn is_read_again(&self, leg: LegId) -> bool {
        self.unread_rows.holds(&leg)
            || self.reads.values().any(|reading| matches!(reading, Reading::Again(again) if *again == leg))
    }

    /// The row could not be read: it is read again after a while, since memory of the leg is of no use.
    pub(super) fn unread_again(&mut self, leg: LegId, reason: &str) {
        tracing::warn!(%leg, "a row that changed could not be read again: {reason}");
        self.unread_rows.push(self.now + self.settings.round_retry, leg);
    }

    pub(super) fn read_rows_again(&mut self) {
        for leg in self.unread_rows.take_due(self.now) {
            self.read_leg_again(leg);
        }
    }

    /// The leg's compare-and-set was lost and its row has been read again.
    pub(super) fn read_again(&mut self, leg: LegId, found: LookUp) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        // An end that was planned on a newer row than the one that lost is on its way: it settles the leg, or leads here.
        if known.closing.is_some_and(|closing| self.after.contains_key(&closing)) {
            return;
        }
        // What was handed to the store for this leg lost too: the row is the truth.
        known.row.version = 0;
        known.end_is_known();
        known.control = super::leg::Control::None;
        let server = known.row.server;
        for found in found.found {
            self.take_found(found);
        }
        if let Some(known) = self.legs.get_mut(&leg) {
            // What was lost is open, or was done by another way.
            known.reopened.take_if(|number| known.open.iter().all(|open| open.intent.number != *number));
        }
        // It is in nobody's hands in this round; the next one takes it up, and closes the gaps: the leg's end may be in one,
        // and what this round found of it is not stored.
        let left = self.servers.get_mut(&server).and_then(|known| Some((known.round.as_mut()?, &mut known.gaps)));
        if let Some((round, gaps)) = left
            && round.leave(leg)
        {
            gaps.append(&mut round.gaps);
            self.pend(server, leg, "unclear");
        }
        self.settle_if_ended(leg);
        self.want_round(server, Trigger::Reconcile);
        self.try_back_fill(server);
    }

    /// Merges a read row into memory. Memory that is as new stays: it holds what is on its way.
    pub(super) fn take_found(&mut self, found: Found) {
        let id = found.row.leg;
        if let Some(known) = self.legs.get_mut(&id)
            && known.is_settled_as(&found.row)
        {
            known.row.version = found.row.version;
            known.stands = LegStands::from(&found.row);
            return;
        }
        let newer = |known: &Leg| known.row.version < found.row.version && known.closing.is_none();
        if self.legs.get(&id).is_none_or(newer) {
            let mut leg = Leg::new(found.row);
            leg.open = found.open.into_iter().map(OpenIntent::stored).collect();
            // An acceptance may have been lost in an earlier term, and content of that life be stored all the same.
            leg.content_unsure = leg.row.mark.revision == 0 && leg.row.state != StoredState::Created;
            if leg.row.state == StoredState::Created {
                leg.unstarted = found.key.map(Box::new);
            }
            if let Some(known) = self.legs.remove(&id) {
                leg.inherit(known);
            }
            self.insert_leg(leg);
        }
    }

    /// A leg that has ended before this term, or whose end was stored by another way than this process
    /// thought: what stands open is answered.
    pub(super) fn settle_if_ended(&mut self, leg: LegId) {
        let Some(known) = self.legs.get(&leg) else { return };
        if known.row.state != StoredState::Ended || known.closing.is_some() {
            return;
        }
        let server = known.row.server;
        self.end_open_intents(leg);
        if self.legs.get(&leg).is_some_and(|known| known.open.is_empty() && known.settling.is_none() && !known.in_round)
        {
            self.forget_leg(leg);
            self.try_back_fill(server);
        }
    }
}

impl Leg {
    /// The row differs by its version only: that was raised after a commit of unknown outcome, of content. Memory is
    /// otherwise as new, or newer. After a lost compare-and-set it is not: its version is zero then.
    fn is_settled_as(&self, row: &StoredLeg) -> bool {
        let place = |row: &StoredLeg| (row.state, row.epoch, row.boot, row.handle, row.generation);
        let raised = 0 < self.row.version && self.row.version < row.version;
        raised && self.closing.is_none() && place(&self.row) == place(row)
    }

    /// Takes over what of `before` is not in the row.
    fn inherit(&mut self, before: Leg) {
        // A result that is on its way is not in the row yet, nor is an intent above the row's highest.
        let (done, stored_upto) = (before.done, self.row.intent);
        self.open.retain(|open| open.intent.number > done || before.reopened == Some(open.intent.number));
        for open in before.open {
            match self.open.iter_mut().find(|known| known.intent.number == open.intent.number) {
                Some(known) => *known = open,
                None if open.intent.number > stored_upto => self.open.push(open),
                None => {}
            }
        }
        self.row.intent = stored_upto.max(before.row.intent);
        // Nobody else writes these, and no compare-and-set can lose them: memory's are on their way at worst.
        self.row.quarantine = before.row.quarantine;
        self.row.first = before.row.first;
        // A read that was asked before content was stored shows the mark of before. Memory that went back to it would take
        // events for new whose records may be removed by now, and bring them back.
        let same_life =
            self.row.boot.is_some() && (self.row.boot, self.row.handle) == (before.row.boot, before.row.handle);
        let behind = same_life && self.row.mark.revision < before.stored.revision;
        if behind {
            (self.row.mark, self.stored) = (before.stored, before.stored);
        }
        self.content_unsure |= before.content_unsure;
        self.reset = before.reset && self.row.mark.revision == 0;
        self.done = before.done;
        self.accepting = before.accepting;
        self.reopened = before.reopened;
        self.marking = before.marking;
        // Or the database has lost that content, which the next round finds when it counts.
        self.uncounted = before.uncounted || behind;
        self.waiting = before.waiting;
        self.held = before.held;
        self.control = before.control;
        self.accepted_at = before.accepted_at;
        self.settling = before.settling;
        self.cache_open = before.cache_open;
        self.lost = before.lost;
        self.lifting = before.lifting;
        self.cache_behind = true;
    }
}
