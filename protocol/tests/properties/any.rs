//! Any value of every type of the protocol, within the bounds that its types keep.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use remeet_protocol::ids::*;
use remeet_protocol::message::*;
use remeet_protocol::packet::BODY_BYTES_MAX;
use remeet_protocol::record::*;
use remeet_protocol::wire::{Blob, Text, Wire, pack};
use remeet_protocol::{Address, ErrorCode, Flags, Header, Packet};

/// A strategy for every value of a type.
pub(crate) trait Any: Sized + std::fmt::Debug {
    /// All of them.
    fn any() -> BoxedStrategy<Self>;
}

macro_rules! any_plain {
    ($($name:ty),*) => {$(
        impl Any for $name {
            fn any() -> BoxedStrategy<Self> {
                proptest::prelude::any::<$name>().boxed()
            }
        }
    )*};
}
any_plain! { u8, u16, u32, u64, u128, bool, [u8; 16], [u8; 32] }

macro_rules! any_from {
    ($($name:ty: $from:ty = $make:expr;)*) => {$(
        impl Any for $name {
            fn any() -> BoxedStrategy<Self> {
                <$from>::any().prop_map($make).boxed()
            }
        }
    )*};
}
any_from! {
    MeetingId: [u8; 16] = MeetingId::from_bytes;
    BootId: [u8; 16] = BootId::from_bytes;
    Holder: [u8; 16] = Holder::from_bytes;
    Secret: [u8; 16] = Secret::new;
    DomainId: u32 = DomainId;
    ServerId: u32 = ServerId;
    Handle: u64 = Handle;
    Epoch: u64 = Epoch;
    ErrorCode: u16 = ErrorCode;
    Digest: u128 = Digest;
    Role: u8 = Role::from;
    LegState: u8 = LegState::from;
    EndCause: u8 = EndCause::from;
    BusinessState: u8 = BusinessState::from;
    LeaveReason: u8 = LeaveReason::from;
    Resolution: u8 = Resolution::from;
    DisplayMode: u8 = DisplayMode::from;
    MediaCodec: u8 = MediaCodec::from;
    TerminalRole: u8 = TerminalRole::from;
    MeetingState: u8 = MeetingState::from;
    EventKind: u8 = EventKind::from;
}

impl<const MAX: usize> Any for Text<MAX> {
    /// Short ones and full ones, of characters of one to four bytes.
    fn any() -> BoxedStrategy<Self> {
        let length = prop_oneof![4 => 0..12usize, 1 => 0..MAX + 2];
        length
            .prop_flat_map(|length| vec(any::<char>(), length))
            .prop_map(|text| Text::cut(&String::from_iter(text)))
            .boxed()
    }
}

impl<const MAX: usize> Any for Blob<MAX> {
    fn any() -> BoxedStrategy<Self> {
        let length = prop_oneof![4 => 0..12usize, 1 => 0..=MAX];
        length.prop_flat_map(|length| vec(any::<u8>(), length)).prop_map(|bytes| Blob::new(bytes).unwrap()).boxed()
    }
}

impl<T: Any + Clone + 'static> Any for Option<T> {
    fn any() -> BoxedStrategy<Self> {
        option::of(T::any()).boxed()
    }
}

impl<T: Any + Wire + 'static> Any for Vec<T> {
    /// Up to 40 items; `fitted` cuts them to the message's room.
    fn any() -> BoxedStrategy<Self> {
        vec(T::any(), 0..40).boxed()
    }
}

macro_rules! any_struct {
    ($($name:ident { $($field:ident),* };)*) => {$(
        impl Any for $name {
            fn any() -> BoxedStrategy<Self> {
                ($(<_ as AnyField>::any_field(|value: &$name| &value.$field),)*)
                    .prop_map(|($($field,)*)| $name { $($field),* }).boxed()
            }
        }
    )*};
}

/// Finds a field's type from an accessor, so that no type is named twice.
trait AnyField: Sized {
    fn any_field<S>(field: fn(&S) -> &Self) -> BoxedStrategy<Self>;
}
impl<T: Any> AnyField for T {
    fn any_field<S>(_: fn(&S) -> &Self) -> BoxedStrategy<Self> {
        T::any()
    }
}

