//! The stage of a scenario: a world in short form, its changes, and passes over it as the loop makes them.

mod mail;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use usher::actuate::Outcome;
use usher::config::{Config, load_with};
use usher::desired::desire;
use usher::directory::{Directory, Snapshot};
use usher::ids::{Key, RoomId, Timestamp, UserId};
use usher::ledger::{Ending, Ledger, Order, Photo, Refusal, RemovalRecord, Witnessing};
use usher::observed::{Estate, Known, Member, Observed, Room};
use usher::plan::{
    Action, Class, Decision, Header, Plan, Scope, Step, WINDOW_MS, World, counted, explain, guarded, render,
};

use super::short::{duration, key_of, membership, merge, patch_or_nothing, person, picture, short_lists};

pub const SERVER: &str = "example.org";
const BOT: &str = "@usher:example.org";
pub const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What every scenario's configuration is merged over.
const BASE: &str = "
homeserver: { url: 'http://127.0.0.1:8008', server_name: example.org }
source: { type: file, path: company.yaml, check_interval_seconds: 60 }
";

/// The configuration of an operator who wrote `yaml` and nothing else that a plan depends on.
pub fn config(yaml: &str) -> Config {
    let files = [("base.yaml".into(), BASE.to_owned()), ("scenario.yaml".into(), yaml.to_owned())];
    match load_with(&files, &|_| None).strict() {
        Ok((config, _)) => config,
        Err(problems) => panic!("{problems:#?}"),
    }
}

/// A world that goes on.
pub struct Stage {
    config: Value,
    directory: Value,
    observed: Observed,
    ledger: Ledger,
    now: Timestamp,
    without_account: Vec<String>,
    /// The accounts' mail addresses.
    mail: BTreeMap<UserId, Vec<String>>,
}

/// What stands for the entry of somebody without a photo.
const WITHOUT: &str = "no photo";

fn part_names(step: &Step) -> Vec<String> {
    step.part_ids().into_iter().map(|id| id.0).collect()
}

impl Stage {
    pub fn set(scenario: &Value) -> Self {
        let now = scenario["now"].as_str().unwrap_or("2026-03-02T09:00:00Z");
        let now = chrono::DateTime::parse_from_rfc3339(now).expect("now").timestamp_millis();
        let homeserver = &scenario["homeserver"];
        let recorded = homeserver.get("server").is_some();
        let mut stage = Self {
            config: json!({}),
            directory: json!({}),
            observed: if recorded { serde_json::from_value(homeserver.clone()).unwrap() } else { empty() },
            ledger: Ledger::default(),
            now: Timestamp(now),
            without_account: Vec::new(),
            mail: BTreeMap::new(),
        };
        let mut opening = scenario.clone();
        if recorded || homeserver == "empty" {
            opening["homeserver"] = Value::Null;
        }
        stage.change(&opening);
        stage.now = Timestamp(now);
        stage
    }

    /// Applies what a step changes. Between steps five minutes pass, unless it says otherwise.
    pub fn change(&mut self, step: &Value) {
        self.now = self.now.plus_ms(duration(step["after"].as_str().unwrap_or("5m")));
        match &step["config"] {
            Value::String(text) => self.config = serde_yaml::from_str(text).unwrap(),
            patch => merge(&mut self.config, patch_or_nothing(patch)),
        }
        merge(&mut self.directory, &short_lists(patch_or_nothing(&step["directory"])));
        for name in step["without_account"].as_array().into_iter().flatten() {
            self.without_account.push(name.as_str().unwrap().to_owned());
        }
        self.without_account
            .retain(|name| !step["with_account"].as_array().into_iter().flatten().any(|with| with == name));
        for order in step["orders"].as_array().into_iter().flatten() {
            let order: Order = serde_json::from_value(order.clone()).unwrap();
            assert_eq!(self.ledger.objection(&order, None), None, "{order:?}");
            assert!(self.ledger.obey(&order, self.now));
        }
        self.open_accounts();
        if step["homeserver"].is_object() {
            self.patch_homeserver(&step["homeserver"]);
        }
        match &step["ledger"] {
            Value::String(lost) if lost == "lost" => self.ledger = Ledger::default(),
            Value::Object(_) => {
                let mut ledger = json!(self.ledger);
                merge(&mut ledger, &step["ledger"]);
                self.ledger = serde_json::from_value(ledger).unwrap();
            }
            _ => {}
        }
    }

