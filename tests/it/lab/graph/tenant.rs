//! What the stand-in's tenant holds, as Graph's own objects.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::member;

pub const TENANT: &str = "b9355cb3-feed-dead-beef-9cc325f0335b";
pub const CLIENT: &str = "5c955b66-18b3-42de-bb5a-13b5a202d4fc";
/// Has what a form must encode; must never be printed.
pub const SECRET: &str = "yOb7Q~canary+secret&Km=%";

/// A photo, or what there is instead.
#[derive(Clone, Debug)]
pub enum Photo {
    /// In every size.
    Sized(Vec<u8>),
    /// In one size that has no name.
    Whole(Vec<u8>),
    /// Status and code of the answer.
    Refused(u16, &'static str),
}

/// A tenant and what its app registration may do.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub url: String,
    pub name: Option<String>,
    /// By object id.
    pub users: BTreeMap<String, Map<String, Value>>,
    /// By object id: name and members.
    pub groups: BTreeMap<String, (String, Vec<Value>)>,
    /// Groups that hide their members from this app.
    pub hidden: BTreeSet<String>,
    /// Permissions that tokens tell of; none: nothing can be read in them.
    pub roles: Vec<&'static str>,
    pub photos: BTreeMap<String, Photo>,
    /// Most entries on a page, whatever `$top` says.
    pub page_cap: usize,
    pub secret: String,
    /// In seconds.
    pub token_life: u64,
    /// First segments of paths that are refused for want of a permission; `members` and `photos` are such, too.
    pub denied: BTreeSet<&'static str>,
    pub tokens: BTreeSet<String>,
    pub tokens_made: usize,
    /// Opaque links: what they stand for.
    pub links: BTreeMap<String, (String, usize)>,
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            url: String::new(),
            name: Some("Contoso".to_owned()),
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
            hidden: BTreeSet::new(),
            roles: Vec::new(),
            photos: BTreeMap::new(),
            page_cap: 999,
            secret: SECRET.to_owned(),
            token_life: 3599,
            denied: BTreeSet::new(),
            tokens: BTreeSet::new(),
            tokens_made: 0,
            links: BTreeMap::new(),
        }
    }
}

impl Tenant {
    /// With these people, as [`Tenant::employ`] makes them.
    pub fn of(names: &[&str]) -> Self {
        let mut tenant = Self::default();
        for name in names {
            tenant.employ(name);
        }
        tenant
    }

    /// Somebody called `name`, whose object id is `id-name`.
    pub fn employ(&mut self, name: &str) -> &mut Map<String, Value> {
        let Value::Object(object) = json!({
            "id": format!("id-{name}"),
            "userPrincipalName": format!("{name}@contoso.example"),
            "displayName": format!("The {name}"),
            "mail": format!("{name}@canary-mail.example"),
            "mailNickname": name,
            "accountEnabled": true,
            "userType": "Member",
            "givenName": name, "surname": null, "jobTitle": null, "businessPhones": [], "mobilePhone": null,
            "officeLocation": null, "preferredLanguage": null, "employeeId": null, "onPremisesSamAccountName": null,
        }) else {
            panic!("an object")
        };
        self.users.entry(format!("id-{name}")).insert_entry(object).into_mut()
    }

    /// Sets a property of somebody.
    pub fn set(&mut self, name: &str, property: &str, value: Value) {
        self.users.get_mut(&format!("id-{name}")).unwrap().insert(property.to_owned(), value);
    }

    /// A group called `name` of these people, whose object id is `g-name`.
    pub fn group(&mut self, name: &str, people: &[&str]) {
        let members = people.iter().map(|person| member("user", &format!("id-{person}"))).collect();
        self.groups.insert(format!("g-{name}"), (name.to_owned(), members));
    }

    /// Puts a member into a group.
    pub fn join(&mut self, group: &str, member: Value) {
        self.groups.get_mut(&format!("g-{group}")).unwrap().1.push(member);
    }
}
