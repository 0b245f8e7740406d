//! The fake homeserver's accounts: locks, deactivation, third-party identifiers, pushers, account data, as Synapse has them.

use serde_json::{Value, json};
use usher::ids::{RoomId, UserId};

use super::world::{Account, Refusal, World, refuse};

impl Account {
    pub fn json(&self, user: &UserId) -> Value {
        let threepids = self.threepids.iter().map(|(medium, address)| json!({ "medium": medium, "address": address }));
        let links = self.links.iter().map(|(provider, id)| json!({ "auth_provider": provider, "external_id": id }));
        json!({
            "external_ids": links.collect::<Vec<_>>(),
            "name": user, "displayname": self.display_name, "avatar_url": self.avatar, "admin": self.admin, "locked": self.locked,
            "deactivated": self.deactivated, "erased": self.erased, "appservice_id": self.service,
            "threepids": threepids.collect::<Vec<_>>(),
        })
    }
}

impl Account {
    /// An empty URI takes the avatar away.
    pub fn hang(&mut self, url: &str) {
        self.avatar = Some(url.to_owned()).filter(|url| !url.is_empty());
    }
}

/// An address as Synapse keeps it: the local part case-folded, the domain in lower case.
fn kept(address: &str) -> String {
    let (local, domain) = address.split_once('@').unwrap_or((address, ""));
    let at = if address.contains('@') { "@" } else { "" };
    format!("{}{at}{}", caseless::default_case_fold_str(local), domain.to_lowercase())
}

impl World {
    /// `PUT v2/users/ID`: an account that is not there is made.
    pub fn change_account(&mut self, user: &UserId, body: &Value) -> Result<Value, Refusal> {
        if !self.accounts.contains_key(user) {
            self.add_account(user)?;
        }
        if let Some(list) = body["threepids"].as_array() {
            let text = |threepid: &Value, key: &str| threepid[key].as_str().unwrap_or_default().to_owned();
            let wanted: Vec<(String, String)> =
                list.iter().map(|threepid| (text(threepid, "medium"), kept(&text(threepid, "address")))).collect();
            if let Some((_, bad)) = wanted.iter().find(|(medium, address)| medium == "email" && !address.contains('@'))
            {
                return refuse(400, "M_UNKNOWN", format!("Unable to parse email address {bad}"));
            }
            // Whoever had one of these loses it, and nobody is told.
            for account in self.accounts.values_mut() {
                account.threepids.retain(|threepid| !wanted.contains(threepid));
            }
            self.account(user).threepids = wanted;
        }
        if let Some(list) = body["external_ids"].as_array() {
            let text = |link: &Value, key: &str| link[key].as_str().unwrap_or_default().to_owned();
            let wanted: Vec<(String, String)> =
                list.iter().map(|link| (text(link, "auth_provider"), text(link, "external_id"))).collect();
            let others = self.accounts.iter().filter(|(other, _)| *other != user);
            if others.flat_map(|(_, account)| &account.links).any(|link| wanted.contains(link)) {
                return refuse(409, "M_UNKNOWN", "External id is already in use.");
            }
            self.account(user).links = wanted;
        }
        let account = self.account(user);
        for (key, flag) in [("locked", &mut account.locked), ("deactivated", &mut account.deactivated)] {
            *flag = body[key].as_bool().unwrap_or(*flag);
        }
        if body["deactivated"] == false {
            account.erased = false;
        }
        if let Some(name) = body["displayname"].as_str() {
            account.display_name = Some(name.trim().to_owned());
        }
        if let Some(url) = body["avatar_url"].as_str() {
            account.hang(url);
        }
        Ok(json!({}))
    }

    /// `POST v1/deactivate/ID`: leaves every room, and forgets what names the person where asked to. A lock survives it.
    pub fn deactivate(&mut self, user: &UserId, erase: bool) -> Result<Value, Refusal> {
        let Some(account) = self.accounts.get_mut(user) else { return refuse(404, "M_NOT_FOUND", "User not found") };
        account.deactivated = true;
        account.threepids.clear();
        if erase {
            account.erased = true;
            account.display_name = None;
            account.avatar = None;
        }
        for room in self.rooms_of(user) {
            self.leave(&room, user)?;
        }
        self.tokens.retain(|_, owner| owner != user);
        Ok(json!({ "id_server_unbind_result": "success" }))
    }

    fn rooms_of(&self, user: &UserId) -> Vec<RoomId> {
        let inside = self.rooms.iter().filter(|(_, room)| matches!(room.membership(user), Some("join" | "invite")));
        inside.map(|(id, _)| id.clone()).collect()
    }

    /// `GET v1/users/ID/memberships`.
    pub fn memberships_of(&self, user: &UserId) -> Value {
        let known = self.rooms.iter().filter_map(|(id, room)| Some((id.to_string(), json!(room.membership(user)?))));
        json!({ "memberships": known.collect::<serde_json::Map<_, _>>() })
    }

    /// `GET v1/users/ID/joined_rooms`.
    pub fn joined_rooms_of(&self, user: &UserId) -> Value {
        let joined = self.rooms.iter().filter(|(_, room)| room.membership(user) == Some("join"));
        let joined: Vec<&RoomId> = joined.map(|(id, _)| id).collect();
        json!({ "total": joined.len(), "joined_rooms": joined })
    }

    /// `GET v1/threepid/email/users/ADDRESS`.
    pub fn owner_of(&self, medium: &str, address: &str) -> Result<Value, Refusal> {
        let wanted = (medium.to_owned(), address.to_owned());
        match self.accounts.iter().find(|(_, account)| account.threepids.contains(&wanted)) {
            Some((user, _)) => Ok(json!({ "user_id": user })),
            None => refuse(404, "M_NOT_FOUND", "User not found"),
        }
    }

    /// `GET v1/auth_providers/PROVIDER/users/ID`.
    pub fn owner_of_link(&self, provider: &str, id: &str) -> Result<Value, Refusal> {
        let wanted = (provider.to_owned(), id.to_owned());
        match self.accounts.iter().find(|(_, account)| account.links.contains(&wanted)) {
            Some((user, _)) => Ok(json!({ "user_id": user })),
            None => refuse(404, "M_NOT_FOUND", "User not found"),
        }
    }

    /// `POST pushers/set`.
    pub fn set_pusher(&mut self, user: &UserId, body: &Value) -> Value {
        let pushers = &mut self.account(user).pushers;
        pushers.retain(|pusher| pusher["pushkey"] != body["pushkey"] || pusher["app_id"] != body["app_id"]);
        if !body["kind"].is_null() {
            pushers.push(body.clone());
        }
        json!({})
    }
}
