//! The reading statements. Lists of legs go in as one JSON text, a row each by `json_each`.

use super::session::fault;
use crate::model::{ClientAnswerRow, Intent};
use crate::store::BadRow;
use crate::store::fault::Fault;
use crate::store::reads::{After, LegRow, Marked, OfLeg, Tables};
use crate::store::records::{Table, change};
use crate::store::rows::{
    ANSWER_COLUMNS, Bad, Cells, INTENT_COLUMNS, KEY_COLUMNS, LEG_COLUMNS, LEG_COLUMNS_COUNT, MARK_COLUMNS, Reader,
    VERSION_COLUMNS, Versions, client_answer, intent, marked, name_of, recovery_key, stored_leg, versions,
};
use remeet_protocol::{Change, LegId, MeetingId, ServerId};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, SqliteConnection};
use std::fmt::Write as _;
use uuid::Uuid;

impl Cells for SqliteRow {
    fn int(&self, at: usize) -> Result<i64, Bad> {
        self.try_get(at).map_err(|error| error.to_string())
    }
    fn int_or_null(&self, at: usize) -> Result<Option<i64>, Bad> {
        self.try_get(at).map_err(|error| error.to_string())
    }
    fn truth_or_null(&self, at: usize) -> Result<Option<bool>, Bad> {
        self.try_get(at).map_err(|error| error.to_string())
    }
    fn text_or_null(&self, at: usize) -> Result<Option<&str>, Bad> {
        self.try_get(at).map_err(|error| error.to_string())
    }
    fn bytes(&self, at: usize) -> Result<&[u8], Bad> {
        self.try_get(at).map_err(|error| error.to_string())
    }
    fn uuid_or_null(&self, at: usize) -> Result<Option<Uuid>, Bad> {
        let Some(text) = self.text_or_null(at)? else { return Ok(None) };
        Uuid::try_parse(text).map(Some).map_err(|error| format!("column {at}: {error}"))
    }
}

/// `[["meeting",leg],…]`.
fn json_legs(legs: &[LegId]) -> String {
    json(legs.iter().map(|leg| format!("[\"{}\",{}]", leg.meeting, leg.leg)))
}

/// `[["meeting",leg,number],…]`.
fn json_numbers(numbers: &[(LegId, u64)]) -> String {
    json(numbers.iter().map(|(leg, number)| format!("[\"{}\",{},{number}]", leg.meeting, leg.leg)))
}

fn json(items: impl Iterator<Item = String>) -> String {
    let mut text = String::from("[");
    for (at, item) in items.enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{}{item}", if at > 0 { "," } else { "" });
    }
    text.push(']');
    text
}

/// `table` as `alias`, joined to the legs of `?1` in this order: one look-up in its primary key each.
fn join_legs(table: &str, alias: &str) -> String {
    format!(
        "json_each(?1) j CROSS JOIN {table} {alias} ON {alias}.meeting = j.value ->> 0 AND {alias}.leg = j.value ->> 1"
    )
}

async fn fetch(connection: &mut SqliteConnection, sql: String, list: String) -> Result<Vec<SqliteRow>, Fault> {
    sqlx::query(AssertSqlSafe(sql)).bind(list).fetch_all(connection).await.map_err(|error| fault(&error))
}

fn leg_row(row: &SqliteRow) -> LegRow {
    let key = recovery_key(row, LEG_COLUMNS_COUNT);
    stored_leg(row).map(|leg| (leg, key)).map_err(|reason| BadRow { leg: name_of(row), reason })
}

fn intent_row(row: &SqliteRow) -> Result<Intent, BadRow> {
    intent(row).map_err(|reason| {
        let leg = Reader::new(row).leg().map_or_else(|_| "?".to_owned(), |leg| leg.to_string());
        BadRow { leg, reason: format!("intent: {reason}") }
    })
}

fn select_legs(from: &str) -> String {
    format!(
        "SELECT {LEG_COLUMNS}, {KEY_COLUMNS} FROM {from} \
         LEFT JOIN recovery_keys k ON k.meeting = l.meeting AND k.leg = l.leg"
    )
}

impl Tables for SqliteConnection {
    async fn named(&mut self, legs: &[LegId]) -> Result<Vec<LegRow>, Fault> {
        let sql = select_legs(&join_legs("legs", "l"));
        Ok(fetch(self, sql, json_legs(legs)).await?.iter().map(leg_row).collect())
    }

