//! The content of a leg: one leg row, and a row for each terminal, decode window and extra-information
//! entry. Their digest says in 16 bytes whether two sides hold the same (SPEC D-1 to D-4).

mod change;
mod digest;
mod rows;

pub use change::{Change, RecordState};
pub use digest::{Digest, Mark};
pub use rows::*;

use crate::wire::Wire;
use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A record of a leg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// Kind 1: the leg row. There is one.
    Leg(LegRow),
    /// Kind 2: a terminal.
    Terminal(TerminalRow),
    /// Kind 3: a decode window.
    Window(WindowRow),
    /// Kind 4: an extra-information entry.
    Entry(EntryRow),
}

/// Names a record within its leg.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKey {
    /// The leg row.
    Leg,
    /// A terminal, by number.
    Terminal(Number),
    /// A window, by terminal and window number.
    Window(Number, u8),
    /// An entry, by terminal and name.
    Entry(Number, EntryKey),
}

const KIND_LEG: u8 = 1;
const KIND_TERMINAL: u8 = 2;
const KIND_WINDOW: u8 = 3;
const KIND_ENTRY: u8 = 4;

impl Record {
    /// The record's key.
    #[must_use]
    pub fn key(&self) -> RecordKey {
        match self {
            Record::Leg(_) => RecordKey::Leg,
            Record::Terminal(row) => RecordKey::Terminal(row.number.clone()),
            Record::Window(row) => RecordKey::Window(row.terminal.clone(), row.window),
            Record::Entry(row) => RecordKey::Entry(row.terminal.clone(), row.key.clone()),
        }
    }

    /// The canonical encoding: kind, then the fields in order, key fields first (SPEC D-1).
    pub fn put_canonical(&self, out: &mut BytesMut) {
        out.put_u8(self.kind());
        self.put_fields(out);
    }

    /// The record's part of its leg's digest (SPEC D-2).
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut bytes = BytesMut::with_capacity(1 + self.fields_len());
        self.put_canonical(&mut bytes);
        let hash: [u8; 32] = Sha256::digest(&bytes).into();
        let mut half = [0; 16];
        half.copy_from_slice(&hash[..16]);
        Digest(u128::from_be_bytes(half))
    }

    fn kind(&self) -> u8 {
        match self {
            Record::Leg(_) => KIND_LEG,
            Record::Terminal(_) => KIND_TERMINAL,
            Record::Window(_) => KIND_WINDOW,
            Record::Entry(_) => KIND_ENTRY,
        }
    }

    fn put_fields(&self, out: &mut BytesMut) {
        match self {
            Record::Leg(row) => row.put(out),
            Record::Terminal(row) => row.put(out),
            Record::Window(row) => row.put(out),
            Record::Entry(row) => row.put(out),
        }
    }

    fn fields_len(&self) -> usize {
        match self {
            Record::Leg(row) => row.encoded_len(),
            Record::Terminal(row) => row.encoded_len(),
            Record::Window(row) => row.encoded_len(),
            Record::Entry(row) => row.encoded_len(),
        }
    }
}

impl RecordKey {
    /// The terminal that the record belongs to; none for the leg row.
    #[must_use]
    pub fn terminal(&self) -> Option<&Number> {
        match self {
            RecordKey::Leg => None,
            RecordKey::Terminal(number) | RecordKey::Window(number, _) | RecordKey::Entry(number, _) => Some(number),
        }
    }

    fn kind(&self) -> u8 {
        match self {
            RecordKey::Leg => KIND_LEG,
            RecordKey::Terminal(_) => KIND_TERMINAL,
            RecordKey::Window(..) => KIND_WINDOW,
            RecordKey::Entry(..) => KIND_ENTRY,
        }
    }

    fn put_fields(&self, out: &mut BytesMut) {
        match self {
            RecordKey::Leg => {}
            RecordKey::Terminal(number) => number.put(out),
            RecordKey::Window(number, window) => {
                number.put(out);
                window.put(out);
            }
            RecordKey::Entry(number, key) => {
                number.put(out);
                key.put(out);
            }
        }
    }

    fn fields_len(&self) -> usize {
        match self {
            RecordKey::Leg => 0,
            RecordKey::Terminal(number) => number.encoded_len(),
            RecordKey::Window(number, _) => number.encoded_len() + 1,
            RecordKey::Entry(number, key) => number.encoded_len() + key.encoded_len(),
        }
    }
}
