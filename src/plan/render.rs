//! The plan as text for people: by space, long runs collapsed, readable at 80 columns, no colour needed (S-80).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{
    AccountDeed, Action, Attribute, Class, Deed, End, HeldItem, Key, LevelChange, Note, Plan, RoomRef, StateChange,
    Step,
};
use crate::ids::{RoomId, UserId};
use crate::observed::CREATOR;

/// Width the text is laid out for.
const WIDTH: usize = 80;
/// Column at which reasons start, where the text before is short enough.
const REASON_COLUMN: usize = 38;
/// Lines alike from this number on collapse into a count.
const COLLAPSE: usize = 10;
/// How many of a collapsed run are named.
const EXAMPLES: usize = 5;

/// What stands above a plan.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// `file company.yaml: 60 users, 12 groups, complete`.
    pub source: String,
    /// `example.org: 5 spaces and 9 rooms managed`.
    pub target: String,
    /// People of this homeserver are shown without it.
    pub server: String,
}

/// The whole plan as text, ending with counts and held items.
#[must_use]
pub fn render(plan: &Plan, header: &Header) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "Source  {}", header.source);
    let _ = writeln!(out, "Target  {}", header.target);
    let page = Page { plan, server: &header.server };
    let mut by_place: BTreeMap<Option<&Key>, Vec<Line>> = BTreeMap::new();
    for step in &plan.steps {
        by_place.entry(step.place.as_ref()).or_default().extend(page.lines(step));
    }
    if let Some(lines) = by_place.remove(&None) {
        out.push_str("\nusher and accounts\n");
        Page::block(&mut out, &lines, 2);
    }
    for (key, title) in &plan.titles {
        let Some(lines) = by_place.remove(&Some(key)) else {
            continue;
        };
        let heading = plain(&format!("{title}  [{key}]"));
        let indent = if key.is_space() {
            let _ = writeln!(out, "\n{heading}");
            2
        } else {
            let _ = writeln!(out, "\n  # {heading}");
            4
        };
        Page::block(&mut out, &lines, indent);
    }
    notes(&mut out, &plan.notes, &header.server);
    held(&mut out, &plan.held(), plan);
    let _ = writeln!(out, "\n{}", plan.summary());
    out
}

/// One thing that is done, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    sign: char,
    /// `invite`; with `subject` the whole, without it the head of a collapsed run.
    verb: String,
    subject: String,
    /// What a run of it is counted in: people, levels.
    unit: &'static str,
    reason: String,
    withheld: Option<String>,
}

struct Page<'a> {
    plan: &'a Plan,
    server: &'a str,
}

