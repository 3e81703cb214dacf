//! A change: what one revision of a leg did to one record.

use super::{KIND_ENTRY, KIND_LEG, KIND_TERMINAL, KIND_WINDOW, Record, RecordKey};
use crate::wire::{Input, Malformed, Wire, put_behind_length};
use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};

/// What a revision of a leg did to one record (SPEC R-1: each revision changes exactly one).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The leg's revision that made the change.
    pub revision: u64,
    /// The record as it is now, or the key of a removed one.
    pub state: RecordState,
}

/// A record that is there, or the key of one that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordState {
    /// It is there.
    Present(Record),
    /// It was removed.
    Removed(RecordKey),
}

impl Change {
    /// The key of the record.
    #[must_use]
    pub fn key(&self) -> RecordKey {
        match &self.state {
            RecordState::Present(record) => record.key(),
            RecordState::Removed(key) => key.clone(),
        }
    }
}

/// Revision (u64), kind (u8, 0x80 set if removed), length (u16), fields or key fields.
impl Wire for Change {
    fn put(&self, out: &mut BytesMut) {
        self.revision.put(out);
        out.put_u8(match &self.state {
            RecordState::Present(record) => record.kind(),
            RecordState::Removed(key) => key.kind() | REMOVED,
        });
        put_behind_length(out, |out| match &self.state {
            RecordState::Present(record) => record.put_fields(out),
            RecordState::Removed(key) => key.put_fields(out),
        });
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let revision = u64::take(input)?;
        let kind = u8::take(input)?;
        let length = usize::from(u16::take(input)?);
        // Fields of a later version at the record's end are skipped (SPEC W-4).
        let fields = &mut Input::new(input.bytes(length, "record")?);
        let state = match kind {
            KIND_LEG => RecordState::Present(Record::Leg(Wire::take(fields)?)),
            KIND_TERMINAL => RecordState::Present(Record::Terminal(Wire::take(fields)?)),
            KIND_WINDOW => RecordState::Present(Record::Window(Wire::take(fields)?)),
            KIND_ENTRY => RecordState::Present(Record::Entry(Wire::take(fields)?)),
            LEG_REMOVED => RecordState::Removed(RecordKey::Leg),
            TERMINAL_REMOVED => RecordState::Removed(RecordKey::Terminal(Wire::take(fields)?)),
            WINDOW_REMOVED => RecordState::Removed(RecordKey::Window(Wire::take(fields)?, Wire::take(fields)?)),
            ENTRY_REMOVED => RecordState::Removed(RecordKey::Entry(Wire::take(fields)?, Wire::take(fields)?)),
            _ => return Err(Malformed::Value { field: "record kind", value: kind.into() }),
        };
        Ok(Self { revision, state })
    }

    fn encoded_len(&self) -> usize {
        8 + 1
            + 2
            + match &self.state {
                RecordState::Present(record) => record.fields_len(),
                RecordState::Removed(key) => key.fields_len(),
            }
    }
}

const REMOVED: u8 = 0x80;
const LEG_REMOVED: u8 = KIND_LEG | REMOVED;
const TERMINAL_REMOVED: u8 = KIND_TERMINAL | REMOVED;
const WINDOW_REMOVED: u8 = KIND_WINDOW | REMOVED;
const ENTRY_REMOVED: u8 = KIND_ENTRY | REMOVED;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_kind_of_no_version_is_refused() {
        for kind in [0, 5, 0x7f, 0x80, 0x85, 0xff] {
            let mut bytes = BytesMut::new();
            bytes.put_u64(1);
            bytes.put_u8(kind);
            bytes.put_u16(0);
            let refused = Malformed::Value { field: "record kind", value: kind.into() };
            assert_eq!(Change::take(&mut Input::new(&bytes)), Err(refused));
        }
    }

    #[test]
    fn a_record_that_claims_more_than_its_length_is_refused() {
        let mut bytes = BytesMut::new();
        bytes.put_u64(1);
        bytes.put_u8(TERMINAL_REMOVED);
        bytes.put_u16(3);
        bytes.put_slice(&[0, 2, b'4', b'2']);
        let refused = Malformed::Short { field: "text", needed: 2, left: 1 };
        assert_eq!(Change::take(&mut Input::new(&bytes)), Err(refused));
    }
}
