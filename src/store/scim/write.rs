//! Creating, changing and deleting resources. Each write is one transaction, done before it is answered, whole or not at all; writes to
//! one resource come one after the other. Whoever comes later sees what came before.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use super::letters::Turn;
use super::{Link, Resource, Resources, addresses, first_number, letters, members, number, resource, storable};
use crate::ids::Localpart;
use crate::scim::patch::MemberChange;
use crate::scim::{Document, Error, Kind, fold};
use crate::store::session::{Bound, Columns as Row, Session};
use crate::store::{Backend, CALL_LIMIT, StoreError, too_slow};
use serde_json::Value;

pub(super) const WHAT: &str = "write a SCIM resource";
/// How often a write is tried that another one got in the way of.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(20);

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Refused(#[from] Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The same, from inside a transaction.
#[derive(Debug)]
pub(super) enum Trouble {
    Refused(Error),
    Sql(sqlx::Error),
    Store(StoreError),
    /// Somebody else's write, with which this one shared a commit, took it down: it was not done.
    Undone,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A resource to be made.
#[derive(Clone, Debug)]
pub struct New {
    pub kind: Kind,
    pub id: String,
    pub document: Document,
    /// A user's Matrix name.
    pub localpart: Option<Localpart>,
    /// A group's members.
    pub members: Vec<String>,
}

/// What a resource becomes.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub document: Document,
    pub members: Vec<MemberChange>,
}

/// What an answer to a write shows beside the resource itself. It is read in the write's transaction, so that both are what the write
/// left, whoever writes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Nothing,
    /// A group's members.
    Members,
    /// A group's members, unless there are more than so many.
    FewMembers(i64),
}

/// A resource as a write left it.
#[derive(Clone, Debug)]
pub struct Written {
    pub resource: Resource,
    /// A group's members, in order; `None`: not wanted, or too many.
    pub members: Option<Vec<Link>>,
}

/// Waits for a write as long as one may take.
pub(super) async fn in_time<T>(
    what: &'static str,
    work: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(CALL_LIMIT, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(Trouble::Sql(error))) => Err(StoreError::from_sqlx(what, &error)),
        Ok(Err(Trouble::Store(error))) => Err(error),
        Ok(Err(Trouble::Undone | Trouble::Refused(_))) | Err(_) => Err(too_slow(what)),
    }
}

/// Whom a write has work for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct News {
    /// Somebody is to be written to.
    pub(super) letter: bool,
    /// An account may have been ordered.
    pub(super) account: bool,
}

