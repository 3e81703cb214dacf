//! The reading statements. Each takes a bounded chunk of legs as arrays.

use super::columns::Columns;
use super::compile::rows;
use super::session::fault;
use crate::model::{ClientAnswerRow, Intent};
use crate::store::fault::Fault;
use crate::store::reads::{After, LegRow, Marked, OfLeg, Tables};
use crate::store::records::{Sink, Table, change};
use crate::store::rows::{
    ANSWER_COLUMNS, Bad, Cells, INTENT_COLUMNS, KEY_COLUMNS, LEG_COLUMNS, LEG_COLUMNS_COUNT, MARK_COLUMNS, Reader,
    VERSION_COLUMNS, Versions, client_answer, intent, marked, name_of, recovery_key, stored_leg, versions,
};
use crate::store::{ANSWERS_KEPT, BadRow};
use remeet_protocol::{Change, LegId, MeetingId, ServerId};
use sqlx::postgres::{PgArguments, PgRow, PgValueFormat};
use sqlx::{AssertSqlSafe, PgConnection, Row, ValueRef};
use uuid::Uuid;

/// A cell as the server sent it, which is in binary for every statement with parameters; `None` is NULL. Not by way of
/// sqlx's conversions, which look at the column's type each time: the types are the schema's.
fn cell(row: &PgRow, at: usize) -> Result<Option<&[u8]>, Bad> {
    let raw = row.try_get_raw(at).map_err(|error| error.to_string())?;
    match raw.format() {
        _ if raw.is_null() => Ok(None),
        PgValueFormat::Binary => raw.as_bytes().map(Some).map_err(|error| error.to_string()),
        PgValueFormat::Text => Err(format!("column {at} is sent as text")),
    }
}

/// Of a fixed width.
fn fixed<const N: usize>(at: usize, bytes: &[u8]) -> Result<[u8; N], Bad> {
    bytes.try_into().map_err(|_| format!("column {at} has {} bytes, not {N}", bytes.len()))
}

impl Cells for PgRow {
    fn int(&self, at: usize) -> Result<i64, Bad> {
        self.int_or_null(at)?.ok_or_else(|| format!("column {at} is NULL"))
    }
    fn int_or_null(&self, at: usize) -> Result<Option<i64>, Bad> {
        let Some(bytes) = cell(self, at)? else { return Ok(None) };
        // Of any width.
        Ok(Some(match bytes.len() {
            2 => i16::from_be_bytes(fixed(at, bytes)?).into(),
            4 => i32::from_be_bytes(fixed(at, bytes)?).into(),
            _ => i64::from_be_bytes(fixed(at, bytes)?),
        }))
    }
    fn truth_or_null(&self, at: usize) -> Result<Option<bool>, Bad> {
        let Some(bytes) = cell(self, at)? else { return Ok(None) };
        fixed::<1>(at, bytes).map(|[truth]| Some(truth != 0))
    }
    fn text_or_null(&self, at: usize) -> Result<Option<&str>, Bad> {
        let Some(bytes) = cell(self, at)? else { return Ok(None) };
        std::str::from_utf8(bytes).map(Some).map_err(|error| format!("column {at}: {error}"))
    }
    fn bytes(&self, at: usize) -> Result<&[u8], Bad> {
        cell(self, at)?.ok_or_else(|| format!("column {at} is NULL"))
    }
    fn uuid_or_null(&self, at: usize) -> Result<Option<Uuid>, Bad> {
        let Some(bytes) = cell(self, at)? else { return Ok(None) };
        fixed(at, bytes).map(|bytes| Some(Uuid::from_bytes(bytes)))
    }
}

/// The rows of a statement with columns as parameters from `$1` on.
async fn fetch(connection: &mut PgConnection, sql: String, columns: &Columns) -> Result<Vec<PgRow>, Fault> {
    let mut arguments = PgArguments::default();
    columns.bind(&mut arguments).map_err(|error| Fault::Broken(error.to_string()))?;
    sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(connection).await.map_err(|error| fault(&error))
}

fn leg_row(row: &PgRow) -> LegRow {
    let key = recovery_key(row, LEG_COLUMNS_COUNT);
    stored_leg(row).map(|leg| (leg, key)).map_err(|reason| BadRow { leg: name_of(row), reason })
}

fn select_legs(from: &str) -> String {
    format!(
        "SELECT {LEG_COLUMNS}, {KEY_COLUMNS} FROM {from} \
         LEFT JOIN recovery_keys k ON k.meeting = l.meeting AND k.leg = l.leg"
    )
}

/// The named legs' columns.
fn leg_columns<'l>(legs: impl IntoIterator<Item = &'l LegId>) -> Columns {
    rows(legs, |row, leg| row.put_leg(*leg))
}