    /// One pass: read, plan, guard, show; do it, learn; look again.
    pub fn pass(&mut self, step: &Value, faults: &mut Vec<String>) -> String {
        let config = config(&serde_yaml::to_string(&self.config).unwrap());
        let decision = self.decide(&config);
        let shown = self.show(&decision);
        self.check_explained(&decision, step, faults);
        if step["dry"] == true {
            return shown;
        }
        self.perform(&decision.plan, step);
        if step["accept"] != false {
            self.accept();
        }
        self.approve(&decision.plan, step);
        let again = self.decide(&config);
        let pending: Vec<String> = again.plan.pending().map(|step| again.plan.line(step)).collect();
        if !pending.is_empty() && step["approve"].is_null() && step["restless"] != true {
            faults.push(format!("the plan after this one is not empty:\n{shown}\nthen\n  {}", pending.join("\n  ")));
        }
        self.check_levels(step, faults);
        self.check_mail(step, faults);
        shown
    }

    fn decide(&mut self, config: &Config) -> Decision {
        let snapshot = self.snapshot();
        let mut directory = Directory::flatten(snapshot.clone());
        self.ledger.doubt(&mut directory);
        let holds_accounts = config.user_provisioner.deprovisioning.is_some();
        let how = Witnessing { interval_ms: config.source.check_interval_ms(), holds_accounts };
        self.ledger.witness_as(&directory, how, self.now);
        // The loop reads the homeserver after the source.
        if let Known::Known(mirror) = &self.observed.leavers {
            self.ledger.recover(mirror);
        }
        self.look_at_estates();
        self.look_at_photos(&directory);
        self.read_emails(config);
        let world = World {
            config: String::new(),
            directory: snapshot,
            homeserver: self.seen(),
            ledger: self.ledger.clone(),
            now: self.now,
        };
        // What is recorded reads back as the same world.
        let world: World = serde_json::from_value(serde_json::to_value(&world).unwrap()).unwrap();
        let decision = world.decide(config);
        assert_eq!(desire(config, &directory, &self.ledger, self.now).rooms.len(), decision.desired.rooms.len());
        self.check_scopes(&decision, config);
        decision
    }

    /// The loop has looked at the places of everybody who is locked; who is in which room is as the scenario says.
    fn look_at_estates(&mut self) {
        let (ledger, now) = (&self.ledger, self.now);
        self.observed.estates.retain(|user, _| ledger.leavers.contains_key(user));
        for user in self.ledger.leavers.keys() {
            let elsewhere = self.observed.outside.iter();
            let theirs = |room: &Room, member: &Member| room.members.get(user) == Some(member);
            let rooms = elsewhere.clone().filter(|(_, room)| theirs(room, &Member::Join));
            let rooms = rooms.map(|(id, room)| (id.clone(), room.clone())).collect();
            let invited =
                elsewhere.filter(|(_, room)| theirs(room, &Member::Invite)).map(|(id, _)| id.clone()).collect();
            self.observed.estates.insert(user.clone(), Estate { read_at: now, rooms, invited });
        }
    }

    /// The loop has looked at everybody's photo.
    fn look_at_photos(&mut self, directory: &Directory) {
        for (id, stamp) in &directory.stamps {
            let user = UserId::new(directory.users[id].localpart.as_str(), SERVER);
            let photo = (**stamp != *WITHOUT).then(|| Photo::of(&picture(stamp)));
            self.ledger.saw_photo(&user, stamp.clone(), photo);
        }
    }

    /// What an event in one room lets happen is part of what the whole plan lets happen (S-81).
    fn check_scopes(&self, decision: &Decision, config: &Config) {
        let whole: BTreeSet<String> = decision.plan.pending().flat_map(part_names).collect();
        let seen = self.seen();
        for room in seen.rooms.keys().chain(seen.outside.keys()) {
            let scope = Scope::Rooms(BTreeSet::from([room.clone()]));
            let pair = (&decision.desired, &seen);
            let narrow = guarded(pair, &self.ledger, &scope, &config.safety.limits, self.now);
            for name in narrow.pending().flat_map(part_names) {
                assert!(whole.contains(&name), "an event in {room} lets through what is held: {name}");
            }
        }
    }

