//! Starts that need no answer of their own, and ends that must be finished: a leg that the store calls ended by
//! an explicit end, yet its server runs it.

use super::core::{After, Core, lane};
use super::intents::Done;
use super::leg::{OpenIntent, code_of_ended};
use crate::cascade::terminal_of;
use crate::model::{Intent, StoredState};
use crate::store::{Unit, Write};
use remeet_protocol::message::{End, EndCause, Op};
use remeet_protocol::{ErrorCode, LegId};
use thin_vec::ThinVec;

impl Core {
    /// A leg that its server runs under this key has started, or is adopted, whatever became of the answer: its
    /// start is done with the acceptance. Sent again it could come after the meeting's end, and run it anew. One
    /// that is under way has its own answer.
    pub(super) fn start_by_acceptance(&mut self, leg: LegId) -> Option<Done> {
        let known = self.legs.get_mut(&leg)?;
        let waits = matches!(known.row.state, StoredState::Starting | StoredState::Adopting);
        let starts = |open: &OpenIntent| matches!(open.intent.op, Op::Start(_)) && open.asked.is_none();
        if !waits || !known.open.first().is_some_and(starts) {
            return None;
        }
        let open = known.open.remove(0);
        Some(self.done(leg, &open, ErrorCode::OK, ""))
    }

    /// Ended stays ended (rule 9): the server, which runs the leg still, is told to end it.
    pub(super) fn end_zombie(&mut self, leg: LegId) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        if known.open.iter().any(|open| matches!(open.intent.op, Op::End(_))) {
            return;
        }
        known.row.intent += 1;
        let cause = if known.row.cause == EndCause::None { EndCause::Commanded } else { known.row.cause };
        let intent = Intent { leg, number: known.row.intent, op: Op::End(End { cause }), command: None };
        let number = intent.number;
        let after =
            self.persist(lane(leg), Unit::one(Write::Intent(Box::new(intent.clone()))), After::Intent(leg, number));
        if let Some(known) = self.legs.get_mut(&leg) {
            known.open.push(OpenIntent::storing(intent, after));
        }
    }

    /// A leg has ended: what was still to be done on it is answered so.
    pub(super) fn end_open_intents(&mut self, leg: LegId) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        // The answer to one that was sent is on its way and says more than "ended".
        let (left, over): (ThinVec<_>, ThinVec<_>) =
            std::mem::take(&mut known.open).into_iter().partition(|open| open.asked.is_some());
        known.open = left;
        for open in over {
            self.intent_done(leg, &open, code_of_ended(&open.intent.op), "the meeting has ended");
        }
        let others = !self.live_legs_of(leg.meeting).is_empty();
        for waiting in self.take_waiting(leg) {
            match terminal_of(&waiting.command.op) {
                None if others => self.run(waiting),
                Some(_) if others => self.refuse(&waiting, ErrorCode::ENDED, "the terminal's leg has ended"),
                _ => self.refuse(&waiting, ErrorCode::ENDED, "the meeting has ended"),
            }
        }
    }
}
