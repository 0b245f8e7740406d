//! What only shows when everything has been read: ids given twice, names of things that do not exist, settings that need others.

use std::collections::BTreeMap;

use super::problem::{Report, Severity};
use super::section::{nearest, snake};
use super::{AccountsBackend, Config, ExceptionPlace, Position, Positions, RegisterUsers, RoomTemplate, Source, Space};

/// Reports every contradiction in `config`.
pub(super) fn check(config: &Config, positions: &Positions, report: &Report) {
    let (spaces, aliases, adopted) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut world = World { config, positions, report, spaces, aliases, adopted };
    world.slots("provisioner.default_rooms", &config.provisioner.default_rooms, &mut BTreeMap::new());
    for (index, space) in config.spaces.iter().flatten().enumerate() {
        world.space(space, &format!("spaces[{index}]"));
    }
    world.renames();
    world.exceptions();
    world.accounts();
    world.avatars();
    world.registration();
    world.federation();
    world.puppet();
}

struct World<'a> {
    config: &'a Config,
    positions: &'a Positions,
    report: &'a Report,
    /// Space ids and where they stand.
    spaces: BTreeMap<&'a str, String>,
    aliases: BTreeMap<String, String>,
    /// What is to be adopted, and where it says so.
    adopted: BTreeMap<&'a str, String>,
}

impl<'a> World<'a> {
    /// Where `path` was written, or the nearest thing around it.
    fn position(&self, path: &str) -> Option<&Position> {
        let mut path = snake(path);
        loop {
            if let Some(position) = self.positions.get(&path) {
                return Some(position);
            }
            let end = path.rfind(['.', '['])?;
            path.truncate(end);
        }
    }

    fn add(&self, severity: Severity, path: &str, message: impl Into<String>) {
        let spot = self.position(path).map(|at| super::tree::Spot {
            file: std::sync::Arc::new(at.file.clone()),
            line: at.line,
            column: at.column,
        });
        // Written `spaces: {id: ...}`, the one space has no number.
        let lone = !self.positions.contains_key("spaces[0]");
        let written = if lone { path.replacen("spaces[0]", "spaces", 1) } else { path.to_owned() };
        self.report.add(severity, spot.as_ref(), &written, message);
    }

    fn error(&self, path: &str, message: impl Into<String>) {
        self.add(Severity::Error, path, message);
    }

    /// "on line 7", with the file when it is another one.
    fn place(&self, path: &str, seen_from: &str) -> String {
        match (self.position(path), self.position(seen_from)) {
            (Some(at), Some(from)) if at.file == from.file => format!("on line {}", at.line),
            (Some(at), _) => format!("in {} on line {}", at.file.display(), at.line),
            (None, _) => format!("at {path}"),
        }
    }

    fn space(&mut self, space: &'a Space, path: &str) {
        let id_path = format!("{path}.id");
        if let Some(first) = self.spaces.get(space.id.as_str()) {
            let message = format!(
                "'{}' is also the id of the space {}: every space needs its own id",
                space.id,
                self.place(first, &id_path)
            );
            self.error(&id_path, message);
        } else if !space.id.as_str().is_empty() {
            self.spaces.insert(space.id.as_str(), id_path);
        }
        let mut slots = BTreeMap::new();
        for (index, room) in self.config.provisioner.default_rooms.iter().enumerate() {
            slots.entry(room.id.as_str()).or_insert_with(|| format!("provisioner.default_rooms[{index}].id"));
        }
        self.slots(&format!("{path}.rooms"), &space.rooms, &mut slots);
        self.alias(space.alias.as_deref(), &format!("{path}.alias"));
        self.adoption(space.adopt.as_deref(), format!("{path}.adopt"));
        if space.federate == Some(false) && !space.federated_groups.is_empty() {
            let message = "is false, but `federatedGroups` invites another server: remove one of the two";
            self.error(&format!("{path}.federate"), message);
        }
        for (index, group) in space.federated_groups.iter().enumerate() {
            if group.agent.server() == self.config.homeserver.server_name && !group.agent.as_str().is_empty() {
                let message =
                    "is on this homeserver: `federatedGroups` are another server's. Name these groups in `groups`";
                self.error(&format!("{path}.federatedGroups[{index}].agent"), message);
            }
        }
        for (index, below) in space.subspaces.iter().enumerate() {
            self.space(below, &format!("{path}.subspaces[{index}]"));
        }
    }

