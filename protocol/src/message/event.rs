//! Events (SPEC E-1 to E-8): numbered within the boot id, sent to the attached session until they are
//! acknowledged; acknowledged only after they are stored.

use crate::ids::{Handle, LegId};
use crate::message::inventory::EndCause;
use crate::packet::BODY_BYTES_MAX;
use crate::record::{Change, Mark};

wire_struct! {
    /// A leg changed or ended. Changes of one leg chain: `previous` is the `mark.revision` of the event
    /// before it.
    pub struct Event {
        /// The event's number within the boot id, from 1, without gap.
        number: u64,
        /// Our name of the leg.
        leg: LegId,
        /// The server's name of it.
        handle: Handle,
        /// The leg's revision before the first change in this event.
        previous: u64,
        /// The leg's content after the last change.
        mark: Mark,
        /// Why the leg ended with this event; `None` if it goes on. An ended leg has no more events.
        ended: EndCause,
        /// The changes, in ascending order of revision.
        changes: Vec<Change>,
    }
}

impl Event {
    /// Bytes that its list may fill: the `room` of [`pack`](crate::wire::pack). Changes beyond it go into
    /// a further event, chained by `previous`.
    pub const CHANGES_ROOM: usize = BODY_BYTES_MAX - 71;
}

wire_struct! {
    /// The bounded event queue overflowed: events in between are lost, the receiver compares everything.
    pub struct EventGap {
        /// First number lost.
        first: u64,
        /// Last number lost.
        last: u64,
    }
}

wire_struct! {
    /// All events up to `number` are stored: the server forgets them, and the tombstones they announced.
    pub struct EventAck {
        /// The last number stored.
        number: u64,
    }
}
