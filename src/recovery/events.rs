//! Live events: stored in the order of their leg's revisions, acknowledged only after that. An event of
//! a leg that is not ours yet is held; an end is stored at once, whoever commands the leg.

use super::core::{After, Core, lane};
use super::leg::{Content, Control, Leg};
use super::look_up::LookingUp;
use super::unacknowledged::Taken;
use super::{CacheTask, Output};
use crate::guard::{Guard, holds};
use crate::model::StoredState;
use crate::session::PersistId;
use crate::store::{CacheWrite, ContentWrite, Expect, StateWrite, Unit, Write};
use remeet_protocol::message::{EndCause, Event, EventKind};
use remeet_protocol::record::RecordState;
use remeet_protocol::{LegId, ServerId};

/// A number before that of every event (SPEC E-1): as a gap it holds up every acknowledgement.
pub(super) const BELOW_ALL: u64 = 0;

impl Core {
    pub(super) fn event(&mut self, server: ServerId, event: Event) {
        let number = event.number;
        let boot = self.servers.get(&server).and_then(|known| known.last_boot);
        let known = self.legs.get(&event.leg).filter(|leg| leg.row.server == server);
        let of_this_leg = known.is_some_and(|leg| match (leg.row.handle, leg.row.boot) {
            // Not stored yet: a start or an adoption is under way.
            (None, _) | (_, None) => matches!(leg.row.state, StoredState::Starting | StoredState::Ending),
            (Some(handle), stored) => handle == event.handle && stored == boot,
        });
        let ours = known.is_some_and(|leg| leg.control == Control::Ours);
        let round = self.servers.get(&server).and_then(|known| known.round.as_ref());
        let never_looked_up = self.servers.get(&server).is_some_and(|known| !known.looked_up);
        let waits = match known {
            // A round may make it ours; so does the answer to a start that is under way.
            Some(leg) => round.is_some() || leg.awaits_answer(),
            // The look-up may bring the leg: this round's, or the first one, which has not come to it yet.
            None => never_looked_up || round.is_some_and(|round| round.look_up != LookingUp::Done),
        };
        if of_this_leg && (ours || event.ended != EndCause::None) {
            self.take_event(server, event);
        } else if waits {
            self.hold(server, event);
        } else {
            // An orphan's, or of a leg whose end is stored, or of one that nobody is about to take over: its
            // mark has not moved, so a later pull reads what this told.
            self.set_taken(server, number, Taken::Stored);
        }
        self.acknowledge(server);
    }

    /// Keeps an event until its leg is ours. Bounded by the server's window of unacknowledged events.
    pub(super) fn hold(&mut self, server: ServerId, event: Event) {
        self.set_taken(server, event.number, Taken::Held);
        let own = |leg: &&mut Leg| leg.row.server == server || !holds(Guard::OwnServersEvents);
        match self.legs.get_mut(&event.leg).filter(own) {
            // In their order: one that came before the look-up brought the leg is told after those that came since, and
            // would bring back what a later one has removed.
            Some(leg) => {
                let before = |held: &Event| held.number < event.number || !holds(Guard::EventsInOrder);
                let place = leg.held.partition_point(before);
                leg.held.insert(place, event);
            }
            // The look-up that will bring the leg is under way; or another server's leg is claimed here.
            None => {
                if let Some(known) = self.servers.get_mut(&server) {
                    known.strangers.push(event);
                }
            }
        }
    }

    /// Events up to `last` are lost. Acknowledging them would forget tombstones that nobody compared
    /// (SPEC E-6): it waits for the end of a round.
    pub(super) fn gap(&mut self, server: ServerId, last: u64) {
        self.set_taken(server, last, Taken::Held);
        let Some(known) = self.servers.get_mut(&server) else { return };
        // The round that runs may have it on its list already: events are sent again (SPEC E-5). What is below all of them
        // is a new one each time.
        let of_round = known.round.as_ref().is_some_and(|round| round.gaps.contains(&last));
        let listed = of_round && last != BELOW_ALL;
        if !listed && !known.gaps.contains(&last) {
            known.gaps.push(last);
        }
    }

    /// A round has compared everything: gaps that were there before it are closed. One that was told again since then
    /// waits for the next round.
    pub(super) fn close_gaps(&mut self, server: ServerId, gaps: Vec<u64>) {
        for last in gaps {
            if self.servers.get(&server).is_some_and(|known| !known.gaps.contains(&last)) {
                self.set_taken(server, last, Taken::Stored);
            }
        }
        self.acknowledge(server);
    }

