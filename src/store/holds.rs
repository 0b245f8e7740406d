//! What is held, and what a person approved (S-81). The loop writes the holds of its latest pass; `usher hold` reads them and
//! writes approvals, which the loop picks up (S-85).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::tables::{Cell, Row, Table, TableChange};
use super::{Store, StoreError, damaged};
use crate::ids::Timestamp;
use crate::plan::{Class, StepId};

/// One current hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRow {
    /// Stable while the same thing stays held: see [`crate::plan::Hold::id`].
    pub id: String,
    pub class: Class,
    /// The figures in a sentence.
    pub detail: String,
    pub steps: Vec<HeldStep>,
    /// When it was first held. [`Store::set_holds`] keeps the first value while the id stays.
    pub first_held_at: Timestamp,
}

/// One held step: what an approval names, and its line in the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldStep {
    pub id: StepId,
    pub text: String,
}

/// The class as configuration, database and metrics spell it.
#[must_use]
pub fn class_name(class: Class) -> &'static str {
    match class {
        Class::Locks => "locks",
        Class::FinalSteps => "final_steps",
        Class::Addresses => "addresses",
        Class::KicksPerSpace => "kicks_per_space",
        Class::KicksTotal => "kicks_total",
        Class::Demotions => "demotions",
        Class::Spaces => "spaces",
        Class::Rooms => "rooms",
        Class::EmptiedGroup => "emptied_group",
        Class::LedgerLost => "ledger_lost",
        Class::ModeSwitch => "mode_switch",
        Class::Rename => "rename",
        Class::Adoption => "adoption",
        Class::Upgrades => "upgrades",
    }
}

pub(super) fn class_from(name: &str) -> Result<Class, serde_json::Error> {
    serde_json::from_value(serde_json::Value::from(name))
}

impl Store {
    /// Replaces the current holds. Writes nothing when they are the same as before.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn set_holds(&self, holds: &[HoldRow]) -> Result<(), StoreError> {
        let before: BTreeMap<String, HoldRow> =
            self.holds().await?.into_iter().map(|hold| (hold.id.clone(), hold)).collect();
        let mut change = TableChange { table: &HOLDS, upserts: Vec::new(), deletes: Vec::new() };
        for hold in holds {
            let known = before.get(&hold.id);
            let first_held_at = known.map_or(hold.first_held_at, |known| known.first_held_at);
            let hold = HoldRow { first_held_at, ..hold.clone() };
            if known != Some(&hold) {
                change.upserts.push(cells(&hold)?);
            }
        }
        let stays = |id: &str| holds.iter().any(|hold| hold.id == id);
        change.deletes = before.keys().filter(|id| !stays(id)).map(|id| vec![Cell::from(id.as_str())]).collect();
        if change.upserts.is_empty() && change.deletes.is_empty() {
            return Ok(());
        }
        self.bounded("write the holds", async {
            let mut transaction = self.begin().await?;
            change.write(&mut *transaction).await?;
            transaction.commit().await
        })
        .await
    }

    /// What the latest pass held, by id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn holds(&self) -> Result<Vec<HoldRow>, StoreError> {
        let rows = self.bounded("read the holds", sqlx::query(SELECT_HOLDS).fetch_all(&self.pool)).await?;
        rows.iter().map(hold).collect()
    }

    /// [`Store::holds`] and [`Store::approvals`] as they stand at one moment: what is done leaves the one no later than the other.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn held(&self) -> Result<(Vec<HoldRow>, BTreeMap<StepId, Timestamp>), StoreError> {
        let (holds, approvals) = self
            .bounded("read the holds", async {
                let mut moment = self.moment().await?;
                let holds = sqlx::query(SELECT_HOLDS).fetch_all(&mut *moment).await?;
                Ok((holds, sqlx::query(SELECT_APPROVALS).fetch_all(&mut *moment).await?))
            })
            .await?;
        Ok((holds.iter().map(hold).collect::<Result<_, _>>()?, approved(&approvals)?))
    }

    /// Approves steps until a time (S-81: until done or 24 h). `by` says who did, for the record.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn approve(&self, steps: &[StepId], until: Timestamp, by: &str) -> Result<(), StoreError> {
        let row = |step: &StepId| vec![Cell::from(step.0.as_str()), Cell::Int(until.0), Cell::from(by)];
        let unique: std::collections::BTreeSet<&StepId> = steps.iter().collect();
        let upserts = unique.into_iter().map(row).collect();
        let change = TableChange { table: &APPROVALS_BY, upserts, deletes: Vec::new() };
        self.bounded("write approvals", async {
            let mut transaction = self.begin().await?;
            change.write(&mut *transaction).await?;
            transaction.commit().await
        })
        .await
    }

    /// Approved steps and until when, those that ran out included. The loop reads them before each pass.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn approvals(&self) -> Result<BTreeMap<StepId, Timestamp>, StoreError> {
        let rows = self.bounded("read approvals", sqlx::query(SELECT_APPROVALS).fetch_all(&self.pool)).await?;
        approved(&rows)
    }
}

