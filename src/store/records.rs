//! Records of legs as rows: which columns there are, what stands in them, and back.

use super::rows::{Bad, Cells, FORMAT, Reader, opaque, ordered};
use remeet_protocol::record::{
    Business, Decode, EntryRow, LegRow, Record, RecordKey, RecordState, TerminalRow, WindowRow,
};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{Change, DomainId, LegId};
use uuid::Uuid;

/// A table of records, in the order in which they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Table {
    /// Meeting information.
    Info,
    /// Terminals.
    Terminals,
    /// Windows.
    Windows,
    /// Entries.
    Entries,
}

impl Table {
    pub(super) const ALL: [Table; 4] = [Table::Info, Table::Terminals, Table::Windows, Table::Entries];

    pub(super) fn name(self) -> &'static str {
        match self {
            Table::Info => "meeting_info",
            Table::Terminals => "terminals",
            Table::Windows => "windows",
            Table::Entries => "entries",
        }
    }

    /// The columns that name a record within its leg.
    pub(super) fn key(self) -> &'static [&'static str] {
        match self {
            Table::Info => &[],
            Table::Terminals => &["number"],
            Table::Windows => &["terminal", "window_number"],
            Table::Entries => &["terminal", "entry_key"],
        }
    }

    /// The columns of a record beside `meeting, leg, domain, format_version, revision` and the key, in the order in
    /// which both databases write and read them.
    pub(super) fn fields(self) -> &'static [&'static str] {
        match self {
            Table::Info => &[
                "number",
                "title",
                "creator",
                "creator_name",
                "chair",
                "first_speaker",
                "second_speaker",
                "started_at_ms",
            ],
            Table::Terminals => &[
                "home_domain",
                "name",
                "online",
                "in_meeting",
                "joined_at_ms",
                "left_at_ms",
                "left_because",
                "business_state",
                "business_since_ms",
                "business_sends_main",
                "business_sends_auxiliary",
                "business_resolution",
                "decode_display_mode",
                "decode_output",
                "decode_codec",
                "extra_version",
            ],
            Table::Windows => &["source", "channel", "video", "audio", "codec", "errors"],
            Table::Entries => &["entry_value"],
        }
    }

    /// `meeting, leg, format_version, revision`, the key, the fields: what [`change`] reads.
    pub(super) fn columns(self) -> String {
        let own = self.key().iter().chain(self.fields()).map(|name| format!("x.{name}"));
        let first = ["meeting", "leg", "format_version", "revision"].map(|name| format!("x.{name}"));
        first.into_iter().chain(own).collect::<Vec<_>>().join(", ")
    }
}

/// A record with its leg. The leg is said even if the record cannot be read.
pub(super) fn change<C: Cells>(table: Table, row: &C) -> Result<(LegId, Result<Change, Bad>), Bad> {
    let r = &mut Reader::new(row);
    Ok((r.leg()?, change_after_leg(table, r)))
}

fn change_after_leg<C: Cells>(table: Table, r: &mut Reader<'_, C>) -> Result<Change, Bad> {
    r.format()?;
    let revision = r.number("revision")?;
    let record = match table {
        Table::Info => Record::Leg(LegRow {
            number: r.text("number")?,
            title: r.text("title")?,
            creator: r.text("creator")?,
            creator_name: r.text("creator_name")?,
            chair: r.text("chair")?,
            first_speaker: r.text("first_speaker")?,
            second_speaker: r.text("second_speaker")?,
            started_at_ms: r.free()?,
        }),
        Table::Terminals => Record::Terminal(TerminalRow {
            number: r.text("number")?,
            home_domain: DomainId(r.number("home_domain")?),
            name: r.text("name")?,
            online: r.truth("online")?,
            in_meeting: r.truth("in_meeting")?,
            joined_at_ms: r.free()?,
            left_at_ms: r.free()?,
            left_because: r.number::<u8>("left_because")?.into(),
            business: business(r)?,
            decode: decode(r)?,
            extra_version: r.number_or_null("extra_version")?,
        }),
        Table::Windows => Record::Window(WindowRow {
            terminal: r.text("terminal")?,
            window: r.number("window_number")?,
            source: r.text("source")?,
            channel: r.number("channel")?,
            video: r.truth("video")?,
            audio: r.truth("audio")?,
            codec: r.number::<u8>("codec")?.into(),
            errors: r.number("errors")?,
        }),
        Table::Entries => Record::Entry(EntryRow {
            terminal: r.text("terminal")?,
            key: r.text("entry_key")?,
            value: Blob::new(r.cells.bytes(r.next())?.to_vec()).map_err(|error| format!("entry_value: {error}"))?,
        }),
    };
    Ok(Change { revision, state: RecordState::Present(record) })
}

