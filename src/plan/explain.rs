//! Why somebody is where they are: `usher explain` (S-90).

use std::fmt::Write as _;

use super::{Plan, counted, members, rooms, takeover};
use crate::config::Enforce;
use crate::desired::{Desired, DesiredRoom, RoomKind, Standing};
use crate::directory::{Directory, Found};
use crate::ids::{Key, RoomId, UserId};
use crate::observed::{Member, Observed, Presence, Room};

/// What usher knows of `what`: an MXID or localpart, a configured space or `space/room`, a room id, or a group.
#[must_use]
pub fn explain(
    what: &str,
    directory: &Directory,
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
) -> Option<String> {
    let taken = takeover::taken_rooms(desired, observed);
    let page = Page { directory, desired, observed, plan, taken: &taken };
    let user = if what.starts_with('@') && what.contains(':') {
        UserId::from(what)
    } else {
        UserId::new(&what.trim_start_matches('@').to_ascii_lowercase(), &observed.server)
    };
    let is_meant = |room: &&DesiredRoom| room.key.to_string() == what || page.located(&room.key) == Some(what);
    if let Some(room) = page.rooms().find(is_meant) {
        return Some(page.room(room));
    }
    let given_up = plan
        .rooms
        .iter()
        .find(|(id, key)| (id.as_str() == what || key.to_string() == what) && desired.room(key).is_none());
    if let Some((id, key)) = given_up {
        return Some(page.given_up(id, key));
    }
    let known = desired.people.standing(&user).is_some()
        || matches!(observed.accounts.presence(&user), Presence::Exists(_))
        || what.starts_with('@');
    if known {
        return Some(page.user(&user));
    }
    match directory.find(what) {
        Found::Everyone => Some(format!("'{what}' is everybody: {}\n", people(desired.people.all_active().count()))),
        Found::Group(group) => Some(page.group(group)),
        Found::Ambiguous(groups) => {
            let names: Vec<String> = groups.iter().map(|group| group.id.to_string()).collect();
            Some(format!("'{what}' could be any of: {}\n", names.join(", ")))
        }
        Found::Missing { .. } => None,
    }
}

struct Page<'a> {
    directory: &'a Directory,
    desired: &'a Desired,
    observed: &'a Observed,
    plan: &'a Plan,
    /// Rooms that people made and opened to managed spaces (S-31).
    taken: &'a [(RoomId, DesiredRoom)],
}