impl Page<'_> {
    fn lines(&self, step: &Step) -> Vec<Line> {
        let withheld = step.withheld.as_ref().map(|why| plain(&why.to_string()));
        let sign = |sign: char| if withheld.is_some() { '!' } else { sign };
        let line = |mark: char, subject: String, unit: &'static str| Line {
            sign: sign(mark),
            verb: step.action.verb().to_owned(),
            subject: plain(&subject),
            unit,
            reason: plain(&step.reason.to_string()),
            withheld: withheld.clone(),
        };
        match &step.action {
            Action::RegisterBot | Action::Enter { .. } | Action::TakePower { .. } => vec![line('+', String::new(), "")],
            Action::SetBotName { name } => vec![line('~', format!("\"{name}\""), "")],
            Action::DropAlias { alias, .. } | Action::RemoveAlias { alias, .. } => {
                vec![line('-', alias.to_string(), "aliases")]
            }
            Action::CreateRoom(creation) => {
                let what = if creation.key.is_space() { "space" } else { "room" };
                vec![line('+', what.to_owned(), "rooms")]
            }
            Action::SetState { room, state } => {
                let (verb, subject) = self.state(room, state);
                vec![Line { verb: verb.to_owned(), ..line('~', subject, "changes") }]
            }
            Action::SetPowerLevels { changes, .. } if changes.is_empty() => {
                vec![Line { verb: "rewrite".to_owned(), ..line('~', "levels".to_owned(), "") }]
            }
            Action::SetPowerLevels { changes, .. } => changes
                .iter()
                .map(|change| Line {
                    reason: plain(&change.reason.to_string()),
                    unit: if change.user.is_some() { "people" } else { "keys" },
                    ..line(if change.to < change.from { '-' } else { '~' }, self.level(change), "people")
                })
                .collect(),
            Action::Invite { user, .. } | Action::Join { user, .. } => vec![line('+', self.short(user), "people")],
            Action::Kick { user, .. } => vec![line('-', self.short(user), "people")],
            Action::Account { user, deed } => {
                let (mark, subject) = self.account(user, deed);
                vec![line(mark, subject, "people")]
            }
            Action::MirrorLeavers { leavers } => {
                vec![line('~', counted(leavers.len() as u64, "locked person", "locked people"), "")]
            }
            Action::Leave { .. } => vec![line('-', String::new(), "")],
            Action::Puppet { user, deed, .. } => {
                let user = self.short(user);
                let (mark, subject) = match deed {
                    Deed::SetLevels { changes, .. } => {
                        let change = |change: &LevelChange| {
                            let mark = if change.to < change.from { '-' } else { '~' };
                            let reason = plain(&change.reason.to_string());
                            Line { reason, ..line(mark, format!("{user}: {}", self.level(change)), "people") }
                        };
                        return changes.iter().map(change).collect();
                    }
                    Deed::Leave { .. } | Deed::Forget => ('-', user),
                    Deed::InviteBot | Deed::Join => ('+', user),
                    Deed::Upgrade { version } => ('~', format!("{user}: to version {version}")),
                };
                vec![line(mark, subject, "people")]
            }
        }
    }

    /// What is done to an account: never an address, nor a picture.
    fn account(&self, user: &UserId, deed: &AccountDeed) -> (char, String) {
        let user = self.short(user);
        match deed {
            AccountDeed::Lock { .. } | AccountDeed::RemovePushers | AccountDeed::Close(_) => ('-', user),
            AccountDeed::Unlock => ('+', user),
            AccountDeed::TurnDown { room, .. } => ('-', format!("{user}: {}", self.named(room))),
            AccountDeed::HandOver { room, to } => ('~', format!("{user}'s {} to {}", self.named(room), self.short(to))),
            AccountDeed::Set(attribute) => match attribute {
                Attribute::DisplayName(name) => ('~', format!("{user} \"{name}\"")),
                Attribute::Emails { emails, .. } => {
                    ('~', format!("{user}: {}", counted(emails.0.len() as u64, "address", "addresses")))
                }
                Attribute::Avatar(avatar) => ('~', format!("{user}: {}", avatar.photo)),
                Attribute::NoEmails(_) | Attribute::NoAvatar { .. } => ('-', user),
            },
        }
    }

    /// A verb and what it is done to. Links are told from below: the step stands under the room that is linked.
    fn state(&self, room: &RoomRef, state: &StateChange) -> (&'static str, String) {
        match state {
            StateChange::Name(text) => ("set", format!("name \"{text}\"")),
            StateChange::Topic(text) => ("set", format!("topic \"{text}\"")),
            StateChange::Avatar(_) | StateChange::Marker(_) => ("set", state.label()),
            StateChange::Unmark(_) => ("mark", "as given up".to_owned()),
            StateChange::CanonicalAlias(alias) => ("set", format!("alias {alias}")),
            StateChange::JoinRule(rule) => ("set", format!("join rule {}", rule.rule)),
            StateChange::GuestAccess(access) => ("set", format!("guest access {access}")),
            StateChange::Child { .. } => ("link", format!("into '{}'", self.room(room))),
            StateChange::Unchild { child } => ("unlink", format!("'{}'", self.named(child))),
            StateChange::Parent { parent, .. } => ("link", format!("up to '{}'", self.room(parent))),
            StateChange::Unparent { parent } => ("unlink", format!("up to '{}'", self.named(parent))),
            StateChange::Adopt(_) => ("adopt", room.to_string()),
            StateChange::Rename { from, marker } => ("rename", format!("{from} to {}", marker.key)),
        }
    }

    fn room(&self, room: &RoomRef) -> String {
        match room {
            RoomRef::Id(id) => self.named(id),
            RoomRef::New(key) => self.title(key),
        }
    }

    /// By its title, if it is a managed room.
    fn named(&self, room: &RoomId) -> String {
        self.plan.rooms.get(room).map_or_else(|| room.to_string(), |key| self.title(key))
    }

    fn title(&self, key: &Key) -> String {
        let title = self.plan.titles.iter().find(|(known, _)| known == key);
        title.map_or_else(|| key.to_string(), |(_, title)| title.clone())
    }

    fn level(&self, change: &LevelChange) -> String {
        let who = match (&change.user, &change.key) {
            (Some(user), _) => self.short(user),
            (None, key) => key.clone().unwrap_or_default(),
        };
        let from = if change.from == CREATOR { "creator".to_owned() } else { change.from.to_string() };
        format!("{who} {from} -> {}", change.to)
    }

    fn short(&self, user: &UserId) -> String {
        short(user, self.server)
    }

    /// Lines alike are gathered; where there are many, counted.
    fn block(out: &mut String, lines: &[Line], indent: usize) {
        let mut runs: Vec<(&Line, Vec<&Line>)> = Vec::new();
        let mut index: BTreeMap<(char, &str, &str, Option<&str>), usize> = BTreeMap::new();
        for line in lines {
            let likeness = (line.sign, line.verb.as_str(), line.reason.as_str(), line.withheld.as_deref());
            let at = *index.entry(likeness).or_insert_with(|| {
                runs.push((line, Vec::new()));
                runs.len() - 1
            });
            runs[at].1.push(line);
        }
        for (first, run) in runs {
            if run.len() >= COLLAPSE {
                let what = format!("{} {} {} {}", first.sign, first.verb, run.len(), first.unit);
                entry(out, &what, &first.reason, indent);
                let named: Vec<&str> = run.iter().take(EXAMPLES).map(|line| line.subject.as_str()).collect();
                let more = format!("{} and {} more", named.join(", "), run.len() - EXAMPLES);
                wrapped(out, &more, (indent + 4, 0));
            } else {
                for line in &run {
                    let what = format!("{} {} {}", line.sign, line.verb, line.subject);
                    entry(out, what.trim_end(), &line.reason, indent);
                }
            }
            if let Some(withheld) = &first.withheld {
                wrapped(out, &format!("not done: {withheld}"), (indent + 4, 2));
            }
        }
    }
}

