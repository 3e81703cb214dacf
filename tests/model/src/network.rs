//! The network: what was ever sent, each way. Nothing is taken out that could have an effect yet, so that
//! everything may be lost, come late, come twice and in any order.

use super::state::Leg;

/// What a scheduler asks of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Request {
    /// To be attached.
    Attach,
    /// To start the meeting.
    Start,
    /// To take it over.
    Takeover,
    /// To carry out the client's command.
    Command,
    /// To end it.
    End,
    /// A notice, which asks for nothing: the end is stored, so the server may forget the meeting.
    Acknowledge,
}

const REQUESTS: [Request; 6] =
    [Request::Attach, Request::Start, Request::Takeover, Request::Command, Request::End, Request::Acknowledge];

/// A packet to the server: a request of a session, which is a term and a life of the server's table. (`Attach`
/// is of none: its `boot` is 0.) Sent again it is the same packet: its request id stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Packet {
    /// What is asked.
    pub request: Request,
    /// The token.
    pub term: u8,
    /// The life of the server's table.
    pub boot: u8,
}

/// What the server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reply {
    /// The start was executed, now or before.
    Started,
    /// The meeting was taken over.
    TakenOver,
    /// The command was executed, now or before.
    Done,
    /// The meeting has ended.
    Ended,
    /// There is no such meeting.
    Unknown,
    /// No answer but an event: the meeting has ended.
    EndEvent,
    /// The token is attached, at this table revision.
    Attached(u8),
    /// The inventory, with the meeting like this in it.
    Inventory(Leg),
}

const REPLIES: [Reply; 13] = [
    Reply::Started,
    Reply::TakenOver,
    Reply::Done,
    Reply::Ended,
    Reply::Unknown,
    Reply::EndEvent,
    Reply::Attached(0),
    Reply::Attached(1),
    Reply::Attached(2),
    Reply::Inventory(Leg::Never),
    Reply::Inventory(Leg::Live),
    Reply::Inventory(Leg::Tombstone),
    Reply::Inventory(Leg::Forgotten),
];

impl Reply {
    /// Its place among the replies.
    fn kind(self) -> u8 {
        match self {
            Self::Started => 0,
            Self::TakenOver => 1,
            Self::Done => 2,
            Self::Ended => 3,
            Self::Unknown => 4,
            Self::EndEvent => 5,
            Self::Attached(revision) => 6 + revision,
            Self::Inventory(leg) => 9 + leg as u8,
        }
    }
}

/// A packet from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Answer {
    /// What it says.
    pub reply: Reply,
    /// To whom.
    pub term: u8,
    /// The life of its table.
    pub boot: u8,
}

const TERMS: u8 = 4;
const BOOTS: u8 = 2;

fn place(kind: u8, term: u8, boot: u8) -> u128 {
    debug_assert!((1..=TERMS).contains(&term) && boot < BOOTS);
    1 << ((kind * TERMS + term - 1) * BOOTS + boot)
}

/// Kind, term and boot of every bit.
fn places(mut bits: u128) -> impl Iterator<Item = (usize, u8, u8)> {
    std::iter::from_fn(move || {
        let place = u8::try_from(bits.checked_ilog2()?).ok()?;
        bits &= !(1 << place);
        Some((usize::from(place / BOOTS / TERMS), place / BOOTS % TERMS + 1, place % BOOTS))
    })
}

/// Every packet that was ever sent to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Packets(u128);

impl Packets {
    pub(crate) fn send(&mut self, request: Request, term: u8, boot: u8) {
        self.0 |= place(request as u8, term, boot);
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Packet> {
        places(self.0).map(|(kind, term, boot)| Packet { request: REQUESTS[kind], term, boot })
    }

    /// Takes out what can have no effect any more.
    pub(crate) fn keep(&mut self, is_of_use: impl Fn(Packet) -> bool) {
        let kept = self.iter().filter(|packet| is_of_use(*packet));
        self.0 = kept.fold(0, |bits, packet| bits | place(packet.request as u8, packet.term, packet.boot));
    }
}

/// Every answer that was ever sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Answers(u128);

impl Answers {
    pub(crate) fn send(&mut self, reply: Reply, term: u8, boot: u8) {
        self.0 |= place(reply.kind(), term, boot);
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Answer> {
        places(self.0).map(|(kind, term, boot)| Answer { reply: REPLIES[kind], term, boot })
    }

    /// Takes out what can have no effect any more.
    pub(crate) fn keep(&mut self, is_of_use: impl Fn(Answer) -> bool) {
        let kept = self.iter().filter(|answer| is_of_use(*answer));
        self.0 = kept.fold(0, |bits, answer| bits | place(answer.reply.kind(), answer.term, answer.boot));
    }
}