fn business<C: Cells>(r: &mut Reader<'_, C>) -> Result<Option<Business>, Bad> {
    let state = r.number_or_null::<u8>("business_state")?;
    let since = r.cells.int_or_null(r.next())?;
    let main = r.truth_or_null()?;
    let auxiliary = r.truth_or_null()?;
    let resolution = r.number_or_null::<u8>("business_resolution")?;
    match (state, since, main, auxiliary, resolution) {
        (None, None, None, None, None) => Ok(None),
        (Some(state), Some(since), Some(sends_main), Some(sends_auxiliary), Some(resolution)) => Ok(Some(Business {
            state: state.into(),
            since_ms: since.cast_unsigned(),
            sends_main,
            sends_auxiliary,
            resolution: resolution.into(),
        })),
        _ => Err("the business state is partly NULL".to_owned()),
    }
}

fn decode<C: Cells>(r: &mut Reader<'_, C>) -> Result<Option<Decode>, Bad> {
    let mode = r.number_or_null::<u8>("decode_display_mode")?;
    let output = r.string_or_null("decode_output")?;
    let codec = r.number_or_null::<u8>("decode_codec")?;
    match (mode, output, codec) {
        (None, None, None) => Ok(None),
        (Some(mode), Some(output), Some(codec)) => Ok(Some(Decode {
            display_mode: mode.into(),
            output: Text::new(output).map_err(|error| format!("decode_output: {error}"))?,
            codec: codec.into(),
        })),
        _ => Err("the decode state is partly NULL".to_owned()),
    }
}

/// A value on its way into a column.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    /// A UUID.
    Uuid(Option<Uuid>),
    /// 16 bits.
    Small(Option<i16>),
    /// 32 bits.
    Int(Option<i32>),
    /// 64 bits.
    Big(Option<i64>),
    /// A text, not yet escaped ([`super::text::stored`]).
    Text(Option<&'a str>),
    /// A truth value.
    Truth(Option<bool>),
    /// Bytes.
    Bytes(Option<&'a [u8]>),
}

/// Takes the values of a row, from left to right.
pub(super) trait Sink {
    /// The next column.
    fn put(&mut self, value: Value<'_>);

    /// `meeting, leg`.
    fn put_leg(&mut self, leg: LegId) {
        self.put(Value::Uuid(Some(leg.meeting.0)));
        self.put(Value::Int(Some(i32::from(leg.leg))));
    }
    /// A text.
    fn put_text(&mut self, text: &str) {
        self.put(Value::Text(Some(text)));
    }
    /// A number that the database compares.
    fn put_ordered(&mut self, number: u64) {
        self.put(Value::Big(Some(ordered(number))));
    }
    /// A number that a peer chooses freely.
    fn put_opaque(&mut self, number: u64) {
        self.put(Value::Big(Some(opaque(number))));
    }
    /// A number of 32 bits.
    fn put_u32(&mut self, number: u32) {
        self.put(Value::Big(Some(i64::from(number))));
    }
    /// An enumeration or a small number.
    fn put_u8(&mut self, number: u8) {
        self.put(Value::Small(Some(i16::from(number))));
    }
    /// A truth value.
    fn put_truth(&mut self, truth: bool) {
        self.put(Value::Truth(Some(truth)));
    }
    /// Bytes.
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put(Value::Bytes(Some(bytes)));
    }
}

/// Names a record within its leg without owning the texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct KeyRef<'a> {
    pub(super) table: Table,
    terminal: &'a str,
    window: u8,
    entry: &'a str,
}

impl<'a> KeyRef<'a> {
    fn new(table: Table, terminal: &'a str, window: u8, entry: &'a str) -> Self {
        Self { table, terminal, window, entry }
    }

