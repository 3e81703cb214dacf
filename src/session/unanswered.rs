//! Request ids of commands and adoptions that are not answered, and of every start. Asked again, also on another
//! connection, each keeps its id (SPEC M-5): of a start that came a second time under another one, long after the leg has
//! ended and is forgotten, the server could not know that it is none (T-8). A start is asked again after its answer, too:
//! when what it led to was lost on its way to the store.

use super::question::Question;
use remeet_protocol::message::Op;
use remeet_protocol::{LegId, Token};
use std::collections::BTreeMap;

/// Ids that are remembered: of every command that may be queued, or of the last starts. Of more the oldest are forgotten,
/// which are the first to fall below the server's window.
const MAX: usize = 16_384;

/// The ids, of one token.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    token: Option<Token>,
    ids: BTreeMap<(LegId, u64), u64>,
    by_age: BTreeMap<u64, (LegId, u64)>,
}

/// A leg and an intent, none for an adoption: what asks for the same again.
fn name(question: &Question) -> Option<(LegId, u64)> {
    match question {
        Question::Command(command) => Some((command.leg, command.intent)),
        Question::Adopt(adopt) => Some((adopt.new, 0)),
        Question::Attach(_) | Question::Inventory(_) | Question::Takeover(_) | Question::Pull(_) => None,
    }
}

impl Unanswered {
    /// Control is asked for with this token: ids are a token's.
    pub(super) fn begins(&mut self, token: Token) {
        if self.token != Some(token) {
            *self = Self { token: Some(token), ..Self::default() };
        }
    }

    /// The id under which the same has been asked before.
    pub(super) fn id(&self, question: &Question) -> Option<u64> {
        self.ids.get(&name(question)?).copied()
    }

    /// It leaves under this id.
    pub(super) fn sent(&mut self, question: &Question, request: u64) {
        let Some(name) = name(question) else { return };
        if let Some(before) = self.ids.insert(name, request) {
            self.by_age.remove(&before);
        }
        self.by_age.insert(request, name);
        if self.ids.len() > MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.ids.remove(&oldest);
        }
    }

    /// It is answered. A start's id stays.
    pub(super) fn answered(&mut self, question: &Question) {
        if matches!(question, Question::Command(command) if matches!(command.op, Op::Start(_))) {
            return;
        }
        self.forget(question);
    }

    /// The next time it has an id of its own.
    pub(super) fn forget(&mut self, question: &Question) {
        if let Some(request) = name(question).and_then(|name| self.ids.remove(&name)) {
            self.by_age.remove(&request);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::session::samples::{command, leg};
    use crate::session::{Request, Settings};
    use remeet_protocol::{Epoch, Holder};

    fn question(number: u128, intent: u64) -> Question {
        let request = Request::Command(command(number, intent));
        Question::from_request(request, &Settings::default()).remove(0)
    }

    #[test]
    fn an_id_is_kept_until_the_answer_or_another_token() {
        let mut unanswered = Unanswered::default();
        let token = |epoch| Token { epoch: Epoch(epoch), holder: Holder::default() };
        unanswered.begins(token(1));
        for (number, request) in [(1, 7), (2, 9)] {
            unanswered.sent(&question(number, 3), request);
        }
        unanswered.begins(token(1));
        assert_eq!(unanswered.id(&question(1, 3)), Some(7), "over connections");
        assert_eq!(unanswered.id(&question(1, 4)), None, "another intent of leg {}", leg(1));
        unanswered.answered(&question(1, 3));
        assert_eq!((unanswered.id(&question(1, 3)), unanswered.id(&question(2, 3))), (None, Some(9)));
        unanswered.begins(token(2));
        assert_eq!(unanswered.id(&question(2, 3)), None);
    }

    /// Found by the simulation (seed 775): its acceptance was lost, it was asked again, and that came after the meeting's
    /// end.
    #[test]
    fn a_start_s_id_is_kept_after_its_answer_too() {
        let mut unanswered = Unanswered::default();
        let start = crate::session::samples::start(1, 3);
        let question = Question::from_request(Request::Command(start), &Settings::default()).remove(0);
        unanswered.sent(&question, 7);
        unanswered.answered(&question);
        assert_eq!(unanswered.id(&question), Some(7));
    }

    #[test]
    fn rule_17_ids_are_bounded_and_the_oldest_go_first() {
        let mut unanswered = Unanswered::default();
        for request in 1..=MAX as u64 + 2 {
            unanswered.sent(&question(1, request), request);
        }
        assert_eq!((unanswered.ids.len(), unanswered.by_age.len()), (MAX, MAX));
        assert_eq!((unanswered.id(&question(1, 2)), unanswered.id(&question(1, 3))), (None, Some(3)));
    }
}