    fn slots(&mut self, path: &str, rooms: &'a [RoomTemplate], slots: &mut BTreeMap<&'a str, String>) {
        for (index, room) in rooms.iter().enumerate() {
            let id_path = format!("{path}[{index}].id");
            if let Some(first) = slots.get(room.id.as_str()) {
                let message = format!(
                    "'{}' is also the id of the room {}: rooms of one space need different ids, and each default room is in every space",
                    room.id,
                    self.place(first, &id_path)
                );
                self.error(&id_path, message);
            } else if !room.id.as_str().is_empty() {
                slots.insert(room.id.as_str(), id_path);
            }
            self.alias(room.alias.as_deref(), &format!("{path}[{index}].alias"));
            self.adoption(room.adopt.as_deref(), format!("{path}[{index}].adopt"));
        }
    }

    fn adoption(&mut self, room: Option<&'a str>, path: String) {
        let Some(room) = room else { return };
        if let Some(first) = self.adopted.get(room) {
            let message = format!("{room} is also adopted {}: a room can be one thing only", self.place(first, &path));
            self.error(&path, message);
        } else {
            self.adopted.insert(room, path);
        }
    }

    fn alias(&mut self, alias: Option<&str>, path: &str) {
        let Some(alias) = alias else { return };
        let server = &self.config.homeserver.server_name;
        let full = if alias.starts_with('#') { alias.to_owned() } else { format!("#{alias}:{server}") };
        if let Some(first) = self.aliases.get(&full) {
            let message = format!("{full} is also the alias {}: an alias names one room", self.place(first, path));
            self.error(path, message);
        } else {
            self.aliases.insert(full, path.to_owned());
        }
    }

    fn renames(&self) {
        let mut pending: Vec<(String, &Space)> =
            self.config.spaces.iter().flatten().enumerate().map(|(i, space)| (format!("spaces[{i}]"), space)).collect();
        while let Some((path, space)) = pending.pop() {
            if let Some(old) = &space.renamed_from
                && let Some(other) = self.spaces.get(old.as_str())
            {
                let at = format!("{path}.renamed_from");
                let message = format!(
                    "the space '{old}' is still configured {}: a rename needs the old id to be gone",
                    self.place(other, &at)
                );
                self.error(&at, message);
            }
            pending
                .extend(space.subspaces.iter().enumerate().map(|(i, below)| (format!("{path}.subspaces[{i}]"), below)));
        }
    }

    fn exceptions(&self) {
        let slots: Vec<&str> = self.room_ids();
        for (index, exception) in self.config.exceptions.iter().enumerate() {
            let path = format!("exceptions[{index}]");
            let server = &self.config.homeserver.server_name;
            if !exception.user.as_str().is_empty() && !server.is_empty() && exception.user.server() != server {
                let message = format!("is not an account of {server}: usher never touches other servers' users");
                self.error(&format!("{path}.user"), message);
            }
            match &exception.place {
                // In mirror mode the ids are the directory's, which nobody has read yet.
                ExceptionPlace::Space(_) if self.config.spaces.is_none() => {}
                ExceptionPlace::Space(id) => {
                    if !self.spaces.contains_key(id.as_str()) {
                        let meant = meant(id.as_str(), self.spaces.keys().copied());
                        self.error(&format!("{path}.space"), format!("no space has the id '{id}'{meant}"));
                    }
                }
                ExceptionPlace::Room(room) => {
                    if !room.starts_with(['!', '#']) && !slots.contains(&room.as_str()) {
                        let meant = meant(room, slots.iter().copied());
                        let message = format!(
                            "no room is configured with the id '{room}' (room ids begin with !, aliases with #){meant}"
                        );
                        self.error(&format!("{path}.room"), message);
                    }
                }
            }
        }
    }

