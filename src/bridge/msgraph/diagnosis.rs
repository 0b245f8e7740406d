//! `usher source test` for Graph: each step on the way to a read by itself, with what was seen, or what is wrong and how to mend it.
//!
//! Reads first pages only, and prints no addresses or names of people.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokio::time::timeout_at;

use super::members::{BATCH, members};
use super::pages::Page;
use super::photos::{self, Look};
use super::read::{Groups, People, Reading};
use super::trouble::Trouble;
use crate::bridge::Probe;
use crate::config::MsGraphSource;
use crate::directory::User;
use crate::ids::StableId;

/// The steps in order, up to the first that failed.
pub async fn diagnose(source: &MsGraphSource, reading: &Reading<'_>) -> Vec<Probe> {
    let mut probes = Vec::new();
    if timeout_at(reading.deadline, steps(source, reading, &mut probes)).await.is_err() {
        let detail = "what follows the steps above took longer than read_timeout".to_owned();
        probes.push(Probe { step: "time", ok: false, detail });
    }
    probes
}

async fn steps(source: &MsGraphSource, reading: &Reading<'_>, probes: &mut Vec<Probe>) {
    let mut note = |step: &'static str, outcome: Result<String, String>| {
        let ok = outcome.is_ok();
        probes.push(Probe { step, ok, detail: outcome.unwrap_or_else(|wrong| wrong) });
        ok
    };
    let token = reading.wire.token(reading.deadline).await.map_err(|trouble| trouble.in_full());
    let token = token.map(|()| format!("{} gives one to client {}", source.login_url, source.client_id));
    if !note("token", token) || !note("organization", organisation(reading).await) {
        return;
    }
    let people = users(reading).await;
    let somebody = people.as_ref().ok().and_then(|(people, _)| people.users.first()).map(|user| user.id.clone());
    if !note("users", people.and_then(|(people, more)| census(&people, more))) {
        return;
    }
    if reading.wanted.groups.is_empty() {
        note("groups", Ok("no space and no room names one, so none is read".to_owned()));
    } else {
        let known = reading.groups().await.map_err(|trouble| trouble.in_full());
        let chosen = known.as_ref().map(|known| reading.chosen(known).cloned().collect::<Vec<_>>()).unwrap_or_default();
        if !note("groups", known.and_then(|known| groups(reading, &known))) {
            return;
        }
        if !note("members", direct_members(reading, &chosen).await) {
            return;
        }
    }
    if let Some(somebody) = somebody.filter(|_| reading.wanted.photos) {
        note("photos", photo(reading, &somebody).await);
    }
}

async fn organisation(reading: &Reading<'_>) -> Result<String, String> {
    match reading.organisation().await {
        Ok(Some(name)) => Ok(name),
        Ok(None) => Ok("it has no name; the tenant's id stands for it".to_owned()),
        Err(Trouble { status: Some(403), .. }) => {
            Ok("not shown, which is no harm: the tenant's id stands for its name (the permission Organization.Read.All shows it)"
                .to_owned())
        }
        Err(trouble) if trouble.status.is_some() => {
            Ok(format!("not shown, which is no harm: the tenant's id stands for its name ({})", trouble.in_full()))
        }
        Err(trouble) => Err(trouble.in_full()),
    }
}

/// The people of the first page, and whether there are more.
async fn users(reading: &Reading<'_>) -> Result<(People, bool), String> {
    let look = async {
        let ask = reading.users()?;
        reading.wire.json::<Page<Map<String, Value>>>(&ask, reading.deadline).await
    };
    let page = look.await.map_err(|trouble| trouble.in_full())?;
    let mut people = People::default();
    people.take(reading.how, &page.value);
    Ok((people, page.next.is_some()))
}

fn census(people: &People, more: bool) -> Result<String, String> {
    let more = if more { " on the first page, and there are more" } else { "" };
    let (count, unnamed, guests) = (people.users.len(), people.unnamed.len(), people.guests.len());
    if count == 0 {
        return Err(format!("nobody is shown{more}: {guests} guests are left out, {unnamed} have no Matrix name"));
    }
    if people.unmarked > 0 {
        return Err(format!(
            "{} of {count} do not say whether they are enabled: User.Read.All is needed",
            people.unmarked
        ));
    }
    let with = |has: fn(&User) -> bool| people.users.iter().filter(|user| has(user)).count();
    Ok(format!(
        "{count} people{more}: {} with a display name, {} with a mail address, {} disabled; {unnamed} without a Matrix name; \
         guests left out: {guests}",
        with(|user| user.display_name.is_some()),
        with(|user| !user.emails.is_empty()),
        with(|user| !user.enabled),
    ))
}

fn groups(reading: &Reading<'_>, known: &Groups) -> Result<String, String> {
    let missing = reading.missing(known);
    if missing.is_empty() {
        let wanted = reading.wanted.groups.len();
        return Ok(format!("{} groups, among them all {wanted} that the configuration names", known.len()));
    }
    Err(format!(
        "{} groups, but none with the object id or display name {}: compare with the group's overview page",
        known.len(),
        missing.join(", ")
    ))
}

/// Of as many groups as fit into one request.
async fn direct_members(reading: &Reading<'_>, chosen: &[StableId]) -> Result<String, String> {
    let some = &chosen[..chosen.len().min(BATCH)];
    let rolls = members(reading.wire, some, reading.deadline).await.map_err(|trouble| trouble.in_full())?;
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for roll in &rolls {
        if let Some(trouble) = &roll.trouble {
            return Err(format!("group {}: {}", roll.group, trouble.in_full()));
        }
        for member in &roll.members {
            let kind = member.kind.as_deref().and_then(|kind| kind.rsplit('.').next()).unwrap_or("of no known kind");
            *kinds.entry(kind).or_default() += 1;
        }
    }
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let kinds = if kinds.is_empty() { "nobody".to_owned() } else { kinds.join(", ") };
    Ok(format!("{} groups have as direct members: {kinds}", rolls.len()))
}

async fn photo(reading: &Reading<'_>, somebody: &StableId) -> Result<String, String> {
    match photos::one(reading.wire, somebody, reading.deadline).await {
        Ok(Look::Photo(bytes)) => Ok(format!("the first person has one of {} kB", bytes.len().div_ceil(1000))),
        Ok(Look::None) => Ok("can be looked at; the first person has none".to_owned()),
        Ok(Look::Unseen) => {
            Ok("can be asked for; whether the first person has one Graph does not say (no mailbox?)".to_owned())
        }
        Err(trouble) => Err(trouble.in_full()),
    }
}
