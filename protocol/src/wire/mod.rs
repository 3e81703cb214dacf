//! How values become bytes. Integers are big-endian (SPEC W-1); a text, a list and an item of a list
//! carry their length in front (W-2, W-3), so that a reader can skip what it does not know (W-4).
//!
//! Everything is checked before anything is allocated: a length that promises more than the body
//! holds is [`Malformed`], whatever it is.

mod text;

pub use text::{Blob, Text, TextRefused, TextTooLong};

use crate::error::ErrorCode;
use bytes::{BufMut, BytesMut};
use std::fmt;

/// Why a body could not be read. The peer is at fault; the packet's frame was whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A field needs more bytes than are left.
    #[error("{field} needs {needed} bytes, {left} are left")]
    Short {
        /// The type that was being read.
        field: &'static str,
        /// Bytes needed.
        needed: usize,
        /// Bytes left in the body.
        left: usize,
    },
    /// A text or byte string is longer than its type allows.
    #[error("a text of {length} bytes, at most {max} allowed")]
    TooLong {
        /// The length that was claimed.
        length: usize,
        /// The most that the field's type allows.
        max: usize,
    },
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    NotUtf8,
    /// A text holds U+0000, which stores refuse (SPEC W-2).
    #[error("a text holds U+0000")]
    Nul,
    /// A field has a value that its type does not allow.
    #[error("{field} has the value {value}, which is not allowed")]
    Value {
        /// The field's type.
        field: &'static str,
        /// The value read.
        value: u64,
    },
}

impl Malformed {
    /// The code that tells the peer: `unsupported` where only the operation's number is not known,
    /// `malformed` otherwise (SPEC M-2).
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Malformed::Value { field: OPERATION | CLIENT_OPERATION, .. } => ErrorCode::UNSUPPORTED,
            _ => ErrorCode::MALFORMED,
        }
    }
}

/// Field name of a command's operation.
pub(crate) const OPERATION: &str = "operation";
/// Field name of a client command's operation.
pub(crate) const CLIENT_OPERATION: &str = "client operation";

/// A cursor over a body. Borrows; copies only what the value keeps.
#[derive(Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// A reader of all of `body`.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// Bytes not read yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize, field: &'static str) -> Result<&'a [u8], Malformed> {
        let Some((head, tail)) = self.rest.split_at_checked(n) else {
            return Err(Malformed::Short { field, needed: n, left: self.rest.len() });
        };
        self.rest = tail;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Malformed> {
        let Some((head, tail)) = self.rest.split_first_chunk::<N>() else {
            return Err(Malformed::Short { field, needed: N, left: self.rest.len() });
        };
        self.rest = tail;
        Ok(*head)
    }
}

/// A value with one encoding. `take(put(x)) == x` for every value that fits a packet (tested by property).
pub trait Wire: Sized {
    /// Appends the value.
    fn put(&self, out: &mut BytesMut);
    /// Reads one value.
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed>;

    /// Bytes that [`put`](Self::put) appends. Every type of this crate counts without encoding.
    fn encoded_len(&self) -> usize {
        let mut out = BytesMut::new();
        self.put(&mut out);
        out.len()
    }
}

macro_rules! wire_int {
    ($($int:ty, $put:ident);* $(;)?) => {$(
        impl Wire for $int {
            fn put(&self, out: &mut BytesMut) {
                out.$put(*self);
            }
            fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
                Ok(<$int>::from_be_bytes(input.array(stringify!($int))?))
            }
            fn encoded_len(&self) -> usize {
                size_of::<$int>()
            }
        }
    )*};
}
wire_int! { u8, put_u8; u16, put_u16; u32, put_u32; u64, put_u64; u128, put_u128 }

impl Wire for bool {
    fn put(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(*self));
    }
    /// Only 0 and 1 are allowed: a digest needs one encoding per value.
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        match u8::take(input)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(Malformed::Value { field: "bool", value: value.into() }),
        }
    }
    fn encoded_len(&self) -> usize {
        1
    }
}

