//! The content of a leg: one leg row, and a row for each terminal, decode window and extra-information
//! entry. Their digest says in 16 bytes whether two sides hold the same (SPEC D-1 to D-4).

use crate::ids::DomainId;
use crate::wire::{Blob, Input, Malformed, Text, Wire, put_sized};
use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// A terminal's or a meeting's number: digits mostly, a text always. Global numbers are long; local ones
/// are short and unique only inside a domain.
pub type Number = Text<32>;
/// The name of an extra-information entry.
pub type EntryKey = Text<64>;

wire_struct! {
    /// Meeting information: people, roles, names.
    pub struct LegRow {
        /// People's meeting number.
        number: Number,
        /// People's title of the meeting.
        title: Text<256>,
        /// Number of who created it.
        creator: Number,
        /// Name of who created it.
        creator_name: Text<64>,
        /// Number of the chair; empty if none.
        chair: Number,
        /// Number of the first speaker; empty if none.
        first_speaker: Number,
        /// Number of the second speaker; empty if none.
        second_speaker: Number,
        /// When the server started the leg: milliseconds since 1970 UTC.
        started_at_ms: u64,
    }
}

wire_enum! {
    /// What a terminal does in the meeting.
    pub enum BusinessState {
        /// Known, not called yet.
        Idle = 0,
        /// Being called.
        Ringing = 1,
        /// Taking part.
        InMeeting = 2,
        /// Taking part, media paused.
        OnHold = 3,
        /// Left, still on the roster.
        Left = 4,
        /// Could not be reached or lost.
        Failed = 5,
    }
}

wire_enum! {
    /// Why a terminal left.
    pub enum LeaveReason {
        /// It has not left.
        None = 0,
        /// It hung up.
        HungUp = 1,
        /// It was removed by a command.
        Removed = 2,
        /// Its network was lost.
        Lost = 3,
        /// It never answered.
        NoAnswer = 4,
    }
}

wire_enum! {
    /// Resolution class of a stream.
    pub enum Resolution {
        /// No stream.
        None = 0,
        /// Up to 576 lines.
        Standard = 1,
        /// 720 lines.
        High = 2,
        /// 1080 lines.
        Full = 3,
        /// 2160 lines.
        Ultra = 4,
    }
}

wire_enum! {
    /// How a terminal lays out what it decodes.
    pub enum DisplayMode {
        /// One picture.
        Single = 0,
        /// One big, one small.
        BigAndSmall = 1,
        /// Two halves.
        TwoSplit = 2,
        /// Four quarters.
        FourSplit = 3,
        /// Nine fields.
        NineSplit = 4,
        /// Sixteen fields.
        SixteenSplit = 5,
    }
}

wire_enum! {
    /// A codec.
    pub enum MediaCodec {
        /// Not known or none.
        None = 0,
        /// H.264 / AVC.
        H264 = 1,
        /// H.265 / HEVC.
        H265 = 2,
        /// SVAC 2.0.
        Svac2 = 3,
        /// AV1.
        Av1 = 4,
    }
}

wire_struct! {
    /// Business state of a terminal.
    pub struct Business {
        /// What it does.
        state: BusinessState,
        /// Since when: milliseconds since 1970 UTC.
        since_ms: u64,
        /// Whether it sends its main stream.
        sends_main: bool,
        /// Whether it sends an auxiliary stream (slides).
        sends_auxiliary: bool,
        /// Resolution class of the main stream.
        resolution: Resolution,
    }
}

wire_struct! {
    /// Decode state of a terminal, without its windows, which are records of their own.
    pub struct Decode {
        /// Layout.
        display_mode: DisplayMode,
        /// Output that shows it.
        output: Number,
        /// Codec of the output.
        codec: MediaCodec,
    }
}

wire_struct! {
    /// One terminal of a leg. A state that the server does not know is `None` and is stored as an
    /// explicit *unknown* (rule 14).
    pub struct TerminalRow {
        /// Number: the key within the leg.
        number: Number,
        /// Its home domain.
        home_domain: DomainId,
        /// Display name.
        name: Text<64>,
        /// Whether the terminal is connected to its server.
        online: bool,
        /// Whether it takes part now.
        in_meeting: bool,
        /// When it joined: milliseconds since 1970 UTC; 0 if never.
        joined_at_ms: u64,
        /// When it left; 0 if it has not.
        left_at_ms: u64,
        /// Why it left.
        left_because: LeaveReason,
        /// Business state, or unknown.
        business: Option<Business>,
        /// Decode state, or unknown.
        decode: Option<Decode>,
        /// Version of the extra-information map, or unknown.
        extra_version: Option<u32>,
    }
}

