//! The fields of every row, in the order in which they are encoded.

use crate::ids::DomainId;
use crate::wire::{Blob, Text};

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