/// What is to be done in a transaction.
enum Job<'j> {
    Create(&'j New, Wanted),
    Change(Kind, &'j str, &'j Decide<'j>, Wanted),
    Delete(Kind, &'j str, &'j Check<'j>),
}

/// Makes of a resource what it becomes.
pub type Decide<'d> = dyn Fn(&Resource) -> Result<Change, Error> + Send + Sync + 'd;
/// Says whether a resource may be deleted.
pub type Check<'c> = dyn Fn(&Resource) -> Result<(), Error> + Send + Sync + 'c;

impl Resources {
    /// Makes a resource. A person who was deleted and is known by external id or Matrix name gets that name again (S-63).
    ///
    /// # Errors
    /// `uniqueness` where somebody has the user name, external id or Matrix name; `invalidValue` for a member whose id cannot be one.
    pub async fn create(&self, new: &New, wanted: Wanted, now_ms: i64) -> Result<Written, WriteError> {
        let made = self.transact(&Job::Create(new, wanted), now_ms).await?;
        made.ok_or_else(|| Error::not_found(new.kind.name()).into())
    }

    /// Changes a resource to what `decide` makes of it, seeing what every earlier write left. `None`: there is no such resource. Where
    /// nothing differs, nothing is written and the version stays.
    ///
    /// # Errors
    /// What `decide` refuses; `uniqueness`; `invalidValue` for a member whose id cannot be one.
    pub async fn change(
        &self,
        (kind, id): (Kind, &str),
        (wanted, now_ms): (Wanted, i64),
        decide: &Decide<'_>,
    ) -> Result<Option<Written>, WriteError> {
        self.transact(&Job::Change(kind, id, decide, wanted), now_ms).await
    }

    /// Deletes a resource, unless `check` refuses. A user leaves behind whose Matrix name it was. `false`: there is no such resource.
    ///
    /// # Errors
    /// What `check` refuses.
    pub async fn delete(&self, (kind, id): (Kind, &str), now_ms: i64, check: &Check<'_>) -> Result<bool, WriteError> {
        Ok(self.transact(&Job::Delete(kind, id, check), now_ms).await?.is_some())
    }

    /// Does a job in a transaction, again where another one got in its way.
    async fn transact(&self, job: &Job<'_>, now_ms: i64) -> Result<Option<Written>, WriteError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let attempt = async {
                match self.store.file() {
                    Some(file) => self.in_turn(file, job, now_ms).await,
                    None => self.alone(job, now_ms).await,
                }
            };
            let error = match tokio::time::timeout(CALL_LIMIT, attempt).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(Trouble::Refused(error))) => return Err(error.into()),
                Ok(Err(Trouble::Store(error))) => return Err(error.into()),
                Ok(Err(Trouble::Undone)) if tries < TRIES => continue,
                Ok(Err(Trouble::Undone)) | Err(_) => return Err(too_slow(WHAT).into()),
                Ok(Err(Trouble::Sql(error))) => error,
            };
            if let sqlx::Error::Database(cause) = &error {
                if cause.is_unique_violation() {
                    return Err(taken(cause.constraint().unwrap_or_else(|| cause.message())).into());
                }
                let collided = cause.code().is_some_and(|code| ["40001", "40P01", "5", "517"].contains(&code.as_ref()));
                if collided && tries < TRIES {
                    tokio::time::sleep(PAUSE * tries).await;
                    continue;
                }
            }
            return Err(StoreError::from_sqlx(WHAT, &error).into());
        }
    }

    /// A job with a transaction of its own.
    async fn alone(&self, job: &Job<'_>, now_ms: i64) -> Result<Option<Written>, Trouble> {
        let mut transaction = self.store.begin().await?;
        let (done, news) = self.perform(&mut *transaction, job, now_ms).await?;
        transaction.commit().await?;
        self.spread(news);
        Ok(done)
    }

    /// A job that shares its transaction with those that wait to write, and is undone by itself where it is refused. A refusal may rest on
    /// what others have just written, so it waits for the commit as well.
    async fn in_turn(&self, file: &Path, job: &Job<'_>, now_ms: i64) -> Result<Option<Written>, Trouble> {
        let (turn, mut batch) = self.turns.take(&self.store, file).await?;
        batch.writer.execute(SAVEPOINT, &[]).await?;
        let done = self.perform(&mut batch.writer, job, now_ms).await;
        match &done {
            Ok(_) => {}
            Err(Trouble::Refused(_)) => undo(&mut batch.writer).await?,
            Err(Trouble::Sql(sqlx::Error::Database(cause))) if cause.is_unique_violation() => {
                undo(&mut batch.writer).await?;
            }
            // The connection may be gone: nothing of the batch is kept.
            Err(_) => return done.map(|(done, _)| done),
        }
        batch.writer.execute(RELEASE, &[]).await?;
        self.turns.end(turn, batch).await?;
        let (done, news) = done?;
        self.spread(news);
        Ok(done)
    }

    /// What a job comes to, and whom it is news for.
    async fn perform(
        &self,
        session: &mut dyn Session,
        job: &Job<'_>,
        now_ms: i64,
    ) -> Result<(Option<Written>, News), Trouble> {
        let (done, turn) = match job {
            Job::Create(new, wanted) => {
                let (made, first) = self.insert(session, new, (*wanted, now_ms)).await?;
                if made.resource.kind == Kind::User {
                    self.order(session, &made.resource, (true, now_ms)).await?;
                }
                let turn = letters::on_creation(&made.resource, first);
                (made, turn)
            }
            Job::Change(kind, id, decide, wanted) => {
                let Some(before) = self.locked(session, *kind, id).await? else {
                    return Ok((None, News::default()));
                };
                let changed = self.replace(session, before.clone(), *decide, (*wanted, now_ms)).await?;
                let after = &changed.resource;
                let turn = letters::on_change(&before, after);
                if turn == Some(Turn::Opened) {
                    self.order(session, after, (false, now_ms)).await?;
                }
                if after.version != before.version && after.kind == Kind::User {
                    self.hasten(session, after, now_ms).await?;
                }
                (changed, turn)
            }
            Job::Delete(kind, id, check) => {
                let Some(before) = self.locked(session, *kind, id).await? else {
                    return Ok((None, News::default()));
                };
                check(&before)?;
                self.remove(session, &before, now_ms).await?;
                let turn = letters::on_deletion(&before);
                (Written { resource: before, members: None }, turn)
            }
        };
        let letter = self.tell(session, &done.resource, turn, now_ms).await?;
        Ok((Some(done), News { letter, account: turn == Some(Turn::Opened) }))
    }

    /// Wakes whoever a committed write has work for.
    pub(super) fn spread(&self, news: News) {
        if let Some(letters) = self.letters.as_ref().filter(|_| news.letter) {
            letters.queued.notify_one();
        }
        if let Some(registrations) = self.registrations.as_ref().filter(|_| news.account) {
            registrations.ordered.notify_one();
        }
    }

    async fn replace(
        &self,
        session: &mut dyn Session,
        before: Resource,
        decide: &Decide<'_>,
        (wanted, now_ms): (Wanted, i64),
    ) -> Result<Written, Trouble> {
        let change = decide(&before)?;
        let moved = members::change(session, &self.client, before.pk, &change.members).await?;
        let members = members::wanted(session, before.pk, wanted).await?;
        if !moved && change.document == before.document {
            return Ok(Written { resource: before, members });
        }
        let after = Resource {
            active: stated(&change.document).unwrap_or(before.active),
            document: change.document,
            version: before.version + 1,
            modified: now_ms.max(before.modified),
            ..before.clone()
        };
        self.update(session, &after).await?;
        addresses::keep(session, after.pk, Some(&before.document), &after.document).await?;
        self.announce(session, before.active && !after.active, now_ms).await?;
        Ok(Written { resource: after, members })
    }

    async fn remove(&self, session: &mut dyn Session, before: &Resource, now_ms: i64) -> Result<(), Trouble> {
        let id = before.id.as_str();
        let left = session.rows(TOUCH_GROUPS, &[id.into(), now_ms.into()], first_number).await?;
        members::leave(session, id, &left).await?;
        session.execute(DELETE_MEMBERS, &[before.pk.into()]).await?;
        match before.kind {
            Kind::User => {
                addresses::forget(session, before.pk).await?;
                session.execute(BURY, &[before.pk.into(), now_ms.into()]).await?;
            }
            Kind::Group => {
                session.execute(DELETE, &[before.pk.into()]).await?;
            }
        }
        Ok(self.announce(session, before.kind == Kind::User, now_ms).await?)
    }

    /// Whether somebody new would be somebody who was deleted and returns: the Matrix name they had.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn returning(&self, new: &New) -> Result<Option<Localpart>, StoreError> {
        let external_id = new.document.get("externalId").and_then(Value::as_str);
        let localpart = new.localpart.as_ref().map(Localpart::as_str);
        let bound = self.grave(external_id, localpart);
        let found = self.store.few("read SCIM resources", (SELECT_BURIED, &bound), Buried::read).await?;
        Ok(Buried::who(found, external_id).and_then(|buried| buried.localpart).map(Localpart::from))
    }

    /// A new resource, and whether that makes an account usable that never was before.
    async fn insert(
        &self,
        session: &mut dyn Session,
        new: &New,
        (wanted, now_ms): (Wanted, i64),
    ) -> Result<(Written, bool), Trouble> {
        let mut localpart = new.localpart.as_ref().map(|localpart| localpart.as_str().to_owned());
        let mut stable_id = new.id.clone();
        let mut used = 0;
        let external_id = new.document.get("externalId").and_then(Value::as_str);
        if new.kind == Kind::User
            && let Some(buried) = self.buried(session, external_id, localpart.as_deref()).await?
        {
            session.execute(UNBURY, &[self.client(), (&buried.stable_id).into()]).await?;
            stable_id = buried.stable_id;
            used = buried.used;
            localpart = buried.localpart.or(localpart);
        }
        let mut made = Resource {
            pk: 0,
            kind: new.kind,
            id: new.id.clone(),
            document: new.document.clone(),
            version: 1,
            created: now_ms,
            modified: now_ms,
            active: stated(&new.document).unwrap_or(true),
            // Its id is new: no group names it.
            grouped: false,
        };
        // An account that is ordered must be there first.
        let opens = made.kind == Kind::User && made.active && self.registrations.is_none();
        made.pk = {
            let columns = Columns::of(&made);
            let bound = [
                self.client(),
                number(made.kind).into(),
                (&made.id).into(),
                columns.user_ci.as_deref().into(),
                columns.display_ci.as_deref().into(),
                columns.external_id.into(),
                localpart.as_deref().into(),
                (&stable_id).into(),
                (&columns.document).into(),
                now_ms.into(),
                made.active.into(),
                i64::max(used, opens.into()).into(),
            ];
            session.first(INSERT, &bound, first_number).await?.ok_or(sqlx::Error::RowNotFound)?
        };
        addresses::keep(session, made.pk, None, &made.document).await?;
        let members = [MemberChange::Add(new.members.clone())];
        members::change(session, &self.client, made.pk, &members).await?;
        let members = members::wanted(session, made.pk, wanted).await?;
        self.announce(session, false, now_ms).await?;
        Ok((Written { resource: made, members }, opens && used == 0))
    }

    /// Somebody who was deleted: by external id, or by name where no external id speaks against it.
    async fn buried(
        &self,
        session: &mut dyn Session,
        external_id: Option<&str>,
        localpart: Option<&str>,
    ) -> Result<Option<Buried>, sqlx::Error> {
        let all = session.rows(SELECT_BURIED, &self.grave(external_id, localpart), Buried::read).await?;
        Ok(Buried::who(all, external_id))
    }

    fn grave<'b>(&'b self, external_id: Option<&'b str>, localpart: Option<&'b str>) -> [Bound<'b>; 3] {
        [self.client(), external_id.into(), localpart.into()]
    }

    /// A resource as the last write left it, no other write to it until this one is done.
    async fn locked(&self, session: &mut dyn Session, kind: Kind, id: &str) -> Result<Option<Resource>, Trouble> {
        if !storable(id) {
            return Ok(None);
        }
        let sql = match self.store.backend {
            Backend::Sqlite(_) => SELECT_TO_CHANGE,
            Backend::Postgres => SELECT_FOR_UPDATE,
        };
        Ok(session.first(sql, &[self.client(), number(kind).into(), id.into()], resource).await?)
    }

    async fn update(&self, session: &mut dyn Session, after: &Resource) -> Result<(), sqlx::Error> {
        let columns = Columns::of(after);
        let bound = [
            after.pk.into(),
            columns.user_ci.as_deref().into(),
            columns.display_ci.as_deref().into(),
            columns.external_id.into(),
            (&columns.document).into(),
            after.version.into(),
            after.modified.into(),
            after.active.into(),
        ];
        session.execute(UPDATE, &bound).await.map(|_| ())
    }

    /// Counts the change, last of all: whoever does so waits for nobody afterwards.
    pub(super) async fn announce(
        &self,
        session: &mut dyn Session,
        urgent: bool,
        now_ms: i64,
    ) -> Result<(), sqlx::Error> {
        let urgent = urgent || self.hurried;
        session.execute(ANNOUNCE, &[self.client(), now_ms.into(), urgent.into()]).await.map(|_| ())
    }
}