wire_struct! {
    /// One decode window of a terminal.
    pub struct WindowRow {
        /// The terminal that decodes.
        terminal: Number,
        /// The window's number: with the terminal, the key.
        window: u8,
        /// The terminal that is decoded; empty for none.
        source: Number,
        /// Its channel.
        channel: u8,
        /// Whether video is decoded.
        video: bool,
        /// Whether audio is decoded.
        audio: bool,
        /// Codec decoded.
        codec: MediaCodec,
        /// Decode errors since the window was set.
        errors: u32,
    }
}

wire_struct! {
    /// One entry of a terminal's extra information: opaque to the scheduler, unknown keys survive.
    pub struct EntryRow {
        /// The terminal.
        terminal: Number,
        /// The entry's name: with the terminal, the key.
        key: EntryKey,
        /// Its value.
        value: Blob<512>,
    }
}

/// A record of a leg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// Kind 1: the leg row. There is one.
    Leg(LegRow),
    /// Kind 2: a terminal.
    Terminal(TerminalRow),
    /// Kind 3: a decode window.
    Window(WindowRow),
    /// Kind 4: an extra-information entry.
    Entry(EntryRow),
}

/// Names a record within its leg.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKey {
    /// The leg row.
    Leg,
    /// A terminal, by number.
    Terminal(Number),
    /// A window, by terminal and window number.
    Window(Number, u8),
    /// An entry, by terminal and name.
    Entry(Number, EntryKey),
}

const KIND_LEG: u8 = 1;
const KIND_TERMINAL: u8 = 2;
const KIND_WINDOW: u8 = 3;
const KIND_ENTRY: u8 = 4;
const REMOVED: u8 = 0x80;

impl Record {
    /// The record's key.
    #[must_use]
    pub fn key(&self) -> RecordKey {
        match self {
            Record::Leg(_) => RecordKey::Leg,
            Record::Terminal(row) => RecordKey::Terminal(row.number.clone()),
            Record::Window(row) => RecordKey::Window(row.terminal.clone(), row.window),
            Record::Entry(row) => RecordKey::Entry(row.terminal.clone(), row.key.clone()),
        }
    }

    /// The canonical encoding: kind, then the fields in order, key fields first (SPEC D-1).
    pub fn put_canonical(&self, out: &mut BytesMut) {
        out.put_u8(self.kind());
        self.put_fields(out);
    }

    /// The record's part of its leg's digest (SPEC D-2).
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut bytes = BytesMut::with_capacity(256);
        self.put_canonical(&mut bytes);
        let hash: [u8; 32] = Sha256::digest(&bytes).into();
        let mut half = [0; 16];
        half.copy_from_slice(&hash[..16]);
        Digest(u128::from_be_bytes(half))
    }

    fn kind(&self) -> u8 {
        match self {
            Record::Leg(_) => KIND_LEG,
            Record::Terminal(_) => KIND_TERMINAL,
            Record::Window(_) => KIND_WINDOW,
            Record::Entry(_) => KIND_ENTRY,
        }
    }

    fn put_fields(&self, out: &mut BytesMut) {
        match self {
            Record::Leg(row) => row.put(out),
            Record::Terminal(row) => row.put(out),
            Record::Window(row) => row.put(out),
            Record::Entry(row) => row.put(out),
        }
    }
}

impl RecordKey {
    /// The terminal that the record belongs to; none for the leg row.
    #[must_use]
    pub fn terminal(&self) -> Option<&Number> {
        match self {
            RecordKey::Leg => None,
            RecordKey::Terminal(number) | RecordKey::Window(number, _) | RecordKey::Entry(number, _) => Some(number),
        }
    }
}

/// A digest of records: sums of 128-bit hashes modulo 2^128, so that a change costs one subtraction and
/// one addition, in any order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest(pub u128);

impl Digest {
    /// With `other`'s records added.
    #[must_use]
    pub fn plus(self, other: Digest) -> Digest {
        Digest(self.0.wrapping_add(other.0))
    }
    /// With `other`'s records taken away.
    #[must_use]
    pub fn minus(self, other: Digest) -> Digest {
        Digest(self.0.wrapping_sub(other.0))
    }
    /// Its 16 bytes, big-endian.
    #[must_use]
    pub fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
    /// From its 16 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map(Self).map_err(serde::de::Error::custom)
    }
}

