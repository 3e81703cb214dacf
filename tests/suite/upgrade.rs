//! Goal: a release finds its way on what the release before left, and the release before on what a newer one made of
//! the schema. Method: fixtures that the release before left behind (tests/fixtures, scripts/release-fixture): its
//! databases, its servers' state, its client's state, and all that it said to PostgreSQL, which is said again here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_rig::{Backing, CONTROL, Rig, ok, said};
use crate::servers::{fresh_database, restore};
use remeet::simulator::{Options, Simulator};
use remeet_protocol::message::{ClientOp, MeetingState};
use remeet_protocol::record::RecordState;
use remeet_protocol::{MeetingId, Record};
use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor, Row};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// The releases before this one.
const RELEASES: [&str; 1] = ["release-0.1"];
/// The migrations of the first release: what came after them had to leave it running.
const FIRST_RELEASE: &str = "20261121";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The simulated servers, with the state in which they were killed.
async fn rig_on(left: &Path, backing: &Backing) -> Rig {
    let mut rig = Rig::new(0, backing).await;
    for id in 1..=2 {
        let name = format!("server-{id}.state");
        std::fs::copy(left.join(&name), rig.path(&name)).unwrap();
        let options = Options {
            server_id: id,
            name: format!("server {id}"),
            state: Some(rig.path(&name)),
            keep_alive_ms: 1_000,
            ..Options::default()
        };
        rig.servers.push(Simulator::spawn(options).await.unwrap());
    }
    rig.write_config("remeet.toml", "state", backing, rig.clients_at, 6_000);
    std::fs::create_dir_all(rig.path("state")).unwrap();
    std::fs::copy(left.join("client.json"), rig.path("client.json")).unwrap();
    rig
}

fn remeet(rig: &Rig, arguments: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_remeet"));
    command.args(arguments).env_remove("REMEET_CONFIG").current_dir(rig.path("")).output().unwrap()
}

fn migrate(rig: &Rig, more: &[&str]) -> BTreeMap<i64, String> {
    let mut arguments = vec!["migrate", "--config", "remeet.toml", "--json"];
    arguments.extend(more);
    let output = remeet(rig, &arguments);
    assert!(output.status.success(), "{}", said(&output));
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    let one = |one: &Value| (one["version"].as_i64().unwrap(), one["standing"].as_str().unwrap().to_owned());
    schema["migrations"].as_array().unwrap().iter().map(one).collect()
}

