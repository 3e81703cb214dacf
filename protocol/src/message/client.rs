//! Control messages of meeting clients (SPEC K-1 to K-12).

use crate::error::ErrorCode;
use crate::ids::{Epoch, Handle, LegId, MeetingId, ServerId};
use crate::message::command::{AddTerminal, RemoveTerminal, SetDecode, SetExtra, SetRole};
use crate::message::inventory::EndCause;
use crate::packet::BODY_BYTES_MAX;
use crate::record::{Change, Number};
use crate::wire::{CLIENT_OPERATION, Input, Malformed, Text, Wire};
use bytes::BytesMut;
use serde::{Deserialize, Serialize};

wire_struct! {
    /// Makes a meeting: its recovery key is committed before this is answered. It does not start it.
    pub struct Create {
        /// Its id, chosen by the client (UUID version 7), so that a repeat is recognised.
        meeting: MeetingId,
        /// The server to carry it; 0 lets the scheduler choose.
        server: ServerId,
        /// People's number.
        number: Number,
        /// People's title.
        title: Text<256>,
        /// Who creates it: number.
        creator: Number,
        /// Who creates it: name.
        creator_name: Text<64>,
    }
}

wire_struct! {
    /// Adopts an orphan, and ends it if asked (operator's right).
    pub struct AdoptOrphan {
        /// The server that reports it.
        server: ServerId,
        /// The server's name of the leg.
        handle: Handle,
        /// The leg's name as reported.
        leg: LegId,
        /// End it once it is adopted.
        end: bool,
    }
}

wire_struct! {
    /// Makes a further leg of a meeting, on another server. It does not start it.
    pub struct AddLeg {
        /// The leg's number, 1 to 15, chosen by the client, so that a repeat is recognised.
        leg: u16,
        /// The server to carry it; 0 lets the scheduler choose one that carries none of the meeting yet.
        server: ServerId,
    }
}

/// The most legs of a meeting.
pub const LEGS_MAX: u16 = 16;

/// What a client's command does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientOp {
    /// Makes a meeting.
    Create(Create),
    /// Starts it on its server.
    Start,
    /// Ends it.
    End,
    /// Calls a terminal.
    AddTerminal(AddTerminal),
    /// Takes a terminal off.
    RemoveTerminal(RemoveTerminal),
    /// Gives a role.
    SetRole(SetRole),
    /// Sets what a terminal decodes.
    SetDecode(SetDecode),
    /// Sets extra information.
    SetExtra(SetExtra),
    /// Marks the meeting to be recovered first, or takes the mark away.
    Mark(bool),
    /// Adopts an orphan.
    Adopt(AdoptOrphan),
    /// Makes a further leg.
    AddLeg(AddLeg),
}

impl ClientOp {
    /// The operation's name, for logs and people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            ClientOp::Create(_) => "create",
            ClientOp::Start => "start",
            ClientOp::End => "end",
            ClientOp::AddTerminal(_) => "add terminal",
            ClientOp::RemoveTerminal(_) => "remove terminal",
            ClientOp::SetRole(_) => "set role",
            ClientOp::SetDecode(_) => "set decode",
            ClientOp::SetExtra(_) => "set extra information",
            ClientOp::Mark(_) => "mark",
            ClientOp::Adopt(_) => "adopt",
            ClientOp::AddLeg(_) => "add leg",
        }
    }
}