    fn show(&self, decision: &Decision) -> String {
        let Decision { directory, plan, .. } = decision;
        let completeness = if directory.is_complete() { "complete" } else { "incomplete" };
        render(
            plan,
            &Header {
                source: format!(
                    "scenario: {}, {}, {completeness}",
                    counted(directory.users.len() as u64, "user", "users"),
                    counted(directory.groups.len() as u64, "group", "groups"),
                ),
                target: format!("{SERVER}: {}", counted(self.observed.rooms.len() as u64, "room", "rooms")),
                server: SERVER.to_owned(),
            },
        )
    }

    fn perform(&mut self, plan: &Plan, step: &Value) {
        let refused = |user: &UserId| {
            step["refuse"].as_array().into_iter().flatten().any(|name| person(name.as_str().unwrap()) == user.as_str())
        };
        for step in plan.pending() {
            if let (Action::Invite { user, .. }, Some(place)) = (&step.action, &step.place)
                && refused(user)
            {
                let refusal = Refusal { code: "M_FORBIDDEN".into(), retry_at: self.now.plus_ms(DAY_MS) };
                self.ledger.refusals.insert((place.clone(), user.clone()), refusal);
                continue;
            }
            self.record(step, plan);
            self.ledger.foresee(step, self.now);
            self.write_emails(&step.action);
            self.observed.simulate(&step.action, &Outcome::default());
            self.ledger.settle(step, Ending::Done);
        }
        self.ledger.learn(&plan.lessons);
        // The same pass's next round: the mirror tells of what was done.
        if !self.observed.leavers.is_unknown() {
            self.observed.leavers = Known::Known(self.ledger.mirrored_leavers());
        }
        self.ledger.settled |= plan.steps.iter().filter_map(Step::hold).all(|hold| hold.class != Class::LedgerLost);
        let now = self.now;
        self.ledger.removals.retain(|record| now.since_ms(record.at) < WINDOW_MS);
        self.ledger.approvals.retain(|_, until| *until > now);
        self.ledger.refusals.retain(|_, refusal| refusal.retry_at > now);
    }

    /// Removals that count; approved ones use up no window (S-104).
    fn record(&mut self, step: &Step, plan: &Plan) {
        if self.ledger.approvals.get(&step.id()).is_some_and(|until| *until > self.now) {
            return;
        }
        let changes = match &step.action {
            Action::SetPowerLevels { changes, .. } => changes.as_slice(),
            _ => &[],
        };
        let removals =
            step.removal.as_deref().into_iter().chain(changes.iter().filter_map(|change| change.removal.as_ref()));
        for removal in removals.filter(|removal| removal.counts) {
            self.ledger.removals.push(RemovalRecord {
                class: removal.class,
                space: removal.space.clone(),
                person: removal.person.clone(),
                at: self.now,
                space_base: plan.heads.spaces.get(&removal.space).copied().unwrap_or(0),
                total_base: plan.heads.base(removal.class),
            });
        }
    }

    /// Without admin rights a room the bot is not in shows its name, kind and join rule; and the bot knows where it is invited.
    fn seen(&self) -> Observed {
        let mut seen = self.observed.clone();
        for room in seen.outside.values_mut().filter(|_| !self.observed.accounts.listed) {
            let (name, join_rule, mut members) =
                (room.name.take(), room.join_rule.take(), std::mem::take(&mut room.members));
            members.retain(|user, _| *user == self.observed.bot);
            *room = Room { is_space: room.is_space, name, join_rule, members, ..Room::default() };
        }
        seen
    }

    /// Everybody who is invited accepts.
    fn accept(&mut self) {
        for room in self.observed.rooms.values_mut() {
            for member in room.members.values_mut().filter(|member| **member == Member::Invite) {
                *member = Member::Join;
            }
        }
    }

    fn approve(&mut self, plan: &Plan, step: &Value) {
        if step["approve"] == "all" {
            let until = self.now.plus_ms(DAY_MS);
            self.ledger.approvals.extend(plan.held().into_iter().flat_map(|item| item.steps).map(|id| (id, until)));
        }
    }