fn intent_row(row: &PgRow) -> Result<Intent, BadRow> {
    intent(row).map_err(|reason| {
        let leg = Reader::new(row).leg().map_or_else(|_| "?".to_owned(), |leg| leg.to_string());
        BadRow { leg, reason: format!("intent: {reason}") }
    })
}

fn number_columns(numbers: &[(LegId, u64)]) -> Columns {
    rows(numbers, |row, (leg, number)| {
        row.put_leg(*leg);
        row.put_ordered(*number);
    })
}

impl Tables for PgConnection {
    async fn named(&mut self, legs: &[LegId]) -> Result<Vec<LegRow>, Fault> {
        if legs.is_empty() {
            return Ok(Vec::new());
        }
        let columns = leg_columns(legs);
        let unnest = columns.unnest(1, "u", &["meeting", "leg"]);
        let sql = select_legs(&format!("{unnest} JOIN legs l ON l.meeting = u.meeting AND l.leg = u.leg"));
        Ok(fetch(self, sql, &columns).await?.iter().map(leg_row).collect())
    }

    async fn live(
        &mut self,
        server: Option<ServerId>,
        after: After,
        limit: usize,
    ) -> Result<(Vec<LegRow>, Option<After>), Fault> {
        let of_server = if server.is_some() { "l.server = $4 AND " } else { "" };
        let sql = format!(
            "{} WHERE {of_server}NOT l.ended AND (l.meeting, l.leg) > ($1, $2) ORDER BY l.meeting, l.leg LIMIT $3",
            select_legs("legs l")
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut query = sqlx::query(AssertSqlSafe(sql)).bind(after.0).bind(after.1).bind(limit);
        if let Some(server) = server {
            query = query.bind(i64::from(server.0));
        }
        let rows = query.fetch_all(&mut *self).await.map_err(|error| fault(&error))?;
        // meeting and leg are the second and third of LEG_COLUMNS, and a primary key.
        let last = rows.last().and_then(|row| Some((row.try_get(1).ok()?, row.try_get(2).ok()?)));
        Ok((rows.iter().map(leg_row).collect(), last))
    }

    async fn of_meeting(&mut self, meeting: MeetingId) -> Result<Vec<LegRow>, Fault> {
        let sql = format!("{} WHERE l.meeting = $1 ORDER BY l.leg", select_legs("legs l"));
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(meeting.0).fetch_all(&mut *self).await;
        Ok(rows.map_err(|error| fault(&error))?.iter().map(leg_row).collect())
    }

    async fn open_intents(&mut self, legs: &[LegId]) -> Result<Vec<Result<Intent, BadRow>>, Fault> {
        if legs.is_empty() {
            return Ok(Vec::new());
        }
        let columns = leg_columns(legs);
        let unnest = columns.unnest(1, "u", &["meeting", "leg"]);
        // Leg by leg, which OFFSET 0 keeps so: statistics say that hardly an intent is open, and then the planner reads
        // the whole index of open ones, with the remains of all that were done since the last vacuum.
        let sql = format!(
            "SELECT {INTENT_COLUMNS} FROM {unnest} CROSS JOIN LATERAL (SELECT * FROM intents i \
         WHERE i.meeting = u.meeting AND i.leg = u.leg AND i.code IS NULL OFFSET 0) i ORDER BY i.number"
        );
        let rows = fetch(self, sql, &columns).await?;
        Ok(rows.iter().map(intent_row).collect())
    }

    async fn numbered(&mut self, numbers: &[(LegId, u64)]) -> Result<Vec<(Intent, bool)>, Fault> {
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let columns = number_columns(numbers);
        let unnest = columns.unnest(1, "u", &["meeting", "leg", "number"]);
        let sql = format!(
            "SELECT {INTENT_COLUMNS}, i.code IS NULL FROM {unnest} \
         JOIN intents i ON i.meeting = u.meeting AND i.leg = u.leg AND i.number = u.number"
        );
        let rows = fetch(self, sql, &columns).await?;
        // One that cannot be read is not the asked one.
        Ok(rows.iter().filter_map(|row| Some((intent(row).ok()?, row.truth_or_null(7).ok()??))).collect())
    }

    async fn taken(&mut self, numbers: &[(LegId, u64)]) -> Result<Vec<(LegId, u64)>, Fault> {
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let columns = number_columns(numbers);
        let unnest = columns.unnest(1, "u", &["meeting", "leg", "number"]);
        let sql = format!(
            "SELECT u.meeting, u.leg, u.number FROM {unnest} JOIN legs l ON l.meeting = u.meeting AND l.leg = u.leg \
         LEFT JOIN intents i ON i.meeting = u.meeting AND i.leg = u.leg AND i.number = u.number \
         WHERE u.number <= l.intents_pruned OR i.number IS NOT NULL"
        );
        let rows = fetch(self, sql, &columns).await?;
        let named = |row: &PgRow| Some((Reader::new(row).leg().ok()?, u64::try_from(row.int(2).ok()?).ok()?));
        Ok(rows.iter().filter_map(named).collect())
    }

    async fn versions(&mut self, legs: &[LegId]) -> Result<Vec<Versions>, Fault> {
        if legs.is_empty() {
            return Ok(Vec::new());
        }
        let columns = leg_columns(legs);
        let unnest = columns.unnest(1, "u", &["meeting", "leg"]);
        let sql = format!(
            "SELECT {VERSION_COLUMNS} FROM {unnest} \
         JOIN legs l ON l.meeting = u.meeting AND l.leg = u.leg"
        );
        let rows = fetch(self, sql, &columns).await?;
        Ok(rows.iter().filter_map(|row| versions(row).ok()).collect())
    }

    async fn marks(&mut self, legs: &[LegId]) -> Result<Vec<Marked>, Fault> {
        let columns = leg_columns(legs);
        let unnest = columns.unnest(1, "u", &["meeting", "leg"]);
        let sql = format!(
            "SELECT {MARK_COLUMNS} FROM {unnest} \
         JOIN legs l ON l.meeting = u.meeting AND l.leg = u.leg"
        );
        let rows = fetch(self, sql, &columns).await?;
        Ok(rows.iter().filter_map(marked).collect())
    }

    async fn records(&mut self, table: Table, legs: &[LegId]) -> Result<Vec<OfLeg<Change>>, Fault> {
        let columns = leg_columns(legs);
        let unnest = columns.unnest(1, "u", &["meeting", "leg"]);
        // Leg by leg, which OFFSET 0 keeps so: of a table that was planned for while it was small the planner reads all.
        let sql = format!(
            "SELECT {} FROM {unnest} CROSS JOIN LATERAL \
             (SELECT * FROM {} x WHERE x.meeting = u.meeting AND x.leg = u.leg OFFSET 0) x",
            table.columns(),
            table.name()
        );
        let rows = fetch(self, sql, &columns).await?;
        Ok(rows.iter().filter_map(|row| change(table, row).ok()).collect())
    }

    async fn answers(&mut self, instance: u64) -> Result<Vec<ClientAnswerRow>, Fault> {
        // What is too many, or below the watermark, may not be deleted yet.
        let sql = format!(
            "SELECT {ANSWER_COLUMNS} FROM client_answers a WHERE a.instance = $1 \
             AND a.number > COALESCE((SELECT i.pruned FROM client_instances i WHERE i.instance = $1), 0) \
             ORDER BY a.number DESC LIMIT {ANSWERS_KEPT}"
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(instance.cast_signed()).fetch_all(&mut *self).await;
        let rows = rows.map_err(|error| fault(&error))?;
        rows.iter()
            .rev()
            .map(|row| client_answer(row).map_err(|reason| Fault::Broken(format!("an answer of {instance}: {reason}"))))
            .collect()
    }

    async fn pruned(&mut self, instance: u64) -> Result<u64, Fault> {
        // Or the first one that is too many.
        let sql = format!(
            "SELECT COALESCE(GREATEST((SELECT i.pruned FROM client_instances i WHERE i.instance = $1), \
             (SELECT a.number FROM client_answers a WHERE a.instance = $1 ORDER BY a.number DESC \
              OFFSET {ANSWERS_KEPT} LIMIT 1)), 0)"
        );
        let pruned = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).bind(instance.cast_signed());
        let pruned = pruned.fetch_one(&mut *self).await.map_err(|error| fault(&error))?;
        Ok(u64::try_from(pruned).unwrap_or(0))
    }

    async fn roster(&mut self, meeting: MeetingId, terminal: &str) -> Result<Vec<LegId>, Fault> {
        let legs = sqlx::query_scalar::<_, i32>(
            "SELECT leg FROM terminals WHERE meeting = $1 AND leg BETWEEN 0 AND 65535 AND number = $2 ORDER BY leg",
        )
        .bind(meeting.0)
        .bind(terminal)
        .fetch_all(&mut *self)
        .await
        .map_err(|error| fault(&error))?;
        Ok(legs.into_iter().filter_map(|leg| Some(LegId { meeting, leg: u16::try_from(leg).ok()? })).collect())
    }

    async fn open_of_instance(&mut self, instance: u64) -> Result<Vec<(u64, LegId, u64)>, Fault> {
        let sql = format!(
            "SELECT {INTENT_COLUMNS} FROM intents i \
         WHERE i.instance = $1 AND i.instance IS NOT NULL AND i.code IS NULL ORDER BY i.command_number"
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(instance.cast_signed()).fetch_all(&mut *self).await;
        let rows = rows.map_err(|error| fault(&error))?;
        let open = rows.iter().filter_map(|row| intent(row).ok());
        Ok(open.filter_map(|intent| Some((intent.command?.number, intent.leg, intent.number))).collect())
    }
}
