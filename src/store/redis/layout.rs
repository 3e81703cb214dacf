//! Names and fields in Redis: the layout that the documentation of [`super`] draws.

use super::Name;
use crate::store::CacheWrite;
use ::redis::Pipeline;
use remeet_protocol::message::MeetingState;
use remeet_protocol::record::RecordState;
use remeet_protocol::{DomainId, LegId, Record, RecordKey};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What a name holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Key,
    Leg,
    Gone,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Key => "key",
            Kind::Leg => "leg",
            Kind::Gone => "gone",
        }
    }

    /// Matches the names of this kind.
    pub(super) fn pattern(self) -> String {
        format!("remeet:{{*}}:{}:*", self.word())
    }
}

/// The format of what this version writes and reads. A hash without one is of the first.
pub(super) const FORMAT: &str = "1";

pub(super) const KEY_FIELDS: &[&str] = &["format", "epoch", "generation", "secret"];
pub(super) const STAMP_FIELDS: &[&str] = &["format", "revision", "count", "digest", "boot", "handle", "state"];

/// About the bytes of a key's write: names, secret, and texts of at most 256 + 64 + 3 × 32 bytes.
pub(super) const KEY_BYTES: usize = 700;

/// The name of what is cached of a leg.
pub(super) fn name(kind: Kind, (domain, leg): Name) -> String {
    format!("remeet:{{{domain}}}:{}:{}:{}", kind.word(), leg.meeting, leg.leg)
}

/// Asks for what a stamp is read from: [`KEY_FIELDS`] and [`STAMP_FIELDS`]. The bench's floor reads the same.
pub(crate) fn ask_stamp(pipeline: &mut Pipeline, at: Name) {
    pipeline.cmd("HMGET").arg(name(Kind::Key, at)).arg(KEY_FIELDS);
    pipeline.cmd("HMGET").arg(name(Kind::Leg, at)).arg(STAMP_FIELDS);
}

/// Reads a name back; `None` for any other, also for one that is not written as [`name`] writes it.
pub(super) fn parse_name(kind: Kind, text: &str) -> Option<Name> {
    let rest = text.strip_prefix("remeet:{")?;
    let (domain, rest) = rest.split_once("}:")?;
    let (word, rest) = rest.split_once(':')?;
    let (meeting, leg) = rest.split_once(':')?;
    let read = (DomainId(domain.parse().ok()?), LegId { meeting: meeting.parse().ok()?, leg: leg.parse().ok()? });
    (word == kind.word() && name(kind, read) == text).then_some(read)
}

/// The field of a record.
pub(super) fn field(key: &RecordKey) -> String {
    match key {
        RecordKey::Leg => "leg".to_owned(),
        RecordKey::Terminal(number) => format!("t:{}", escape(number.as_str())),
        RecordKey::Window(number, window) => format!("w:{}:{window}", escape(number.as_str())),
        RecordKey::Entry(number, key) => format!("e:{}:{key}", escape(number.as_str())),
    }
}

/// Whether a field of a leg's hash is a record's (else one of head and mark).
pub(super) fn is_record(field: &str) -> bool {
    field == "leg" || field.starts_with("t:") || field.starts_with("w:") || field.starts_with("e:")
}

/// Numbers are texts that may hold anything: a colon in one must not shift the next part.
fn escape(number: &str) -> Cow<'_, str> {
    if number.contains([':', '%']) {
        Cow::Owned(number.replace('%', "%25").replace(':', "%3A"))
    } else {
        Cow::Borrowed(number)
    }
}

/// A record's value.
#[derive(Serialize)]
pub(super) struct RecordRef<'a> {
    pub(super) revision: u64,
    pub(super) record: &'a Record,
}

/// A record's value, read.
#[derive(Deserialize)]
pub(super) struct RecordValue {
    pub(super) revision: u64,
    pub(super) record: Record,
}

const STATES: [(MeetingState, &str); 9] = [
    (MeetingState::Created, "created"),
    (MeetingState::Starting, "starting"),
    (MeetingState::InMeeting, "in-meeting"),
    (MeetingState::Recovering, "recovering"),
    (MeetingState::Unreachable, "unreachable"),
    (MeetingState::Ending, "ending"),
    (MeetingState::Ended, "ended"),
    (MeetingState::Partly, "partly"),
    (MeetingState::Adopting, "adopting"),
];

/// A state's name; the number of one of a later version.
pub(super) fn state_name(state: MeetingState) -> Cow<'static, str> {
    match STATES.iter().find(|(known, _)| *known == state) {
        Some((_, name)) => Cow::Borrowed(name),
        None => Cow::Owned(u8::from(state).to_string()),
    }
}

/// From a state's name.
pub(super) fn state_from_name(name: &str) -> Option<MeetingState> {
    match STATES.iter().find(|(_, known)| *known == name) {
        Some((state, _)) => Some(*state),
        None => name.parse::<u8>().ok().map(MeetingState::from),
    }
}

/// About the bytes of a status write.
pub(super) fn write_bytes(write: &CacheWrite) -> usize {
    let records = write.changes.iter().map(|change| match &change.state {
        RecordState::Present(Record::Leg(_)) => 700,
        RecordState::Present(Record::Terminal(_)) => 500,
        RecordState::Present(Record::Window(_)) => 300,
        // Up to four characters a byte, as a JSON list.
        RecordState::Present(Record::Entry(entry)) => 300 + 4 * entry.value.as_bytes().len(),
        RecordState::Removed(_) => 100,
    });
    600 + records.sum::<usize>()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use remeet_protocol::MeetingId;
    use remeet_protocol::record::{EntryKey, Number};

    #[test]
    fn names_read_back_and_no_other_text_does() {
        let leg = (DomainId(7), LegId { meeting: MeetingId::from_bytes([3; 16]), leg: 2 });
        for kind in [Kind::Key, Kind::Leg, Kind::Gone] {
            assert_eq!(parse_name(kind, &name(kind, leg)), Some(leg));
        }
        let key = name(Kind::Key, leg);
        assert_eq!(parse_name(Kind::Leg, &key), None);
        for foreign in ["", "remeet:{x}:key:1:2", "remeet:{7}:key:1", &key.replace("{7}", "{07}"), &format!("{key}0x")]
        {
            assert_eq!(parse_name(Kind::Key, foreign), None, "{foreign}");
        }
    }

    #[test]
    fn fields_of_different_records_differ_even_if_numbers_hold_colons() {
        let number = |text: &str| Number::new(text).unwrap();
        let entry = |of: &str, key: &str| field(&RecordKey::Entry(number(of), EntryKey::new(key).unwrap()));
        assert_ne!(entry("a:b", "c"), entry("a", "b:c"));
        assert_ne!(entry("a%3Ab", "c"), entry("a:b", "c"));
        assert_eq!(entry("1001", "seat"), "e:1001:seat");
        assert_eq!(field(&RecordKey::Window(number("10:01"), 3)), "w:10%3A01:3");
        assert!(is_record("leg") && is_record("t:") && !is_record("epoch") && !is_record("title"));
    }

    #[test]
    fn every_state_has_a_name_that_reads_back() {
        for value in 0..=u8::MAX {
            let state = MeetingState::from(value);
            assert_eq!(state_from_name(&state_name(state)), Some(state));
        }
    }
}
