//! The rows of a recovery, read and written by plain bulk statements on the project's tables.

use super::Load;
use crate::stage::StageError;
use crate::stage::reader::sql::Place;
use remeet_protocol::LegId;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row, query};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

/// Rows of one statement; of one transaction in SQLite all of them.
const ROWS: usize = 5_000;

const READ: &str = "SELECT l.meeting, l.leg, l.server, l.state, l.cause, l.epoch, l.boot, l.handle, l.table_revision, \
    l.mark_revision, l.mark_count, l.mark_digest, l.intent, l.recover_first, l.quarantine, l.version, k.generation, \
    k.number, k.title, k.secret FROM legs l JOIN recovery_keys k USING (meeting, leg) WHERE l.server = $1 AND NOT l.ended";

pub(super) struct Plain {
    servers: Vec<i64>,
    legs: Vec<Uuid>,
    /// Terminals whose rows stand for all content that changed.
    content: Vec<(Uuid, String)>,
    changed: usize,
    at: At,
}

enum At {
    Sqlite { read: SqliteConnection, write: SqliteConnection },
    Postgres { read: PgConnection, writes: [PgConnection; 2] },
}

fn wrong(error: sqlx::Error) -> StageError {
    StageError::new(format!("the floor's statements: {error}"))
}

impl Plain {
    pub(super) async fn open(load: &Load, place: &Place) -> Result<Self, StageError> {
        let legs: Vec<Uuid> = load.all().into_iter().map(|LegId { meeting, .. }| meeting.0).collect();
        let limit = i64::try_from(load.changes).unwrap_or(i64::MAX);
        let terminals = "SELECT meeting, number FROM terminals ORDER BY meeting, number LIMIT $1";
        let (mut content, at): (Vec<(Uuid, String)>, At) = match place {
            Place::Sqlite(_) => {
                let (mut read, write) = (place.sqlite().await?, place.sqlite().await?);
                let rows = query(terminals).bind(limit).fetch_all(&mut read).await.map_err(wrong)?;
                let content =
                    rows.iter().map(|row| Ok((row.try_get::<Hyphenated, _>(0)?.into_uuid(), row.try_get(1)?)));
                let content = content.collect::<Result<_, _>>();
                (content.map_err(wrong)?, At::Sqlite { read, write })
            }
            Place::Postgres(_) => {
                let (mut read, first, second) =
                    (place.postgres().await?, place.postgres().await?, place.postgres().await?);
                let rows = query(terminals).bind(limit).fetch_all(&mut read).await.map_err(wrong)?;
                let content = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>();
                (content.map_err(wrong)?, At::Postgres { read, writes: [first, second] })
            }
        };
        // As a recovery writes them: leg by leg.
        content.sort_unstable();
        // Where more changed than there are terminals, some are written twice; by another statement.
        let more = load.changes.saturating_sub(content.len()).min(content.len());
        content.extend_from_within(..more);
        let servers = load.legs.iter().map(|(server, _)| i64::from(server.0)).collect();
        Ok(Self { servers, legs, content, changed: load.changed, at })
    }

    pub(super) async fn work(self) -> Result<(), StageError> {
        let Self { servers, legs, content, changed, at } = self;
        match at {
            At::Sqlite { mut read, mut write } => {
                let reading = async {
                    for server in servers {
                        drop(query(READ).bind(server).fetch_all(&mut read).await.map_err(wrong)?);
                    }
                    Ok(())
                };
                tokio::try_join!(reading, in_sqlite(&mut write, &legs, &content, changed)).map(drop)
            }
            At::Postgres { mut read, writes: [mut first, mut second] } => {
                let reading = async {
                    for server in servers {
                        drop(query(READ).bind(server).fetch_all(&mut read).await.map_err(wrong)?);
                    }
                    Ok(())
                };
                // The legs that changed are all of one connection's: neither waits for the other's rows.
                let (one, other) = legs.split_at(legs.len() / 2);
                let (mine, rest) = content.split_at(content.len() / 2);
                let (early, late) = (changed.min(one.len()), changed - changed.min(one.len()));
                tokio::try_join!(
                    reading,
                    in_postgres(&mut first, one, mine, early),
                    in_postgres(&mut second, other, rest, late)
                )
                .map(drop)
            }
        }
    }
}

async fn in_sqlite(
    connection: &mut SqliteConnection,
    legs: &[Uuid],
    content: &[(Uuid, String)],
    changed: usize,
) -> Result<(), StageError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(wrong)?;
    for leg in legs {
        let sql = "UPDATE legs SET epoch = epoch + 1, version = version + 1, state_version = version + 1, \
            table_revision = 1 WHERE meeting = ?1 AND leg = 0";
        query(sql).bind(leg.hyphenated()).execute(&mut *transaction).await.map_err(wrong)?;
    }
    for (meeting, number) in content {
        let sql = "UPDATE terminals SET revision = revision + 1, business_since_ms = 1 \
            WHERE meeting = ?1 AND leg = 0 AND number = ?2";
        query(sql).bind(meeting.hyphenated()).bind(number).execute(&mut *transaction).await.map_err(wrong)?;
    }
    for leg in &legs[..changed] {
        let sql = "UPDATE legs SET mark_revision = mark_revision + 1, info_mark = mark_revision + 1, \
            business_mark = mark_revision + 1, decode_mark = mark_revision + 1, extra_mark = mark_revision + 1 \
            WHERE meeting = ?1 AND leg = 0";
        query(sql).bind(leg.hyphenated()).execute(&mut *transaction).await.map_err(wrong)?;
    }
    transaction.commit().await.map_err(wrong)
}

async fn in_postgres(
    connection: &mut PgConnection,
    legs: &[Uuid],
    content: &[(Uuid, String)],
    changed: usize,
) -> Result<(), StageError> {
    for legs in legs.chunks(ROWS) {
        let sql = "UPDATE legs l SET epoch = l.epoch + 1, version = l.version + 1, state_version = l.version + 1, \
            table_revision = 1 FROM unnest($1::uuid[]) u (meeting) WHERE l.meeting = u.meeting AND l.leg = 0";
        query(sql).bind(legs).execute(&mut *connection).await.map_err(wrong)?;
    }
    for rows in content.chunks(ROWS) {
        let sql = "UPDATE terminals t SET revision = t.revision + 1, business_since_ms = 1 \
            FROM unnest($1::uuid[], $2::text[]) u (meeting, number) \
            WHERE t.meeting = u.meeting AND t.leg = 0 AND t.number = u.number";
        let meetings: Vec<Uuid> = rows.iter().map(|(meeting, _)| *meeting).collect();
        let numbers: Vec<&str> = rows.iter().map(|(_, number)| number.as_str()).collect();
        query(sql).bind(&meetings).bind(&numbers).execute(&mut *connection).await.map_err(wrong)?;
    }
    for legs in legs[..changed].chunks(ROWS) {
        let sql = "UPDATE legs l SET mark_revision = l.mark_revision + 1, info_mark = l.mark_revision + 1, \
            business_mark = l.mark_revision + 1, decode_mark = l.mark_revision + 1, extra_mark = l.mark_revision + 1 \
            FROM unnest($1::uuid[]) u (meeting) WHERE l.meeting = u.meeting AND l.leg = 0";
        query(sql).bind(legs).execute(&mut *connection).await.map_err(wrong)?;
    }
    Ok(())
}
