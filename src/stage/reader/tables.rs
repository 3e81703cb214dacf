//! Rows as facts.

use super::ReadError;
use super::facts::{ControlRow, Database, Held, KeyRow, secret_hash};
use super::schema::{Cell, Table};
use remeet_protocol::record::{Business, Decode, Digest, EntryRow, LegRow, Mark, Record, TerminalRow, WindowRow};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{BootId, DomainId, Epoch, Handle, Holder, LegId, MeetingId, ServerId};

/// A row, read from left to right.
pub(crate) struct Row {
    table: &'static Table,
    cells: std::vec::IntoIter<Cell>,
    at: usize,
}

impl Row {
    pub(crate) fn new(table: &'static Table, cells: Vec<Cell>) -> Self {
        Self { table, cells: cells.into_iter(), at: 0 }
    }

    fn wrong(&self, reason: &str) -> ReadError {
        let column = self.table.columns.get(self.at.saturating_sub(1)).map_or("?", |(name, _)| name);
        ReadError::new("reading the database", format!("{}.{column} {reason}", self.table.name))
    }

    fn cell(&mut self) -> Cell {
        self.at += 1;
        self.cells.next().unwrap_or(Cell::Null)
    }

    fn int_or_null(&mut self) -> Result<Option<i64>, ReadError> {
        match self.cell() {
            Cell::Null => Ok(None),
            Cell::Int(value) => Ok(Some(value)),
            _ => Err(self.wrong("is no number")),
        }
    }

    fn int(&mut self) -> Result<i64, ReadError> {
        self.int_or_null()?.ok_or_else(|| self.wrong("is NULL"))
    }

    fn number<T: TryFrom<i64>>(&mut self) -> Result<T, ReadError> {
        let value = self.int()?;
        T::try_from(value).map_err(|_| self.wrong(&format!("is {value}, which is out of range")))
    }

    /// Unsigned 64-bit values stand in a signed column.
    fn unsigned(&mut self) -> Result<u64, ReadError> {
        self.int().map(i64::cast_unsigned)
    }

    fn truth(&mut self) -> Result<bool, ReadError> {
        self.int().map(|value| value != 0)
    }

    fn words_or_null(&mut self) -> Result<Option<String>, ReadError> {
        match self.cell() {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(unescaped(text))),
            _ => Err(self.wrong("is no text")),
        }
    }

    fn words(&mut self) -> Result<String, ReadError> {
        self.words_or_null()?.ok_or_else(|| self.wrong("is NULL"))
    }

    fn text<const MAX: usize>(&mut self) -> Result<Text<MAX>, ReadError> {
        let text = self.words()?;
        Text::new(text).map_err(|error| self.wrong(&error.to_string()))
    }

    fn bytes(&mut self) -> Result<Vec<u8>, ReadError> {
        match self.cell() {
            Cell::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong("holds no bytes")),
        }
    }

    fn uuid_or_null(&mut self) -> Result<Option<uuid::Uuid>, ReadError> {
        let Some(text) = self.words_or_null()? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| self.wrong("is no UUID"))
    }

    fn uuid(&mut self) -> Result<uuid::Uuid, ReadError> {
        self.uuid_or_null()?.ok_or_else(|| self.wrong("is NULL"))
    }

    fn leg(&mut self) -> Result<LegId, ReadError> {
        Ok(LegId { meeting: MeetingId(self.uuid()?), leg: self.number()? })
    }
}

/// In stored texts U+E000 '0' stands for NUL and U+E000 '1' for U+E000.
fn unescaped(text: String) -> String {
    if text.contains('\u{E000}') { text.replace("\u{E000}0", "\0").replace("\u{E000}1", "\u{E000}") } else { text }
}

pub(crate) fn term(row: &mut Row, database: &mut Database) -> Result<(), ReadError> {
    database.term = Some((Epoch(row.number()?), Holder(row.uuid()?)));
    Ok(())
}

pub(crate) fn meeting(row: &mut Row, database: &mut Database) -> Result<(), ReadError> {
    database.meetings.insert(MeetingId(row.uuid()?), DomainId(row.number()?));
    database.formats.insert(row.int()?);
    Ok(())
}

pub(crate) fn control_row(row: &mut Row, database: &mut Database) -> Result<(), ReadError> {
    let leg = row.leg()?;
    let domain = DomainId(row.number()?);
    let server = ServerId(row.number()?);
    let state = row.words()?;
    let cause = row.number::<u8>()?.into();
    let epoch = Epoch(row.number()?);
    let boot = row.uuid_or_null()?.map(BootId);
    let handle = row.int_or_null()?.map(|handle| Handle(handle.cast_unsigned()));
    database.table_revisions.insert(leg, row.number()?);
    let (revision, count) = (row.number()?, row.number()?);
    let digest: [u8; 16] = row.bytes()?.try_into().map_err(|_| row.wrong("has not 16 bytes"))?;
    let stored = ControlRow {
        domain,
        server,
        state,
        cause,
        epoch,
        boot,
        handle,
        mark: Mark { revision, count, digest: Digest::from_bytes(digest) },
        group_marks: [row.number()?, row.number()?, row.number()?, row.number()?],
        intent: row.number()?,
        recover_first: row.truth()?,
        quarantine: row.words_or_null()?,
    };
    database.formats.insert(row.int()?);
    database.legs.insert(leg, stored);
    Ok(())
}