impl Page<'_> {
    fn located(&self, key: &Key) -> Option<&str> {
        self.carrier(key).map(|(id, _)| id)
    }

    /// Configured and mirrored ones, and those that people made.
    fn rooms(&self) -> impl Iterator<Item = &DesiredRoom> {
        self.desired.rooms.iter().chain(self.taken.iter().map(|(_, room)| room))
    }

    fn carrier(&self, key: &Key) -> Option<(&str, &Room)> {
        if let Some((id, _)) = self.taken.iter().find(|(_, room)| room.key == *key) {
            let seen = self.observed.rooms.get(id).or_else(|| self.observed.outside.get(id));
            return seen.map(|room| (id.as_str(), room));
        }
        let carries = |room: &Room| rooms::identity(room, &self.observed.bot) == Some(key);
        let found = self.observed.rooms.iter().filter(|(_, room)| carries(room));
        let found = found.min_by_key(|(_, room)| room.successor.is_some());
        found.map(|(id, room)| (id.as_str(), room))
    }

    fn user(&self, user: &UserId) -> String {
        let mut out = format!("{user}\n");
        let entry = self.directory.users.values().find(|entry| self.desired.people.account(&entry.id) == Some(user));
        let _ = match entry {
            Some(entry) => writeln!(out, "  directory  found, stable id {}", entry.id),
            None => writeln!(out, "  directory  not found in {}", self.directory.source),
        };
        let standing = match self.desired.people.standing(user) {
            Some(Standing::Active) => "active".to_owned(),
            Some(Standing::Suspended(why)) => format!("suspended: {why}"),
            Some(Standing::Disabled) => "disabled in the directory".to_owned(),
            Some(Standing::Gone { since }) => format!("gone since {}", since.to_minute()),
            None => "never seen in the directory".to_owned(),
        };
        let _ = writeln!(out, "  standing   {standing}");
        let account = match self.observed.accounts.presence(user) {
            Presence::Exists(account) if account.locked => "exists, locked",
            Presence::Exists(account) if account.deactivated => "exists, deactivated",
            Presence::Exists(_) => "exists",
            Presence::Missing => "does not exist yet: nobody without an account is invited",
            Presence::Unknown => "unknown",
        };
        let _ = writeln!(out, "  account    {account}");
        if members::is_protected(self.desired, self.observed, user) {
            out.push_str("  protected  never removed or demoted\n");
        }
        for room in self.rooms() {
            self.place(&mut out, user, room);
        }
        let steps: Vec<String> = self
            .plan
            .steps
            .iter()
            .filter(|step| step.action.user() == Some(user) || changes_level(step, user))
            .map(|step| {
                let withheld = step.withheld.as_ref().map(|why| format!(" — not done: {why}")).unwrap_or_default();
                format!("    {}{withheld}\n", self.plan.line(step))
            })
            .collect();
        if !steps.is_empty() {
            let _ = write!(out, "  planned\n{}", steps.concat());
        }
        out
    }

    fn place(&self, out: &mut String, user: &UserId, room: &DesiredRoom) {
        let right = room.rule.members.get(user);
        let now = self.carrier(&room.key).and_then(|(_, carrier)| {
            let member = carrier.members.get(user)?;
            let level = carrier.power_levels.as_ref().map_or(0, |levels| levels.user_level(user));
            Some((member, level))
        });
        if right.is_none() && now.is_none() {
            return;
        }
        let wanted = match right {
            Some(right) => format!("entitled at level {}: {}", right.level, self.desired.reason(right)),
            None => "not entitled".to_owned(),
        };
        let is = match now {
            None => "not in it".to_owned(),
            Some((Member::Join, level)) => format!("joined at level {level}"),
            Some((Member::Invite, level)) => format!("invited at level {level}"),
            Some((Member::Knock, _)) => "knocking".to_owned(),
            Some((Member::Leave { by, .. }, _)) if by == user => "left or declined".to_owned(),
            Some((Member::Leave { by, .. }, _)) => format!("removed by {by}"),
            Some((Member::Ban { by }, _)) => format!("banned by {by}"),
        };
        let place = match &room.kind {
            RoomKind::Taken { .. } => format!("{} '{}'", room.key, room.name),
            RoomKind::Space { .. } | RoomKind::Room(_) => room.key.to_string(),
        };
        let _ = writeln!(out, "  {place:24} {is}; {wanted}");
    }

    fn room(&self, room: &DesiredRoom) -> String {
        let mut out = format!("{} [{}]\n", room.name, room.key);
        match self.carrier(&room.key) {
            None => out.push_str("  room       not made yet\n"),
            Some((id, carrier)) => {
                let _ = writeln!(out, "  room       {id}, version {}", carrier.version);
                let count = |wanted: &Member| carrier.members.values().filter(|member| *member == wanted).count();
                let _ =
                    writeln!(out, "  people     {} joined, {} invited", count(&Member::Join), count(&Member::Invite));
            }
        }
        if let RoomKind::Taken { spaces } = &room.kind {
            let spaces: Vec<String> = spaces.iter().map(ToString::to_string).collect();
            let _ =
                writeln!(out, "  open to    {}: people made it, and its own join rule names them", spaces.join(", "));
        }
        let _ = writeln!(out, "  entitled   {}", people(room.rule.members.len()));
        let enforce = match room.enforce {
            Enforce::Strict => "strict",
            Enforce::Additive => "additive",
            Enforce::Observe => "observe",
        };
        let _ = writeln!(out, "  enforce    {enforce}");
        let planned = self.plan.steps.iter().filter(|step| step.place.as_ref() == Some(&room.key)).count();
        let _ = writeln!(out, "  planned    {}", counted(planned as u64, "step", "steps"));
        out
    }

    /// Something that is managed no longer: why, and what becomes of it.
    fn given_up(&self, id: &RoomId, key: &Key) -> String {
        let title = self.plan.titles.iter().find(|(known, _)| known == key).map_or("", |(_, title)| title);
        let mut out = format!("{title} [{key}]\n");
        if let Some(room) = self.observed.rooms.get(id) {
            let count = |wanted: &Member| room.members.values().filter(|member| *member == wanted).count();
            let _ = writeln!(out, "  room       {id}, version {}", room.version);
            let _ = writeln!(out, "  people     {} joined, {} invited", count(&Member::Join), count(&Member::Invite));
        }
        let fate = if key.is_space() { "abandoned" } else { "released" };
        let steps: Vec<_> = self.plan.steps.iter().filter(|step| step.gives_up() == Some(key)).collect();
        let why = steps.last().map(|step| step.reason.to_string()).unwrap_or_default();
        let _ = writeln!(out, "  {fate:<10} {}", if why.is_empty() { "already" } else { &why });
        let withheld = steps.iter().find_map(|step| step.withheld.as_ref());
        if let Some(withheld) = withheld {
            let _ = writeln!(out, "  not done   {withheld}");
        }
        let _ = writeln!(out, "  planned    {}", counted(steps.len() as u64, "step", "steps"));
        for step in steps {
            let _ = writeln!(out, "    {}", self.plan.line(step));
        }
        out
    }

    fn group(&self, group: &crate::directory::Group) -> String {
        let mut out = format!("group {}\n  stable id  {}\n", group.name, group.id);
        for name in self.directory.names_of(&group.id) {
            let _ = writeln!(out, "  name       {name}");
        }
        let _ = writeln!(out, "  people     {}", group.users.len());
        for id in group.users.iter().take(20) {
            if let Some(account) = self.desired.people.account(id) {
                let _ = writeln!(out, "    {account}");
            }
        }
        out
    }
}

fn people(count: usize) -> String {
    counted(count as u64, "person", "people")
}

fn changes_level(step: &super::Step, user: &UserId) -> bool {
    step.action.level_changes().iter().any(|change| change.user.as_ref() == Some(user))
}
