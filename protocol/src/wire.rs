//! How values become bytes. Integers are big-endian (SPEC W-1); a text, a list and an item of a list
//! carry their length in front (W-2, W-3), so that a reader can skip what it does not know (W-4).
//!
//! Everything is checked before anything is allocated: a length that promises more than the body
//! holds is [`Malformed`], whatever it is.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

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
    /// A field has a value that its type does not allow.
    #[error("{field} has the value {value}, which is not allowed")]
    Value {
        /// The field's type.
        field: &'static str,
        /// The value read.
        value: u64,
    },
}

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

/// A value with one encoding. `take(put(x)) == x` for every value (tested by property).
pub trait Wire: Sized {
    /// Appends the value.
    fn put(&self, out: &mut BytesMut);
    /// Reads one value.
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed>;

    /// Bytes that [`put`](Self::put) appends.
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
}

impl<const N: usize> Wire for [u8; N] {
    fn put(&self, out: &mut BytesMut) {
        out.put_slice(self);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        input.array("bytes")
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
}

/// Appends `value` behind its length (u16).
pub fn put_sized<T: Wire>(value: &T, out: &mut BytesMut) {
    let at = out.len();
    out.put_u16(0);
    value.put(out);
    let length = u16::try_from(out.len() - at - 2).unwrap_or(u16::MAX);
    out[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

/// Reads a value behind its length and skips what it does not know at the end (SPEC W-4).
pub fn take_sized<T: Wire>(input: &mut Input<'_>) -> Result<T, Malformed> {
    let length = usize::from(u16::take(input)?);
    T::take(&mut Input::new(input.bytes(length, "item")?))
}

/// Splits `items` into runs that each fit a list field of at most `room` bytes (with its count).
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

/// A UTF-8 text of at most `MAX` bytes: length (u16), then the bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text<const MAX: usize>(String);

/// A text is longer than its field allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes, but at most {max} are allowed here: shorten the text")]
pub struct TextTooLong {
    /// Bytes given.
    pub length: usize,
    /// Bytes allowed.
    pub max: usize,
}

impl<const MAX: usize> Text<MAX> {
    /// Checks the length.
    pub fn new(text: impl Into<String>) -> Result<Self, TextTooLong> {
        let text = text.into();
        if text.len() > MAX {
            return Err(TextTooLong { length: text.len(), max: MAX });
        }
        Ok(Self(text))
    }

    /// As much of `text` as fits, cut at a character's border: for details of errors, never for keys.
    #[must_use]
    pub fn cut(text: &str) -> Self {
        let mut end = text.len().min(MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self(text[..end].to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<const MAX: usize> std::fmt::Debug for Text<MAX> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.0, f)
    }
}

impl<const MAX: usize> std::fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const MAX: usize> TryFrom<String> for Text<MAX> {
    type Error = TextTooLong;
    fn try_from(text: String) -> Result<Self, TextTooLong> {
        Self::new(text)
    }
}

impl<const MAX: usize> TryFrom<&str> for Text<MAX> {
    type Error = TextTooLong;
    fn try_from(text: &str) -> Result<Self, TextTooLong> {
        Self::new(text)
    }
}

impl<const MAX: usize> From<Text<MAX>> for String {
    fn from(text: Text<MAX>) -> Self {
        text.0
    }
}

impl<const MAX: usize> Wire for Text<MAX> {
    fn put(&self, out: &mut BytesMut) {
        out.put_u16(u16::try_from(self.0.len()).unwrap_or(u16::MAX));
        out.put_slice(self.0.as_bytes());
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let bytes = take_bytes(input, MAX)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed::NotUtf8)?;
        Ok(Self(text.to_owned()))
    }
}

/// An opaque byte string of at most `MAX` bytes: length (u16), then the bytes.
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Blob<const MAX: usize>(Bytes);

impl<const MAX: usize> Blob<MAX> {
    /// Checks the length.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, TextTooLong> {
        let bytes = bytes.into();
        if bytes.len() > MAX {
            return Err(TextTooLong { length: bytes.len(), max: MAX });
        }
        Ok(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<const MAX: usize> std::fmt::Debug for Blob<MAX> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.0, f)
    }
}

impl<const MAX: usize> TryFrom<Vec<u8>> for Blob<MAX> {
    type Error = TextTooLong;
    fn try_from(bytes: Vec<u8>) -> Result<Self, TextTooLong> {
        Self::new(bytes)
    }
}

impl<const MAX: usize> From<Blob<MAX>> for Vec<u8> {
    fn from(blob: Blob<MAX>) -> Self {
        blob.0.to_vec()
    }
}

impl<const MAX: usize> Wire for Blob<MAX> {
    fn put(&self, out: &mut BytesMut) {
        out.put_u16(u16::try_from(self.0.len()).unwrap_or(u16::MAX));
        out.put_slice(&self.0);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(Self(Bytes::copy_from_slice(take_bytes(input, MAX)?)))
    }
}

fn take_bytes<'a>(input: &mut Input<'a>, max: usize) -> Result<&'a [u8], Malformed> {
    let length = usize::from(u16::take(input)?);
    if length > max {
        return Err(Malformed::TooLong { length, max });
    }
    input.bytes(length, "text")
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
        }
    };
}

/// A one-byte enumeration that keeps values it does not know (SPEC W-5), so that they survive storage
/// and count in digests.
macro_rules! wire_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $value:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(from = "u8", into = "u8")]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)*
            /// A value of a later version, kept as it came.
            Other(u8),
        }

        impl From<u8> for $name {
            fn from(value: u8) -> Self {
                match value { $($value => Self::$variant,)* other => Self::Other(other) }
            }
        }

        impl From<$name> for u8 {
            fn from(value: $name) -> u8 {
                match value { $($name::$variant => $value,)* $name::Other(other) => other }
            }
        }

        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut bytes::BytesMut) {
                $crate::wire::Wire::put(&u8::from(*self), out);
            }
            fn take(input: &mut $crate::wire::Input<'_>) -> Result<Self, $crate::wire::Malformed> {
                Ok(Self::from(<u8 as $crate::wire::Wire>::take(input)?))
            }
        }
    };
}
