//! Digest and mark: how two sides find out that they hold the same without sending it.

use super::Record;
use crate::wire::{Input, Malformed, Wire};
use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A digest of records: sums of 128-bit hashes modulo 2^128, so that a change costs one subtraction and
/// one addition, in any order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest(pub u128);

impl Digest {
    /// With `other`'s records added.
    #[must_use]
    pub fn plus(self, other: Digest) -> Digest {
        Digest(self.0.wrapping_add(other.0))
    }
    /// With `other`'s records taken away.
    #[must_use]
    pub fn minus(self, other: Digest) -> Digest {
        Digest(self.0.wrapping_sub(other.0))
    }
    /// Its 16 bytes, big-endian.
    #[must_use]
    pub fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
    /// From its 16 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map(Self).map_err(serde::de::Error::custom)
    }
}

impl Wire for Digest {
    fn put(&self, out: &mut BytesMut) {
        self.0.put(out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        u128::take(input).map(Self)
    }
    fn encoded_len(&self) -> usize {
        16
    }
}

wire_struct! {
    /// How far a leg's content goes: everything up to `revision` is these many records of this digest.
    #[derive(Copy, Default)]
    pub struct Mark {
        /// Revision of the leg.
        revision: u64,
        /// Present records.
        count: u32,
        /// Their digest.
        digest: Digest,
    }
}

impl Mark {
    /// Counts `record` in (or, with `present` false, out) at a mark's content; the revision stays.
    pub fn count(&mut self, record: &Record, present: bool) {
        let part = record.digest();
        if present {
            self.count = self.count.saturating_add(1);
            self.digest = self.digest.plus(part);
        } else {
            self.count = self.count.saturating_sub(1);
            self.digest = self.digest.minus(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{EntryRow, Number};
    use crate::wire::{Blob, Text};

    fn entry(key: &str) -> Record {
        Record::Entry(EntryRow { terminal: Number::cut("4201"), key: Text::cut(key), value: Blob::default() })
    }

    #[test]
    fn a_mark_does_not_depend_on_the_order_of_its_records() {
        let (mut forth, mut back) = (Mark::default(), Mark::default());
        for key in ["alias", "seat", "region"] {
            forth.count(&entry(key), true);
        }
        for key in ["region", "extra", "seat", "alias"] {
            back.count(&entry(key), true);
        }
        assert_ne!(forth, back);
        back.count(&entry("extra"), false);
        assert_eq!(forth, back);
        assert_eq!(forth.count, 3);
    }

    #[test]
    fn a_sum_of_digests_wraps() {
        let most = Digest(u128::MAX);
        assert_eq!(most.plus(Digest(2)), Digest(1));
        assert_eq!(Digest(1).minus(Digest(2)), most);
    }
}