/// Back to where the job began.
async fn undo(session: &mut dyn Session) -> Result<(), sqlx::Error> {
    session.execute(ROLLBACK_TO, &[]).await.map(|_| ())
}

/// What somebody else has: the databases refuse it, `PostgreSQL` with the index's name, `SQLite` with the columns'.
fn taken(constraint: &str) -> Error {
    let names = |words: [&str; 2]| words.iter().any(|word| constraint.contains(word));
    Error::uniqueness(if names(["user_ci", "scim_user_names"]) {
        "userName is taken"
    } else if names(["external_id", "scim_user_external_ids"]) {
        "externalId is taken"
    } else if names(["localpart", "scim_localparts"]) {
        "the Matrix name that is made of the mapped attribute is taken"
    } else {
        "userName, externalId or the Matrix name is taken"
    })
}

/// What somebody who was deleted left behind.
struct Buried {
    stable_id: String,
    localpart: Option<String>,
    external_id: Option<String>,
    /// Whether their account was ever usable.
    used: i64,
}

impl Buried {
    fn read(row: &dyn Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            stable_id: row.the_text(0)?.into_owned(),
            localpart: row.text(1)?.map(Cow::into_owned),
            external_id: row.text(2)?.map(Cow::into_owned),
            used: row.the_number(3)?,
        })
    }

    /// Which of those with the external id or the name somebody is.
    fn who(mut all: Vec<Self>, external_id: Option<&str>) -> Option<Self> {
        let same = |person: &Self| person.external_id.is_some() && person.external_id.as_deref() == external_id;
        let near = |person: &Self| person.external_id.is_none() || external_id.is_none();
        let found = all.iter().position(same).or_else(|| all.iter().position(near));
        found.map(|at| all.swap_remove(at))
    }
}