any_struct! {
    LegId { meeting, leg };
    Token { epoch, holder };
    Mark { revision, count, digest };
    LegRow { number, title, creator, creator_name, chair, first_speaker, second_speaker, started_at_ms };
    Business { state, since_ms, sends_main, sends_auxiliary, resolution };
    Decode { display_mode, output, codec };
    TerminalRow { number, home_domain, name, online, in_meeting, joined_at_ms, left_at_ms, left_because, business,
        decode, extra_version };
    WindowRow { terminal, window, source, channel, video, audio, codec, errors };
    EntryRow { terminal, key, value };
    Change { revision, state };
    Hello { role, id, name, instance, version_min, version_max };
    Welcome { role, version, domain, id, name, boot, table_revision, keep_alive_ms };
    KeepAliveAnswer { table_revision };
    Goodbye { code, detail, retry_after_ms };
    Failure { code, retry_after_ms, token, detail };
    Query { cut, after, packets_max };
    InventoryEntry { handle, leg, state, cause, mark, terminals, token };
    InventoryPage { cut, entries };
    InventoryEnd { cut, table_revision, boot, after, page_entries, complete, total };
    Attach { token };
    Attached { session, boot, table_revision };
    TakeoverClaim { handle, leg, proof };
    Takeover { claims };
    TakeoverResult { handle, leg, code, retry_after_ms, mark, intent };
    TakeoverAnswer { boot, table_revision, results };
    Adopt { handle, old, new, secret, generation };
    AdoptAnswer { code, boot, table_revision, mark, intent };
    Pull { handle, leg, since, upto, after, full, packets_max };
    PullPage { leg, changes };
    PullEnd { leg, full, upto, after, page_changes, complete };
    Start { secret, generation, row };
    End { cause };
    AddTerminal { number, home_domain, name };
    RemoveTerminal { number, reason };
    SetRole { number, role };
    WindowSetting { window, source, channel, video, audio };
    SetDecode { number, display_mode, output, codec, windows };
    SetExtra { number, key, value };
    Command { leg, handle, intent, op };
    CommandAnswer { leg, handle, intent, code, detail, boot, table_revision, mark };
    Event { number, leg, handle, previous, mark, ended, changes };
    EventGap { first, last };
    EventAck { number };
    Create { meeting, server, number, title, creator, creator_name };
    AdoptOrphan { server, handle, leg, end };
    AddLeg { leg, server };
    LegInfo { leg, server, state, revision };
    ClientCommand { instance, number, meeting, op };
    ClientAnswer { instance, number, code, retry_after_ms, detail, meeting };
    Get { meeting };
    MeetingInfo { meeting, state, cause, recovering, update, epoch, server, number, title, revision, legs };
    MeetingRecords { leg, changes };
    MeetingEnd { meeting, records };
    List { after, entries_max };
    ListEntry { meeting, state, server, revision, number, title, legs };
    ListPage { entries };
    ListEnd { after, entries, complete };
    Subscribe { meeting };
    Subscribed { epoch, sequence };
    ClientEvent { epoch, sequence, leg, kind, state, cause, revision, changes };
    Reset { epoch, sequence };
}

impl Any for KeepAlive {
    fn any() -> BoxedStrategy<Self> {
        Just(KeepAlive {}).boxed()
    }
}

macro_rules! any_variant {
    ($($name:ty { $($variant:path),* } $($unit:path),*;)*) => {$(
        impl Any for $name {
            fn any() -> BoxedStrategy<Self> {
                prop_oneof![$(Any::any().prop_map($variant),)* $(Just($unit)),*].boxed()
            }
        }
    )*};
}
any_variant! {
    Record { Record::Leg, Record::Terminal, Record::Window, Record::Entry };
    RecordState { RecordState::Present, RecordState::Removed };
    Op { Op::Start, Op::End, Op::AddTerminal, Op::RemoveTerminal, Op::SetRole, Op::SetDecode, Op::SetExtra };
    ClientOp { ClientOp::Create, ClientOp::AddTerminal, ClientOp::RemoveTerminal, ClientOp::SetRole,
        ClientOp::SetDecode, ClientOp::SetExtra, ClientOp::Mark, ClientOp::Adopt, ClientOp::AddLeg } ClientOp::Start, ClientOp::End;
}