    /// The leg is ours: what was held is stored now.
    pub(super) fn take_held(&mut self, server: ServerId, leg: LegId) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        for event in std::mem::take(&mut known.held) {
            self.take_event(server, event);
        }
        self.acknowledge(server);
    }

    /// The leg is not ours and will not be in this round. Its mark has not moved, so a later pull reads
    /// what these events told: they are acknowledged, or they would hold up every other leg's events.
    pub(super) fn release_held(&mut self, server: ServerId, leg: LegId) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        let held = std::mem::take(&mut known.held);
        for event in held {
            if event.ended == EndCause::None {
                self.set_taken(server, event.number, Taken::Stored);
            } else {
                self.take_event(server, event);
            }
        }
        self.acknowledge(server);
    }

    /// The same for every leg of a server that is not ours.
    pub(super) fn release_all_held(&mut self, server: ServerId) {
        let legs: Vec<LegId> = self
            .servers
            .get(&server)
            .into_iter()
            .flat_map(|known| known.legs.iter().copied())
            .filter(|leg| self.legs.get(leg).is_some_and(|leg| !leg.held.is_empty() && !leg.awaits_answer()))
            .collect();
        for leg in legs {
            self.release_held(server, leg);
        }
        if self.servers.get(&server).is_some_and(|known| known.looked_up) {
            self.release_strangers(server);
        }
    }

    /// The round's look-up is done: events that came before it find their legs, or have none.
    pub(super) fn release_strangers(&mut self, server: ServerId) {
        let Some(known) = self.servers.get_mut(&server) else { return };
        for event in std::mem::take(&mut known.strangers) {
            if self.legs.contains_key(&event.leg) {
                self.event(server, event);
            } else {
                self.set_taken(server, event.number, Taken::Stored);
            }
        }
        self.acknowledge(server);
    }

    fn take_event(&mut self, server: ServerId, event: Event) {
        let number = event.number;
        if self.legs.get(&event.leg).is_some_and(|known| known.closing.is_some()) {
            // Its end is on its way to the store: acknowledged with that, and not before.
            return self.hold(server, event);
        }
        let taken =
            if event.ended == EndCause::None { self.store_event(server, event) } else { self.store_end(server, event) };
        let storing = taken.filter(|_| holds(Guard::AcknowledgedAfterStored));
        self.set_taken(server, number, storing.map_or(Taken::Stored, Taken::Storing));
    }

    fn store_event(&mut self, server: ServerId, event: Event) -> Option<PersistId> {
        let gap_marks = self.settings.gap_marks;
        let known = self.legs.get_mut(&event.leg)?;
        let mark = known.row.mark;
        if event.mark.revision <= mark.revision {
            // It is told by the mark already; which may be on its way to the store still.
            return known.marking;
        }
        known.note_removals(&event, gap_marks);
        let contiguous = event.previous <= mark.revision && !known.reset;
        let cached = (contiguous && !known.cache_behind).then_some(mark.revision);
        let stored_mark = if contiguous {
            known.row.mark = event.mark;
            let jumped = known.close_gap();
            known.cache_behind |= jumped;
            Some(known.row.mark)
        } else {
            // Rows beyond a gap are stored but leave the mark; a pull closes the gap.
            known.cache_behind = true;
            if known.gap.len() < gap_marks {
                known.gap.push((event.previous, event.mark));
                known.gap.sort_by_key(|(previous, _)| *previous);
            }
            None
        };
        let (leg, domain) = (event.leg, known.row.domain);
        let (changes, base) = (event.changes.clone(), mark.revision);
        let write = ContentWrite { leg, domain, changes, base, mark: stored_mark, full: false };
        let base = cached.filter(|_| stored_mark == Some(event.mark));
        let id = self.persist(
            lane(leg),
            Unit::one(Write::Content(write)),
            After::Event { server, event: Box::new(event), base },
        );
        match stored_mark {
            None => self.want_pull(server, leg, false),
            Some(_) => self.mark_handed_out(leg, id),
        }
        Some(id)
    }

    /// An explicit end (rule 8). The row's compare-and-set, and no content: an ended leg has none.
    fn store_end(&mut self, server: ServerId, event: Event) -> Option<PersistId> {
        let known = self.legs.get_mut(&event.leg)?;
        if known.row.state == StoredState::Ended {
            return None;
        }
        let leg = event.leg;
        let expect = Expect { version: known.row.version, state: known.row.state };
        let cause = event.ended;
        known.ends(StoredState::Ended);
        known.row.cause = cause;
        known.control = Control::None;
        known.content = Content::Idle;
        let write = StateWrite { leg, expect, state: StoredState::Ended, cause, accepted: None };
        let unit = known.end_unit(write);
        let id = self.persist(lane(leg), unit, After::Event { server, event: Box::new(event), base: None });
        if let Some(known) = self.legs.get_mut(&leg) {
            known.closing = Some(id);
        }
        Some(id)
    }

    pub(super) fn event_stored(&mut self, server: ServerId, id: PersistId, event: Event, base: Option<u64>) {
        // By the persist, not by the number: a late result of an earlier boot id's event finds nothing.
        let leg = event.leg;
        self.mark_stored(server, leg, id);
        if event.ended != EndCause::None {
            let Some(known) = self.legs.get_mut(&leg) else { return };
            known.end_is_known();
            return self.settle_ended(leg);
        }
        self.cache_event(leg, &event, base);
        self.publish(leg, EventKind::Changed, event.changes);
    }

    fn cache_event(&mut self, leg: LegId, event: &Event, base: Option<u64>) {
        let Some(base) = base else { return self.cache_skipped(leg) };
        let Some(head) = self.legs.get(&leg).and_then(|known| self.head(known)) else { return };
        let write = CacheWrite { head, base: Some(base), mark: event.mark, changes: event.changes.clone() };
        if let Some(known) = self.legs.get_mut(&leg) {
            known.cache_open += 1;
        }
        self.put(Output::Cache(CacheTask::Write(Box::new(write))));
    }

    /// An event's changes are stored and go into no cache write: the next refill must have read after this.
    pub(super) fn cache_skipped(&mut self, leg: LegId) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        // The end of a pull refills by itself.
        let pulls = matches!(known.content, Content::Queued { .. } | Content::Pulling(_) | Content::AwaitStored { .. });
        if known.cache_open > 0 {
            known.cache_missed = true;
        } else if !pulls {
            self.refill(leg);
        }
    }

    /// The mark in memory is on its way to the store with this persist.
    pub(super) fn mark_handed_out(&mut self, leg: LegId, id: PersistId) {
        if let Some(known) = self.legs.get_mut(&leg) {
            known.marking = Some(id);
        }
    }

    /// A persist that may have carried the leg's mark is written.
    pub(super) fn mark_stored(&mut self, server: ServerId, leg: LegId, id: PersistId) {
        if let Some(known) = self.legs.get_mut(&leg)
            && known.marking.take_if(|marking| *marking == id).is_some()
        {
            known.stored = known.row.mark;
        }
        self.persist_stored(server, id);
    }

    /// Events whose rows (or end) this persist stored may be acknowledged.
    pub(super) fn persist_stored(&mut self, server: ServerId, id: PersistId) {
        if let Some(known) = self.servers.get_mut(&server) {
            known.unacknowledged.stored(id);
        }
        self.acknowledge(server);
    }

    pub(super) fn set_taken(&mut self, server: ServerId, number: u64, taken: Taken) {
        let Some(known) = self.servers.get_mut(&server) else { return };
        known.unacknowledged.set(number, taken);
    }

    pub(super) fn acknowledge(&mut self, server: ServerId) {
        let stored = self.servers.get_mut(&server).and_then(|known| known.unacknowledged.stored_upto());
        if let Some(number) = stored.filter(|number| *number > BELOW_ALL) {
            self.put(Output::Acknowledge { server, number });
        }
    }
}