fn approved(rows: &[AnyRow]) -> Result<BTreeMap<StepId, Timestamp>, StoreError> {
    let approval = |row: &AnyRow| Ok((StepId(row.try_get(0)?), Timestamp(row.try_get(1)?)));
    let approvals: Result<_, sqlx::Error> = rows.iter().map(approval).collect();
    approvals.map_err(|error| StoreError::from_sqlx("read approvals", &error))
}

fn cells(hold: &HoldRow) -> Result<Row, StoreError> {
    let steps = serde_json::to_string(&hold.steps).map_err(damaged("write the holds"))?;
    Ok(vec![
        hold.id.as_str().into(),
        class_name(hold.class).into(),
        hold.detail.as_str().into(),
        hold.first_held_at.0.into(),
        steps.into(),
    ])
}

fn hold(row: &AnyRow) -> Result<HoldRow, StoreError> {
    const WHAT: &str = "read the holds";
    let columns = || -> Result<_, sqlx::Error> {
        let texts: (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok((texts, row.try_get(3)?, row.try_get::<String, _>(4)?))
    };
    let ((id, class, detail), first_held_at, steps) = columns().map_err(|error| StoreError::from_sqlx(WHAT, &error))?;
    let class = class_from(&class).map_err(damaged(WHAT))?;
    let steps = serde_json::from_str(&steps).map_err(damaged(WHAT))?;
    Ok(HoldRow { id, class, detail, steps, first_held_at: Timestamp(first_held_at) })
}

pub(super) const TABLES: &[&Table] = &[&HOLDS, &APPROVALS_BY];
pub(super) const QUERIES: &[&str] = &[SELECT_HOLDS, SELECT_APPROVALS];

static HOLDS: Table =
    Table { name: "holds", columns: &["id", "class", "detail", "first_held_at", "steps"], key: 1, delete_by: &["id"] };
static APPROVALS_BY: Table =
    Table { name: "approvals", columns: &["step_id", "until", "approved_by"], key: 1, delete_by: &["step_id"] };

const SELECT_HOLDS: &str = "SELECT id, class, detail, first_held_at, steps FROM holds ORDER BY id";
const SELECT_APPROVALS: &str = "SELECT step_id, until FROM approvals ORDER BY step_id";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Hold;

    fn hold(space: &str, count: u64) -> Hold {
        let space = Some(crate::ids::Key::Space(space.into()));
        Hold { class: Class::KicksPerSpace, space, count, limit: Some(5), base: 10, detail: None }
    }

    #[test]
    fn a_hold_keeps_its_id_while_its_figures_move() {
        assert_eq!(hold("a", 7).id(), hold("a", 9).id());
        assert_ne!(hold("a", 7).id(), hold("b", 7).id());
    }

    #[test]
    fn a_class_is_spelled_one_way() {
        for class in [Class::Locks, Class::FinalSteps, Class::KicksPerSpace, Class::KicksTotal, Class::Demotions]
            .into_iter()
            .chain([
                Class::Addresses,
                Class::Spaces,
                Class::Rooms,
                Class::EmptiedGroup,
                Class::LedgerLost,
                Class::ModeSwitch,
                Class::Rename,
                Class::Adoption,
                Class::Upgrades,
            ])
        {
            assert_eq!(class_from(class_name(class)).unwrap(), class);
        }
    }
}