/// What a document says about being active, if anything.
fn stated(document: &Document) -> Option<bool> {
    document.get("active").and_then(Value::as_bool)
}

/// What is looked up, beside the document.
struct Columns<'r> {
    user_ci: Option<String>,
    display_ci: Option<String>,
    external_id: Option<&'r str>,
    document: String,
}

impl<'r> Columns<'r> {
    fn of(resource: &'r Resource) -> Self {
        let text = |name: &str| resource.document.get(name).and_then(Value::as_str);
        Self {
            user_ci: text("userName").map(fold),
            display_ci: text("displayName").map(fold),
            external_id: text("externalId"),
            document: serde_json::to_string(&resource.document).unwrap_or_default(),
        }
    }
}

pub(super) fn statements(backend: &Backend) -> Vec<String> {
    let locking = match backend {
        Backend::Sqlite(_) => SELECT_TO_CHANGE,
        Backend::Postgres => SELECT_FOR_UPDATE,
    };
    let queries =
        [locking, INSERT, UPDATE, DELETE, BURY, UNBURY, SELECT_BURIED, TOUCH_GROUPS, DELETE_MEMBERS, ANNOUNCE];
    queries.into_iter().map(str::to_owned).collect()
}

const SAVEPOINT: &str = "SAVEPOINT job";
const ROLLBACK_TO: &str = "ROLLBACK TO job";
const RELEASE: &str = "RELEASE job";
const SELECT_TO_CHANGE: &str = "SELECT pk, kind, id, doc, version, created, modified, active FROM scim_resources \
     WHERE client = $1 AND kind = $2 AND id = $3 AND deleted_at IS NULL";