pub(crate) fn key(row: &mut Row, database: &mut Database) -> Result<(), ReadError> {
    let leg = row.leg()?;
    let (domain, server) = (DomainId(row.number()?), ServerId(row.number()?));
    let secret_sha256 = secret_hash(&row.bytes()?);
    let stored = KeyRow {
        domain,
        server,
        secret_sha256,
        generation: row.number()?,
        number: row.words()?,
        title: row.words()?,
        creator: row.words()?,
        creator_name: row.words()?,
        made_at_ms: row.unsigned()?,
    };
    database.formats.insert(row.int()?);
    database.keys.insert(leg, stored);
    Ok(())
}

pub(crate) fn record(
    row: &mut Row,
    database: &mut Database,
    fields: fn(&mut Row) -> Result<Record, ReadError>,
) -> Result<(), ReadError> {
    let leg = row.leg()?;
    database.record_domains.entry(leg).or_default().insert(row.int()?);
    let revision = row.number()?;
    database.formats.insert(row.int()?);
    let record = fields(row)?;
    database.records.entry(leg).or_default().insert(record.key(), Held { revision, record });
    Ok(())
}

pub(crate) fn leg_row(row: &mut Row) -> Result<Record, ReadError> {
    Ok(Record::Leg(LegRow {
        number: row.text()?,
        title: row.text()?,
        creator: row.text()?,
        creator_name: row.text()?,
        chair: row.text()?,
        first_speaker: row.text()?,
        second_speaker: row.text()?,
        started_at_ms: row.unsigned()?,
    }))
}

pub(crate) fn terminal(row: &mut Row) -> Result<Record, ReadError> {
    let (number, home_domain, name) = (row.text()?, DomainId(row.number()?), row.text()?);
    let (online, in_meeting) = (row.truth()?, row.truth()?);
    let (joined_at_ms, left_at_ms) = (row.unsigned()?, row.unsigned()?);
    let left_because = row.number::<u8>()?.into();
    let state = row.int_or_null()?;
    let (since, main, auxiliary, resolution) =
        (row.int_or_null()?, row.int_or_null()?, row.int_or_null()?, row.int_or_null()?);
    let business = match (state, since, main, auxiliary, resolution) {
        (None, None, None, None, None) => None,
        (Some(state), Some(since), Some(main), Some(auxiliary), Some(resolution)) => Some(Business {
            state: octet(row, state)?.into(),
            since_ms: since.cast_unsigned(),
            sends_main: main != 0,
            sends_auxiliary: auxiliary != 0,
            resolution: octet(row, resolution)?.into(),
        }),
        _ => return Err(row.wrong("and the other business columns are NULL only in part")),
    };
    let (mode, output, codec) = (row.int_or_null()?, row.words_or_null()?, row.int_or_null()?);
    let decode = match (mode, output, codec) {
        (None, None, None) => None,
        (Some(mode), Some(output), Some(codec)) => Some(Decode {
            display_mode: octet(row, mode)?.into(),
            output: Text::new(output).map_err(|error| row.wrong(&error.to_string()))?,
            codec: octet(row, codec)?.into(),
        }),
        _ => return Err(row.wrong("and the other decode columns are NULL only in part")),
    };
    let extra_version = match row.int_or_null()? {
        None => None,
        Some(version) => Some(u32::try_from(version).map_err(|_| row.wrong("is out of range"))?),
    };
    Ok(Record::Terminal(TerminalRow {
        number,
        home_domain,
        name,
        online,
        in_meeting,
        joined_at_ms,
        left_at_ms,
        left_because,
        business,
        decode,
        extra_version,
    }))
}

fn octet(row: &Row, value: i64) -> Result<u8, ReadError> {
    u8::try_from(value).map_err(|_| row.wrong(&format!("or a column of its group is {value}, above 255")))
}

pub(crate) fn window(row: &mut Row) -> Result<Record, ReadError> {
    Ok(Record::Window(WindowRow {
        terminal: row.text()?,
        window: row.number()?,
        source: row.text()?,
        channel: row.number()?,
        video: row.truth()?,
        audio: row.truth()?,
        codec: row.number::<u8>()?.into(),
        errors: row.number()?,
    }))
}

pub(crate) fn entry(row: &mut Row) -> Result<Record, ReadError> {
    let (terminal, key) = (row.text()?, row.text()?);
    let value = Blob::new(row.bytes()?).map_err(|error| row.wrong(&error.to_string()))?;
    Ok(Record::Entry(EntryRow { terminal, key, value }))
}

pub(crate) fn open_intent(row: &mut Row, database: &mut Database) -> Result<(), ReadError> {
    let leg = row.leg()?;
    let number: i64 = row.int()?;
    let op = row.words()?;
    database.open_intents.push((leg, format!("{number} ({op})")));
    Ok(())
}

pub(crate) fn command_twice(row: &mut Row, database: &mut Database) -> Result<(), ReadError> {
    let command = (row.unsigned()?, row.unsigned()?);
    database.commands_twice.push(command);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_text_is_read_back_as_it_came() {
        assert_eq!(unescaped("a\u{E000}0b\u{E000}1".to_owned()), "a\0b\u{E000}");
        assert_eq!(unescaped("plain ✓".to_owned()), "plain ✓");
    }

    #[test]
    fn a_group_of_columns_that_is_null_only_in_part_is_an_error_that_names_the_table() {
        let table = super::super::schema::TABLES.iter().find(|table| table.name == "terminals");
        let Some(table) = table else { panic!("the terminals are read") };
        let mut cells: Vec<Cell> = vec![Cell::Text("1001".into()), Cell::Int(1), Cell::Text("Hall".into())];
        cells.extend([1, 1, 5, 0, 0].map(Cell::Int));
        cells.extend([Cell::Int(2), Cell::Null, Cell::Null, Cell::Null, Cell::Null]);
        let error = terminal(&mut Row::new(table, cells)).map(drop);
        assert!(error.is_err_and(|error| error.to_string().contains("terminals")));
    }
}
