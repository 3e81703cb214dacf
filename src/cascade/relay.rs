//! Reaching a server through its parent: when its conversation begins, and when it begins again.
//!
//! ```text
//!              parent up                due                     its Welcome
//!   AWAY ------------------> WAITING(at) ----> OPEN (Hello sent) ----------> OPEN, next pause the shortest
//!    ^ parent down              ^                |
//!    +--------------------------+----------------+ closed: pause, doubled up to the longest, with jitter
//! ```

use crate::model::Moment;
use std::time::Duration;

/// A server's place behind its parent's link.
#[derive(Debug)]
pub struct Relay {
    state: State,
    pause: Duration,
    pause_min: Duration,
    pause_max: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Away,
    Waiting(Moment),
    Open,
}

impl Relay {
    /// Nothing is reached yet. The pauses are those between two conversations that came to nothing.
    #[must_use]
    pub fn new(pause_min: Duration, pause_max: Duration) -> Self {
        Self { state: State::Away, pause: pause_min, pause_min, pause_max }
    }

    /// The parent answers: the conversation may begin.
    pub fn parent_up(&mut self, now: Moment) {
        if self.state == State::Away {
            self.state = State::Waiting(now);
        }
    }

    /// The parent's link is gone, and with it everything behind it.
    pub fn parent_down(&mut self) {
        (self.state, self.pause) = (State::Away, self.pause_min);
    }

    /// Whether to say Hello now; told once.
    pub fn is_due(&mut self, now: Moment) -> bool {
        let due = matches!(self.state, State::Waiting(at) if at <= now);
        if due {
            self.state = State::Open;
        }
        due
    }

    /// The server has answered: the next pause is the shortest again.
    pub fn answered(&mut self) {
        self.pause = self.pause_min;
    }

    /// The conversation is over. It begins again after a pause, at least `at_least` long; `spread`, from 0 to 1, is
    /// drawn anew each time, so that what broke together does not come back in step.
    pub fn closed(&mut self, now: Moment, at_least: Duration, spread: f64) {
        if self.state == State::Open {
            let pause = self.pause.max(at_least);
            self.state = State::Waiting(now + pause + pause.mul_f64(spread.clamp(0.0, 1.0) / 2.0));
            self.pause = (self.pause * 2).min(self.pause_max);
        }
    }

    /// When something is due.
    #[must_use]
    pub fn next_wake(&self) -> Option<Moment> {
        match self.state {
            State::Waiting(at) => Some(at),
            State::Away | State::Open => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_conversation_begins_with_the_parent_and_once() {
        let mut relay = Relay::new(ms(100), ms(1_000));
        assert!(!relay.is_due(Moment(5)) && relay.next_wake().is_none());
        relay.parent_up(Moment(7));
        assert_eq!(relay.next_wake(), Some(Moment(7)));
        assert!(relay.is_due(Moment(7)) && !relay.is_due(Moment(8)) && relay.next_wake().is_none());
        relay.parent_up(Moment(9));
        assert!(!relay.is_due(Moment(9)), "it is open already");
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_an_answer_makes_them_short_again() {
        let mut relay = Relay::new(ms(100), ms(300));
        let mut now = Moment(0);
        relay.parent_up(now);
        for pause in [100, 200, 300, 300] {
            assert!(relay.is_due(now));
            relay.closed(now, Duration::ZERO, 0.0);
            assert_eq!(relay.next_wake(), Some(now + ms(pause)));
            now = now + ms(pause);
        }
        assert!(relay.is_due(now));
        relay.answered();
        relay.closed(now, ms(150), 1.0);
        assert_eq!(relay.next_wake(), Some(now + ms(225)), "at least what the server asked for, and half of it more");
    }

    #[test]
    fn with_the_parent_gone_nothing_is_tried_until_it_is_back() {
        let mut relay = Relay::new(ms(100), ms(300));
        relay.parent_up(Moment(0));
        assert!(relay.is_due(Moment(0)));
        relay.parent_down();
        relay.closed(Moment(1), Duration::ZERO, 0.0);
        assert_eq!(relay.next_wake(), None);
        relay.parent_up(Moment(50));
        assert_eq!(relay.next_wake(), Some(Moment(50)));
    }
}