impl Wire for ClientOp {
    fn put(&self, out: &mut BytesMut) {
        match self {
            ClientOp::Create(op) => put_op(1, op, out),
            ClientOp::Start => 2u8.put(out),
            ClientOp::End => 3u8.put(out),
            ClientOp::AddTerminal(op) => put_op(4, op, out),
            ClientOp::RemoveTerminal(op) => put_op(5, op, out),
            ClientOp::SetRole(op) => put_op(6, op, out),
            ClientOp::SetDecode(op) => put_op(7, op, out),
            ClientOp::SetExtra(op) => put_op(8, op, out),
            ClientOp::Mark(first) => put_op(9, first, out),
            ClientOp::Adopt(op) => put_op(10, op, out),
            ClientOp::AddLeg(op) => put_op(11, op, out),
        }
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(match u8::take(input)? {
            1 => ClientOp::Create(Wire::take(input)?),
            2 => ClientOp::Start,
            3 => ClientOp::End,
            4 => ClientOp::AddTerminal(Wire::take(input)?),
            5 => ClientOp::RemoveTerminal(Wire::take(input)?),
            6 => ClientOp::SetRole(Wire::take(input)?),
            7 => ClientOp::SetDecode(Wire::take(input)?),
            8 => ClientOp::SetExtra(Wire::take(input)?),
            9 => ClientOp::Mark(Wire::take(input)?),
            10 => ClientOp::Adopt(Wire::take(input)?),
            11 => ClientOp::AddLeg(Wire::take(input)?),
            value => return Err(Malformed::Value { field: CLIENT_OPERATION, value: value.into() }),
        })
    }
    fn encoded_len(&self) -> usize {
        1 + match self {
            ClientOp::Create(op) => op.encoded_len(),
            ClientOp::Start => 0,
            ClientOp::End => 0,
            ClientOp::AddTerminal(op) => op.encoded_len(),
            ClientOp::RemoveTerminal(op) => op.encoded_len(),
            ClientOp::SetRole(op) => op.encoded_len(),
            ClientOp::SetDecode(op) => op.encoded_len(),
            ClientOp::SetExtra(op) => op.encoded_len(),
            ClientOp::Mark(first) => first.encoded_len(),
            ClientOp::Adopt(op) => op.encoded_len(),
            ClientOp::AddLeg(op) => op.encoded_len(),
        }
    }
}

fn put_op<T: Wire>(kind: u8, op: &T, out: &mut BytesMut) {
    kind.put(out);
    op.put(out);
}

wire_struct! {
    /// A client's command. Its id is (instance, number): a repeat gets the first answer, a number below
    /// the kept answers gets `too old` and never runs.
    pub struct ClientCommand {
        /// One life of the client's memory of its commands.
        instance: u64,
        /// Rises within the instance.
        number: u64,
        /// The meeting; zeros with `adopt`.
        meeting: MeetingId,
        /// What to do.
        op: ClientOp,
    }
}

wire_struct! {
    /// Answer to [`ClientCommand`], sent after its result has been stored.
    pub struct ClientAnswer {
        /// As asked.
        instance: u64,
        /// As asked.
        number: u64,
        /// `ok` or why not.
        code: ErrorCode,
        /// With `retry`: wait this long, milliseconds.
        retry_after_ms: u32,
        /// For people.
        detail: Text<256>,
        /// The meeting: as asked, or the new id of an adopted one.
        meeting: MeetingId,
    }
}

wire_struct! {
    /// Asks for a meeting. While it is being recovered the stored state comes at once, marked
    /// `recovering`, and a second time, unasked, when it is recovered (same request id, `update` set).
    pub struct Get {
        /// The meeting.
        meeting: MeetingId,
    }
}

wire_enum! {
    /// A meeting's state as a client sees it: derived from its legs.
    pub enum MeetingState {
        /// Made, not started.
        Created = 1,
        /// The server has been told to start it.
        Starting = 2,
        /// In meeting, commanded by this scheduler.
        InMeeting = 3,
        /// In meeting under an older term: being recovered.
        Recovering = 4,
        /// Its server does not answer; the meeting goes on.
        Unreachable = 5,
        /// Being ended.
        Ending = 6,
        /// Ended.
        Ended = 7,
        /// Some legs in meeting, some not.
        Partly = 8,
        /// An orphan being adopted.
        Adopting = 9,
    }
}

wire_struct! {
    /// One leg of a meeting.
    pub struct LegInfo {
        /// The leg's number.
        leg: u16,
        /// Its server.
        server: ServerId,
        /// The leg's own state.
        state: MeetingState,
        /// Its content revision.
        revision: u64,
    }
}

wire_struct! {
    /// First packet of a meeting's state; [`MeetingRecords`] and [`MeetingEnd`] follow.
    pub struct MeetingInfo {
        /// The meeting.
        meeting: MeetingId,
        /// Its state.
        state: MeetingState,
        /// Why it ended, if it did.
        cause: EndCause,
        /// The state is what was stored before the scheduler's restart or the loss of the link.
        recovering: bool,
        /// This is the update that was promised by an earlier answer marked `recovering`.
        update: bool,
        /// The term that answers.
        epoch: Epoch,
        /// The server of its first leg.
        server: ServerId,
        /// People's number.
        number: Number,
        /// People's title.
        title: Text<256>,
        /// Content revision of its first leg.
        revision: u64,
        /// Every leg, in ascending order of number.
        legs: Vec<LegInfo>,
    }
}