    async fn live(
        &mut self,
        server: Option<ServerId>,
        after: After,
        limit: usize,
    ) -> Result<(Vec<LegRow>, Option<After>), Fault> {
        let of_server = if server.is_some() { "l.server = ?4 AND " } else { "" };
        let sql = format!(
            "{} WHERE {of_server}NOT l.ended AND (l.meeting, l.leg) > (?1, ?2) ORDER BY l.meeting, l.leg LIMIT ?3",
            select_legs("legs l")
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut query = sqlx::query(AssertSqlSafe(sql)).bind(after.0.to_string()).bind(after.1).bind(limit);
        if let Some(server) = server {
            query = query.bind(i64::from(server.0));
        }
        let rows = query.fetch_all(self).await.map_err(|error| fault(&error))?;
        // meeting and leg are the second and third of LEG_COLUMNS.
        let place = |row: &SqliteRow| Some((row.uuid_or_null(1).ok()??, i32::try_from(row.int(2).ok()?).ok()?));
        let last = rows.iter().rev().find_map(place);
        Ok((rows.iter().map(leg_row).collect(), last))
    }

    async fn of_meeting(&mut self, meeting: MeetingId) -> Result<Vec<LegRow>, Fault> {
        let sql = format!("{} WHERE l.meeting = ?1 ORDER BY l.leg", select_legs("legs l"));
        Ok(fetch(self, sql, meeting.to_string()).await?.iter().map(leg_row).collect())
    }

    async fn open_intents(&mut self, legs: &[LegId]) -> Result<Vec<Result<Intent, BadRow>>, Fault> {
        let from = join_legs("intents", "i");
        let sql = format!("SELECT {INTENT_COLUMNS} FROM {from} AND i.code IS NULL ORDER BY i.number");
        Ok(fetch(self, sql, json_legs(legs)).await?.iter().map(intent_row).collect())
    }

    async fn taken(&mut self, numbers: &[(LegId, u64)]) -> Result<Vec<(LegId, u64)>, Fault> {
        let sql = format!(
            "SELECT l.meeting, l.leg, j.value ->> 2 FROM {} WHERE j.value ->> 2 <= l.intents_pruned OR EXISTS \
             (SELECT 1 FROM intents i WHERE i.meeting = l.meeting AND i.leg = l.leg AND i.number = j.value ->> 2)",
            join_legs("legs", "l")
        );
        let rows = fetch(self, sql, json_numbers(numbers)).await?;
        let named = |row: &SqliteRow| Some((Reader::new(row).leg().ok()?, u64::try_from(row.int(2).ok()?).ok()?));
        Ok(rows.iter().filter_map(named).collect())
    }

    async fn numbered(&mut self, numbers: &[(LegId, u64)]) -> Result<Vec<(Intent, bool)>, Fault> {
        let from = join_legs("intents", "i");
        let sql = format!("SELECT {INTENT_COLUMNS}, i.code IS NULL FROM {from} AND i.number = j.value ->> 2");
        let rows = fetch(self, sql, json_numbers(numbers)).await?;
        Ok(rows.iter().filter_map(|row| Some((intent(row).ok()?, row.int(7).ok()? != 0))).collect())
    }

    async fn versions(&mut self, legs: &[LegId]) -> Result<Vec<Versions>, Fault> {
        let sql = format!("SELECT {VERSION_COLUMNS} FROM {}", join_legs("legs", "l"));
        let rows = fetch(self, sql, json_legs(legs)).await?;
        Ok(rows.iter().filter_map(|row| versions(row).ok()).collect())
    }

    async fn marks(&mut self, legs: &[LegId]) -> Result<Vec<Marked>, Fault> {
        let sql = format!("SELECT {MARK_COLUMNS} FROM {}", join_legs("legs", "l"));
        let rows = fetch(self, sql, json_legs(legs)).await?;
        Ok(rows.iter().filter_map(marked).collect())
    }

    async fn records(&mut self, table: Table, legs: &[LegId]) -> Result<Vec<OfLeg<Change>>, Fault> {
        let sql = format!("SELECT {} FROM {}", table.columns(), join_legs(table.name(), "x"));
        let rows = fetch(self, sql, json_legs(legs)).await?;
        Ok(rows.iter().filter_map(|row| change(table, row).ok()).collect())
    }

    async fn answers(&mut self, instance: u64) -> Result<Vec<ClientAnswerRow>, Fault> {
        let sql = format!("SELECT {ANSWER_COLUMNS} FROM client_answers a WHERE a.instance = ?1 ORDER BY a.number");
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(instance.cast_signed()).fetch_all(self).await;
        let rows = rows.map_err(|error| fault(&error))?;
        rows.iter()
            .map(|row| client_answer(row).map_err(|reason| Fault::Broken(format!("an answer of {instance}: {reason}"))))
            .collect()
    }

    async fn pruned(&mut self, instance: u64) -> Result<u64, Fault> {
        let pruned = sqlx::query_scalar::<_, i64>("SELECT pruned FROM client_instances WHERE instance = ?1")
            .bind(instance.cast_signed())
            .fetch_optional(self)
            .await
            .map_err(|error| fault(&error))?;
        Ok(pruned.and_then(|pruned| u64::try_from(pruned).ok()).unwrap_or(0))
    }

    async fn roster(&mut self, meeting: MeetingId, terminal: &str) -> Result<Vec<LegId>, Fault> {
        let legs = sqlx::query_scalar::<_, i64>(
            "SELECT leg FROM terminals WHERE meeting = ?1 AND leg BETWEEN 0 AND 65535 AND number = ?2 ORDER BY leg",
        )
        .bind(meeting.to_string())
        .bind(terminal)
        .fetch_all(self)
        .await
        .map_err(|error| fault(&error))?;
        Ok(legs.into_iter().filter_map(|leg| Some(LegId { meeting, leg: u16::try_from(leg).ok()? })).collect())
    }

    async fn open_of_instance(&mut self, instance: u64) -> Result<Vec<(u64, LegId, u64)>, Fault> {
        let sql = format!(
            "SELECT {INTENT_COLUMNS} FROM intents i \
             WHERE i.instance = ?1 AND i.instance IS NOT NULL AND i.code IS NULL ORDER BY i.command_number"
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(instance.cast_signed()).fetch_all(self).await;
        let rows = rows.map_err(|error| fault(&error))?;
        let open = rows.iter().filter_map(|row| intent(row).ok());
        Ok(open.filter_map(|intent| Some((intent.command?.number, intent.leg, intent.number))).collect())
    }
}
