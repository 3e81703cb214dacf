//! What commands do to a leg's terminals. Each operation either changes the leg, one record a revision,
//! or refuses and changes nothing.

use super::leg::Leg;
use remeet_protocol::ErrorCode;
use remeet_protocol::message::{
    AddTerminal, ENTRIES_MAX, SetDecode, SetExtra, SetRole, TerminalRole, WINDOWS_MAX, WindowSetting,
};
use remeet_protocol::record::{
    Business, BusinessState, Decode, DisplayMode, EntryKey, EntryRow, LeaveReason, LegRow, MediaCodec, Number, Record,
    RecordKey, Resolution, TerminalRow, WindowRow,
};
use remeet_protocol::wire::{Blob, Text};
use std::collections::BTreeMap;

/// The most terminals of a leg: bounds a pull and an inventory entry's count.
pub(super) const TERMINALS_MAX: u16 = 1000;

/// Why an operation did nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) detail: String,
}

fn refusal<T>(code: ErrorCode, detail: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, detail: detail.into() })
}

impl Leg {
    /// Calls a terminal: it rings, answers, decodes the first speaker and tells about itself, each in its
    /// own revision. One that left is called back.
    pub(super) fn add_terminal(&mut self, now_ms: u64, op: &AddTerminal) -> Result<(), Refusal> {
        if op.number.is_empty() {
            return refusal(ErrorCode::MALFORMED, "a terminal needs a number");
        }
        let version = self.terminal(&op.number).and_then(|row| row.extra_version).unwrap_or(0).saturating_add(1);
        match self.terminal(&op.number) {
            Some(row) if row.in_meeting => {
                // It takes part already: only what it is called may change (SPEC C-9).
                let row = row.clone();
                self.set(Record::Terminal(TerminalRow { home_domain: op.home_domain, name: op.name.clone(), ..row }));
                return Ok(());
            }
            None if self.terminals >= TERMINALS_MAX => {
                return refusal(ErrorCode::TOO_MANY, format!("a leg has at most {TERMINALS_MAX} terminals"));
            }
            _ => {}
        }
        let business = |state, resolution, sends_main| Business {
            state,
            since_ms: now_ms,
            sends_main,
            sends_auxiliary: false,
            resolution,
        };
        let ringing = TerminalRow {
            number: op.number.clone(),
            home_domain: op.home_domain,
            name: op.name.clone(),
            online: true,
            in_meeting: false,
            joined_at_ms: 0,
            left_at_ms: 0,
            left_because: LeaveReason::None,
            business: Some(business(BusinessState::Ringing, Resolution::None, false)),
            decode: None,
            extra_version: None,
        };
        self.set(Record::Terminal(ringing.clone()));
        self.set(Record::Terminal(TerminalRow {
            in_meeting: true,
            joined_at_ms: now_ms,
            business: Some(business(BusinessState::InMeeting, Resolution::Full, true)),
            decode: Some(Decode { display_mode: DisplayMode::Single, output: Text::cut("1"), codec: MediaCodec::H264 }),
            extra_version: Some(version),
            ..ringing
        }));
        let source = self.row().map(|row| row.first_speaker.clone()).unwrap_or_default();
        self.set(Record::Window(WindowRow {
            terminal: op.number.clone(),
            window: 0,
            source,
            channel: 0,
            video: true,
            audio: true,
            codec: MediaCodec::H264,
            errors: 0,
        }));
        // Fixed texts below the field's limits.
        self.set(Record::Entry(EntryRow {
            terminal: op.number.clone(),
            key: Text::cut("model"),
            value: Blob::new(&b"simulated"[..]).unwrap_or_default(),
        }));
        Ok(())
    }

    /// Takes a terminal off the roster: its windows, its entries, itself, then its number out of the roles.
    pub(super) fn remove_terminal(&mut self, number: &Number) -> Result<(), Refusal> {
        self.known(number)?;
        let keys: Vec<_> = self.windows(number).chain(self.entries(number)).collect();
        for key in keys {
            self.remove(key);
        }
        self.remove(RecordKey::Terminal(number.clone()));
        if let Some(row) = self.row().cloned() {
            self.set(Record::Leg(without(row, number)));
        }
        Ok(())
    }