wire_struct! {
    /// Part of a meeting's state.
    pub struct MeetingRecords {
        /// The leg.
        leg: LegId,
        /// Its records.
        changes: Vec<Change>,
    }
}

impl MeetingRecords {
    /// Bytes that its list may fill: the `room` of [`pack`](crate::wire::pack).
    pub const CHANGES_ROOM: usize = BODY_BYTES_MAX - 18;
}

wire_struct! {
    /// Last packet of a meeting's state.
    pub struct MeetingEnd {
        /// The meeting.
        meeting: MeetingId,
        /// Records sent.
        records: u32,
    }
}

wire_struct! {
    /// Asks for the meetings that are not ended, a page at a time.
    pub struct List {
        /// Meetings with an id above this; zeros for the first page.
        after: MeetingId,
        /// The most entries to answer, 1 to 1000.
        entries_max: u16,
    }
}

wire_struct! {
    /// One meeting in a list or snapshot.
    pub struct ListEntry {
        /// The meeting.
        meeting: MeetingId,
        /// Its state.
        state: MeetingState,
        /// The server of its first leg.
        server: ServerId,
        /// Content revision of its first leg.
        revision: u64,
        /// People's number.
        number: Number,
        /// People's title, cut to fit.
        title: Text<64>,
        /// How many legs it has that are not ended.
        legs: u16,
    }
}

wire_struct! {
    /// Part of the answer to [`List`], or of a snapshot.
    pub struct ListPage {
        /// The meetings, in ascending order of id.
        entries: Vec<ListEntry>,
    }
}

impl ListPage {
    /// Bytes that its list may fill: the `room` of [`pack`](crate::wire::pack).
    pub const ENTRIES_ROOM: usize = BODY_BYTES_MAX;
}

wire_struct! {
    /// Last packet of an answer to [`List`], or of a snapshot.
    pub struct ListEnd {
        /// Where the next page begins.
        after: MeetingId,
        /// Entries in this answer.
        entries: u32,
        /// There are no more.
        complete: bool,
    }
}

wire_struct! {
    /// Asks for events. A snapshot comes first.
    pub struct Subscribe {
        /// One meeting only, or all.
        meeting: Option<MeetingId>,
    }
}

wire_struct! {
    /// Answer to [`Subscribe`]; [`ListPage`]s and a [`ListEnd`] follow, then events.
    pub struct Subscribed {
        /// The term that answers.
        epoch: Epoch,
        /// The number before the first event's.
        sequence: u64,
    }
}

wire_enum! {
    /// What a client event tells.
    pub enum EventKind {
        /// The meeting was created.
        Created = 1,
        /// It started.
        Started = 2,
        /// Its content changed: `changes` say how.
        Changed = 3,
        /// A leg was recovered: its content stands again.
        Refreshed = 4,
        /// It ended: `cause` says why.
        Ended = 5,
        /// Its state changed: unreachable, recovering; or one of its legs ended.
        State = 6,
    }
}

wire_struct! {
    /// Something changed in a meeting. Sent only after it was stored (rule 15).
    pub struct ClientEvent {
        /// The term: a client drops events of a lower one.
        epoch: Epoch,
        /// Rises by one an event within a subscription.
        sequence: u64,
        /// The leg.
        leg: LegId,
        /// What happened.
        kind: EventKind,
        /// The meeting's state now.
        state: MeetingState,
        /// Why it ended, if it did.
        cause: EndCause,
        /// Content revision now.
        revision: u64,
        /// The changes.
        changes: Vec<Change>,
    }
}

impl ClientEvent {
    /// Bytes that its list may fill: the `room` of [`pack`](crate::wire::pack). Changes beyond it go into
    /// a further event.
    pub const CHANGES_ROOM: usize = BODY_BYTES_MAX - 45;
}

wire_struct! {
    /// The subscriber was too slow and events were dropped: it forgets what it knows; a snapshot
    /// ([`ListPage`]s, [`ListEnd`]) follows, then events from `sequence` + 1.
    pub struct Reset {
        /// The term.
        epoch: Epoch,
        /// The number before the next event's.
        sequence: u64,
    }
}
