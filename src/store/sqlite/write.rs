//! Writing units one after the other, many in one transaction under the write lock.

use super::SqliteStore;
use super::arguments::{Parameters, Sql, execute};
use super::session::{Kind, fault};
use super::statements as sql;
use crate::store::fault::Fault;
use crate::store::judge::{applied, ordered_writes, unsound};
use crate::store::records::{KeyRef, Sink, Table, Value, put_record};
use crate::store::rows::{Cells, Reader};
use crate::store::values::{put_answer, put_done, put_intent, put_key, put_new_leg, put_state};
use crate::store::{ContentWrite, Outcome, StateWrite, StoreError, Unit, Write};
use remeet_protocol::record::{EntryKey, Number, RecordKey, RecordState};
use remeet_protocol::{LegId, Token};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Executor, SqliteConnection};
use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use tokio::time::Instant;

/// Time-outs in a row after which a call gives up: by then a batch of 2,000 has shrunk to 31 units, so what is slow is
/// not the batch.
const SLOW_MAX: u32 = 6;
const DOING: &str = "writing units";

impl SqliteStore {
    pub(super) async fn write_units(&self, token: Token, units: &[Unit]) -> Result<Vec<Outcome>, StoreError> {
        let deadline = Instant::now() + self.sessions.options().call_deadline;
        let units: Arc<[Unit]> = units.into();
        let mut queue = self.batches(&units);
        let mut outcomes = Vec::with_capacity(units.len());
        let mut slow = 0;
        while let Some(batch) = queue.pop_front() {
            let these = Arc::clone(&units);
            let range = batch.clone();
            let written = if Instant::now() < deadline {
                let write = self.sessions.transaction(Kind::Write, move |connection| {
                    Box::pin(async move { write_batch(connection, token, &these[range]).await })
                });
                write.await
            } else {
                Err(Fault::Down(format!("not all is written after {:?}", self.sessions.options().call_deadline)))
            };
            match written {
                Ok(more) => {
                    outcomes.extend(more);
                    slow = 0;
                }
                Err(Fault::Slow(_)) if batch.len() > 1 && slow < SLOW_MAX => {
                    slow += 1;
                    let middle = batch.start + batch.len() / 2;
                    queue.push_front(middle..batch.end);
                    queue.push_front(batch.start..middle);
                }
                Err(fault) => {
                    return Err(match fault.told(DOING, token) {
                        // Part of the units stands: nobody may conclude that none does.
                        StoreError::Unavailable { doing, reason } | StoreError::Broken { doing, reason }
                            if !outcomes.is_empty() =>
                        {
                            StoreError::Unknown { doing, reason }
                        }
                        error => error,
                    });
                }
            }
        }
        Ok(outcomes)
    }

    fn batches(&self, units: &[Unit]) -> VecDeque<Range<usize>> {
        let options = self.sessions.options();
        let mut queue: VecDeque<Range<usize>> = VecDeque::new();
        let mut records = 0;
        for (at, unit) in units.iter().enumerate() {
            let size = |write: &Write| if let Write::Content(content) = write { content.changes.len() } else { 1 };
            let more: usize = unit.writes.iter().map(size).sum();
            records += more;
            match queue.back_mut() {
                Some(batch) if batch.len() < options.batch_units && records <= options.batch_records => batch.end += 1,
                _ => {
                    records = more;
                    queue.push_back(at..at + 1);
                }
            }
        }
        queue
    }
}

/// Answers [`Fault::Fenced`] unless `token` is the standing term's. Nobody can begin another before the
/// transaction ends: it holds the write lock.
pub(super) async fn check_term(connection: &mut SqliteConnection, token: Token) -> Result<(), Fault> {
    let standing = sqlx::query("SELECT 1 FROM term WHERE epoch = ?1 AND holder = ?2")
        .bind(token.epoch.0.cast_signed())
        .bind(token.holder.to_string())
        .fetch_optional(connection)
        .await
        .map_err(|error| fault(&error))?;
    standing.map(drop).ok_or(Fault::Fenced)
}

