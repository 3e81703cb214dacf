//! Rows as columns: what an UNNEST statement takes, an array a column.

use crate::store::records::{Sink, Value};
use crate::store::text::stored;
use sqlx::Arguments;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArguments;
use uuid::Uuid;

#[derive(Debug)]
enum Column {
    Uuid(Vec<Option<Uuid>>),
    Small(Vec<Option<i16>>),
    Int(Vec<Option<i32>>),
    Big(Vec<Option<i64>>),
    Text(Vec<Option<String>>),
    Truth(Vec<Option<bool>>),
    Bytes(Vec<Option<Vec<u8>>>),
}

/// The rows of one statement, by column. The first row says which types the columns have.
#[derive(Debug, Default)]
pub(super) struct Columns {
    columns: Vec<Column>,
    at: usize,
    rows: usize,
}

impl Columns {
    /// Begins the next row.
    pub(super) fn row(&mut self) -> &mut Self {
        self.at = 0;
        self.rows += 1;
        self
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// `unnest($first::uuid[], …) AS name(columns)`.
    pub(super) fn unnest(&self, first: usize, name: &str, columns: &[&str]) -> String {
        debug_assert_eq!(columns.len(), self.columns.len(), "{name}({columns:?})");
        let arrays: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| format!("${}::{}", first + at, column.array()))
            .collect();
        format!("unnest({}) AS {name}({})", arrays.join(", "), columns.join(", "))
    }

    /// Appends every column to a statement's arguments.
    pub(super) fn bind(&self, arguments: &mut PgArguments) -> Result<(), BoxDynError> {
        self.columns.iter().try_for_each(|column| match column {
            Column::Uuid(values) => arguments.add(&values[..]),
            Column::Small(values) => arguments.add(&values[..]),
            Column::Int(values) => arguments.add(&values[..]),
            Column::Big(values) => arguments.add(&values[..]),
            Column::Text(values) => arguments.add(&values[..]),
            Column::Truth(values) => arguments.add(&values[..]),
            Column::Bytes(values) => arguments.add(&values[..]),
        })
    }
}

impl Column {
    fn of(value: &Value<'_>) -> Self {
        match value {
            Value::Uuid(_) => Column::Uuid(Vec::new()),
            Value::Small(_) => Column::Small(Vec::new()),
            Value::Int(_) => Column::Int(Vec::new()),
            Value::Big(_) => Column::Big(Vec::new()),
            Value::Text(_) => Column::Text(Vec::new()),
            Value::Truth(_) => Column::Truth(Vec::new()),
            Value::Bytes(_) => Column::Bytes(Vec::new()),
        }
    }

    fn array(&self) -> &'static str {
        match self {
            Column::Uuid(_) => "uuid[]",
            Column::Small(_) => "int2[]",
            Column::Int(_) => "int4[]",
            Column::Big(_) => "int8[]",
            Column::Text(_) => "text[]",
            Column::Truth(_) => "bool[]",
            Column::Bytes(_) => "bytea[]",
        }
    }
}

impl Sink for Columns {
    fn put(&mut self, value: Value<'_>) {
        if self.at == self.columns.len() {
            self.columns.push(Column::of(&value));
        }
        match (&mut self.columns[self.at], value) {
            (Column::Uuid(values), Value::Uuid(value)) => values.push(value),
            (Column::Small(values), Value::Small(value)) => values.push(value),
            (Column::Int(values), Value::Int(value)) => values.push(value),
            (Column::Big(values), Value::Big(value)) => values.push(value),
            (Column::Text(values), Value::Text(value)) => values.push(value.map(stored)),
            (Column::Truth(values), Value::Truth(value)) => values.push(value),
            (Column::Bytes(values), Value::Bytes(value)) => values.push(value.map(<[u8]>::to_vec)),
            // The rows of one statement are put by one function: every row has the first one's types.
            (column, value) => debug_assert!(false, "{column:?} does not take {value:?}"),
        }
        self.at += 1;
    }
}