impl Leg {
    /// Something was asked that may make the leg ours: a start, a takeover, an adoption.
    fn awaits_answer(&self) -> bool {
        let starting =
            self.row.state != StoredState::InMeeting && self.open.first().is_some_and(|open| open.asked.is_some());
        starting || self.control == Control::AwaitAnswer
    }

    /// Remembers what an event removed while a pull runs: the pull's older rows must not bring it back. What goes
    /// beyond the bound is found when the stored rows are counted, and costs a whole pull.
    fn note_removals(&mut self, event: &Event, bound: usize) {
        if !matches!(self.content, Content::Pulling(_) | Content::Queued { .. }) {
            return;
        }
        for change in &event.changes {
            if self.removed_meanwhile.len() >= bound {
                return;
            }
            if let RecordState::Removed(key) = &change.state {
                self.removed_meanwhile.push((key.clone(), change.revision));
            }
        }
    }

    /// Moves the mark over steps beyond a gap that has closed. Says whether it moved.
    pub(super) fn close_gap(&mut self) -> bool {
        let before = self.row.mark;
        let mark = &mut self.row.mark;
        self.gap.retain(|(previous, step)| {
            if *previous <= mark.revision && step.revision > mark.revision {
                *mark = *step;
            }
            step.revision > mark.revision
        });
        *mark != before
    }
}
