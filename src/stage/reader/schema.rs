//! The schema as the reader knows it: written down here a second time, on purpose.

use super::ReadError;
use super::facts::Database;
use super::tables::{self, Row};
use Kind::{Bytes, Int, Text as Words, Truth, Uuid};

/// A column's type, whatever the database calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Int,
    Truth,
    Text,
    Uuid,
    Bytes,
}

/// A cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cell {
    Null,
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// A table, and what its rows say.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [(&'static str, Kind)],
    pub(crate) condition: &'static str,
    pub(crate) take: fn(&mut Row, &mut Database) -> Result<(), ReadError>,
}

/// Every table that a comparison reads.
pub(crate) const TABLES: &[Table] = &[
    Table { name: "term", columns: &[("epoch", Int), ("holder", Uuid)], condition: "", take: tables::term },
    Table {
        name: "meetings",
        columns: &[("meeting", Uuid), ("domain", Int), ("format_version", Int)],
        condition: "",
        take: tables::meeting,
    },
    Table {
        name: "legs",
        columns: &[
            ("meeting", Uuid),
            ("leg", Int),
            ("domain", Int),
            ("server", Int),
            ("state", Words),
            ("cause", Int),
            ("epoch", Int),
            ("boot", Uuid),
            ("handle", Int),
            ("table_revision", Int),
            ("mark_revision", Int),
            ("mark_count", Int),
            ("mark_digest", Bytes),
            ("info_mark", Int),
            ("business_mark", Int),
            ("decode_mark", Int),
            ("extra_mark", Int),
            ("intent", Int),
            ("recover_first", Truth),
            ("quarantine", Words),
            ("format_version", Int),
        ],
        condition: "",
        take: tables::control_row,
    },
    Table {
        name: "recovery_keys",
        columns: &[
            ("meeting", Uuid),
            ("leg", Int),
            ("domain", Int),
            ("server", Int),
            ("secret", Bytes),
            ("generation", Int),
            ("number", Words),
            ("title", Words),
            ("creator", Words),
            ("creator_name", Words),
            ("made_at_ms", Int),
            ("format_version", Int),
        ],
        condition: "",
        take: tables::key,
    },
    Table {
        name: "meeting_info",
        columns: &[
            ("meeting", Uuid),
            ("leg", Int),
            ("domain", Int),
            ("revision", Int),
            ("format_version", Int),
            ("number", Words),
            ("title", Words),
            ("creator", Words),
            ("creator_name", Words),
            ("chair", Words),
            ("first_speaker", Words),
            ("second_speaker", Words),
            ("started_at_ms", Int),
        ],
        condition: "",
        take: |row, database| tables::record(row, database, tables::leg_row),
    },
    Table {
        name: "terminals",
        columns: &[
            ("meeting", Uuid),
            ("leg", Int),
            ("domain", Int),
            ("revision", Int),
            ("format_version", Int),
            ("number", Words),
            ("home_domain", Int),
            ("name", Words),
            ("online", Truth),
            ("in_meeting", Truth),
            ("joined_at_ms", Int),
            ("left_at_ms", Int),
            ("left_because", Int),
            ("business_state", Int),
            ("business_since_ms", Int),
            ("business_sends_main", Truth),
            ("business_sends_auxiliary", Truth),
            ("business_resolution", Int),
            ("decode_display_mode", Int),
            ("decode_output", Words),
            ("decode_codec", Int),
            ("extra_version", Int),
        ],
        condition: "",
        take: |row, database| tables::record(row, database, tables::terminal),
    },
    Table {
        name: "windows",
        columns: &[
            ("meeting", Uuid),
            ("leg", Int),
            ("domain", Int),
            ("revision", Int),
            ("format_version", Int),
            ("terminal", Words),
            ("window_number", Int),
            ("source", Words),
            ("channel", Int),
            ("video", Truth),
            ("audio", Truth),
            ("codec", Int),
            ("errors", Int),
        ],
        condition: "",
        take: |row, database| tables::record(row, database, tables::window),
    },
    Table {
        name: "entries",
        columns: &[
            ("meeting", Uuid),
            ("leg", Int),
            ("domain", Int),
            ("revision", Int),
            ("format_version", Int),
            ("terminal", Words),
            ("entry_key", Words),
            ("entry_value", Bytes),
        ],
        condition: "",
        take: |row, database| tables::record(row, database, tables::entry),
    },
    Table {
        name: "intents",
        columns: &[("meeting", Uuid), ("leg", Int), ("number", Int), ("op_name", Words)],
        condition: " WHERE code IS NULL",
        take: tables::open_intent,
    },
    Table {
        name: "intents",
        columns: &[("instance", Int), ("command_number", Int)],
        condition: " WHERE instance IS NOT NULL GROUP BY instance, command_number HAVING count(*) > 1",
        take: tables::command_twice,
    },
];
