//! The measured traps of Postgres and its driver (parts.md 1, 2, 7, 12, 13; pitfalls.md, sqlx), one by one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::store_fixture::{
    Fixture, Kind, accepted, begin, candidate, content, leg_id, mark_of, new_leg, present, state, takeover, terminal,
    window,
};
use crate::store_intents::{done, intent};
use crate::store_proxy::{NextCommit, Proxy};
use remeet::model::StoredState::{Ending, InMeeting};
use remeet::store::{Begun, Outcome, Store, StoreError, StoreOptions, Unit, Write, open};
use remeet_protocol::Token;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Short enough for a test, long enough for a busy machine.
pub(crate) fn options() -> StoreOptions {
    StoreOptions {
        read_deadline: Duration::from_millis(1500),
        write_deadline: Duration::from_millis(1500),
        ..StoreOptions::default()
    }
}

/// A second store on the fixture's database, through a proxy, in a term of its own.
pub(crate) async fn proxied(f: &Fixture, options: &StoreOptions) -> (Proxy, Arc<dyn Store>, Token) {
    let proxy = Proxy::before(&f.url).await;
    let store = open(&proxy.url, options).unwrap();
    let token = begin(&*store, "node").await;
    (proxy, store, token)
}

async fn raw(f: &Fixture) -> PgConnection {
    PgConnection::connect(&f.url).await.unwrap()
}

async fn run(connection: &mut PgConnection, sql: &str) {
    connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}