/// What the release before had open when it was killed is carried on: live meetings, an intent that was never sent, a
/// client's command without an answer, a meeting that was not started, one that had ended.
async fn goes_on(left: &Path, backing: &Backing, rig: &mut Rig) {
    let looked = migrate(rig, &["--dry-run"]);
    let pending: Vec<i64> = looked.iter().filter(|(_, standing)| *standing == "pending").map(|(at, _)| *at).collect();
    assert!(!pending.is_empty() && pending.len() < looked.len(), "{looked:?}");
    let applied = migrate(rig, &[]);
    assert!(pending.iter().all(|version| applied[version] == "new"), "{applied:?}");
    assert!(migrate(rig, &[]).values().all(|standing| standing == "applied"));

    let story: HashMap<String, MeetingId> = serde_json::from_str(&read(&left.join("story.json"))).unwrap();
    rig.start();
    let status = rig.whole().await;
    let round = status.rounds.first().expect("a round after the start");
    assert_eq!((round.meetings_live, round.recovered), (2, 2), "{} {round:?}", backing.store);
    let client = rig.client(CONTROL).await;
    rig.same_as_server(&client, story["live"]).await;
    let view = rig.same_as_server(&client, story["cut"]).await;
    let asked = |(_, change): &(_, remeet_protocol::Change)| matches!(&change.state, RecordState::Present(Record::Entry(entry)) if entry.key.as_str() == "asked");
    assert_eq!(view.records.iter().filter(|one| asked(one)).count(), 1, "the open intent was carried out");

    // The command that had no answer gets it, and has no second effect.
    let connect = rig.clients_at.to_string();
    let cut = story["cut"].to_string();
    let again = remeet(
        rig,
        &[
            "client",
            "--connect",
            &connect,
            "--id",
            "2",
            "--name",
            "client 2",
            "--state",
            "client.json",
            "set-extra",
            &cut,
            "601",
            "asked",
            "before the crash",
        ],
    );
    assert!(again.status.success(), "{}", said(&again));
    assert_eq!(rig.same_as_server(&client, story["cut"]).await.info.revision, view.info.revision);

    ok(client.command(story["created"], ClientOp::Start).await.unwrap());
    rig.same_as_server(&client, story["created"]).await;
    assert_eq!(client.get(story["ended"]).await.unwrap().view.info.state, MeetingState::Ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_release_before_left_in_sqlite_is_migrated_and_recovered() {
    for release in RELEASES {
        let left = fixture(release).join("sqlite");
        let backing = Backing::embedded();
        let mut rig = rig_on(&left, &backing).await;
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(rig.path("state/remeet.db"));
        let mut database = sqlx::SqliteConnection::connect_with(&options.create_if_missing(true)).await.unwrap();
        database.execute(AssertSqlSafe(read(&left.join("database.sql")))).await.unwrap();
        database.close().await.unwrap();
        goes_on(&left, &backing, &mut rig).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_release_before_left_in_postgres_is_migrated_and_recovered() {
    for release in RELEASES {
        let Some(database) = fresh_database() else { return };
        let left = fixture(release).join("postgres");
        restore(&database.url, &left.join("database.sql"));
        let backing = Backing { store: database.url.clone(), cache: "memory:".to_owned() };
        let mut rig = rig_on(&left, &backing).await;
        goes_on(&left, &backing, &mut rig).await;
    }
}

/// One line of the recorded traffic.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
enum Said {
    Statement { statement: u32, sql: String },
    Execution { session: u32, execute: u32, parameters: Vec<Option<String>> },
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Says again what the release said, session by session, and ends with the number of executions.
async fn say_again(url: &str, traffic: &str) -> usize {
    let mut statements: HashMap<u32, String> = HashMap::new();
    let mut sessions: HashMap<u32, PgConnection> = HashMap::new();
    let mut executed = 0;
    for line in traffic.lines() {
        match serde_json::from_str(line).unwrap() {
            Said::Statement { statement, sql } => drop(statements.insert(statement, sql)),
            Said::Execution { session, execute, parameters } => {
                let connection = match sessions.entry(session) {
                    Entry::Occupied(open) => open.into_mut(),
                    Entry::Vacant(place) => place.insert(PgConnection::connect(url).await.unwrap()),
                };
                let sql = &statements[&execute];
                let of_a_transaction = ["BEGIN", "COMMIT", "ROLLBACK"].iter().any(|word| sql.starts_with(word));
                let script = if of_a_transaction {
                    sql.clone()
                } else {
                    let values: Vec<String> = parameters
                        .iter()
                        .map(|value| value.as_deref().map_or_else(|| "NULL".to_owned(), literal))
                        .collect();
                    let values = if values.is_empty() { String::new() } else { format!("({})", values.join(", ")) };
                    format!("PREPARE said AS {sql}; EXECUTE said{values}; DEALLOCATE said")
                };
                let done = sqlx::raw_sql(AssertSqlSafe(script)).execute(connection).await;
                done.unwrap_or_else(|error| panic!("{error}: {sql}\n{parameters:?}"));
                executed += 1;
            }
        }
    }
    executed
}

/// The rows of `table`, of those columns that do not tell a time of the database's clock, in one order.
async fn rows(connection: &mut PgConnection, table: &str, columns: &[String]) -> Vec<String> {
    let fields: Vec<String> = columns.iter().map(|column| format!("{}, t.{column}", literal(column))).collect();
    let sql = format!("SELECT jsonb_build_object({})::text AS row FROM {table} t ORDER BY 1", fields.join(", "));
    let found = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await.unwrap();
    found.iter().map(|row| row.get::<String, _>("row")).collect()
}

async fn columns(connection: &mut PgConnection) -> BTreeMap<String, Vec<String>> {
    let found = sqlx::query(
        "SELECT table_name::text, column_name::text FROM information_schema.columns WHERE table_schema = 'public' \
         AND table_name <> '_sqlx_migrations' AND data_type NOT LIKE 'timestamp%' ORDER BY 1, 2",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    let mut columns: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in &found {
        columns.entry(row.get(0)).or_default().push(row.get(1));
    }
    columns
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_release_before_says_to_postgres_does_the_same_on_the_schema_of_this_one() {
    for release in RELEASES {
        let (Some(then), Some(now)) = (fresh_database(), fresh_database()) else { return };
        restore(&then.url, &fixture(release).join("postgres/database.sql"));
        let store = remeet::store::open(&now.url, &remeet::store::StoreOptions::default()).unwrap();
        store.migrate().await.unwrap();
        store.close().await;
        let executed = say_again(&now.url, &read(&fixture(release).join("traffic.jsonl"))).await;
        assert!(executed > 100, "{executed} statements are not a scheduler's life");

        let mut then = PgConnection::connect(&then.url).await.unwrap();
        let mut now = PgConnection::connect(&now.url).await.unwrap();
        let mut compared = 0;
        for (table, columns) in columns(&mut then).await {
            let (before, after) = (rows(&mut then, &table, &columns).await, rows(&mut now, &table, &columns).await);
            assert_eq!(before, after, "{release}: {table}");
            compared += before.len();
        }
        assert!(compared > 20, "{compared} rows are not what a scheduler's life leaves");
    }
}

/// A change of a table waits behind who uses it, and everybody else waits behind the change: so it gives up soon.
#[tokio::test(flavor = "multi_thread")]
async fn migrating_gives_up_soon_where_a_table_is_in_use_and_is_done_when_asked_again() {
    let Some(database) = fresh_database() else { return };
    restore(&database.url, &fixture(RELEASES[0]).join("postgres/database.sql"));
    let store = remeet::store::open(&database.url, &remeet::store::StoreOptions::default()).unwrap();
    let pending = store.schema().await.unwrap().pending();
    let mut reader = PgConnection::connect(&database.url).await.unwrap();
    reader.execute("BEGIN; LOCK TABLE legs, intents, lease IN ACCESS SHARE MODE").await.unwrap();
    let begun = std::time::Instant::now();
    let answer = store.migrate().await;
    assert!(matches!(&answer, Err(remeet::store::StoreError::Unavailable { .. })), "{answer:?}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    reader.execute("COMMIT").await.unwrap();
    let schema = store.migrate().await.unwrap();
    let new = schema.migrations.iter().filter(|one| one.standing == remeet::store::MigrationStanding::New).count();
    assert_eq!(new, pending);
}

#[tokio::test]
async fn the_release_before_starts_on_a_schema_with_migrations_that_it_does_not_know() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("remeet.db");
    let url = format!("sqlite:{}", path.display());
    let store = remeet::store::open(&url, &remeet::store::StoreOptions::default()).unwrap();
    assert_eq!(store.schema().await.unwrap().pending(), known().await);
    assert!(!path.exists(), "looking has made a database");
    store.migrate().await.unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut database = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    // What the next release does.
    let next = "ALTER TABLE legs ADD COLUMN of_the_next_release TEXT NOT NULL DEFAULT ''; \
                INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                VALUES (29991231000100, 'next', TRUE, x'00', 1)";
    database.execute(next).await.unwrap();
    let schema = store.migrate().await.unwrap();
    assert_eq!((schema.pending(), schema.newer.as_slice()), (0, [29_991_231_000_100].as_slice()));
    assert_eq!(store.schema().await.unwrap(), schema);
}

/// How many migrations this release knows.
async fn known() -> usize {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}/remeet.db", directory.path().display());
    let store = remeet::store::open(&url, &remeet::store::StoreOptions::default()).unwrap();
    store.migrate().await.unwrap().migrations.len()
}

/// Whether a statement leaves alone what an older release reads and writes.
fn is_additive(statement: &str) -> bool {
    let words: Vec<String> = statement.split_whitespace().map(str::to_uppercase).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let filled = !words.windows(2).any(|two| two == ["NOT", "NULL"]) || words.contains(&"DEFAULT");
    match words.as_slice() {
        ["CREATE", "TABLE" | "INDEX", ..] => true,
        // What an older release does not name must be filled in by the database, whatever rows there are.
        ["ALTER", "TABLE", _, "ADD", "COLUMN", rest @ ..] => {
            filled && !rest.iter().any(|word| ["UNIQUE", "CHECK", "REFERENCES", "PRIMARY"].contains(word))
        }
        _ => false,
    }
}

#[test]
fn migrations_after_the_first_release_only_add() {
    let mut statements = 0;
    for database in ["postgres", "sqlite"] {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(database);
        for file in std::fs::read_dir(directory).unwrap() {
            let path = file.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with(FIRST_RELEASE) {
                continue;
            }
            let text = read(&path);
            let code: Vec<&str> = text.lines().map(|line| line.split("--").next().unwrap_or("")).collect();
            for statement in code.join("\n").split(';').filter(|statement| !statement.trim().is_empty()) {
                assert!(is_additive(statement), "{}: {statement}", path.display());
                statements += 1;
            }
        }
    }
    assert!(statements > 4, "the migrations are looked for in the wrong place");
    for breaking in [
        "DROP TABLE legs",
        "ALTER TABLE legs DROP COLUMN state",
        "ALTER TABLE legs RENAME COLUMN state TO stage",
        "ALTER TABLE legs ADD COLUMN x bigint NOT NULL",
        "ALTER TABLE legs ADD COLUMN x bigint UNIQUE",
        "CREATE UNIQUE INDEX i ON legs (server)",
        "UPDATE legs SET state = 'x'",
    ] {
        assert!(!is_additive(breaking), "{breaking}");
    }
}
