//! Values that the tests of this module share.

use crate::model::Moment;
use remeet_protocol::message::{Command, End, EndCause, Event, Op, TakeoverClaim};
use remeet_protocol::record::Mark;
use remeet_protocol::{Handle, LegId, MeetingId};

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
