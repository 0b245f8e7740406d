//! Writing many rows in few statements: one `INSERT` or `DELETE` carries some hundred rows, so that saving 100 000 people is
//! bounded by the disk and not by round trips.

use std::fmt::Write as _;

use super::session::{Bound, Session};

/// Rows of one statement; with at most eleven columns far below `SQLite`'s 32 766 parameters.
const ROWS: usize = 200;
/// Text of one statement, because one row may carry a list of 100 000 users.
const BYTES: usize = 4 << 20;

/// A table that is written by key.
#[derive(Debug)]
pub(super) struct Table {
    pub name: &'static str,
    /// The columns written, those of the primary key first.
    pub columns: &'static [&'static str],
    /// How many of them are the primary key.
    pub key: usize,
    /// The columns that pick a row to delete, in the order of a deletion's cells.
    pub delete_by: &'static [&'static str],
}

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Text(String),
    Int(i64),
}

pub(super) type Row = Vec<Cell>;

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

/// What changes in one table.
#[derive(Debug)]
pub(super) struct TableChange {
    pub table: &'static Table,
    pub upserts: Vec<Row>,
    pub deletes: Vec<Row>,
}

impl TableChange {
    pub(super) async fn write(&self, session: &mut dyn Session) -> Result<(), sqlx::Error> {
        for batch in batches(&self.deletes) {
            execute(session, self.table.delete(batch.len()), batch).await?;
        }
        for batch in batches(&self.upserts) {
            execute(session, self.table.upsert(batch.len()), batch).await?;
        }
        Ok(())
    }
}

impl Table {
    /// The generated statements at their shortest and longest, for preparing them all.
    pub(super) fn statements(&self) -> Vec<String> {
        [1, ROWS].into_iter().flat_map(|rows| [self.upsert(rows), self.delete(rows)]).collect()
    }

    fn upsert(&self, rows: usize) -> String {
        let mut sql = format!("INSERT INTO {} ({}) VALUES ", self.name, self.columns.join(", "));
        let width = self.columns.len();
        for row in 0..rows {
            sql.push_str(if row == 0 { "(" } else { ", (" });
            for column in 0..width {
                let _ = write!(sql, "{}${}", if column == 0 { "" } else { ", " }, row * width + column + 1);
            }
            sql.push(')');
        }
        let _ = write!(sql, " ON CONFLICT ({}) DO ", self.columns[..self.key].join(", "));
        let values: Vec<String> =
            self.columns[self.key..].iter().map(|column| format!("{column} = excluded.{column}")).collect();
        if values.is_empty() {
            sql.push_str("NOTHING");
        } else {
            let _ = write!(sql, "UPDATE SET {}", values.join(", "));
        }
        sql
    }

    fn delete(&self, rows: usize) -> String {
        let mut sql = format!("DELETE FROM {} WHERE ", self.name);
        let width = self.delete_by.len();
        for row in 0..rows {
            sql.push_str(if row == 0 { "(" } else { " OR (" });
            for (at, column) in self.delete_by.iter().enumerate() {
                let _ = write!(sql, "{}{column} = ${}", if at == 0 { "" } else { " AND " }, row * width + at + 1);
            }
            sql.push(')');
        }
        sql
    }
}

async fn execute(session: &mut dyn Session, sql: String, rows: &[Row]) -> Result<(), sqlx::Error> {
    let bound = |cell| match cell {
        &Cell::Int(number) => Bound::Number(number),
        Cell::Text(text) => text.into(),
    };
    let bound: Vec<Bound<'_>> = rows.iter().flatten().map(bound).collect();
    session.execute(&sql, &bound).await.map(|_| ())
}

/// Cuts rows into batches of at most [`ROWS`] rows and about [`BYTES`] of text, never an empty one.
fn batches(rows: &[Row]) -> impl Iterator<Item = &[Row]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fitting = rest.iter().take(ROWS).take_while(|row| {
            bytes += row.iter().map(size).sum::<usize>();
            bytes <= BYTES
        });
        let (batch, after) = rest.split_at(fitting.count().max(1).min(rest.len()));
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
}

fn size(cell: &Cell) -> usize {
    match cell {
        Cell::Text(text) => text.len(),
        Cell::Int(_) => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_in_rows_and_bytes_and_lose_nothing() {
        let small: Vec<Row> = (0..450).map(|number| vec![Cell::Int(number)]).collect();
        assert_eq!(batches(&small).map(<[Row]>::len).collect::<Vec<_>>(), [200, 200, 50]);
        let large: Vec<Row> = (0..3).map(|_| vec![Cell::Text("x".repeat(BYTES))]).collect();
        assert_eq!(batches(&large).map(<[Row]>::len).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(batches(&[]).count(), 0);
    }
}
