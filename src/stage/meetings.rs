//! Meetings as the plays' clients create them.

use super::DOMAIN;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use remeet_protocol::message::{AddTerminal, ClientOp, Create};
use remeet_protocol::record::Number;
use remeet_protocol::wire::Text;
use remeet_protocol::{DomainId, MeetingId, ServerId};

/// Any moment will do: ids must depend on the seed only.
const ID_TIME_MS: u64 = 1_750_000_000_000;

/// An id that nobody else has, by the seed.
pub(crate) fn meeting_id(number: u32, rng: &mut ChaCha8Rng) -> MeetingId {
    let random: [u8; 10] = rng.random();
    MeetingId(uuid::Builder::from_unix_timestamp_millis(ID_TIME_MS + u64::from(number), &random).into_uuid())
}

/// The command that creates the meeting in a place, for one of the clients.
pub(crate) fn create(meeting: MeetingId, server: ServerId, place: usize, client: usize) -> ClientOp {
    ClientOp::Create(Create {
        meeting,
        server,
        number: Text::cut(&format!("7{place:06}")),
        title: Text::cut(&format!("Besprechung {place} – 会议")),
        creator: Text::cut(&format!("5{client:05}")),
        creator_name: Text::cut(&format!("Client {}", client + 1)),
    })
}

/// The command that calls a terminal.
pub(crate) fn call_terminal(number: Number, name: &str) -> ClientOp {
    ClientOp::AddTerminal(AddTerminal { number, home_domain: DomainId(DOMAIN), name: Text::cut(name) })
}
