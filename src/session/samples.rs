//! Values that the tests of this module share.

use crate::model::Moment;
use remeet_protocol::message::{Command, End, EndCause, Event, Op, Start, TakeoverClaim};
use remeet_protocol::record::{LegRow, Mark, Number};
use remeet_protocol::wire::Text;
use remeet_protocol::{Handle, LegId, MeetingId, Secret};

pub(super) fn moment_ms(ms: u64) -> Moment {
    Moment(ms * 1_000)
}

pub(super) fn leg(number: u128) -> LegId {
    LegId { meeting: MeetingId::from_bytes(number.to_be_bytes()), leg: 0 }
}

pub(super) fn claim(number: u64) -> TakeoverClaim {
    TakeoverClaim { handle: Handle(number), leg: leg(number.into()), proof: [7; 32] }
}

pub(super) fn command(number: u128, intent: u64) -> Command {
    Command { leg: leg(number), handle: Handle(1), intent, op: Op::End(End { cause: EndCause::Commanded }) }
}

pub(super) fn start(number: u128, intent: u64) -> Command {
    let text = Number::default;
    let row = LegRow {
        number: text(),
        title: Text::default(),
        creator: text(),
        creator_name: Text::default(),
        chair: text(),
        first_speaker: text(),
        second_speaker: text(),
        started_at_ms: 0,
    };
    let secret = Secret::new([1; 16]);
    Command { op: Op::Start(Start { secret, generation: 1, row }), ..command(number, intent) }
}

pub(super) fn event(number: u64) -> Event {
    Event {
        number,
        leg: leg(1),
        handle: Handle(1),
        previous: number,
        mark: Mark { revision: number, ..Mark::default() },
        ended: EndCause::None,
        changes: Vec::new(),
    }
}