impl Any for RecordKey {
    fn any() -> BoxedStrategy<Self> {
        prop_oneof![
            Just(RecordKey::Leg),
            Number::any().prop_map(RecordKey::Terminal),
            (Number::any(), u8::any()).prop_map(|(number, window)| RecordKey::Window(number, window)),
            (Number::any(), EntryKey::any()).prop_map(|(number, key)| RecordKey::Entry(number, key)),
        ]
        .boxed()
    }
}

macro_rules! any_message {
    ($($name:ident),* $(,)?) => {
        /// Any message whose body fits a packet, each type as often as another; the last is an unknown one.
        pub(crate) fn messages() -> Vec<BoxedStrategy<Message>> {
            vec![$($name::any().prop_map(|message| fitted(message.into())).boxed(),)* unknown()]
        }
    };
}
any_message! {
    Hello, Welcome, KeepAlive, KeepAliveAnswer, Goodbye, Failure, Query, InventoryPage, InventoryEnd, Attach, Attached,
    Takeover, TakeoverAnswer, Adopt, AdoptAnswer, Pull, PullPage, PullEnd, Command, CommandAnswer, Event, EventGap,
    EventAck, ClientCommand, ClientAnswer, Get, MeetingInfo, MeetingRecords, MeetingEnd, List, ListPage, ListEnd,
    Subscribe, Subscribed, ClientEvent, Reset,
}

fn unknown() -> BoxedStrategy<Message> {
    let kind = any::<u16>().prop_filter("a known type", |kind| Message::ALL.iter().all(|(known, _)| known != kind));
    (kind, vec(any::<u8>(), 0..=BODY_BYTES_MAX))
        .prop_map(|(kind, body)| Message::Unknown { kind, body: Bytes::from(body) })
        .boxed()
}

/// Cuts a message's list to what fits its room.
fn fitted(mut message: Message) -> Message {
    match &mut message {
        Message::InventoryPage(page) => cut(&mut page.entries, InventoryPage::ENTRIES_ROOM),
        Message::Takeover(takeover) => takeover.claims.truncate(Takeover::CLAIMS_MAX),
        Message::TakeoverAnswer(answer) => answer.results.truncate(Takeover::CLAIMS_MAX),
        Message::PullPage(page) => cut(&mut page.changes, PullPage::CHANGES_ROOM),
        Message::Event(event) => cut(&mut event.changes, Event::CHANGES_ROOM),
        Message::MeetingRecords(records) => cut(&mut records.changes, MeetingRecords::CHANGES_ROOM),
        Message::MeetingInfo(info) => info.legs.truncate(usize::from(LEGS_MAX)),
        Message::ListPage(page) => cut(&mut page.entries, ListPage::ENTRIES_ROOM),
        Message::ClientEvent(event) => cut(&mut event.changes, ClientEvent::CHANGES_ROOM),
        Message::Command(Command { op: Op::SetDecode(decode), .. })
        | Message::ClientCommand(ClientCommand { op: ClientOp::SetDecode(decode), .. }) => {
            decode.windows.truncate(WINDOWS_MAX);
        }
        _ => {}
    }
    message
}

fn cut<T: Wire>(list: &mut Vec<T>, room: usize) {
    *list = pack(std::mem::take(list), room).into_iter().next().unwrap_or_default();
}

/// Any packet that fits.
pub(crate) fn packet() -> BoxedStrategy<Packet> {
    let address = any::<[u8; 8]>().prop_map(Address);
    let header = (any::<u8>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<u8>()).prop_map(
        |(flags, session, request, index, hops)| Header { flags: Flags(flags), session, request, index, hops },
    );
    (address.clone(), address, header, proptest::strategy::Union::new(messages()))
        .prop_map(|(destination, source, header, message)| Packet { destination, source, header, message })
        .boxed()
}
