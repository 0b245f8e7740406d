//! `provisioner`: AIM's keys and usher's own beside them.

use super::section::Section;
use super::value::Field;
use super::{
    Enforce, MembershipMode, Partner, Pattern, Provisioner, Reinvite, UserRooms, V12Creators, rooms::default_room,
};
use crate::ids::UserId;

/// S-20.
pub(super) const ENFORCE: &[(&str, Enforce)] =
    &[("strict", Enforce::Strict), ("additive", Enforce::Additive), ("observe", Enforce::Observe)];

const REINVITE: &[(&str, Reinvite)] =
    &[("never", Reinvite::Never), ("spaces", Reinvite::Spaces), ("always", Reinvite::Always)];

const V12: &[(&str, V12Creators)] =
    &[("tolerate", V12Creators::Tolerate), ("upgrade", V12Creators::Upgrade), ("remove", V12Creators::Remove)];

fn defaults() -> Provisioner {
    Provisioner {
        default_rooms: Vec::new(),
        allowed_users: Vec::new(),
        protected_users: Vec::new(),
        protect_server_admins: true,
        invite_to_public_rooms: true,
        federates_with: Vec::new(),
        gc_enabled: false,
        dry_run: false,
        membership: MembershipMode::Invite,
        reinvite: Reinvite::Never,
        enforce: Enforce::Strict,
        user_rooms: UserRooms::default(),
        v12_creators: V12Creators::Tolerate,
        room_version: "12".to_owned(),
        resync_interval_ms: 3_600_000,
        max_rate: 30,
        forget: false,
        bot_display_name: "usher".to_owned(),
    }
}

/// `server_name` serves to notice patterns that match everybody.
pub(super) fn provisioner(root: &mut Section<'_>, server_name: &str) -> Provisioner {
    let default = defaults();
    let Some(mut section) = root.section("provisioner") else { return default };
    let gc_enabled = section.section("gc").is_some_and(|mut gc| {
        let enabled = gc.boolean("enabled", false);
        gc.finish();
        enabled
    });
    let membership = [("invite", MembershipMode::Invite), ("join", MembershipMode::Join)];
    let provisioner = Provisioner {
        default_rooms: section.list("default_rooms").iter().map(default_room).collect(),
        allowed_users: patterns(section.field_named(&["allowed_users", "whitelisted_users"]), server_name),
        protected_users: patterns(section.field("protected_users"), server_name),
        protect_server_admins: section.boolean("protect_server_admins", true),
        invite_to_public_rooms: section.boolean("invite_to_public_rooms", true),
        federates_with: federates_with(&mut section),
        gc_enabled,
        dry_run: section.boolean("dry_run", false),
        membership: section.choice("membership", MembershipMode::Invite, &membership),
        reinvite: section.choice("reinvite", Reinvite::Never, REINVITE),
        enforce: section.choice("enforce", Enforce::Strict, ENFORCE),
        user_rooms: user_rooms(&mut section),
        v12_creators: section.choice("v12_creators", V12Creators::Tolerate, V12),
        room_version: section.text("room_version").unwrap_or(default.room_version),
        resync_interval_ms: section.duration("resync_interval", default.resync_interval_ms),
        max_rate: u32::try_from(section.number("max_rate", 30, (1, 10_000))).unwrap_or(30),
        forget: section.boolean("forget", false),
        bot_display_name: section.text("bot_display_name").unwrap_or(default.bot_display_name),
    };
    section.choice("foreign_users", (), &[("report", ())]);
    section.finish();
    provisioner
}

fn user_rooms(section: &mut Section<'_>) -> UserRooms {
    let Some(mut rooms) = section.section("user_rooms") else { return UserRooms::default() };
    let enforce = rooms.choice("enforce", Enforce::Strict, ENFORCE);
    let creator_level = rooms.field("creator_level").and_then(|field| field.integer((0, 100)));
    rooms.finish();
    UserRooms { enforce, creator_level }
}

fn patterns(list: Option<Field<'_>>, server_name: &str) -> Vec<Pattern> {
    list.map(|list| list.items()).unwrap_or_default().iter().filter_map(|field| pattern(field, server_name)).collect()
}

fn pattern(field: &Field<'_>, server_name: &str) -> Option<Pattern> {
    let text = field.filled()?;
    match Pattern::new(&text) {
        Ok(pattern) => {
            // A name nobody has: a pattern that takes it takes everybody.
            if pattern.matches(&UserId::new("zq7x.nobody-0", server_name)) {
                field.advise(
                    "matches everybody, so nobody would ever be removed or demoted: name the accounts you mean",
                );
            }
            Some(pattern)
        }
        Err(error) => {
            let hint = if text.starts_with('*') {
                ". Here `*` repeats what stands before it: write `.*` for anything"
            } else {
                ""
            };
            // Without our anchors, the position in the text is the one the reader can count.
            let error =
                fancy_regex::Regex::new(&text).err().map_or_else(|| error.to_string(), |error| error.to_string());
            field.fail(format!("is not a regular expression: {error}{hint}"));
            None
        }
    }
}

/// `provisioner.federation.federates_with`, or as AIM's federation page has it `provisioner.federates_with` (S-70).
fn federates_with(section: &mut Section<'_>) -> Vec<Partner> {
    let short = section.field("federates_with");
    let long = section.section("federation").and_then(|mut federation| {
        let list = federation.field("federates_with");
        federation.finish();
        list
    });
    if let (Some(short), Some(_)) = (&short, &long) {
        short.fail("`federation.federates_with` is given too, and means the same: keep one");
    }
    let list = long.or(short).map(|list| list.items()).unwrap_or_default();
    list.iter().map(partner).collect()
}

/// An entry without a usable id keeps its number, so that later ones are reported at theirs.
fn partner(field: &Field<'_>) -> Partner {
    let id = |field: &Field<'_>| field.user_id().unwrap_or_else(|| UserId::from(""));
    let Some(mut section) = field.is_mapping().then(|| field.section()).flatten() else {
        return Partner { agent: id(field), groups: None, max_power_level: None };
    };
    let agent = section.field("agent");
    if agent.is_none() {
        section.missing("agent", "'@usher:partner.example'");
    }
    let groups = section.field("groups").map(|groups| groups.items().iter().filter_map(Field::text).collect());
    let max_power_level = section.field("max_power_level").and_then(|level| level.integer((0, 100)));
    section.finish();
    Partner { agent: agent.as_ref().map_or_else(|| UserId::from(""), id), groups, max_power_level }
}