/// A subject and, in its column or on the next line, its reason.
fn entry(out: &mut String, what: &str, reason: &str, indent: usize) {
    let start = format!("{:indent$}{what}", "");
    let length = start.chars().count();
    if length + 2 <= REASON_COLUMN && REASON_COLUMN + reason.chars().count() <= WIDTH {
        let _ = writeln!(out, "{start:REASON_COLUMN$}{reason}");
    } else if length + 2 + reason.chars().count() <= WIDTH {
        let _ = writeln!(out, "{start}  {reason}");
    } else {
        let _ = writeln!(out, "{start}");
        wrapped(out, reason, (indent + 4, 0));
    }
}

/// `text` from column `indent` on, further lines `hang` deeper.
fn wrapped(out: &mut String, text: &str, (indent, hang): (usize, usize)) {
    let mut line = " ".repeat(indent);
    let mut empty = true;
    for word in text.split(' ') {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(out, "{line}");
            line = " ".repeat(indent + hang);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(out, "{line}");
}

fn notes(out: &mut String, notes: &[Note], server: &str) {
    if notes.is_empty() {
        return;
    }
    out.push_str("\nNotes\n");
    let mut kinds: Vec<(&'static str, Vec<&Note>)> = Vec::new();
    for note in notes {
        match kinds.last_mut() {
            Some((kind, run)) if *kind == note.kind() => run.push(note),
            _ => kinds.push((note.kind(), vec![note])),
        }
    }
    for (_, run) in kinds {
        let shown = if run.len() >= COLLAPSE { EXAMPLES } else { run.len() };
        for note in &run[..shown] {
            wrapped(out, &plain(&format!("* {}", note.to_string().replace(&format!(":{server}"), ""))), (2, 2));
        }
        if run.len() > shown {
            let _ = writeln!(out, "    and {} more like the last", run.len() - shown);
        }
    }
}

fn held(out: &mut String, items: &[HeldItem], plan: &Plan) {
    if items.is_empty() {
        return;
    }
    out.push_str("\nHeld for approval\n");
    for item in items {
        wrapped(out, &format!("{}  {}", item.id, item.title(plan)), (2, 10));
        let _ = writeln!(out, "            usher hold show {0}   usher hold approve {0}", item.id);
    }
}

impl Class {
    /// What its limit counts.
    fn unit(self) -> (&'static str, &'static str) {
        if self == Self::Spaces {
            ("space", "spaces")
        } else if self == Self::Rooms {
            ("room", "rooms")
        } else {
            ("person", "people")
        }
    }
}

impl HeldItem {
    /// The hold in a line: class, place, figures.
    #[must_use]
    pub fn title(&self, plan: &Plan) -> String {
        let mut text = self.hold.class.to_string();
        if let Some(space) = &self.hold.space {
            let title = plan.titles.iter().find(|(key, _)| key == space).map_or("", |(_, title)| title);
            let _ = write!(text, ", {title} [{space}]");
        }
        if let Some(detail) = &self.hold.detail {
            let _ = write!(text, ": {detail}");
        }
        if let Some(limit) = self.hold.limit {
            let (one, many) = self.hold.class.unit();
            let count = counted(self.hold.count, one, many);
            let _ = write!(text, ": {count} in 24 h, limit {limit} of {}", self.hold.base);
        }
        let _ = write!(text, " ({})", counted(self.steps.len() as u64, "step", "steps"));
        plain(&text)
    }
}

/// `1 user`, `2 users`.
#[must_use]
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// `@ann` for people of our own homeserver, the whole id for others.
fn short(user: &UserId, server: &str) -> String {
    if user.server() == server { format!("@{}", plain(user.localpart())) } else { plain(user.as_str()) }
}

/// Names come from strangers: nothing in them may move the cursor, turn the line around or hide text.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_layout(c) { '\u{fffd}' } else { c }).collect()
}

/// Invisible characters that change how others are shown: separators, directions, joiners, marks.
fn is_layout(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

impl Action {
    /// What is done, in a word.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::RegisterBot => "register bot",
            Self::SetBotName { .. } => "name bot",
            Self::DropAlias { .. } => "drop alias",
            Self::CreateRoom(_) => "make",
            Self::SetState { .. } => "set",
            Self::SetPowerLevels { .. } => "level",
            Self::Invite { .. } => "invite",
            Self::Join { .. } => "join",
            Self::Kick { .. } => "remove",
            Self::Account { deed, .. } => match deed {
                AccountDeed::Lock { .. } => "lock",
                AccountDeed::Unlock => "unlock",
                AccountDeed::RemovePushers => "stop pushes to",
                AccountDeed::TurnDown { .. } => "turn down for",
                AccountDeed::HandOver { .. } => "hand over",
                AccountDeed::Close(End::Erase) => "erase",
                AccountDeed::Close(End::Deactivate) => "deactivate",
                AccountDeed::Set(attribute) => attribute.verb(),
            },
            Self::MirrorLeavers { .. } => "note down",
            Self::Leave { .. } => "leave",
            Self::Enter { .. } => "enter",
            Self::TakePower { .. } => "take power",
            Self::RemoveAlias { .. } => "remove alias",
            Self::Puppet { deed, .. } => match deed {
                Deed::Leave { .. } => "leave as",
                Deed::Forget => "forget as",
                Deed::InviteBot => "invite bot as",
                Deed::SetLevels { .. } => "level as",
                Deed::Join => "join as",
                Deed::Upgrade { .. } => "upgrade as",
            },
        }
    }

    /// Whether it links to a room that does not exist yet.
    #[must_use]
    pub(super) fn links(&self, new: &RoomRef) -> bool {
        match self {
            Self::SetState { state: StateChange::Child { child, .. }, .. } => child == new,
            Self::SetState { state: StateChange::Parent { parent, .. }, .. } => parent == new,
            Self::CreateRoom(creation) => creation.allow.contains(new),
            _ => false,
        }
    }
}