    /// `explains: {ann: [text, ...]}`: what `usher explain` says before the pass.
    fn check_explained(&self, decision: &Decision, step: &Value, faults: &mut Vec<String>) {
        for (what, texts) in step["explains"].as_object().into_iter().flatten() {
            let Decision { directory, desired, plan, .. } = decision;
            let said = explain(what, directory, desired, &self.seen(), plan).unwrap_or_default();
            for text in texts.as_array().unwrap().iter().map(|text| text.as_str().unwrap()) {
                if !said.contains(text) {
                    faults.push(format!("{what} is not explained by '{text}':\n{said}"));
                }
            }
        }
    }

    /// `levels: {room: {ann: 50}}`: effective levels after the pass.
    fn check_levels(&self, step: &Value, faults: &mut Vec<String>) {
        for (room, people) in step["levels"].as_object().into_iter().flatten() {
            let id = self.room_id(room);
            let levels = self.observed.rooms[id.as_str()].power_levels.clone().unwrap_or_default();
            for (name, wanted) in people.as_object().unwrap() {
                let got = levels.user_level(&person(name).as_str().into());
                if Some(got) != wanted.as_i64() {
                    faults.push(format!("{name} has level {got} in {room}, not {wanted}"));
                }
            }
        }
    }

    /// The bridge's form of the short one.
    fn snapshot(&self) -> Snapshot {
        if self.directory.get("source").is_some() {
            return serde_json::from_value(self.directory.clone()).unwrap();
        }
        let mut users = Vec::new();
        let mut groups = Vec::new();
        for (id, user) in self.directory["users"].as_object().into_iter().flatten() {
            let mut full = json!({ "id": id, "localpart": id });
            merge(&mut full, user);
            users.push(full);
        }
        for (id, group) in self.directory["groups"].as_object().into_iter().flatten() {
            let mut full = json!({ "id": id, "name": id });
            match group {
                Value::Array(members) => full["members"] = json!(members),
                group => merge(&mut full, group),
            }
            for alias in full["aliases"].as_array_mut().into_iter().flatten() {
                if let Some(dn) = alias["dn"].as_str().and_then(usher::directory::dn::normalise) {
                    alias["dn"] = dn.into();
                }
            }
            if full.get("aliases").is_none_or(Value::is_null) {
                full["aliases"] = json!([{ "name": full["name"] }]);
            }
            groups.push(full);
        }
        for (prefix, count) in self.directory["crowds"].as_object().into_iter().flatten() {
            let ids: Vec<String> = (1..=count.as_u64().unwrap()).map(|n| format!("{prefix}{n:04}")).collect();
            users.extend(ids.iter().map(|id| json!({ "id": id, "localpart": id })));
            groups.push(json!({ "id": prefix, "name": prefix, "members": ids }));
        }
        let mut snapshot = json!({ "source": "scenario", "users": users, "groups": groups });
        for key in ["organisation", "notices"] {
            if let Some(value) = self.directory.get(key) {
                snapshot[key] = value.clone();
            }
        }
        if let Some(photos) = self.directory.get("photos") {
            let stamp = |id: &str| photos[id].as_str().unwrap_or(WITHOUT).to_owned();
            let users = snapshot["users"].as_array().unwrap().iter();
            let stamps = users.map(|user| user["id"].as_str().unwrap()).map(|id| (id.to_owned(), json!(stamp(id))));
            snapshot["stamps"] = Value::Object(stamps.collect());
        }
        if let Some(reasons) = self.directory.get("incomplete") {
            snapshot["completeness"] = json!({ "incomplete": reasons });
        }
        serde_json::from_value(snapshot).expect("the scenario's directory")
    }

    /// Everybody in the directory has an account, unless the scenario says otherwise.
    fn open_accounts(&mut self) {
        for user in self.snapshot().users {
            if !self.without_account.iter().any(|name| name == user.localpart.as_str()) {
                self.observed.accounts.people.entry(UserId::new(user.localpart.as_str(), SERVER)).or_default();
            }
        }
    }

    /// The id of the room that carries `key` (`space` or `space/slot`), or the id itself.
    fn room_id(&self, key: &str) -> RoomId {
        if key.starts_with('!') {
            return key.into();
        }
        let carries = |wanted: &Key| wanted.to_string() == key;
        let found = self.observed.rooms.iter().find(|(_, room)| {
            room.marker.as_ref().map(|marker| &marker.key).or(room.created_for.as_ref()).is_some_and(carries)
        });
        found.unwrap_or_else(|| panic!("no room carries {key}")).0.clone()
    }