const SELECT_FOR_UPDATE: &str = "SELECT pk, kind, id, doc, version, created, modified, active FROM scim_resources \
     WHERE client = $1 AND kind = $2 AND id = $3 AND deleted_at IS NULL FOR UPDATE";
const INSERT: &str = "INSERT INTO scim_resources \
     (client, kind, id, user_ci, display_ci, external_id, localpart, stable_id, doc, version, created, modified, active, used) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, $10, $10, $11, $12) RETURNING pk";
const UPDATE: &str = "UPDATE scim_resources SET user_ci = $2, display_ci = $3, external_id = $4, doc = $5, version = $6, \
     modified = $7, active = $8 WHERE pk = $1";
const DELETE: &str = "DELETE FROM scim_resources WHERE pk = $1";
const BURY: &str =
    "UPDATE scim_resources SET deleted_at = $2, user_ci = NULL, display_ci = NULL, doc = '{}' WHERE pk = $1";
const UNBURY: &str = "DELETE FROM scim_resources WHERE client = $1 AND stable_id = $2 AND deleted_at IS NOT NULL";
const SELECT_BURIED: &str = "SELECT stable_id, localpart, external_id, used FROM scim_resources WHERE pk IN (\
     SELECT pk FROM scim_resources WHERE client = $1 AND external_id = $2 AND deleted_at IS NOT NULL \
     UNION SELECT pk FROM scim_resources WHERE client = $1 AND localpart = $3 AND deleted_at IS NOT NULL) \
     ORDER BY deleted_at DESC, pk DESC";
const TOUCH_GROUPS: &str = "UPDATE scim_resources SET version = version + 1, modified = $2 \
     WHERE pk IN (SELECT group_pk FROM scim_members WHERE member_id = $1) RETURNING pk";
const DELETE_MEMBERS: &str = "DELETE FROM scim_members WHERE group_pk = $1";
const ANNOUNCE: &str = "INSERT INTO scim_clients (client, revision, urgent, changed_at) VALUES ($1, 1, $3, $2) \
     ON CONFLICT (client) DO UPDATE SET revision = scim_clients.revision + 1, changed_at = $2, \
     urgent = CASE WHEN $3 = 1 THEN scim_clients.revision + 1 ELSE scim_clients.urgent END";
