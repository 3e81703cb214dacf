//! tokio-util codec of the packet, for streams (`Framed`) and datagrams (`UdpFramed`).
//!
//! A packet whose frame is whole but whose body cannot be read is not a framing error: it comes out as
//! [`Rejected`], so that the receiver can answer *malformed*, count it and go on. A frame that cannot
//! be trusted (CRC, version, length) is an error: it closes a stream, and drops one datagram.

use crate::error::ErrorCode;
use crate::message::Message;
use crate::packet::{BODY_BYTES_MAX, BodyTooLong, CRC_BYTES, HEAD_BYTES, Head, Packet, VERSION};
use crate::wire::Malformed;
use bytes::{Buf, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// A packet whose frame was whole, but whose body was not readable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message type {:#06x} from {}: {reason}", head.kind, head.source)]
pub struct Rejected {
    /// The packet's head: enough to answer it.
    pub head: Head,
    /// What was wrong.
    pub reason: Malformed,
}

impl Rejected {
    /// The code of the [`Failure`](crate::message::Failure) that answers it (SPEC M-2).
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.reason.code()
    }
}

/// What a decoder yields.
pub type Incoming = Result<Packet, Rejected>;

/// A frame that cannot be trusted. Ends a stream; drops a datagram.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The checksum does not fit the bytes.
    #[error("wrong CRC: the packet says {said:#010x}, its bytes give {counted:#010x}")]
    Crc {
        /// The CRC in the packet.
        said: u32,
        /// The CRC of its bytes.
        counted: u32,
    },
    /// Another major version (SPEC P-2).
    #[error("packet version {}.{}, this side speaks 2.x", .0 >> 4, .0 & 15)]
    Version(u8),
    /// The head promises more than a packet may hold.
    #[error("a body of {0} bytes is claimed, at most {BODY_BYTES_MAX} are allowed")]
    BodyTooLong(usize),
    /// A datagram is shorter or longer than the packet in it (SPEC P-7).
    #[error("the datagram has {datagram} bytes, its packet {packet}")]
    DatagramLength {
        /// Bytes of the datagram.
        datagram: usize,
        /// Bytes that its packet claims.
        packet: usize,
    },
    /// The stream ended inside a packet.
    #[error("the stream ended {0} bytes into a packet")]
    CutStream(usize),
    /// A message to send is too long.
    #[error(transparent)]
    Send(#[from] BodyTooLong),
    /// The transport failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The codec. Memory needed to receive is one packet, whatever a peer claims.
#[derive(Debug, Clone, Copy)]
pub struct PacketCodec {
    datagram: bool,
}

impl PacketCodec {
    /// For a byte stream.
    #[must_use]
    pub fn stream() -> Self {
        Self { datagram: false }
    }

    /// For datagrams: each must hold exactly one packet.
    #[must_use]
    pub fn datagram() -> Self {
        Self { datagram: true }
    }

    fn packet(&mut self, bytes: &mut BytesMut) -> Result<Option<Incoming>, CodecError> {
        // A head is refused for one reason only: fewer than HEAD_BYTES bytes are there yet.
        let Ok(head) = Head::read(bytes) else { return Ok(None) };
        if head.version >> 4 != VERSION >> 4 {
            return Err(CodecError::Version(head.version));
        }
        if head.body_bytes > BODY_BYTES_MAX {
            return Err(CodecError::BodyTooLong(head.body_bytes));
        }
        let length = HEAD_BYTES + head.body_bytes + CRC_BYTES;
        if self.datagram && bytes.len() != length {
            return Err(CodecError::DatagramLength { datagram: bytes.len(), packet: length });
        }
        if bytes.len() < length {
            // The rest of this packet and no more: never above PACKET_BYTES_MAX.
            bytes.reserve(length - bytes.len());
            return Ok(None);
        }
        let counted = crc32fast::hash(&bytes[..length - CRC_BYTES]);
        let said = (&bytes[length - CRC_BYTES..length]).get_u32();
        if counted != said {
            return Err(CodecError::Crc { said, counted });
        }
        let incoming = match Message::take_body(head.kind, &bytes[HEAD_BYTES..HEAD_BYTES + head.body_bytes]) {
            Ok(message) => {
                Ok(Packet { destination: head.destination, source: head.source, header: head.header, message })
            }
            Err(reason) => Err(Rejected { head, reason }),
        };
        bytes.advance(length);
        Ok(Some(incoming))
    }
}

impl Decoder for PacketCodec {
    type Item = Incoming;
    type Error = CodecError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Incoming>, CodecError> {
        let result = self.packet(bytes);
        if self.datagram {
            // UdpFramed keeps what is left of a datagram: nothing of this one may reach the next.
            let length = bytes.len();
            if matches!(result, Ok(None)) && length > 0 {
                bytes.clear();
                return Err(CodecError::DatagramLength { datagram: length, packet: HEAD_BYTES + CRC_BYTES });
            }
            bytes.clear();
        }
        result
    }

    fn decode_eof(&mut self, bytes: &mut BytesMut) -> Result<Option<Incoming>, CodecError> {
        match self.decode(bytes)? {
            None if !bytes.is_empty() => {
                let left = bytes.len();
                bytes.clear();
                Err(CodecError::CutStream(left))
            }
            other => Ok(other),
        }
    }
}

impl Encoder<Packet> for PacketCodec {
    type Error = CodecError;

    fn encode(&mut self, packet: Packet, out: &mut BytesMut) -> Result<(), CodecError> {
        Ok(packet.write(out)?)
    }
}

impl Encoder<&Packet> for PacketCodec {
    type Error = CodecError;

    fn encode(&mut self, packet: &Packet, out: &mut BytesMut) -> Result<(), CodecError> {
        Ok(packet.write(out)?)
    }
}