    fn room_ids(&self) -> Vec<&'a str> {
        let mut ids: Vec<&str> = self.config.provisioner.default_rooms.iter().map(|room| room.id.as_str()).collect();
        let mut pending: Vec<&Space> = self.config.spaces.iter().flatten().collect();
        while let Some(space) = pending.pop() {
            ids.extend(space.rooms.iter().map(|room| room.id.as_str()));
            pending.extend(&space.subspaces);
        }
        ids
    }

    /// S-63.
    fn registration(&self) {
        let Source::Scim(scim) = &self.config.source else { return };
        if scim.register_users != RegisterUsers::No && scim.single_sign_on.is_none() {
            let message = "makes accounts that a first single sign-on may not find: name the provider in `client.single_sign_on`, or see \
                           that the homeserver takes accounts by their name";
            self.add(Severity::Advice, "source.register_users", message);
        }
    }

    /// S-55.
    fn accounts(&self) {
        if self.config.accounts.match_external_id.is_some() && self.config.accounts.backend != AccountsBackend::Synapse
        {
            let why = "only a homeserver that keeps its accounts itself (`accounts.backend: synapse`) finds them by an external id";
            self.error("accounts.match_external_id.provider", why);
        }
        if self.config.accounts.backend != AccountsBackend::None {
            return;
        }
        let why = "needs access to accounts, but `accounts.backend` is `none`: set the backend to `synapse` or `mas`, or remove this";
        if self.config.user_provisioner.deprovisioning.is_some() {
            self.error("userProvisioner.deprovisioning.enabled", why);
        }
        if !self.config.user_provisioner.synapse_attributes.is_empty() {
            self.error("userProvisioner.synapse.attributes", why);
        }
        if self.config.user_provisioner.avatar.is_some() {
            self.error("userProvisioner.avatar", why);
        }
        if let Source::Scim(scim) = &self.config.source
            && scim.register_users != RegisterUsers::No
        {
            self.error("source.register_users", why);
        }
    }

    /// S-50: the other sources have no photos.
    fn avatars(&self) {
        let wanted = self.config.user_provisioner.avatar.is_some();
        let idle = |path: &str, why: &str| self.add(Severity::Advice, path, format!("has no effect: {why}"));
        match &self.config.source {
            Source::Ldap(ldap) if ldap.attributes.avatar.is_some() && !wanted => {
                idle(
                    "source.attributes.avatar",
                    "photos are read only where `userProvisioner.avatar` says when they are written",
                );
            }
            Source::Ldap(_) | Source::MsGraph(_) => {}
            Source::File(_) | Source::Scim(_) => {
                const WHY: &str = "only a source of type `ldap` or `ms-graph-ad` gives photos";
                if wanted {
                    idle("userProvisioner.avatar", WHY);
                }
                if matches!(&self.config.source, Source::File(file) if file.attributes.avatar.is_some()) {
                    idle("source.attributes.avatar", WHY);
                }
            }
        }
    }

    fn federation(&self) {
        let short = self.positions.contains_key("provisioner.federates_with");
        let base = if short { "provisioner.federates_with" } else { "provisioner.federation.federates_with" };
        let mut seen = BTreeMap::new();
        for (index, partner) in self.config.provisioner.federates_with.iter().enumerate() {
            let path = format!("{base}[{index}]");
            if partner.agent.as_str().is_empty() {
                continue;
            }
            if let Some(first) = seen.insert(partner.agent.as_str(), path.clone()) {
                let message = format!("{} is already listed {}: keep one", partner.agent, self.place(&first, &path));
                self.error(&path, message);
            }
            if partner.groups.is_none() {
                let message = format!(
                    "this partner may ask for any of your groups. To limit it: {{ agent: '{}', groups: [...], max_power_level: 50 }}",
                    partner.agent
                );
                self.add(Severity::Advice, &path, message);
            }
        }
    }

    fn puppet(&self) {
        if self.config.provisioner.forget && self.config.appservice.puppet_registration.is_none() {
            let message =
                "has no effect without `appservice.puppet_registration`: usher must act as the person to do it";
            self.add(Severity::Advice, "provisioner.forget", message);
        }
    }
}

fn meant<'k>(written: &str, known: impl Iterator<Item = &'k str>) -> String {
    nearest(written, known).map(|near| format!("; did you mean '{near}'?")).unwrap_or_default()
}