    /// Gives a terminal a role in place of who had it.
    pub(super) fn set_role(&mut self, op: &SetRole) -> Result<(), Refusal> {
        self.known(&op.number)?;
        let Some(mut row) = self.row().cloned() else {
            return refusal(ErrorCode::INTERNAL, "the leg has no leg row");
        };
        match op.role {
            TerminalRole::Chair => row.chair = op.number.clone(),
            TerminalRole::FirstSpeaker => row.first_speaker = op.number.clone(),
            TerminalRole::SecondSpeaker => row.second_speaker = op.number.clone(),
            TerminalRole::Participant => row = without(row, &op.number),
            TerminalRole::Other(role) => {
                return refusal(ErrorCode::UNSUPPORTED, format!("role {role} is not known here"));
            }
        }
        self.set(Record::Leg(row));
        Ok(())
    }

    /// Sets layout and windows: windows that are not named are removed.
    pub(super) fn set_decode(&mut self, op: &SetDecode) -> Result<(), Refusal> {
        let row = self.known(&op.number)?;
        if op.windows.len() > WINDOWS_MAX {
            return refusal(ErrorCode::TOO_MANY, format!("a terminal has at most {WINDOWS_MAX} windows"));
        }
        // Of two settings of one window the later counts (SPEC C-7).
        let named: BTreeMap<u8, &WindowSetting> = op.windows.iter().map(|setting| (setting.window, setting)).collect();
        let decode = Decode { display_mode: op.display_mode, output: op.output.clone(), codec: op.codec };
        self.set(Record::Terminal(TerminalRow { decode: Some(decode), ..row }));
        for setting in named.values() {
            self.set(Record::Window(window(&op.number, setting, op.codec)));
        }
        let gone: Vec<_> = self
            .windows(&op.number)
            .filter(|key| matches!(key, RecordKey::Window(_, window) if !named.contains_key(window)))
            .collect();
        for key in gone {
            self.remove(key);
        }
        Ok(())
    }

    /// Sets or removes an entry of a terminal's extra information, and raises the map's version.
    pub(super) fn set_extra(&mut self, op: &SetExtra) -> Result<(), Refusal> {
        let row = self.known(&op.number)?;
        let key = RecordKey::Entry(op.number.clone(), op.key.clone());
        let revision = self.head.mark.revision;
        match &op.value {
            None => self.remove(key),
            Some(_) if self.record(&key).is_none() && self.entries(&op.number).count() >= ENTRIES_MAX => {
                return refusal(ErrorCode::TOO_MANY, format!("a terminal has at most {ENTRIES_MAX} entries"));
            }
            Some(value) => self.set(Record::Entry(EntryRow {
                terminal: op.number.clone(),
                key: EntryKey::cut(op.key.as_str()),
                value: value.clone(),
            })),
        }
        if self.head.mark.revision != revision {
            let version = row.extra_version.unwrap_or(0).saturating_add(1);
            self.set(Record::Terminal(TerminalRow { extra_version: Some(version), ..row }));
        }
        Ok(())
    }

    /// A terminal leaves by itself and stays on the roster.
    pub(super) fn hang_up(&mut self, now_ms: u64, number: &Number) -> Result<(), Refusal> {
        let row = self.known(number)?;
        let business = Business {
            state: BusinessState::Left,
            since_ms: now_ms,
            sends_main: false,
            sends_auxiliary: false,
            resolution: Resolution::None,
        };
        self.set(Record::Terminal(TerminalRow {
            in_meeting: false,
            left_at_ms: now_ms,
            left_because: LeaveReason::HungUp,
            business: Some(business),
            ..row
        }));
        Ok(())
    }

    fn known(&self, number: &Number) -> Result<TerminalRow, Refusal> {
        match self.terminal(number) {
            Some(row) => Ok(row.clone()),
            None => refusal(ErrorCode::UNKNOWN_TERMINAL, format!("no terminal {number} in this leg")),
        }
    }
}

fn window(terminal: &Number, setting: &WindowSetting, codec: MediaCodec) -> WindowRow {
    WindowRow {
        terminal: terminal.clone(),
        window: setting.window,
        source: setting.source.clone(),
        channel: setting.channel,
        video: setting.video,
        audio: setting.audio,
        codec,
        errors: 0,
    }
}

fn without(mut row: LegRow, number: &Number) -> LegRow {
    for role in [&mut row.chair, &mut row.first_speaker, &mut row.second_speaker] {
        if role == number {
            *role = Number::default();
        }
    }
    row
}
