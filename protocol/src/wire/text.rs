//! Texts and byte strings with a bound in their type.

use super::{Input, Malformed, Wire};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A UTF-8 text of at most `MAX` bytes without U+0000: length (u16), then the bytes (SPEC W-2).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text<const MAX: usize>(Box<str>);

/// Why a text or byte string cannot stand in its field. The caller is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextRefused {
    /// It is longer than its field allows.
    #[error("{length} bytes, but at most {max} are allowed here: shorten the text")]
    TooLong {
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// It holds U+0000: PostgreSQL cannot store it, and texts of other languages end there.
    #[error("the text holds U+0000 at byte {at}: remove it")]
    Nul {
        /// Where, in bytes.
        at: usize,
    },
}

/// The name that [`TextRefused`] had while length was the only reason.
pub type TextTooLong = TextRefused;

impl<const MAX: usize> Text<MAX> {
    /// Checks the length, and that there is no U+0000.
    pub fn new(text: impl Into<String>) -> Result<Self, TextRefused> {
        let text = text.into();
        if text.len() > MAX {
            return Err(TextRefused::TooLong { length: text.len(), max: MAX });
        }
        match text.find('\0') {
            Some(at) => Err(TextRefused::Nul { at }),
            None => Ok(Self(text.into_boxed_str())),
        }
    }

    /// As much of `text` as fits, cut at a character's border and without U+0000: for details of errors,
    /// never for keys.
    #[must_use]
    pub fn cut(text: &str) -> Self {
        let mut kept = String::with_capacity(text.len().min(MAX));
        for character in text.chars().filter(|&character| character != '\0') {
            if kept.len() + character.len_utf8() > MAX {
                break;
            }
            kept.push(character);
        }
        Self(kept.into_boxed_str())
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

impl<const MAX: usize> fmt::Debug for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<const MAX: usize> fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const MAX: usize> TryFrom<String> for Text<MAX> {
    type Error = TextRefused;
    fn try_from(text: String) -> Result<Self, TextRefused> {
        Self::new(text)
    }
}

impl<const MAX: usize> TryFrom<&str> for Text<MAX> {
    type Error = TextRefused;
    fn try_from(text: &str) -> Result<Self, TextRefused> {
        Self::new(text)
    }
}

impl<const MAX: usize> From<Text<MAX>> for String {
    fn from(text: Text<MAX>) -> Self {
        text.0.into_string()
    }
}

impl<const MAX: usize> Wire for Text<MAX> {
    fn put(&self, out: &mut BytesMut) {
        put_bytes(self.0.as_bytes(), out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let bytes = take_bytes(input, MAX)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed::NotUtf8)?;
        if bytes.contains(&0) {
            return Err(Malformed::Nul);
        }
        Ok(Self(text.into()))
    }
    fn encoded_len(&self) -> usize {
        2 + self.0.len()
    }
}

/// An opaque byte string of at most `MAX` bytes: length (u16), then the bytes (SPEC W-2).
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Blob<const MAX: usize>(Bytes);

impl<const MAX: usize> Blob<MAX> {
    /// Checks the length.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, TextRefused> {
        let bytes = bytes.into();
        if bytes.len() > MAX {
            return Err(TextRefused::TooLong { length: bytes.len(), max: MAX });
        }
        Ok(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<const MAX: usize> fmt::Debug for Blob<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<const MAX: usize> TryFrom<Vec<u8>> for Blob<MAX> {
    type Error = TextRefused;
    fn try_from(bytes: Vec<u8>) -> Result<Self, TextRefused> {
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
        put_bytes(&self.0, out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(Self(Bytes::copy_from_slice(take_bytes(input, MAX)?)))
    }
    fn encoded_len(&self) -> usize {
        2 + self.0.len()
    }
}

fn put_bytes(bytes: &[u8], out: &mut BytesMut) {
    // A field's bound is at most 512, so its length always fits.
    out.put_u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
    out.put_slice(bytes);
}

fn take_bytes<'a>(input: &mut Input<'a>, max: usize) -> Result<&'a [u8], Malformed> {
    let length = usize::from(u16::take(input)?);
    if length > max {
        return Err(Malformed::TooLong { length, max });
    }
    input.bytes(length, "text")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_text_is_refused_by_its_bytes_not_its_characters() {
        assert!(Text::<4>::new("äö").is_ok());
        assert_eq!(Text::<4>::new("äöü"), Err(TextRefused::TooLong { length: 6, max: 4 }));
        assert_eq!(Text::<4>::new("a\0b"), Err(TextRefused::Nul { at: 1 }));
    }

    #[test]
    fn a_cut_text_ends_at_a_character_and_has_no_nul() {
        assert_eq!(Text::<5>::cut("äöü").as_str(), "äö");
        assert_eq!(Text::<5>::cut("a\0b\0c").as_str(), "abc");
        assert_eq!(Text::<0>::cut("ä").as_str(), "");
    }

    #[test]
    fn a_text_from_a_peer_is_utf_8_without_nul_and_within_its_bound() {
        let take = |bytes: &[u8]| Text::<4>::take(&mut Input::new(bytes));
        assert_eq!(take(&[0, 2, b'h', b'i', 9]).unwrap().as_str(), "hi");
        assert_eq!(take(&[0, 1, 0xff]), Err(Malformed::NotUtf8));
        assert_eq!(take(&[0, 1, 0]), Err(Malformed::Nul));
        assert_eq!(take(&[0, 5, 1, 1, 1, 1, 1]), Err(Malformed::TooLong { length: 5, max: 4 }));
        assert_eq!(take(&[0, 3, b'h']), Err(Malformed::Short { field: "text", needed: 3, left: 1 }));
    }
}
