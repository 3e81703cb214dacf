//! Bringing a schema up to date, and saying how it stands; the same for both databases.
//!
//! Migrations are additive: what the release before reads and writes stays as it is, and what it does not name has a
//! default. So the release before goes on where a newer one has migrated, which is what lets a pair be upgraded one
//! node at a time.

use sqlx::migrate::{AppliedMigration, Migrate, MigrateError, Migrator};
use std::collections::BTreeSet;

/// How a database's schema stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schema {
    /// The migrations that this release knows, in their order.
    pub migrations: Vec<Migrated>,
    /// Versions that only a newer release knows: it has been here before. This one runs on them too.
    pub newer: Vec<i64>,
}

/// One migration of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// Its version: year, month, day, and a number of six digits within the day.
    pub version: i64,
    /// What it is about.
    pub name: String,
    /// Where it stands.
    pub standing: MigrationStanding,
}

/// Where a migration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationStanding {
    /// Applied by an earlier call.
    Applied,
    /// Applied by this call.
    New,
    /// Not applied.
    Pending,
}

impl Schema {
    /// That of a database that is not there yet.
    pub(super) fn none_of(known: &Migrator) -> Self {
        compare(known, &[], MigrationStanding::Pending)
    }

    /// Those that are not applied.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.migrations.iter().filter(|one| one.standing == MigrationStanding::Pending).count()
    }
}

/// Applies what is missing. Two that do so at once wait for each other.
pub(super) async fn bring_up_to_date<C: Migrate>(known: Migrator, connection: &mut C) -> Result<Schema, MigrateError> {
    // The release before meets migrations that it does not know: additive ones.
    let migrator = Migrator { ignore_missing: true, ..known };
    connection.ensure_migrations_table(&migrator.table_name).await?;
    let before = connection.list_applied_migrations(&migrator.table_name).await?;
    migrator.run_direct(None, connection, false).await?;
    Ok(compare(&migrator, &before, MigrationStanding::New))
}

/// How the schema stands. `tracked`: whether the database has the table that tells; without it nothing is applied.
pub(super) async fn look<C: Migrate>(
    known: Migrator,
    connection: &mut C,
    tracked: bool,
) -> Result<Schema, MigrateError> {
    let applied = if tracked { connection.list_applied_migrations(&known.table_name).await? } else { Vec::new() };
    Ok(compare(&known, &applied, MigrationStanding::Pending))
}

fn compare(known: &Migrator, applied: &[AppliedMigration], missing: MigrationStanding) -> Schema {
    let mut newer: BTreeSet<i64> = applied.iter().map(|one| one.version).collect();
    let migrations = known.iter().map(|one| Migrated {
        version: one.version,
        name: one.description.to_string(),
        standing: if newer.remove(&one.version) { MigrationStanding::Applied } else { missing },
    });
    Schema { migrations: migrations.collect(), newer: newer.into_iter().collect() }
}
