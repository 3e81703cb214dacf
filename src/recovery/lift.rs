//! Lifting a quarantine: an operator has the leg pulled whole and counted again, now.
//!
//! The stored reason is taken away when the stored rows add up, as after any pull, and not before: it is the
//! only note that they do not. A process that died in between would leave a mark that calls them whole, and
//! the next term would transfer nothing.

use super::core::Core;
use super::{Output, Waiter};
use crate::model::StoredState;
use remeet_protocol::message::ClientAnswer;
use remeet_protocol::wire::Text;
use remeet_protocol::{ErrorCode, LegId};

/// Operators who wait for one leg: more than have a place at the operator's socket.
const WAITERS_MAX: usize = 16;

impl Core {
    pub(super) fn lift_quarantine(&mut self, waiter: Waiter, leg: LegId) {
        if let Err((code, why)) = self.may_lift(leg) {
            return self.answer_lift(waiter, leg, code, why);
        }
        let Some(known) = self.legs.get_mut(&leg) else { return };
        known.lifting.push(waiter);
        known.recounts = 0;
        let crowd = if known.lifting.len() > WAITERS_MAX { Some(known.lifting.remove(0)) } else { None };
        let server = known.row.server;
        if let Some(first) = crowd {
            self.answer_lift(first, leg, ErrorCode::RETRY, "too many operators wait for this leg");
        }
        // One that is under way already ends in a count too.
        self.want_pull(server, leg, true);
        self.try_back_fill(server);
    }

    fn may_lift(&self, leg: LegId) -> Result<(), (ErrorCode, &'static str)> {
        if self.token.is_none() {
            return Err((ErrorCode::UNAVAILABLE, "the scheduler has no term yet: it waits for the database"));
        }
        let Some(known) = self.legs.get(&leg).filter(|known| known.row.state != StoredState::Ended) else {
            return Err((
                ErrorCode::UNKNOWN_MEETING,
                "no such leg is in control or waits for its server: see remeet troubled",
            ));
        };
        if known.row.quarantine.is_none() {
            return Err((ErrorCode::WRONG_STATE, "it is not quarantined: see remeet troubled"));
        }
        if !known.is_ours(self.token) {
            let why = "it is not in control now: it is pulled whole as soon as its server has been taken over again";
            return Err((ErrorCode::UNREACHABLE, why));
        }
        Ok(())
    }

    /// Whoever waits for the leg's quarantine to be lifted learns what came of it.
    pub(super) fn answer_lifts(&mut self, leg: LegId, code: ErrorCode, detail: &str) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        for waiter in std::mem::take(&mut known.lifting) {
            self.answer_lift(waiter, leg, code, detail);
        }
    }

    pub(super) fn answer_lift(&mut self, waiter: Waiter, leg: LegId, code: ErrorCode, detail: &str) {
        let answer = ClientAnswer {
            // No client's command: nobody repeats it.
            instance: 0,
            number: 0,
            code,
            retry_after_ms: super::core::retry_after_ms(code),
            detail: Text::cut(detail),
            meeting: leg.meeting,
        };
        self.put(Output::Answer(waiter, answer));
    }
}
