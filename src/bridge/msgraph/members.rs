//! Direct members of groups: twenty groups a request, and one by one where a group has more than a page of them or its turn in a batch
//! went wrong.
//!
//! Only ids and kinds are asked for. Never resolves nesting; that is done for all sources alike (S-2).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::pages::{Page, pages, rest};
use super::trouble::{Answered, Purpose, Trouble, refused};
use super::wire::{Ask, Wire, wait};
use crate::ids::StableId;

/// Groups asked for at once: Graph's limit.
pub const BATCH: usize = 20;

/// The kinds of people and of groups.
pub const USER: &str = "#microsoft.graph.user";
pub const GROUP: &str = "#microsoft.graph.group";

const MEMBERS: Purpose = Purpose {
    what: "read the members of groups",
    permission: "GroupMember.Read.All (and Member.Read.Hidden for groups with hidden members)",
};

/// A member. Of kinds that the app may not read Graph shows no more than this either.
#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    #[serde(rename = "@odata.type", default)]
    pub kind: Option<String>,
    #[serde(default)]
    pub id: Option<String>,
}

/// What was seen of a group's members.
#[derive(Debug)]
pub struct Roll {
    pub group: StableId,
    pub members: Vec<Member>,
    /// Why these are not all.
    pub trouble: Option<Trouble>,
}

impl Roll {
    /// The group went away between the list of groups and this.
    #[must_use]
    pub fn has_vanished(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.status == Some(404))
    }
}

#[derive(Deserialize)]
struct Answers {
    responses: Vec<Part>,
}

/// One answer within an answer.
#[derive(Deserialize)]
struct Part {
    id: String,
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    #[serde(default)]
    body: Value,
}

impl Part {
    fn wait(&self) -> Option<Duration> {
        let (_, value) = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))?;
        match value {
            Value::String(text) => wait(text),
            other => wait(&other.to_string()),
        }
    }
}

/// Reads the members of at most [`BATCH`] groups.
///
/// # Errors
/// When the batch as a whole got no answer; what is wrong with one group stands in its [`Roll`].
pub async fn members(wire: &Wire, groups: &[StableId], deadline: Instant) -> Result<Vec<Roll>, Trouble> {
    if let [group] = groups {
        return Ok(vec![one(wire, group, deadline).await?]);
    }
    let requests: Vec<Value> = groups
        .iter()
        .enumerate()
        .map(|(place, group)| json!({ "id": place.to_string(), "method": "GET", "url": format!("/{}", path(group)) }))
        .collect();
    let batch = Ask { body: Some(json!({ "requests": requests })), ..wire.ask(MEMBERS, "$batch")? };
    let answers: Answers = wire.json(&batch, deadline).await?;
    let mut parts: BTreeMap<String, Part> = answers.responses.into_iter().map(|part| (part.id.clone(), part)).collect();
    let begun = Instant::now();
    let mut rolls = Vec::with_capacity(groups.len());
    for (place, group) in groups.iter().enumerate() {
        rolls.push(match parts.remove(&place.to_string()) {
            Some(part) if part.status == 200 => begin(wire, group, part, deadline).await?,
            Some(part) if matches!(part.status, 400 | 403 | 404) => {
                let body = part.body.to_string();
                let answered =
                    Answered { status: part.status, retry_after: None, request_id: None, body: body.as_bytes() };
                let trouble = refused(&wire.attempt(MEMBERS), MEMBERS, answered);
                Roll { group: group.clone(), members: Vec::new(), trouble: Some(trouble) }
            }
            // Too much at once, a hiccup, a token that has just ended, or no answer: by itself, after the wait that was asked for.
            other => {
                if let Some(wait) = other.and_then(|part| part.wait()) {
                    wire.rest_until(begun + wait).await;
                }
                one(wire, group, deadline).await?
            }
        });
    }
    Ok(rolls)
}

fn path(group: &StableId) -> String {
    format!("groups/{group}/members?$select=id&$top=999")
}

/// A group by itself.
async fn one(wire: &Wire, group: &StableId, deadline: Instant) -> Result<Roll, Trouble> {
    let ask = wire.ask(MEMBERS, &path(group))?;
    let mut members = Vec::new();
    let end = pages(wire, ask, deadline, &mut |page: Vec<Member>| members.extend(page)).await;
    Ok(Roll { group: group.clone(), members, trouble: end.err() })
}

/// A group whose first page came in a batch.
async fn begin(wire: &Wire, group: &StableId, part: Part, deadline: Instant) -> Result<Roll, Trouble> {
    let Ok(page) = serde_json::from_value::<Page<Member>>(part.body) else {
        return one(wire, group, deadline).await;
    };
    let first = wire.ask(MEMBERS, &path(group))?;
    let mut members = page.value;
    let end = rest(wire, &first, page.next, deadline, &mut |page: Vec<Member>| members.extend(page)).await;
    Ok(Roll { group: group.clone(), members, trouble: end.err() })
}
