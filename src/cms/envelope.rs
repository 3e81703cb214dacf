//! Makes packets for one request, and notices.

use super::views::Unavailable;
use remeet_protocol::message::Failure;
use remeet_protocol::packet::Header;
use remeet_protocol::{Address, ErrorCode, Flags, Message, Packet};

/// Between whom, and about which request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Envelope {
    pub source: Address,
    pub destination: Address,
    pub request: u64,
}

impl Envelope {
    /// An answer of one or more packets: indices from 0, the last one marked.
    pub(super) fn answer(self, messages: Vec<Message>) -> Vec<Packet> {
        self.part(messages, 0, true)
    }

    /// Packets of an answer from index `first` on; with its `end` the last one is marked.
    pub(super) fn part(self, messages: Vec<Message>, first: u32, end: bool) -> Vec<Packet> {
        self.numbered(messages, first, end, Flags::ANSWER)
    }

    /// The same as notices (SPEC K-11): no request, no ANSWER.
    pub(super) fn notices(self, messages: Vec<Message>, first: u32, end: bool) -> Vec<Packet> {
        Self { request: 0, ..self }.numbered(messages, first, end, Flags::NONE)
    }

    pub(super) fn failure(self, error: &Unavailable) -> Vec<Packet> {
        let failure = Failure { retry_after_ms: 500, ..Failure::new(ErrorCode::UNAVAILABLE, &error.0) };
        self.answer(vec![failure.into()])
    }

    /// A packet that answers nothing (SPEC M-3).
    pub(super) fn notice(self, message: Message) -> Packet {
        self.packet(Header::default(), message)
    }

    /// A request of this side's own, under its own number.
    pub(super) fn request(self, message: Message) -> Packet {
        self.packet(Header { request: self.request, ..Header::default() }, message)
    }

    fn numbered(self, messages: Vec<Message>, first: u32, end: bool, flags: Flags) -> Vec<Packet> {
        let last = if end { messages.len().checked_sub(1) } else { None };
        messages
            .into_iter()
            .enumerate()
            .map(|(place, message)| {
                let flags = if Some(place) == last { Flags(flags.0 | Flags::LAST.0) } else { flags };
                let index = first.saturating_add(u32::try_from(place).unwrap_or(u32::MAX));
                self.packet(Header { flags, request: self.request, index, ..Header::default() }, message)
            })
            .collect()
    }

    fn packet(self, header: Header, message: Message) -> Packet {
        Packet { destination: self.destination, source: self.source, header, message }
    }
}
