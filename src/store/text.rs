//! Texts of peers in the database. Postgres stores no NUL in a text, but a peer may send one, and a
//! digest needs every text back as it came: so NUL is stored as U+E000 '0', and U+E000 as U+E000 '1'.

use std::borrow::Cow;

const MARKER: char = '\u{E000}';

/// As it is stored.
pub(super) fn stored(text: &str) -> String {
    if !text.contains(['\0', MARKER]) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for each in text.chars() {
        match each {
            '\0' => out.extend([MARKER, '0']),
            MARKER => out.extend([MARKER, '1']),
            other => out.push(other),
        }
    }
    out
}

/// As it came. `None` if `stored` was not written by [`stored()`].
pub(super) fn original(stored: &str) -> Option<Cow<'_, str>> {
    if !stored.contains(MARKER) {
        return Some(Cow::Borrowed(stored));
    }
    let mut out = String::with_capacity(stored.len());
    let mut chars = stored.chars();
    while let Some(each) = chars.next() {
        match each {
            MARKER => match chars.next() {
                Some('0') => out.push('\0'),
                Some('1') => out.push(MARKER),
                _ => return None,
            },
            other => out.push(other),
        }
    }
    Some(Cow::Owned(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_text_comes_back_and_none_is_stored_with_nul(text in "[a\0\u{E000}01é]{0,12}") {
            let there = stored(&text);
            prop_assert!(!there.contains('\0'));
            let back = original(&there);
            prop_assert_eq!(back.as_deref(), Some(text.as_str()));
        }
    }

    #[test]
    fn a_text_that_was_not_written_so_is_refused() {
        assert_eq!(original("a\u{E000}"), None);
        assert_eq!(original("a\u{E000}2"), None);
    }
}