impl<const N: usize> Wire for [u8; N] {
    fn put(&self, out: &mut BytesMut) {
        out.put_slice(self);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        input.array("bytes")
    }
    fn encoded_len(&self) -> usize {
        N
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut BytesMut) {
        match self {
            None => out.put_u8(0),
            Some(value) => {
                out.put_u8(1);
                value.put(out);
            }
        }
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(if bool::take(input)? { Some(T::take(input)?) } else { None })
    }
    fn encoded_len(&self) -> usize {
        1 + self.as_ref().map_or(0, Wire::encoded_len)
    }
}

/// A list: count (u16), then each item behind its own length (u16), so that items may grow.
impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut BytesMut) {
        // A body holds 1024 bytes; an overlong list is refused by the packet's encoder.
        out.put_u16(u16::try_from(self.len()).unwrap_or(u16::MAX));
        for item in self {
            put_sized(item, out);
        }
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let count = usize::from(u16::take(input)?);
        // Each item has at least its length field: refuses a lying count before allocating.
        if count * 2 > input.left() {
            return Err(Malformed::Short { field: "list", needed: count * 2, left: input.left() });
        }
        (0..count).map(|_| take_sized(input)).collect()
    }
    fn encoded_len(&self) -> usize {
        2 + self.iter().map(|item| 2 + item.encoded_len()).sum::<usize>()
    }
}

/// Appends `value` behind its length (u16).
pub fn put_sized<T: Wire>(value: &T, out: &mut BytesMut) {
    put_behind_length(out, |out| value.put(out));
}

