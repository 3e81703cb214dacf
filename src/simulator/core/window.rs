//! The sliding window of request ids within a token (SPEC T-8): the lowest net, under intents and
//! idempotence. It refuses what is too old to tell, and counts repeats.

/// Ids that the window holds, the highest included.
pub const WINDOW: u64 = 1024;
/// The same, to index by.
const BITS: usize = 1024;

/// What a request id means to the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Not seen yet.
    New,
    /// A repeat: it must have no second effect.
    Seen,
    /// Too old to tell: refuse.
    Below,
}

/// The highest id seen, and which of the ids up to it were seen: one bit for each, at its remainder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    highest: u64,
    seen: [bool; BITS],
}

impl Default for Window {
    fn default() -> Self {
        Self { highest: 0, seen: [false; BITS] }
    }
}

impl Window {
    /// Looks an id up and notes it.
    pub fn note(&mut self, request: u64) -> Place {
        if request == 0 || request.saturating_add(WINDOW) <= self.highest {
            return Place::Below;
        }
        if request > self.highest {
            // The ids that slide in are not seen yet; a jump beyond the whole window empties it.
            for id in (self.highest + 1..=request).rev().take(self.seen.len()) {
                self.seen[bit(id)] = false;
            }
            self.highest = request;
        }
        if std::mem::replace(&mut self.seen[bit(request)], true) { Place::Seen } else { Place::New }
    }

    /// Every id in the window that was seen, in order.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        let first = self.highest.saturating_sub(WINDOW - 1).max(1);
        (first..=self.highest).filter(|id| self.seen[bit(*id)])
    }
}

#[allow(clippy::cast_possible_truncation)] // below WINDOW
fn bit(id: u64) -> usize {
    (id % WINDOW) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_once_then_seen_then_below_the_window() {
        let mut window = Window::default();
        assert_eq!(window.note(0), Place::Below, "0 marks notices");
        assert_eq!(window.note(5), Place::New);
        assert_eq!(window.note(5), Place::Seen);
        assert_eq!(window.note(3), Place::New, "requests may overtake one another inside the window");
        assert_eq!(window.note(5 + WINDOW - 1), Place::New);
        assert_eq!(window.note(5), Place::Seen, "1023 below the highest");
        assert_eq!(window.note(5 + WINDOW), Place::New);
        assert_eq!(window.note(5), Place::Below, "1024 below the highest");
        assert_eq!(window.ids().collect::<Vec<_>>(), [5 + WINDOW - 1, 5 + WINDOW]);
        assert_eq!(window.note(u64::MAX), Place::New, "a jump empties the window");
        assert_eq!(window.ids().collect::<Vec<_>>(), [u64::MAX]);
    }

    #[test]
    fn a_window_noted_again_id_by_id_is_the_same() {
        let mut window = Window::default();
        for id in [1, 2, 900, 899, 1500, 1400, 700] {
            window.note(id);
        }
        let mut again = Window::default();
        for id in window.ids() {
            again.note(id);
        }
        assert_eq!(again.ids().collect::<Vec<_>>(), window.ids().collect::<Vec<_>>());
    }
}