    pub(super) fn of_key(key: &'a RecordKey) -> Self {
        match key {
            RecordKey::Leg => Self::new(Table::Info, "", 0, ""),
            RecordKey::Terminal(number) => Self::new(Table::Terminals, number.as_str(), 0, ""),
            RecordKey::Window(number, window) => Self::new(Table::Windows, number.as_str(), *window, ""),
            RecordKey::Entry(number, key) => Self::new(Table::Entries, number.as_str(), 0, key.as_str()),
        }
    }

    pub(super) fn of(state: &'a RecordState) -> Self {
        match state {
            RecordState::Removed(key) => Self::of_key(key),
            RecordState::Present(Record::Leg(_)) => Self::new(Table::Info, "", 0, ""),
            RecordState::Present(Record::Terminal(row)) => Self::new(Table::Terminals, row.number.as_str(), 0, ""),
            RecordState::Present(Record::Window(row)) => {
                Self::new(Table::Windows, row.terminal.as_str(), row.window, "")
            }
            RecordState::Present(Record::Entry(row)) => {
                Self::new(Table::Entries, row.terminal.as_str(), 0, row.key.as_str())
            }
        }
    }

    /// The key columns ([`Table::key`]).
    pub(super) fn put(&self, sink: &mut impl Sink) {
        match self.table {
            Table::Info => {}
            Table::Terminals => sink.put_text(self.terminal),
            Table::Windows => {
                sink.put_text(self.terminal);
                sink.put_u8(self.window);
            }
            Table::Entries => {
                sink.put_text(self.terminal);
                sink.put_text(self.entry);
            }
        }
    }
}

/// The field columns ([`Table::fields`]).
pub(super) fn put_fields(record: &Record, sink: &mut impl Sink) {
    match record {
        Record::Leg(row) => {
            for text in [row.number.as_str(), row.title.as_str(), row.creator.as_str(), row.creator_name.as_str()] {
                sink.put_text(text);
            }
            for text in [&row.chair, &row.first_speaker, &row.second_speaker] {
                sink.put_text(text.as_str());
            }
            sink.put_opaque(row.started_at_ms);
        }
        Record::Terminal(row) => {
            sink.put_u32(row.home_domain.0);
            sink.put_text(row.name.as_str());
            sink.put_truth(row.online);
            sink.put_truth(row.in_meeting);
            sink.put_opaque(row.joined_at_ms);
            sink.put_opaque(row.left_at_ms);
            sink.put_u8(row.left_because.into());
            let business = row.business.as_ref();
            sink.put(Value::Small(business.map(|b| i16::from(u8::from(b.state)))));
            sink.put(Value::Big(business.map(|b| opaque(b.since_ms))));
            sink.put(Value::Truth(business.map(|b| b.sends_main)));
            sink.put(Value::Truth(business.map(|b| b.sends_auxiliary)));
            sink.put(Value::Small(business.map(|b| i16::from(u8::from(b.resolution)))));
            let decode = row.decode.as_ref();
            sink.put(Value::Small(decode.map(|d| i16::from(u8::from(d.display_mode)))));
            sink.put(Value::Text(decode.map(|d| d.output.as_str())));
            sink.put(Value::Small(decode.map(|d| i16::from(u8::from(d.codec)))));
            sink.put(Value::Big(row.extra_version.map(i64::from)));
        }
        Record::Window(row) => {
            sink.put_text(row.source.as_str());
            sink.put_u8(row.channel);
            sink.put_truth(row.video);
            sink.put_truth(row.audio);
            sink.put_u8(row.codec.into());
            sink.put_u32(row.errors);
        }
        Record::Entry(row) => sink.put_bytes(row.value.as_bytes()),
    }
}

/// A whole record row: `meeting, leg`, the key, `revision, format_version`, the fields, `domain`.
pub(super) fn put_record(
    (domain, leg): (DomainId, LegId),
    revision: u64,
    record: &Record,
    key: KeyRef<'_>,
    sink: &mut impl Sink,
) {
    sink.put_leg(leg);
    key.put(sink);
    sink.put_ordered(revision);
    sink.put(Value::Small(Some(FORMAT)));
    put_fields(record, sink);
    sink.put_u32(domain.0);
}
