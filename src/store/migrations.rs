//! The migrations, compiled in. They only go forward; both databases count the same versions.

use std::borrow::Cow;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

use super::Backend;

const SQLITE: &[(i64, &str, &str)] = &[
    (1, "memory", include_str!("../../migrations/sqlite/0001_memory.sql")),
    (2, "holds and passes", include_str!("../../migrations/sqlite/0002_holds_and_passes.sql")),
    (3, "lease", include_str!("../../migrations/sqlite/0003_lease.sql")),
    (4, "outbox", include_str!("../../migrations/sqlite/0004_outbox.sql")),
    (5, "scim", include_str!("../../migrations/sqlite/0005_scim.sql")),
    (6, "accounts", include_str!("../../migrations/sqlite/0006_accounts.sql")),
    (7, "scim addresses", include_str!("../../migrations/sqlite/0007_scim_addresses.sql")),
    (8, "registrations", include_str!("../../migrations/sqlite/0008_registrations.sql")),
    (9, "notices", include_str!("../../migrations/sqlite/0009_notices.sql")),
    (10, "scim external ids", include_str!("../../migrations/sqlite/0010_scim_external_ids.sql")),
];

const POSTGRES: &[(i64, &str, &str)] = &[
    (1, "memory", include_str!("../../migrations/postgres/0001_memory.sql")),
    (2, "holds and passes", include_str!("../../migrations/postgres/0002_holds_and_passes.sql")),
    (3, "lease", include_str!("../../migrations/postgres/0003_lease.sql")),
    (4, "outbox", include_str!("../../migrations/postgres/0004_outbox.sql")),
    (5, "scim", include_str!("../../migrations/postgres/0005_scim.sql")),
    (6, "accounts", include_str!("../../migrations/postgres/0006_accounts.sql")),
    (7, "scim addresses", include_str!("../../migrations/postgres/0007_scim_addresses.sql")),
    (8, "registrations", include_str!("../../migrations/postgres/0008_registrations.sql")),
    (9, "notices", include_str!("../../migrations/postgres/0009_notices.sql")),
    (10, "scim external ids", include_str!("../../migrations/postgres/0010_scim_external_ids.sql")),
];

/// The newest version this usher knows.
pub(super) fn latest() -> i64 {
    SQLITE.last().map_or(0, |(version, _, _)| *version)
}

pub(super) fn migrator(backend: &Backend) -> Migrator {
    let files = match backend {
        Backend::Sqlite(_) => SQLITE,
        Backend::Postgres => POSTGRES,
    };
    let migrations = files.iter().map(|(version, description, sql)| {
        Migration::new(*version, Cow::Borrowed(*description), MigrationType::Simple, (*sql).into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_databases_count_the_same_versions() {
        let names =
            |files: &[(i64, &str, &str)]| files.iter().map(|file| (file.0, file.1.to_owned())).collect::<Vec<_>>();
        assert_eq!(names(SQLITE), names(POSTGRES));
        assert!(SQLITE.iter().zip(1..).all(|(file, version)| file.0 == version));
    }
}
