//! How `SQLite` goes about the queries: by an index, whoever asks and however many there are (S-65).

#![allow(clippy::unwrap_used, reason = "tests")]

use sqlx::{AssertSqlSafe, Row as _};

use super::{COUNT, SELECT_AFTER, SELECT_BEFORE, SELECT_OFFSET, feed, registrations, statements};
use crate::store::{Backend, Store};

#[tokio::test]
async fn no_query_walks_a_table_but_those_that_want_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("sqlite://{}", folder.path().join("usher.db").display())).await.unwrap();
    let wants_all = [
        COUNT,
        SELECT_AFTER,
        SELECT_BEFORE,
        SELECT_OFFSET,
        feed::SELECT_ALL,
        feed::SELECT_LINKS,
        registrations::COUNTS,
    ];
    let mut looked_at = 0;
    for sql in statements(&Backend::Sqlite(folder.path().to_owned())) {
        if wants_all.contains(&sql.as_str()) || !sql.contains("scim_") {
            continue;
        }
        let rows =
            sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"))).fetch_all(&store.pool).await.unwrap();
        for row in rows {
            let step: String = row.get(3);
            // What a statement brings along or has limited itself, and the few clients there are, may be walked.
            let few = ["CONSTANT ROW", "VALUES CLAUSE", "some_members", "scim_clients"];
            let walks = step.starts_with("SCAN") && !few.iter().any(|few| step.contains(few));
            // By client and kind alone it would be everybody, too.
            let everybody = step.contains("scim_in_order (client=? AND kind=?)") || step.contains("(client=?)");
            let own = step.contains("scim_clients");
            assert!(!walks && (!everybody || own), "{step} in: {sql}");
        }
        looked_at += 1;
    }
    assert!(looked_at >= 25, "{looked_at}");
}