    fn patch_homeserver(&mut self, patch: &Value) {
        let mut whole = json!(self.observed);
        for (name, account) in patch["accounts"].as_object().into_iter().flatten() {
            merge(&mut whole["accounts"]["people"], &json!({ person(name): account }));
        }
        for (name, emails) in patch["mail"].as_object().into_iter().flatten() {
            let user = UserId::from(person(name).as_str());
            // What somebody changes is seen when the addresses are read again.
            self.ledger.attributes.entry(user.clone()).or_default().read_at = None;
            self.mail.insert(user, serde_json::from_value(emails.clone()).unwrap());
        }
        for (key, room) in patch["rooms"].as_object().into_iter().flatten() {
            let id = self.room_id(key);
            merge(&mut whole["rooms"], &json!({ id.as_str(): self.full_room(room) }));
        }
        for (id, room) in patch["outside"].as_object().into_iter().flatten() {
            let room = if room.is_null() { Value::Null } else { self.full_room(room) };
            merge(whole.as_object_mut().unwrap().entry("outside").or_insert(json!({})), &json!({ id: room }));
        }
        for (key, target) in patch["aliases"].as_object().into_iter().flatten() {
            let key = json!(key_of(key));
            let aliases = whole["aliases"].as_array_mut().unwrap();
            aliases.retain(|pair| pair[0] != key);
            aliases.extend((!target.is_null()).then(|| json!([key, target])));
        }
        for id in patch["adoptable"].as_array().into_iter().flatten() {
            merge(&mut whole["adoptable"], &json!({ id.as_str().unwrap(): id }));
        }
        for (alias, id) in patch["adoptable"].as_object().into_iter().flatten() {
            merge(&mut whole["adoptable"], &json!({ alias: id }));
        }
        if let Some(listed) = patch.get("listed") {
            whole["accounts"]["listed"] = listed.clone();
        }
        if let Some(unread) = patch.get("unread") {
            whole["unread"] = unread.clone();
        }
        self.observed = serde_json::from_value(whole).expect("the scenario's homeserver");
    }

    /// A room patch with short names written out.
    fn full_room(&self, room: &Value) -> Value {
        let Value::Object(short) = room else { return room.clone() };
        let mut full = short.clone();
        if let Some(members) = short.get("members").and_then(Value::as_object) {
            let members: Map<String, Value> =
                members.iter().map(|(name, how)| (person(name), membership(name, how))).collect();
            full.insert("members".into(), members.into());
        }
        if let Some(levels) = full.remove("levels") {
            let users: Map<String, Value> =
                levels.as_object().unwrap().iter().map(|(name, level)| (person(name), level.clone())).collect();
            full.insert("power_levels".into(), json!({ "users": users }));
        }
        if let Some(keys) = full.remove("level_keys") {
            merge(full.entry("power_levels").or_insert(json!({})), &keys);
        }
        for field in ["children", "parents"] {
            if let Some(links) = short.get(field).and_then(Value::as_object) {
                let links: Map<String, Value> =
                    links.iter().map(|(key, link)| (self.room_id(key).to_string(), link.clone())).collect();
                full.insert(field.into(), links.into());
            }
        }
        if let Some(maker) = full.remove("maker") {
            let maker = person(maker.as_str().unwrap());
            full.insert("creators".into(), json!([maker]));
            full.insert("made_by".into(), json!(maker));
        }
        if let Some(allow) = short.get("allow").and_then(Value::as_array) {
            let allow: Vec<RoomId> = allow.iter().map(|key| self.room_id(key.as_str().unwrap())).collect();
            full.remove("allow");
            full.insert("join_rule".into(), json!({ "rule": "restricted", "allow": allow }));
        }
        for field in ["created_for", "marker"] {
            if let Some(Value::String(key)) = short.get(field) {
                let key = key_of(key);
                let value = if field == "marker" { json!({ "instance": "main", "key": key }) } else { json!(key) };
                full.insert(field.into(), value);
            }
        }
        Value::Object(full)
    }
}

fn empty() -> Observed {
    let mut observed: Observed = serde_json::from_value(json!({
        "server": SERVER, "bot": BOT, "sender": format!("@_usher:{SERVER}"),
    }))
    .unwrap();
    observed.bot_registered = Known::Known(false);
    observed.bot_display_name = Known::Known(None);
    observed.accounts.listed = true;
    observed
}