async fn write_batch(connection: &mut SqliteConnection, token: Token, units: &[Unit]) -> Result<Vec<Outcome>, Fault> {
    check_term(connection, token).await?;
    let mut outcomes = Vec::with_capacity(units.len());
    for unit in units {
        if let Some(reason) = unsound(unit, token) {
            tracing::error!(leg = ?unit.leg(), reason, "a unit cannot be written and is refused");
            outcomes.push(Outcome::Lost { version: 0 });
            continue;
        }
        // A single write decides before it writes anything; several need a point to go back to.
        let several = unit.writes.len() > 1;
        if several {
            run(connection, "SAVEPOINT unit").await?;
        }
        let fits = write_unit(connection, unit).await?;
        if several {
            if !fits {
                run(connection, "ROLLBACK TO unit").await?;
            }
            run(connection, "RELEASE unit").await?;
        }
        outcomes.push(match unit.leg() {
            _ if fits => applied(unit),
            Some(leg) => Outcome::Lost { version: version(connection, leg).await?.unwrap_or(0) },
            None => Outcome::Lost { version: 0 },
        });
    }
    Ok(outcomes)
}

async fn run(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), Fault> {
    connection.execute(sql).await.map(drop).map_err(|error| fault(&error))
}

async fn version(connection: &mut SqliteConnection, leg: LegId) -> Result<Option<u64>, Fault> {
    let parameters = Parameters::of(|p| p.put_leg(leg)).into_arguments()?;
    let query = sqlx::query_scalar_with::<_, i64, _>(AssertSqlSafe(Arc::clone(&sql::LEG_VERSION)), parameters);
    let version = query.fetch_optional(connection).await.map_err(|error| fault(&error))?;
    Ok(version.and_then(|version| u64::try_from(version).ok()))
}

