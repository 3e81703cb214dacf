//! The sliding window of request ids within a token: the lowest net under intents and idempotence. It
//! holds requests with an effect only; queries and pulls change nothing and are simply done again.

use remeet_protocol::message::CommandAnswer;
use std::collections::BTreeMap;

/// Ids that the window holds below the highest: more than the requests that a scheduler keeps in flight.
pub const WINDOW: u64 = 1024;

/// What a request id means to the window.
#[derive(Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// Not seen yet, or seen without effect: carry it out.
    New,
    /// Carried out already; the answer, where it is kept. Without one the request is idempotent.
    Seen(Option<&'a CommandAnswer>),
    /// Too old to tell: refuse.
    Below,
}

/// The window.
#[derive(Debug, Clone, Default)]
pub struct Window {
    highest: u64,
    seen: BTreeMap<u64, Option<CommandAnswer>>,
}

impl Window {
    /// Looks an id up.
    #[must_use]
    pub fn place(&self, request: u64) -> Place<'_> {
        if request == 0 || request.saturating_add(WINDOW) <= self.highest {
            return Place::Below;
        }
        self.seen.get(&request).map_or(Place::New, |kept| Place::Seen(kept.as_ref()))
    }

    /// Notes that a request was carried out, with the answer to be given again.
    pub fn note(&mut self, request: u64, kept: Option<CommandAnswer>) {
        self.highest = self.highest.max(request);
        self.seen.insert(request, kept);
        while let Some(entry) = self.seen.first_entry() {
            if entry.key().saturating_add(WINDOW) > self.highest {
                break;
            }
            entry.remove();
        }
    }

    /// Everything in the window, in order.
    pub fn items(&self) -> impl Iterator<Item = (u64, Option<&CommandAnswer>)> {
        self.seen.iter().map(|(request, kept)| (*request, kept.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_once_then_seen_then_below_the_window() {
        let mut window = Window::default();
        assert_eq!(window.place(0), Place::Below, "0 marks notices");
        assert_eq!(window.place(5), Place::New);
        window.note(5, None);
        assert_eq!(window.place(5), Place::Seen(None));
        assert_eq!(window.place(3), Place::New, "requests may overtake one another inside the window");
        window.note(5 + WINDOW - 1, None);
        assert_eq!(window.place(5), Place::Seen(None));
        window.note(5 + WINDOW, None);
        assert_eq!(window.place(5), Place::Below);
        assert_eq!(window.items().count(), 2);
    }
}