/// Appends what `put` appends behind its length (u16), in place. What is longer than a u16 counts is
/// refused by the packet's encoder, since no body may be as long.
pub(crate) fn put_behind_length(out: &mut BytesMut, put: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_u16(0);
    put(out);
    let length = u16::try_from(out.len() - at - 2).unwrap_or(u16::MAX);
    out[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

/// Reads a value behind its length and skips what it does not know at the end (SPEC W-4).
pub fn take_sized<T: Wire>(input: &mut Input<'_>) -> Result<T, Malformed> {
    let length = usize::from(u16::take(input)?);
    T::take(&mut Input::new(input.bytes(length, "item")?))
}

/// Splits `items` into runs that each fit a list field of at most `room` bytes (with its count). Messages
/// that carry such a list name their room: `InventoryPage::ENTRIES_ROOM`, `Event::CHANGES_ROOM` and so on.
///
/// An item that alone is larger than `room` gets a run of its own; the packet's encoder refuses it.
pub fn pack<T: Wire>(items: impl IntoIterator<Item = T>, room: usize) -> Vec<Vec<T>> {
    let mut runs = Vec::new();
    let mut run = Vec::new();
    let mut used = 2;
    for item in items {
        let size = item.encoded_len() + 2;
        if used + size > room && !run.is_empty() {
            runs.push(std::mem::take(&mut run));
            used = 2;
        }
        used += size;
        run.push(item);
    }
    if !run.is_empty() {
        runs.push(run);
    }
    runs
}

/// A number that an enumeration of this version does not list.
///
/// Only reading a number makes one, so a listed value has no second form that would be equal in bytes
/// and unequal in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unlisted(u8);

impl Unlisted {
    pub(crate) const fn new(value: u8) -> Self {
        Self(value)
    }

    /// The number as it came.
    #[must_use]
    pub const fn value(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Unlisted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A struct whose encoding is its fields in order.
macro_rules! wire_struct {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* $field:ident : $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type),* }

        impl $crate::wire::Wire for $name {
            fn put(&self, _out: &mut bytes::BytesMut) {
                $($crate::wire::Wire::put(&self.$field, _out);)*
            }
            fn take(_input: &mut $crate::wire::Input<'_>) -> Result<Self, $crate::wire::Malformed> {
                Ok(Self { $($field: $crate::wire::Wire::take(_input)?),* })
            }
            fn encoded_len(&self) -> usize {
                0 $(+ $crate::wire::Wire::encoded_len(&self.$field))*
            }
        }
    };
}

/// A one-byte enumeration that keeps values it does not know (SPEC W-5), so that they survive storage
/// and count in digests. A listed number has one form only: `Other` cannot be built with it.
macro_rules! wire_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $value:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(from = "u8", into = "u8")]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)*
            /// A value of a later version, kept as it came. Made by `from(u8)` only.
            Other($crate::wire::Unlisted),
        }

        impl From<u8> for $name {
            fn from(value: u8) -> Self {
                match value { $($value => Self::$variant,)* other => Self::Other($crate::wire::Unlisted::new(other)) }
            }
        }

        impl From<$name> for u8 {
            fn from(value: $name) -> u8 {
                match value { $($name::$variant => $value,)* $name::Other(other) => other.value() }
            }
        }

        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut bytes::BytesMut) {
                $crate::wire::Wire::put(&u8::from(*self), out);
            }
            fn take(input: &mut $crate::wire::Input<'_>) -> Result<Self, $crate::wire::Malformed> {
                Ok(Self::from(<u8 as $crate::wire::Wire>::take(input)?))
            }
            fn encoded_len(&self) -> usize {
                1
            }
        }
    };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::record::BusinessState;

    fn bytes_of(value: &impl Wire) -> Vec<u8> {
        let mut out = BytesMut::new();
        value.put(&mut out);
        out.to_vec()
    }

    #[test]
    fn integers_are_big_endian() {
        assert_eq!(bytes_of(&0x0102_0304u32), [1, 2, 3, 4]);
        assert_eq!(u16::take(&mut Input::new(&[1, 2])), Ok(0x0102));
    }

    #[test]
    fn flags_of_bools_and_options_have_one_form() {
        for flag in 2..=255 {
            let refused = Malformed::Value { field: "bool", value: flag.into() };
            assert_eq!(bool::take(&mut Input::new(&[flag])), Err(refused));
            assert_eq!(<Option<u8> as Wire>::take(&mut Input::new(&[flag, 7])), Err(refused));
        }
        assert_eq!(<Option<u8> as Wire>::take(&mut Input::new(&[1, 7])), Ok(Some(7)));
        assert_eq!(<Option<u8> as Wire>::take(&mut Input::new(&[0])), Ok(None));
    }

    #[test]
    fn every_number_of_an_enumeration_has_one_form_and_survives() {
        for number in 0..=255u8 {
            let state = BusinessState::from(number);
            assert_eq!(matches!(state, BusinessState::Other(_)), number > 5);
            assert_eq!(u8::from(state), number);
            assert_eq!(bytes_of(&state), [number]);
        }
    }

    #[test]
    fn what_a_later_version_appended_to_an_item_is_skipped() {
        let bytes = [0, 2, 0, 3, 1, 2, 99, 0, 2, 3, 4];
        assert_eq!(Vec::<u16>::take(&mut Input::new(&bytes)).unwrap(), [0x0102, 0x0304]);
    }

    #[test]
    fn a_lying_list_count_is_refused_before_anything_is_allocated() {
        let short = Malformed::Short { field: "list", needed: 131_070, left: 2 };
        assert_eq!(Vec::<u8>::take(&mut Input::new(&[255, 255, 0, 1])), Err(short));
    }

    #[test]
    fn runs_are_full_and_keep_their_order() {
        // Each u64 takes 8 + 2 bytes, the list's count 2: three fit 32 bytes.
        let runs = pack(0..7u64, 32);
        assert_eq!(runs, [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
        assert!(runs.iter().all(|run| run.encoded_len() <= 32));
        assert!(pack(std::iter::empty::<u64>(), 32).is_empty());
        assert_eq!(pack([1u64], 3), [[1]], "an item that fits nowhere still comes out");
    }
}
