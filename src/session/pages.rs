//! Gap check of an answer of many packets: each has an index, the last carries LAST.

use remeet_protocol::Flags;
use remeet_protocol::message::Message;
use remeet_protocol::packet::Header;
use std::collections::BTreeMap;

/// What has come of one answer.
#[derive(Debug, Default)]
pub(super) struct Pages {
    packets: BTreeMap<u32, Message>,
    last: Option<u32>,
}

/// What a packet did to an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// It is new, others are missing.
    Part,
    /// It is new and carries LAST, but lower indexes are missing: ask again now.
    Holes,
    /// Every packet is there.
    Whole,
    /// It has come before.
    Repeat,
    /// It has come before with other content: the answer was made anew.
    Changed,
    /// It breaks the rules of an answer.
    Broken(String),
}

impl Pages {
    /// Adds a packet; `index_max` is the highest index that the question allowed.
    pub(super) fn add(&mut self, header: &Header, message: Message, index_max: u32) -> Added {
        let last = header.flags.has(Flags::LAST);
        if header.index > index_max {
            return Added::Broken(format!("packet {} of an answer that may have {}", header.index, index_max + 1));
        }
        if let Some(before) = self.packets.get(&header.index) {
            let same = *before == message && last == (self.last == Some(header.index));
            return if same { Added::Repeat } else { Added::Changed };
        }
        let beyond = self.last.is_some_and(|end| last || header.index > end);
        let highest = self.packets.last_key_value().map(|(index, _)| *index);
        if beyond || (last && highest.is_some_and(|highest| highest > header.index)) {
            return Added::Changed;
        }
        self.packets.insert(header.index, message);
        if last {
            self.last = Some(header.index);
        }
        match self.last {
            None => Added::Part,
            // An index fits usize, and the map holds each from 0 to `end` at most once.
            Some(end) if self.packets.len() as u64 == u64::from(end) + 1 => Added::Whole,
            Some(_) if last => Added::Holes,
            Some(_) => Added::Part,
        }
    }

    /// The packets in order; the answer is empty afterwards.
    pub(super) fn take(&mut self) -> Vec<Message> {
        self.last = None;
        std::mem::take(&mut self.packets).into_values().collect()
    }

    /// Whether nothing has come.
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Forgets what has come.
    pub(super) fn clear(&mut self) {
        self.packets.clear();
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use remeet_protocol::message::KeepAliveAnswer;

    fn add(pages: &mut Pages, index: u32, last: bool, content: u64) -> Added {
        let flags = if last { Flags::FINAL_ANSWER } else { Flags::ANSWER };
        let header = Header { flags, session: 0, request: 1, index, ..Header::default() };
        pages.add(&header, KeepAliveAnswer { table_revision: content }.into(), 4)
    }

    #[test]
    fn packets_in_any_order_make_a_whole_answer_in_order() {
        let mut pages = Pages::default();
        assert_eq!(add(&mut pages, 1, false, 11), Added::Part);
        assert_eq!(add(&mut pages, 2, true, 12), Added::Holes);
        assert_eq!(add(&mut pages, 1, false, 11), Added::Repeat);
        assert_eq!(add(&mut pages, 0, false, 10), Added::Whole);
        let contents: Vec<_> = pages
            .take()
            .into_iter()
            .map(|message| match message {
                Message::KeepAliveAnswer(answer) => answer.table_revision,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(contents, [10, 11, 12]);
        assert!(pages.is_empty());
    }

    #[test]
    fn an_index_beyond_what_was_asked_for_is_broken() {
        assert!(matches!(add(&mut Pages::default(), 5, false, 0), Added::Broken(_)));
        assert!(matches!(add(&mut Pages::default(), u32::MAX, true, 0), Added::Broken(_)));
    }

    #[test]
    fn an_answer_that_was_made_anew_is_noticed() {
        let mut pages = Pages::default();
        assert_eq!(add(&mut pages, 0, false, 10), Added::Part);
        assert_eq!(add(&mut pages, 0, false, 99), Added::Changed, "other content");
        assert_eq!(add(&mut pages, 2, true, 12), Added::Holes);
        assert_eq!(add(&mut pages, 1, true, 11), Added::Changed, "a second end");
        assert_eq!(add(&mut pages, 3, false, 13), Added::Changed, "beyond the end");
        let mut pages = Pages::default();
        assert_eq!(add(&mut pages, 3, false, 13), Added::Part);
        assert_eq!(add(&mut pages, 1, true, 11), Added::Changed, "an end before a known packet");
    }
}
