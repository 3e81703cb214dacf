//! `remeet migrate`: the database's schema, brought up to date or only looked at.

use super::output::{self, Failure};
use crate::config::{self, StoreAddress};
use crate::scheduler;
use crate::store::{MigrationStanding, Schema, Store, StoreError};
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::json;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A change of a table waits for the transactions that use it, which take seconds at most, and gives up soon so that
/// nobody waits behind it. So it is asked for again, for this long.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    file: super::ConfigFile,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(options: &Options) -> Result<(), Failure> {
    let path = &options.file.config;
    let config = config::load(path, &config::process_environment()).map_err(|error| super::run::wrong(path, &error))?;
    if let (Some(StoreAddress::Sqlite(file)), false) = (config.store_address(), options.dry_run) {
        make_directory_of(&file)?;
    }
    let store = scheduler::open_store(&config).map_err(Failure::failed)?;
    let schema = if options.dry_run { store.schema().await } else { patiently(store.as_ref()).await };
    store.close().await;
    let schema = schema.map_err(|error| Failure::failed(format!("{error} (store {})", config.store.url)))?;
    let text = if options.json { format!("{}\n", json(&schema)) } else { print(&schema) };
    output::print(&text).map(|_| ())
}

/// An embedded database lives in the state directory, which may not be there before the first start.
fn make_directory_of(file: &Path) -> Result<(), Failure> {
    let Some(directory) = file.parent() else { return Ok(()) };
    std::fs::create_dir_all(directory)
        .map_err(|error| Failure::failed(format!("{}: cannot make the directory: {error}", directory.display())))
}

async fn patiently(store: &dyn Store) -> Result<Schema, StoreError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match store.migrate().await {
            Err(StoreError::Unavailable { .. }) if Instant::now() + PAUSE < deadline => sleep(PAUSE).await,
            done => return done,
        }
    }
}

fn json(schema: &Schema) -> serde_json::Value {
    let one = |one: &crate::store::Migrated| json!({"version": one.version, "name": one.name, "standing": word(one.standing)});
    json!({
        "migrations": schema.migrations.iter().map(one).collect::<Vec<_>>(),
        "newer": schema.newer,
        "pending": schema.pending(),
    })
}

fn print(schema: &Schema) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for one in &schema.migrations {
        table.add_row([one.version.to_string(), one.name.clone(), word(one.standing).to_owned()]);
    }
    for version in &schema.newer {
        table.add_row([version.to_string(), "of a newer release".to_owned(), "applied".to_owned()]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut out: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let new = schema.migrations.iter().filter(|one| one.standing == MigrationStanding::New).count();
    let _ = match (schema.pending(), new) {
        (0, 0) => writeln!(out, "the schema is up to date"),
        (0, new) => writeln!(out, "{new} applied: the schema is up to date"),
        (pending, _) => writeln!(out, "{pending} pending: remeet migrate applies them, and so does remeet run"),
    };
    out
}

fn word(standing: MigrationStanding) -> &'static str {
    match standing {
        MigrationStanding::Applied => "applied",
        MigrationStanding::New => "new",
        MigrationStanding::Pending => "pending",
    }
}
