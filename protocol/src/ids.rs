//! The names of things. One word for one thing: the glossary of `SPEC.md` defines each.

use crate::wire::{Input, Malformed, Wire};
use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id128 {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub uuid::Uuid);

        // As its bytes, but compared as one number: maps by leg are what a recovery spends most of its time in.
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                self.0.as_u128().cmp(&other.0.as_u128())
            }
        }
        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// From its 16 bytes.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(uuid::Uuid::from_bytes(bytes))
            }
            /// Its 16 bytes, as they stand in a packet.
            #[must_use]
            pub fn bytes(self) -> [u8; 16] {
                *self.0.as_bytes()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }
        impl Wire for $name {
            fn put(&self, out: &mut BytesMut) {
                self.bytes().put(out);
            }
            fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
                Ok(Self::from_bytes(input.array(stringify!($name))?))
            }
            fn encoded_len(&self) -> usize {
                16
            }
        }
    };
}

id128! {
    /// Our id of a meeting: a UUID, never reused.
    MeetingId
}
id128! {
    /// One life of a server's meeting table: kept across a restart if the meetings were kept.
    BootId
}
id128! {
    /// A random id of one scheduler process's life.
    Holder
}

macro_rules! id_int {
    ($(#[$meta:meta])* $name:ident($int:ty)) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl Wire for $name {
            fn put(&self, out: &mut BytesMut) {
                self.0.put(out);
            }
            fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
                <$int>::take(input).map(Self)
            }
            fn encoded_len(&self) -> usize {
                size_of::<$int>()
            }
        }
    };
}

id_int! {
    /// An autonomous domain.
    DomainId(u32)
}
id_int! {
    /// An autonomous server, unique in the whole network.
    ServerId(u32)
}
id_int! {
    /// A server's own name of a leg. It may repeat in a later life of the server's table: never a key alone.
    Handle(u64)
}
id_int! {
    /// The number of a term. Epochs only grow (rule 1).
    Epoch(u64)
}

/// The part of a meeting that one server carries. Leg 0 is the first; most meetings have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LegId {
    /// The meeting.
    pub meeting: MeetingId,
    /// Its leg's number.
    pub leg: u16,
}

impl fmt::Display for LegId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.meeting, self.leg)
    }
}

impl Wire for LegId {
    fn put(&self, out: &mut BytesMut) {
        self.meeting.put(out);
        self.leg.put(out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(Self { meeting: Wire::take(input)?, leg: Wire::take(input)? })
    }
    fn encoded_len(&self) -> usize {
        18
    }
}

/// Who commands: one holder in one term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Token {
    /// The term.
    pub epoch: Epoch,
    /// The process that holds it.
    pub holder: Holder,
}

impl Token {
    /// Whether a server to which `self` attached last must admit `other` (rule 2): a higher epoch, or
    /// the same epoch and holder. Epoch 0 stands for *no token yet* and is never admitted (SPEC T-1).
    #[must_use]
    pub fn admits(&self, other: &Token) -> bool {
        other.epoch > self.epoch || (other == self && other.epoch > Epoch(0))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.holder)
    }
}

impl Wire for Token {
    fn put(&self, out: &mut BytesMut) {
        self.epoch.put(out);
        self.holder.put(out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(Self { epoch: Wire::take(input)?, holder: Wire::take(input)? })
    }
    fn encoded_len(&self) -> usize {
        24
    }
}

/// The secret of a recovery key: 128 bits. It never shows in logs, errors or dumps.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 16]);

impl Secret {
    /// From its bytes.
    #[must_use]
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
    /// Its bytes: for the store, the cache, the proof and the start message only.
    #[must_use]
    pub fn expose(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Serialised for people only: the secret itself is never written.
impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(secret)")
    }
}

/// A secret does not come back from text meant for people.
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("a secret is never read from text"))
    }
}

impl Wire for Secret {
    fn put(&self, out: &mut BytesMut) {
        self.0.put(out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        input.array("Secret").map(Self)
    }
    fn encoded_len(&self) -> usize {
        16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_2_a_token_admits_only_higher_epochs_or_itself() {
        let token = |epoch, holder| Token { epoch: Epoch(epoch), holder: Holder::from_bytes([holder; 16]) };
        let attached = token(5, 1);
        assert!(attached.admits(&token(5, 1)));
        assert!(attached.admits(&token(6, 2)));
        assert!(!attached.admits(&token(5, 2)), "another holder of the same epoch");
        assert!(!attached.admits(&token(4, 1)));
        assert!(Token::default().admits(&token(1, 1)), "the first token of a fresh server");
        assert!(!Token::default().admits(&Token::default()), "epoch 0 is no token");
        assert!(!Token::default().admits(&token(0, 1)), "epoch 0 is no token");
    }

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        assert_eq!(format!("{:?}", Secret::new([7; 16])), "Secret(..)");
    }
}