impl Wire for Digest {
    fn put(&self, out: &mut BytesMut) {
        self.0.put(out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        u128::take(input).map(Self)
    }
}

wire_struct! {
    /// How far a leg's content goes: everything up to `revision` is these many records of this digest.
    #[derive(Copy, Default)]
    pub struct Mark {
        /// Revision of the leg.
        revision: u64,
        /// Present records.
        count: u32,
        /// Their digest.
        digest: Digest,
    }
}

impl Mark {
    /// Counts `record` in (or, with `present` false, out) at a mark's content; the revision stays.
    pub fn count(&mut self, record: &Record, present: bool) {
        let part = record.digest();
        if present {
            self.count = self.count.saturating_add(1);
            self.digest = self.digest.plus(part);
        } else {
            self.count = self.count.saturating_sub(1);
            self.digest = self.digest.minus(part);
        }
    }
}

/// What a revision of a leg did to one record (SPEC R-1: each revision changes exactly one).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The leg's revision that made the change.
    pub revision: u64,
    /// The record as it is now, or the key of a removed one.
    pub state: RecordState,
}

/// A record that is there, or the key of one that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordState {
    /// It is there.
    Present(Record),
    /// It was removed.
    Removed(RecordKey),
}

impl Change {
    /// The key of the record.
    #[must_use]
    pub fn key(&self) -> RecordKey {
        match &self.state {
            RecordState::Present(record) => record.key(),
            RecordState::Removed(key) => key.clone(),
        }
    }
}

struct Fields<'a>(&'a Record);

impl Wire for Fields<'_> {
    fn put(&self, out: &mut BytesMut) {
        self.0.put_fields(out);
    }
    fn take(_: &mut Input<'_>) -> Result<Self, Malformed> {
        // Written only: reading goes through `Change`.
        Err(Malformed::Value { field: "Fields", value: 0 })
    }
}

/// Revision (u64), kind (u8, 0x80 set if removed), length (u16), fields or key fields.
impl Wire for Change {
    fn put(&self, out: &mut BytesMut) {
        self.revision.put(out);
        match &self.state {
            RecordState::Present(record) => {
                out.put_u8(record.kind());
                put_sized(&Fields(record), out);
            }
            RecordState::Removed(key) => match key {
                RecordKey::Leg => {
                    out.put_u8(KIND_LEG | REMOVED);
                    out.put_u16(0);
                }
                RecordKey::Terminal(number) => {
                    out.put_u8(KIND_TERMINAL | REMOVED);
                    put_sized(number, out);
                }
                RecordKey::Window(number, window) => {
                    out.put_u8(KIND_WINDOW | REMOVED);
                    put_sized(&Pair(number.clone(), *window), out);
                }
                RecordKey::Entry(number, key) => {
                    out.put_u8(KIND_ENTRY | REMOVED);
                    put_sized(&Pair(number.clone(), key.clone()), out);
                }
            },
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let revision = u64::take(input)?;
        let kind = u8::take(input)?;
        let length = usize::from(u16::take(input)?);
        let fields = &mut Input::new(input.bytes(length, "record")?);
        let state = match kind {
            KIND_LEG => RecordState::Present(Record::Leg(Wire::take(fields)?)),
            KIND_TERMINAL => RecordState::Present(Record::Terminal(Wire::take(fields)?)),
            KIND_WINDOW => RecordState::Present(Record::Window(Wire::take(fields)?)),
            KIND_ENTRY => RecordState::Present(Record::Entry(Wire::take(fields)?)),
            _ => RecordState::Removed(match kind & !REMOVED {
                KIND_LEG if kind & REMOVED != 0 => RecordKey::Leg,
                KIND_TERMINAL if kind & REMOVED != 0 => RecordKey::Terminal(Wire::take(fields)?),
                KIND_WINDOW if kind & REMOVED != 0 => {
                    let Pair(number, window) = Wire::take(fields)?;
                    RecordKey::Window(number, window)
                }
                KIND_ENTRY if kind & REMOVED != 0 => {
                    let Pair(number, key) = Wire::take(fields)?;
                    RecordKey::Entry(number, key)
                }
                _ => return Err(Malformed::Value { field: "record kind", value: kind.into() }),
            }),
        };
        Ok(Self { revision, state })
    }
}

struct Pair<A, B>(A, B);

impl<A: Wire, B: Wire> Wire for Pair<A, B> {
    fn put(&self, out: &mut BytesMut) {
        self.0.put(out);
        self.1.put(out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(Self(A::take(input)?, B::take(input)?))
    }
}