async fn write_unit(connection: &mut SqliteConnection, unit: &Unit) -> Result<bool, Fault> {
    for write in ordered_writes(unit) {
        let there = match (write, write.leg()) {
            (Write::NewLeg(_) | Write::State(_), _) | (_, None) => true,
            (_, Some(leg)) => version(connection, leg).await?.is_some(),
        };
        if !there || !write_one(connection, write).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Carries one write out; false if it does not fit, and then nothing of it is written.
async fn write_one(connection: &mut SqliteConnection, write: &Write) -> Result<bool, Fault> {
    match write {
        Write::NewLeg(new) => {
            let parameters = || Parameters::of(|p| put_new_leg(p, new));
            if execute(connection, &sql::NEW_LEG, parameters()).await? == 0 {
                return Ok(false);
            }
            execute(connection, &sql::NEW_MEETING, parameters()).await?;
            execute(connection, &sql::NEW_KEY, parameters()).await?;
        }
        Write::State(state) => return write_state(connection, state).await,
        Write::Content(content) => write_content(connection, content).await?,
        Write::Key(key) => {
            let parameters = || Parameters::of(|p| put_key(p, key));
            if execute(connection, &sql::KEY, parameters()).await? == 0 {
                let same = sqlx::query_with(AssertSqlSafe(Arc::clone(&sql::SAME_KEY)), parameters().into_arguments()?);
                return Ok(same.fetch_optional(connection).await.map_err(|error| fault(&error))?.is_some());
            }
        }
        Write::Intent(intent) => {
            if execute(connection, &sql::INTENT, Parameters::of(|p| put_intent(p, intent))).await? == 0 {
                return Ok(false);
            }
            let top = Parameters::of(|p| {
                p.put_leg(intent.leg);
                p.put_ordered(intent.number);
            });
            execute(connection, &sql::INTENT_TOP, top).await?;
        }
        Write::IntentDone(done) => {
            execute(connection, &sql::INTENT_DONE, Parameters::of(|p| put_done(p, done))).await?;
        }
        Write::Answer(answer) => {
            let parameters = || Parameters::of(|p| put_answer(p, answer));
            if execute(connection, &sql::ANSWER, parameters()).await? > 0 {
                execute(connection, &sql::ANSWER_INSTANCE, parameters()).await?;
                for prune in [&*sql::PRUNED, &*sql::PRUNE] {
                    let instance = Parameters::of(|p| p.put_opaque(answer.command.instance));
                    execute(connection, prune, instance).await?;
                }
            }
        }
        Write::Quarantine(leg, reason) => {
            let parameters = Parameters::of(|p| {
                p.put_leg(*leg);
                p.put(Value::Text(reason.as_deref()));
            });
            execute(connection, &sql::QUARANTINE, parameters).await?;
        }
        Write::First(leg, first) => {
            let parameters = Parameters::of(|p| {
                p.put_leg(*leg);
                p.put_truth(*first);
            });
            execute(connection, &sql::RECOVER_FIRST, parameters).await?;
        }
    }
    Ok(true)
}

async fn write_state(connection: &mut SqliteConnection, state: &StateWrite) -> Result<bool, Fault> {
    if execute(connection, &sql::STATE, Parameters::of(|p| put_state(p, state))).await? == 0 {
        return Ok(false);
    }
    if state.resets_content() {
        execute(connection, &sql::NO_MARK, Parameters::of(|p| p.put_leg(state.leg))).await?;
        for table in Table::ALL {
            execute(connection, &table.statements().reset, Parameters::of(|p| p.put_leg(state.leg))).await?;
        }
    }
    Ok(true)
}

async fn write_content(connection: &mut SqliteConnection, content: &ContentWrite) -> Result<(), Fault> {
    let leg = content.leg;
    for change in &content.changes {
        let key = KeyRef::of(&change.state);
        let of_table = key.table.statements();
        let (statement, parameters): (&Sql, _) = match &change.state {
            RecordState::Present(record) => (
                if content.full { &of_table.put_full } else { &of_table.put },
                Parameters::of(|p| put_record((content.domain, leg), change.revision, record, key, p)),
            ),
            RecordState::Removed(_) => (
                if content.full { &of_table.remove_full } else { &of_table.remove },
                removal(leg, key, change.revision),
            ),
        };
        execute(connection, statement, parameters).await?;
    }
    let Some(mark) = content.mark else { return Ok(()) };
    if content.full {
        let kept: HashSet<KeyRef<'_>> = content.changes.iter().map(|change| KeyRef::of(&change.state)).collect();
        for table in Table::ALL {
            remove_lacking(connection, table, leg, mark.revision, &kept).await?;
        }
    }
    let parameters = Parameters::of(|p| {
        p.put_leg(leg);
        p.put_ordered(mark.revision);
        p.put_u32(mark.count);
        p.put_bytes(&mark.digest.bytes());
        p.put_ordered(content.base);
        p.put_truth(content.full);
    });
    execute(connection, &sql::MARK, parameters).await.map(drop)
}

fn removal(leg: LegId, key: KeyRef<'_>, revision: u64) -> Parameters {
    Parameters::of(|p| {
        p.put_leg(leg);
        key.put(p);
        p.put_ordered(revision);
    })
}

/// Removes what is stored at or below `revision` and is not among `kept`.
async fn remove_lacking(
    connection: &mut SqliteConnection,
    table: Table,
    leg: LegId,
    revision: u64,
    kept: &HashSet<KeyRef<'_>>,
) -> Result<(), Fault> {
    let parameters = Parameters::of(|p| {
        p.put_leg(leg);
        p.put_ordered(revision);
    });
    let of_table = table.statements();
    let query = sqlx::query_with(AssertSqlSafe(Arc::clone(&of_table.keys)), parameters.into_arguments()?);
    let rows = query.fetch_all(&mut *connection).await.map_err(|error| fault(&error))?;
    for row in &rows {
        match stored_key(table, row) {
            Ok(key) if kept.contains(&KeyRef::of_key(&key)) => {}
            Ok(key) => {
                execute(connection, &of_table.remove_full, removal(leg, KeyRef::of_key(&key), revision)).await?;
            }
            Err(reason) => tracing::error!(%leg, reason, "a stored row's key cannot be read: it is left where it is"),
        }
    }
    Ok(())
}

fn stored_key(table: Table, row: &SqliteRow) -> Result<RecordKey, String> {
    let r = &mut Reader::new(row);
    Ok(match table {
        Table::Info => RecordKey::Leg,
        Table::Terminals => RecordKey::Terminal(r.text::<32>("number")?),
        Table::Windows => {
            let terminal: Number = r.text("terminal")?;
            RecordKey::Window(terminal, u8::try_from(row.int(1)?).map_err(|error| error.to_string())?)
        }
        Table::Entries => {
            let terminal: Number = r.text("terminal")?;
            let key: EntryKey = r.text("entry_key")?;
            RecordKey::Entry(terminal, key)
        }
    })
}
