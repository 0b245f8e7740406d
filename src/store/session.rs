//! Statements of a change, sent the same way whatever carries them: a connection of the pool, or the one that writes `SQLite` in place.

use std::borrow::Cow;

use async_trait::async_trait;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, AssertSqlSafe, Row as _};

/// A parameter of a statement.
#[derive(Clone, Debug)]
pub(super) enum Bound<'b> {
    Number(i64),
    Text(Option<Cow<'b, str>>),
}

impl Bound<'_> {
    pub(super) fn into_owned(self) -> Bound<'static> {
        match self {
            Self::Number(number) => Bound::Number(number),
            Self::Text(text) => Bound::Text(text.map(|text| text.into_owned().into())),
        }
    }
}

impl From<i64> for Bound<'_> {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Bound<'_> {
    fn from(yes: bool) -> Self {
        Self::Number(i64::from(yes))
    }
}

impl<'b> From<&'b str> for Bound<'b> {
    fn from(text: &'b str) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl<'b> From<&'b String> for Bound<'b> {
    fn from(text: &'b String) -> Self {
        text.as_str().into()
    }
}

impl<'b> From<Option<&'b str>> for Bound<'b> {
    fn from(text: Option<&'b str>) -> Self {
        Self::Text(text.map(Cow::from))
    }
}

/// A row, whichever way it came. Columns are numbers or texts.
pub(super) trait Columns {
    fn number(&self, place: usize) -> Result<Option<i64>, sqlx::Error>;
    fn text(&self, place: usize) -> Result<Option<Cow<'_, str>>, sqlx::Error>;
}

impl dyn Columns + '_ {
    /// A number where there always is one.
    pub(super) fn the_number(&self, place: usize) -> Result<i64, sqlx::Error> {
        self.number(place)?.ok_or_else(|| empty(place))
    }

    /// A text where there always is one.
    pub(super) fn the_text(&self, place: usize) -> Result<Cow<'_, str>, sqlx::Error> {
        self.text(place)?.ok_or_else(|| empty(place))
    }
}

fn empty(place: usize) -> sqlx::Error {
    sqlx::Error::Decode(format!("column {place} is empty").into())
}

impl Columns for AnyRow {
    fn number(&self, place: usize) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(place)
    }

    fn text(&self, place: usize) -> Result<Option<Cow<'_, str>>, sqlx::Error> {
        self.try_get::<Option<&str>, _>(place).map(|text| text.map(Cow::from))
    }
}

/// Takes in one row after the other.
pub(super) type Take<'t> = dyn FnMut(&dyn Columns) -> Result<(), sqlx::Error> + Send + 't;

/// What carries statements.
#[async_trait]
pub(super) trait Session: Send {
    /// Does what the statement says, and tells how many rows it changed.
    async fn execute(&mut self, sql: &str, bound: &[Bound<'_>]) -> Result<u64, sqlx::Error>;

    /// Hands every row of a query to `take`.
    async fn each(&mut self, sql: &str, bound: &[Bound<'_>], take: &mut Take<'_>) -> Result<(), sqlx::Error>;
}

impl dyn Session + '_ {
    /// What `read` makes of each row.
    pub(super) async fn rows<T: Send>(
        &mut self,
        sql: &str,
        bound: &[Bound<'_>],
        mut read: impl FnMut(&dyn Columns) -> Result<T, sqlx::Error> + Send,
    ) -> Result<Vec<T>, sqlx::Error> {
        let mut rows = Vec::new();
        let mut take = |row: &dyn Columns| {
            rows.push(read(row)?);
            Ok(())
        };
        self.each(sql, bound, &mut take).await?;
        Ok(rows)
    }

    /// What `read` makes of the first row, if there is one.
    pub(super) async fn first<T: Send>(
        &mut self,
        sql: &str,
        bound: &[Bound<'_>],
        read: impl FnMut(&dyn Columns) -> Result<T, sqlx::Error> + Send,
    ) -> Result<Option<T>, sqlx::Error> {
        Ok(self.rows(sql, bound, read).await?.into_iter().next())
    }
}

#[async_trait]
impl Session for AnyConnection {
    async fn execute(&mut self, sql: &str, bound: &[Bound<'_>]) -> Result<u64, sqlx::Error> {
        Ok(query(sql, bound).execute(self).await?.rows_affected())
    }

    async fn each(&mut self, sql: &str, bound: &[Bound<'_>], take: &mut Take<'_>) -> Result<(), sqlx::Error> {
        query(sql, bound).fetch_all(self).await?.iter().try_for_each(|row| take(row))
    }
}

/// A query of sqlx's.
pub(super) fn query<'q>(sql: &str, bound: &'q [Bound<'_>]) -> Query<'q, Any, AnyArguments> {
    let query = sqlx::query(AssertSqlSafe(sql.to_owned()));
    bound.iter().fold(query, |query, bound| match bound {
        Bound::Number(number) => query.bind(*number),
        Bound::Text(text) => query.bind(text.as_deref()),
    })
}
