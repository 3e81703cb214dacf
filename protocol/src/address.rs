//! The 8-byte address of a unicast packet: one type byte, five bytes of metropolitan-area address, two
//! bytes of access-network address. The vendor published these widths; the type values and how ids map
//! into the address are this project's choice (SPEC ).

use crate::ids::{DomainId, ServerId};
use crate::wire::{Input, Malformed, Wire};
use bytes::BytesMut;
use std::fmt;

/// An address as it stands in a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Address(pub [u8; 8]);

/// Type byte of a scheduler's address.
pub const TYPE_SCHEDULER: u8 = 0x10;
/// Type byte of an autonomous server's address.
pub const TYPE_SERVER: u8 = 0x20;
/// Type byte of a meeting client's address.
pub const TYPE_CLIENT: u8 = 0x30;

impl Address {
    /// The scheduler of a domain.
    #[must_use]
    pub fn scheduler(domain: DomainId) -> Self {
        Self::new(TYPE_SCHEDULER, u64::from(domain.0), 0)
    }

    /// An autonomous server: its id fills the four low bytes of the metropolitan part.
    #[must_use]
    pub fn server(server: ServerId) -> Self {
        Self::new(TYPE_SERVER, u64::from(server.0), 0)
    }

    /// A meeting client: its configured id fills the four low bytes of the metropolitan part.
    #[must_use]
    pub fn client(id: u32) -> Self {
        Self::new(TYPE_CLIENT, u64::from(id), 0)
    }

    /// From its parts; of `metropolitan` the low 40 bits count.
    #[must_use]
    pub fn new(kind: u8, metropolitan: u64, access: u16) -> Self {
        let m = metropolitan.to_be_bytes();
        let a = access.to_be_bytes();
        Self([kind, m[3], m[4], m[5], m[6], m[7], a[0], a[1]])
    }

    /// The type byte.
    #[must_use]
    pub fn kind(self) -> u8 {
        self.0[0]
    }

    /// The metropolitan-area part: 40 bits.
    #[must_use]
    pub fn metropolitan(self) -> u64 {
        let [_, a, b, c, d, e, _, _] = self.0;
        u64::from_be_bytes([0, 0, 0, a, b, c, d, e])
    }

    /// The access-network part.
    #[must_use]
    pub fn access(self) -> u16 {
        u16::from_be_bytes([self.0[6], self.0[7]])
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:010x}:{:04x}", self.kind(), self.metropolitan(), self.access())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

impl Wire for Address {
    fn put(&self, out: &mut BytesMut) {
        self.0.put(out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        input.array("Address").map(Self)
    }
    fn encoded_len(&self) -> usize {
        8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_an_address_stand_at_their_published_places() {
        let address = Address::new(0x20, 0x01_0203_0405, 0x0607);
        assert_eq!(address.0, [0x20, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((address.kind(), address.metropolitan(), address.access()), (0x20, 0x01_0203_0405, 0x0607));
        assert_eq!(address.to_string(), "20:0102030405:0607");
    }
}
