//! The network: what was ever sent, each way. Nothing is ever taken out, so that everything may be lost, come
//! late, come twice and in any order.

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
}

const REQUESTS: [Request; 5] =
    [Request::Attach, Request::Start, Request::Takeover, Request::Command, Request::End];

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

/// What the server says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
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
    /// A newer token has attached.
    Stale,
}

const REPLIES: [Reply; 6] =
    [Reply::Started, Reply::TakenOver, Reply::Done, Reply::Ended, Reply::Unknown, Reply::Stale];

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

const TERMS: u8 = 5;
const BOOTS: u8 = 2;

fn place(kind: u8, term: u8, boot: u8) -> u64 {
    debug_assert!(term < TERMS && boot < BOOTS);
    1 << ((kind * TERMS + term) * BOOTS + boot)
}

/// Every packet that was ever sent to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Packets(u64);

impl Packets {
    pub(crate) fn send(&mut self, request: Request, term: u8, boot: u8) {
        self.0 |= place(request as u8, term, boot);
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Packet> {
        all().flat_map(|(term, boot)| REQUESTS.map(|request| Packet { request, term, boot })).filter(
            move |packet| self.0 & place(packet.request as u8, packet.term, packet.boot) != 0,
        )
    }
}

/// Every answer that was ever sent, and is not to somebody who is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Answers(u64);

impl Answers {
    pub(crate) fn send(&mut self, reply: Reply, term: u8, boot: u8) {
        self.0 |= place(reply as u8, term, boot);
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Answer> {
        all().flat_map(|(term, boot)| REPLIES.map(|reply| Answer { reply, term, boot })).filter(
            move |answer| self.0 & place(answer.reply as u8, answer.term, answer.boot) != 0,
        )
    }

    /// Keeps those to the given terms only.
    pub(crate) fn keep(&mut self, terms: &[Option<u8>]) {
        let kept = self.iter().filter(|answer| terms.contains(&Some(answer.term)));
        self.0 = kept.fold(0, |bits, answer| bits | place(answer.reply as u8, answer.term, answer.boot));
    }

    pub(crate) fn any_refusal(self) -> bool {
        self.iter().any(|answer| answer.reply == Reply::Stale)
    }
}

fn all() -> impl Iterator<Item = (u8, u8)> {
    (0..TERMS).flat_map(|term| (0..BOOTS).map(move |boot| (term, boot)))
}