/// Waits until a count is as wanted.
async fn until(f: &Fixture, sql: &str, wanted: impl Fn(i64) -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let count = f.number(sql).await;
        if wanted(count) {
            return;
        }
        assert!(Instant::now() < end, "{sql}: still {count}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn of_holder(token: Token, more: &str) -> String {
    format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'remeet/{}' {more}", token.holder)
}

/// A trigger before each update of a leg, that runs `body` for the nth leg.
pub(crate) async fn trigger(f: &Fixture, n: u32, body: &str) {
    let meeting = leg_id(n).meeting;
    f.sql(&format!(
        "CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF NEW.meeting = '{meeting}' THEN {body}; END IF; RETURN NEW; END $$"
    ))
    .await;
    f.sql("CREATE TRIGGER trap BEFORE UPDATE ON legs FOR EACH ROW EXECUTE FUNCTION trap()").await;
}

pub(crate) async fn legs(f: &Fixture, count: u32) {
    let outcomes = f.write((0..count).map(|n| Unit::one(Write::NewLeg(Box::new(new_leg(n, InMeeting))))).collect());
    assert!(outcomes.await.iter().all(|outcome| *outcome == Outcome::Applied { version: 1 }));
}

pub(crate) fn ending(range: std::ops::Range<u32>) -> Vec<Unit> {
    range.map(|n| Unit::one(state(leg_id(n), 1, InMeeting, Ending))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_1_after_a_time_out_on_a_silent_server_the_next_call_works_at_once() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    f.leg(1).await;
    let one = StoreOptions { read_connections: 1, write_connections: 1, ..options() };
    let (proxy, store, token) = proxied(&f, &one).await;
    let (named, writes) = ([leg_id(1)], [Unit::one(Write::First(leg_id(1), true))]);
    let works_at_once = async || {
        let begun = Instant::now();
        assert_eq!(store.legs(&named).await.unwrap().found.len(), 1);
        store.write(token, &writes).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "worked after {:?}", begun.elapsed());
    };
    works_at_once().await;
    // Silent in the middle of a statement.
    let mut locker = raw(&f).await;
    run(&mut locker, "BEGIN; LOCK TABLE legs IN ACCESS EXCLUSIVE MODE").await;
    let begun = Instant::now();
    let (read, written, ()) = tokio::join!(store.legs(&named), store.write(token, &writes), async {
        until(&f, &of_holder(token, "AND wait_event_type = 'Lock'"), |count| count == 2).await;
        proxy.freeze_connections();
    });
    assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
    assert!(matches!(written, Err(StoreError::Unavailable { .. })), "{written:?}");
    assert!(begun.elapsed() < Duration::from_secs(4), "answered after {:?}", begun.elapsed());
    run(&mut locker, "ROLLBACK").await;
    works_at_once().await;
    // Silent while idle, or while the pool pings what has just come back: a call may meet a new connection.
    for _ in 0..3 {
        proxy.freeze_connections();
        let begun = Instant::now();
        let (read, written) = tokio::join!(store.legs(&named), store.write(token, &writes));
        assert!(matches!(read, Ok(_) | Err(StoreError::Unavailable { .. })), "{read:?}");
        assert!(matches!(written, Ok(_) | Err(StoreError::Unavailable { .. })), "{written:?}");
        assert!(begun.elapsed() < Duration::from_secs(4), "answered after {:?}", begun.elapsed());
        works_at_once().await;
    }
    store.close().await;
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_2_a_blocked_statement_ends_on_the_server_and_frees_its_slot() {
    let Some(f) = Fixture::with(Kind::Postgres, &StoreOptions { write_connections: 1, ..options() }).await else {
        return;
    };
    f.leg(1).await;
    let mut locker = raw(&f).await;
    run(&mut locker, "BEGIN; LOCK TABLE legs IN ACCESS EXCLUSIVE MODE").await;
    let begun = Instant::now();
    let answer = f.store.write(f.token, &ending(1..2)).await;
    assert!(matches!(answer, Err(StoreError::Unavailable { .. })), "{answer:?}");
    assert!(begun.elapsed() < Duration::from_secs(3));
    until(&f, &of_holder(f.token, "AND state = 'active'"), |count| count == 0).await;
    run(&mut locker, "ROLLBACK").await;
    assert_eq!(f.write(ending(1..2)).await, [Outcome::Applied { version: 2 }]);
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_2_a_session_that_falls_silent_inside_a_transaction_is_ended_by_the_server() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    legs(&f, 3).await;
    let (proxy, store, token) = proxied(&f, &options()).await;
    proxy.next_commit(NextCommit::IsLost);
    let answer = store.write(token, &ending(1..2)).await;
    assert!(matches!(answer, Err(StoreError::Unknown { .. })), "{answer:?}");
    // The proxy keeps the connection open; only idle_in_transaction_session_timeout ends its transaction.
    until(&f, &of_holder(token, "AND state LIKE 'idle in transaction%'"), |count| count == 0).await;
    store.close().await;
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_4_a_thousand_rows_are_one_statement_a_kind() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    f.sql("CREATE TABLE seen (what text)").await;
    f.sql("CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES (TG_TABLE_NAME); RETURN NULL; END $$").await;
    for table in ["legs", "recovery_keys", "terminals"] {
        f.sql(&format!(
            "CREATE TRIGGER seen AFTER INSERT OR UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION seen()"
        ))
        .await;
    }
    // An INSERT … ON CONFLICT DO UPDATE counts as both.
    let statements = async |table: &str| f.number(&format!("SELECT count(*) FROM seen WHERE what = '{table}'")).await;
    legs(&f, 1000).await;
    assert_eq!((statements("legs").await, statements("recovery_keys").await), (1, 1));
    f.sql("TRUNCATE seen").await;
    let units = (0..1000).map(|n| {
        let changes = vec![present(1, terminal("1", "a")), present(2, terminal("2", "b"))];
        let mark = Some(mark_of(2, &changes));
        let writes =
            vec![takeover(leg_id(n), 1, accepted(f.token, 1, false)), content(leg_id(n), changes, mark, false)];
        Unit { writes }
    });
    f.write(units.collect()).await;
    assert_eq!((statements("legs").await, statements("terminals").await), (2, 2));
    assert_eq!(f.number("SELECT count(*) FROM terminals").await, 2000);
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_call_leaves_no_open_transaction() {
    let Some(f) = Fixture::with(Kind::Postgres, &StoreOptions { write_connections: 1, ..options() }).await else {
        return;
    };
    legs(&f, 2).await;
    let mut locker = raw(&f).await;
    run(&mut locker, "BEGIN; LOCK TABLE legs IN SHARE MODE").await;
    let units = ending(0..1);
    let waiting = of_holder(f.token, "AND wait_event_type = 'Lock'");
    tokio::select! {
        answer = f.store.write(f.token, &units) => panic!("not blocked: {answer:?}"),
        () = until(&f, &waiting, |count| count == 1) => {}
    }
    run(&mut locker, "ROLLBACK").await;
    // The one connection is usable again, and what was dropped went to its end by itself.
    assert_eq!(f.write(ending(1..2)).await, [Outcome::Applied { version: 2 }]);
    assert_eq!(f.row(leg_id(0)).await.state, Ending);
    assert_eq!(f.number(&of_holder(f.token, "AND state LIKE 'idle in transaction%'")).await, 0);
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_7_a_frozen_writer_does_not_stop_the_next_term() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    let mut frozen = raw(&f).await;
    run(&mut frozen, &format!("SET application_name = 'remeet/{}'", f.token.holder)).await;
    run(&mut frozen, "BEGIN; SELECT 1 FROM term FOR SHARE").await;
    // The lease is a row of its own: it is renewed all the same, and while it stands nobody is disturbed.
    f.store.renew(f.token, Duration::from_secs(60)).await.unwrap();
    let other = open(&f.url, &options()).unwrap();
    let begun = Instant::now();
    assert!(matches!(other.begin_term(candidate("other")).await.unwrap(), Begun::Held(_)));
    assert!(begun.elapsed() < Duration::from_secs(1), "took {:?}", begun.elapsed());
    run(&mut frozen, "SELECT 1").await;
    // It runs out: the frozen writer does not outlive it.
    f.sql("UPDATE lease SET expires_at = now()").await;
    let begun = Instant::now();
    let token = begin(&*other, "other").await;
    assert_eq!(token.epoch.0, f.token.epoch.0 + 1);
    assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
    assert!(frozen.execute("SELECT 1").await.is_err(), "the frozen session was ended");
    other.close().await;
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_7_and_rule_4_a_write_that_waits_for_a_change_of_term_is_fenced() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    legs(&f, 2).await;
    let mut other = raw(&f).await;
    run(&mut other, "BEGIN; UPDATE term SET epoch = epoch + 1, holder = gen_random_uuid()").await;
    let (store, token) = (Arc::clone(&f.store), f.token);
    let write = tokio::spawn(async move { store.write(token, &ending(0..2)).await });
    until(&f, &of_holder(f.token, "AND wait_event_type = 'Lock'"), |count| count == 1).await;
    run(&mut other, "COMMIT").await;
    let answer = write.await.unwrap();
    assert!(matches!(answer, Err(StoreError::Fenced { .. })), "{answer:?}");
    assert_eq!(f.row(leg_id(0)).await.version, 1);
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_12_writing_sessions_plan_generically_and_carry_name_and_time_outs() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    f.leg(1).await;
    f.sql("CREATE TABLE seen (what text)").await;
    trigger(
        &f,
        1,
        "INSERT INTO seen SELECT concat_ws(' ', current_setting('plan_cache_mode'), \
         current_setting('application_name'), current_setting('statement_timeout'), \
         current_setting('idle_in_transaction_session_timeout'))",
    )
    .await;
    f.write(ending(1..2)).await;
    let expected = format!("force_generic_plan remeet/{} 1s 2s", f.token.holder);
    assert_eq!(f.text("SELECT what FROM seen").await, expected);
    f.end().await;
}

/// A plan for an empty table reads all of it, once for each batch or even for each leg; 7 s a look-up were seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_12_plans_that_were_made_while_a_table_was_empty_do_not_read_all_of_it_once_it_has_grown() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    let (each, rounds) = (100, 40);
    legs(&f, each).await;
    f.sql("VACUUM (ANALYZE) intents").await;
    let all: Vec<_> = (0..each).map(leg_id).collect();
    for number in 1..=rounds {
        let intents = all.iter().map(|leg| Unit::one(Write::Intent(Box::new(intent(*leg, number, None)))));
        f.write(intents.collect()).await;
        assert_eq!(f.store.legs(&all).await.unwrap().found.len(), all.len());
        f.write(all.iter().map(|leg| Unit::one(Write::IntentDone(done(*leg, number)))).collect()).await;
    }
    let written = i64::from(each) * i64::try_from(rounds).unwrap();
    let of_intents = "FROM pg_stat_user_tables WHERE relname = 'intents'";
    until(&f, &format!("SELECT n_tup_upd {of_intents}"), |count| count >= written).await;
    let read = f.number(&format!("SELECT seq_tup_read + idx_tup_fetch {of_intents}")).await;
    // Open ones are found beside the leg's done ones: half of the rounds on average. All of the table for each batch of
    // results would be as much again.
    let most = written * i64::try_from(rounds).unwrap() * 3 / 4;
    assert!(read < most, "{read} rows were read for {written} that were written");
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_13_takeovers_are_hot_updates() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    legs(&f, 1000).await;
    let units = (0..1000).map(|n| Unit::one(takeover(leg_id(n), 1, accepted(f.token, 1, false)))).collect();
    f.write(units).await;
    until(&f, "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'legs'", |count| count >= 1000).await;
    let hot = f.number("SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'legs'").await;
    assert!(hot >= 900, "{hot} of 1000 updates were HOT");
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_server_is_unavailable_and_used_again_once_it_writes() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    legs(&f, 1).await;
    let database = f.text("SELECT current_database()::text").await;
    let (proxy, store, token) = proxied(&f, &options()).await;
    f.sql(&format!("ALTER DATABASE {database} SET default_transaction_read_only = on")).await;
    for _ in 0..2 {
        // New sessions are read-only; the old one is given up by the freeze.
        proxy.freeze_connections();
        let _ = store.write(token, &ending(0..1)).await;
        let answer = store.write(token, &ending(0..1)).await;
        assert!(
            matches!(&answer, Err(StoreError::Unavailable { reason, .. }) if reason.contains("25006")),
            "{answer:?}"
        );
    }
    let mut admin = raw(&f).await;
    run(&mut admin, "SET default_transaction_read_only = off").await;
    run(&mut admin, &format!("ALTER DATABASE {database} RESET ALL")).await;
    assert_eq!(store.write(token, &ending(0..1)).await.unwrap(), [Outcome::Applied { version: 2 }]);
    store.close().await;
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_ended_by_the_server_are_replaced_unnoticed() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    legs(&f, 2).await;
    f.row(leg_id(0)).await;
    // The function stands behind the name: a condition may be evaluated in any order.
    let name = format!("remeet/{}", f.token.holder);
    let terminate = format!(
        "SELECT count(pg_terminate_backend(pid, 1000)) FROM pg_stat_activity WHERE application_name = '{name}'"
    );
    assert!(f.number(&terminate).await >= 2);
    assert_eq!(f.write(ending(0..1)).await, [Outcome::Applied { version: 2 }]);
    assert_eq!(f.row(leg_id(0)).await.version, 2);
    // In the middle of a statement: certainly not done.
    let mut locker = raw(&f).await;
    run(&mut locker, "BEGIN; LOCK TABLE legs IN SHARE MODE").await;
    let (store, token) = (Arc::clone(&f.store), f.token);
    let write = tokio::spawn(async move { store.write(token, &ending(1..2)).await });
    until(&f, &of_holder(f.token, "AND wait_event_type = 'Lock'"), |count| count == 1).await;
    f.number(&terminate).await;
    let answer = write.await.unwrap();
    assert!(matches!(&answer, Err(StoreError::Unavailable { reason, .. }) if reason.contains("57P01")), "{answer:?}");
    run(&mut locker, "ROLLBACK").await;
    assert_eq!(f.row(leg_id(1)).await.version, 1);
    f.end().await;
}

/// Connections that wait for the next transaction are the pool's: who has none must not wait for it while one is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_calls_than_connections_take_turns_and_open_no_more() {
    let Some(f) = Fixture::with(Kind::Postgres, &StoreOptions { read_connections: 2, ..options() }).await else {
        return;
    };
    legs(&f, 1).await;
    let readers = (0..16).map(|_| {
        let store = Arc::clone(&f.store);
        tokio::spawn(async move {
            for _ in 0..20 {
                store.legs(&[leg_id(0)]).await.unwrap();
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
    let open = f.number(&of_holder(f.token, "")).await;
    assert!(open <= 2 + i64::from(options().write_connections), "{open} are open");
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cached_plan_that_no_longer_fits_is_replaced_unnoticed() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    let leg = f.leg(1).await;
    f.one(content(leg, vec![present(1, window("1", 1, 7))], None, false)).await;
    // On every reading connection.
    futures_util::future::join_all((0..6).map(|_| f.content(leg))).await;
    f.sql("ALTER TABLE windows ALTER COLUMN errors TYPE integer").await;
    for _ in 0..6 {
        assert_eq!(f.content(leg).await.1, [present(1, window("1", 1, 7))]);
    }
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_down_at_start_is_waited_out() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    f.leg(1).await;
    let proxy = Proxy::before(&f.url).await;
    proxy.refuse(true);
    let store = open(&proxy.url, &options()).unwrap();
    let begun = Instant::now();
    assert!(matches!(store.migrate().await, Err(StoreError::Unavailable { .. })));
    assert!(matches!(store.standing().await, Err(StoreError::Unavailable { .. })));
    let begin = store.begin_term(candidate("node")).await;
    assert!(matches!(begin, Err(StoreError::Unavailable { .. })), "{begin:?}");
    assert!(matches!(store.legs(&[leg_id(1)]).await, Err(StoreError::Unavailable { .. })));
    assert!(begun.elapsed() < Duration::from_secs(20));
    proxy.refuse(false);
    store.migrate().await.unwrap();
    assert_eq!(store.legs(&[leg_id(1)]).await.unwrap().found.len(), 1);
    store.close().await;
    let nowhere = open("postgres://nobody@127.0.0.1:1/none", &options()).unwrap();
    assert!(matches!(nowhere.standing().await, Err(StoreError::Unavailable { .. })));
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_was_never_migrated_is_broken_not_unavailable() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    f.sql("DROP TABLE term").await;
    let answer = f.store.standing().await;
    assert!(matches!(&answer, Err(StoreError::Broken { reason, .. }) if reason.contains("migrate")), "{answer:?}");
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pruning_done_intents_waits_for_no_leg_that_is_being_written() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    legs(&f, 2).await;
    for n in 0..2 {
        let (intent, done) =
            (crate::store_intents::intent(leg_id(n), 1, None), crate::store_intents::done(leg_id(n), 1));
        f.write(vec![Unit { writes: vec![Write::Intent(Box::new(intent)), Write::IntentDone(done)] }]).await;
    }
    f.sql("UPDATE intents SET done_at_ms = NULL").await;
    let mut writer = raw(&f).await;
    run(&mut writer, &format!("BEGIN; UPDATE legs SET version = 9 WHERE meeting = '{}'", leg_id(0).meeting)).await;
    let hour = Duration::from_secs(3600);
    assert_eq!(f.store.prune_answers(f.token, hour, 10).await.unwrap(), 1, "the other leg's");
    run(&mut writer, "ROLLBACK").await;
    assert_eq!(f.store.prune_answers(f.token, hour, 10).await.unwrap(), 1);
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_different_legs_do_not_wait_for_each_others_client_instance() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    let now = u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let answers = |numbers: std::ops::Range<u64>| {
        numbers.map(|number| Unit::one(Write::Answer(crate::store_intents::answer(1, number, now + number)))).collect()
    };
    f.write(answers(1..10)).await;
    let mut other = raw(&f).await;
    run(&mut other, "BEGIN; UPDATE client_instances SET pruned = pruned").await;
    // So old that its time of use is due, and more answers than are kept: both are left to who holds the row.
    f.write(answers(100_000..100_400)).await;
    let kept = f.store.instance(1).await.unwrap();
    assert_eq!((kept.answers.len(), kept.pruned), (256, 100_143), "what is too many is not read");
    assert_eq!(kept.answers[0].command.number, 100_144);
    assert_eq!(f.number("SELECT count(*) FROM client_answers").await, 409);
    run(&mut other, "COMMIT").await;
    f.write(answers(200_000..200_200)).await;
    assert_eq!(f.number("SELECT count(*) FROM client_answers").await, 256);
    let used = f.number("SELECT last_at_ms FROM client_instances").await;
    assert_eq!(used, i64::try_from(now + 200_199).unwrap());
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_come_singly_are_pruned_now_and_then_and_never_read_beyond_256() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    f.write((1..=300).map(|n| Unit::one(Write::Answer(crate::store_intents::answer(1, n, 1)))).collect()).await;
    // At one in sixteen, 300 without one are one in 200 million.
    for number in 301..=600 {
        f.one(Write::Answer(crate::store_intents::answer(1, number, 1))).await;
        let kept = f.store.instance(1).await.unwrap();
        assert_eq!((kept.answers.len(), kept.pruned), (256, number - 256));
    }
    let stored = f.number("SELECT count(*) FROM client_answers").await;
    assert!(stored < 256 + 300, "{stored} answers: none was pruned");
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_were_planned_for_empty_tables_do_not_read_them_whole_when_they_have_grown() {
    let one = StoreOptions { read_connections: 1, write_connections: 1, ..StoreOptions::default() };
    let Some(f) = Fixture::with(Kind::Postgres, &one).await else { return };
    // As with a database that is new: nobody has analyzed anything yet, nor will while this runs.
    for table in ["legs", "intents", "terminals", "client_answers", "client_instances", "recovery_keys"] {
        f.sql(&format!("ALTER TABLE {table} SET (autovacuum_enabled = off)")).await;
    }
    let unit = |n: u32| {
        let leg = leg_id(n);
        let changes = vec![present(1, terminal("1", "a"))];
        let instance = u64::from(n % 500);
        Unit {
            writes: vec![
                Write::Intent(Box::new(crate::store_intents::intent(leg, 1, Some((instance, u64::from(n) + 1))))),
                Write::IntentDone(crate::store_intents::done(leg, 1)),
                content(leg, changes.clone(), Some(mark_of(1, &changes)), false),
                Write::Answer(crate::store_intents::answer(instance, u64::from(n) + 1, 1)),
            ],
        }
    };
    let round = async |n: u32| {
        let new = Unit::one(Write::NewLeg(Box::new(new_leg(n, InMeeting))));
        f.write(vec![new]).await;
        assert_eq!(f.write(vec![unit(n)]).await, [Outcome::Applied { version: 0 }]);
        assert_eq!(f.store.legs(&[leg_id(n)]).await.unwrap().found.len(), 1);
        assert_eq!(f.content(leg_id(n)).await.1.len(), 1);
    };
    // Each statement is prepared now, on the one connection of each kind.
    for n in 0..5 {
        round(n).await;
    }
    for from in (10..20_010).step_by(1_000) {
        f.write((from..from + 1_000).map(|n| Unit::one(Write::NewLeg(Box::new(new_leg(n, InMeeting))))).collect())
            .await;
        f.write((from..from + 1_000).map(unit).collect()).await;
    }
    let scanned = "SELECT COALESCE(sum(seq_tup_read), 0)::int8 FROM pg_stat_user_tables \
         WHERE relname IN ('legs', 'intents', 'terminals', 'client_answers', 'recovery_keys')";
    // A session tells what it has counted with its next transaction, at most once a second: what the writing one has
    // inserted, and how often the reading one has looked at entries, shows that it has.
    let told = async |legs: i64, contents: i64| {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            f.one(Write::First(leg_id(0), true)).await;
            f.content(leg_id(0)).await;
            let inserted = f.number("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'legs'").await;
            let looked = f.number(
                "SELECT COALESCE(seq_scan, 0) + COALESCE(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'entries'",
            );
            if inserted >= legs && looked.await >= contents {
                return f.number(scanned).await;
            }
            assert!(Instant::now() < end, "the server tells no statistics");
            sleep(Duration::from_millis(200)).await;
        }
    };
    let before = told(20_005, 5).await;
    for n in 30_000..30_020 {
        round(n).await;
    }
    let read = told(20_025, 25).await - before;
    // Twenty rounds; one scan of one of these tables alone reads 20,000 rows.
    assert!(read < 20_000, "{read} rows were read by scanning whole tables");
    f.end().await;
}
