//! Commands on a leg (SPEC C-1 to C-9). Every command has an intent number that rises within its leg,
//! also over terms: same number, same answer; a lower one never runs.

use crate::error::ErrorCode;
use crate::ids::{BootId, DomainId, Handle, LegId, Secret};
use crate::message::inventory::EndCause;
use crate::record::{DisplayMode, EntryKey, LeaveReason, LegRow, Mark, MediaCodec, Number};
use crate::wire::{Blob, Input, Malformed, OPERATION, Text, Wire};
use bytes::BytesMut;
use serde::{Deserialize, Serialize};

wire_enum! {
    /// A terminal's role in a meeting.
    pub enum TerminalRole {
        /// Leads the meeting.
        Chair = 1,
        /// Is seen and heard by all.
        FirstSpeaker = 2,
        /// Is seen beside the first speaker.
        SecondSpeaker = 3,
        /// None of these: takes the terminal out of the roles that it has.
        Participant = 4,
    }
}

wire_struct! {
    /// Starts a leg. Recognised by the leg's id: started already, the same answer; ended, `ended`.
    pub struct Start {
        /// The recovery key's secret.
        secret: Secret,
        /// The recovery key's generation.
        generation: u64,
        /// Meeting information. The server sets `started_at_ms`.
        row: LegRow,
    }
}

wire_struct! {
    /// Ends a leg.
    pub struct End {
        /// Why.
        cause: EndCause,
    }
}

wire_struct! {
    /// Calls a terminal into the leg.
    pub struct AddTerminal {
        /// Its number.
        number: Number,
        /// Its home domain.
        home_domain: DomainId,
        /// Its display name.
        name: Text<64>,
    }
}

wire_struct! {
    /// Takes a terminal off the roster, with its windows and entries.
    pub struct RemoveTerminal {
        /// Its number.
        number: Number,
        /// Why.
        reason: LeaveReason,
    }
}

wire_struct! {
    /// Gives a terminal a role.
    pub struct SetRole {
        /// Its number.
        number: Number,
        /// The role.
        role: TerminalRole,
    }
}

wire_struct! {
    /// What one window shall decode.
    pub struct WindowSetting {
        /// The window's number.
        window: u8,
        /// The terminal to decode; empty for none.
        source: Number,
        /// Its channel.
        channel: u8,
        /// Decode its video.
        video: bool,
        /// Decode its audio.
        audio: bool,
    }
}

wire_struct! {
    /// Sets how a terminal decodes: windows that are not named are removed.
    pub struct SetDecode {
        /// The terminal.
        number: Number,
        /// Layout.
        display_mode: DisplayMode,
        /// Output.
        output: Number,
        /// Codec of the output.
        codec: MediaCodec,
        /// The windows, at most 16.
        windows: Vec<WindowSetting>,
    }
}

wire_struct! {
    /// Sets or removes an extra-information entry.
    pub struct SetExtra {
        /// The terminal.
        number: Number,
        /// The entry's name.
        key: EntryKey,
        /// Its value; none removes it.
        value: Option<Blob<512>>,
    }
}

/// The most windows of a terminal (SPEC C-7).
pub const WINDOWS_MAX: usize = 16;
/// The most extra-information entries of a terminal (SPEC C-8).
pub const ENTRIES_MAX: usize = 64;

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // each variant carries the struct of its name, which says it
pub enum Op {
    Start(Start),
    End(End),
    AddTerminal(AddTerminal),
    RemoveTerminal(RemoveTerminal),
    SetRole(SetRole),
    SetDecode(SetDecode),
    SetExtra(SetExtra),
}

impl Op {
    /// The operation's name, for logs and people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Op::Start(_) => "start",
            Op::End(_) => "end",
            Op::AddTerminal(_) => "add terminal",
            Op::RemoveTerminal(_) => "remove terminal",
            Op::SetRole(_) => "set role",
            Op::SetDecode(_) => "set decode",
            Op::SetExtra(_) => "set extra information",
        }
    }
}

impl Wire for Op {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Op::Start(op) => put_op(1, op, out),
            Op::End(op) => put_op(2, op, out),
            Op::AddTerminal(op) => put_op(3, op, out),
            Op::RemoveTerminal(op) => put_op(4, op, out),
            Op::SetRole(op) => put_op(5, op, out),
            Op::SetDecode(op) => put_op(6, op, out),
            Op::SetExtra(op) => put_op(7, op, out),
        }
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(match u8::take(input)? {
            1 => Op::Start(Wire::take(input)?),
            2 => Op::End(Wire::take(input)?),
            3 => Op::AddTerminal(Wire::take(input)?),
            4 => Op::RemoveTerminal(Wire::take(input)?),
            5 => Op::SetRole(Wire::take(input)?),
            6 => Op::SetDecode(Wire::take(input)?),
            7 => Op::SetExtra(Wire::take(input)?),
            value => return Err(Malformed::Value { field: OPERATION, value: value.into() }),
        })
    }
    fn encoded_len(&self) -> usize {
        1 + match self {
            Op::Start(op) => op.encoded_len(),
            Op::End(op) => op.encoded_len(),
            Op::AddTerminal(op) => op.encoded_len(),
            Op::RemoveTerminal(op) => op.encoded_len(),
            Op::SetRole(op) => op.encoded_len(),
            Op::SetDecode(op) => op.encoded_len(),
            Op::SetExtra(op) => op.encoded_len(),
        }
    }
}

fn put_op<T: Wire>(kind: u8, op: &T, out: &mut BytesMut) {
    kind.put(out);
    op.put(out);
}

wire_struct! {
    /// Commands a leg. Needs an attached session, and the leg started or taken over by its token.
    pub struct Command {
        /// Our name of the leg.
        leg: LegId,
        /// The server's name of it; 0 with `start`.
        handle: Handle,
        /// The intent's number within the leg, from 1.
        intent: u64,
        /// What to do.
        op: Op,
    }
}

wire_struct! {
    /// Answer to [`Command`]. On a stream the events that the command caused come before it (SPEC C-5).
    pub struct CommandAnswer {
        /// Our name of the leg.
        leg: LegId,
        /// The server's name of it.
        handle: Handle,
        /// The intent's number.
        intent: u64,
        /// `ok` or why not.
        code: ErrorCode,
        /// For people.
        detail: Text<256>,
        /// The life of the table.
        boot: BootId,
        /// The table's revision at the answer.
        table_revision: u64,
        /// The leg's content after the command.
        mark: Mark,
    }
}