impl Plan {
    /// One step in one line, for lists of held steps.
    #[must_use]
    pub fn line(&self, step: &Step) -> String {
        let place = step.place.as_ref().map(|key| plain(&format!("{key}: "))).unwrap_or_default();
        let page = Page { plan: self, server: "" };
        let what: Vec<String> =
            page.lines(step).iter().map(|line| format!("{} {} ({})", line.verb, line.subject, line.reason)).collect();
        format!("{place}{}", what.join("; "))
    }

    /// Steps that will be done.
    pub fn pending(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.is_pending())
    }

    /// How many steps wait for an operator or a complete read (S-110).
    #[must_use]
    pub fn held_count(&self) -> usize {
        self.steps.iter().filter(|step| step.withheld.as_ref().is_some_and(super::Withheld::is_held)).count()
    }

    /// The closing line.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut made = 0_u64;
        let (mut invited, mut removed, mut levels, mut other) = (0_u64, 0_u64, 0_u64, 0_u64);
        let (mut abandoned, mut released) = (0_u64, 0_u64);
        for step in self.pending() {
            match &step.action {
                Action::Leave { .. } if step.gives_up().is_some_and(Key::is_space) => abandoned += 1,
                Action::SetState { state: StateChange::Unmark(_), .. }
                    if step.gives_up().is_some_and(|thing| !thing.is_space()) =>
                {
                    released += 1;
                }
                Action::CreateRoom(_) => made += 1,
                Action::Invite { .. } | Action::Join { .. } | Action::Puppet { deed: Deed::Join, .. } => invited += 1,
                Action::Kick { .. } | Action::Puppet { deed: Deed::Leave { .. }, .. } => removed += 1,
                Action::SetPowerLevels { changes, .. }
                | Action::Puppet { deed: Deed::SetLevels { changes, .. }, .. } => levels += changes.len().max(1) as u64,
                Action::RegisterBot
                | Action::SetBotName { .. }
                | Action::DropAlias { .. }
                | Action::SetState { .. }
                | Action::Account { .. }
                | Action::MirrorLeavers { .. }
                | Action::Leave { .. }
                | Action::Enter { .. }
                | Action::TakePower { .. }
                | Action::RemoveAlias { .. }
                | Action::Puppet { .. } => other += 1,
            }
        }
        let mut parts = Vec::new();
        for (count, one, many) in [
            (made, "room to make", "rooms to make"),
            (abandoned, "space to abandon", "spaces to abandon"),
            (released, "room to release", "rooms to release"),
            (invited, "person to bring in", "people to bring in"),
            (removed, "removal", "removals"),
            (levels, "level", "levels"),
            (other, "other change", "other changes"),
        ] {
            if count > 0 {
                parts.push(counted(count, one, many));
            }
        }
        let mut text =
            if parts.is_empty() { "Plan: nothing to do".to_owned() } else { format!("Plan: {}", parts.join(", ")) };
        let held = self.held_count();
        let withheld = self.steps.iter().filter(|step| step.withheld.is_some()).count() - held;
        if held > 0 {
            let _ = write!(text, "; {held} held");
        }
        if withheld > 0 {
            let _ = write!(text, "; {withheld} withheld");
        }
        text.push('.');
        text
    }
}
