//! Sockets: bytes to packets.
