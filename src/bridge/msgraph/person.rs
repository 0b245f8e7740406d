//! What a user object says about itself: the stable id, the localpart, name, address, and whether it is disabled (S-1, S-4, S-5).
//!
//! Pure. Never looks at other objects.

use serde_json::{Map, Value};

use super::wire::is_id;
use crate::bridge::localpart::{Mapping, Unmapped};
use crate::config::MsGraphSource;
use crate::directory::User;
use crate::ids::StableId;

/// What a user is called to sign in: `ann@example.org`.
const PRINCIPAL: &str = "userPrincipalName";
/// Stands in the principal name of whom another tenant vouches for.
const EXTERNAL: &str = "#ext#";

/// How user objects are read, from the configuration.
#[derive(Clone, Debug)]
pub struct Interpretation {
    name: String,
    mail: String,
    mapping: Mapping,
    /// The principal name counts up to its `@`: without a template.
    before_at: bool,
    guests: bool,
    /// Properties to ask for, comma-separated: what Graph sends unasked lacks `accountEnabled`.
    pub select: String,
}

/// What a user object is to usher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Person {
        user: User,
        /// It says whether it is enabled.
        marked: bool,
    },
    /// Somebody from whom no localpart can be made.
    Unnamed(StableId, Unmapped),
    Guest(StableId),
    /// No object with an id.
    Odd,
}

impl Interpretation {
    /// For a source whose localparts are made by `mapping`.
    #[must_use]
    pub fn new(source: &MsGraphSource, mapping: Mapping) -> Self {
        let names = &source.attributes;
        let mut select = vec!["id", PRINCIPAL, "accountEnabled", "userType", &names.name, &names.mail];
        match &source.localpart {
            // In the template's own spelling: Microsoft's is in mixed case.
            Some(template) => select.extend(in_braces(template)),
            None => select.push(&names.uid),
        }
        let mut wanted: Vec<&str> = Vec::new();
        for name in select {
            if !wanted.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                wanted.push(name);
            }
        }
        Self {
            name: names.name.clone(),
            mail: names.mail.clone(),
            mapping,
            before_at: source.localpart.is_none(),
            guests: source.guests,
            select: wanted.join(","),
        }
    }

    /// Reads a user object.
    #[must_use]
    pub fn read(&self, object: &Map<String, Value>) -> Seen {
        let Some(id) = text(object, "id").filter(|id| is_id(id)).map(StableId::from) else { return Seen::Odd };
        let guest = text(object, "userType").is_some_and(|kind| kind.eq_ignore_ascii_case("guest"));
        let external = text(object, PRINCIPAL).is_some_and(|name| name.to_ascii_lowercase().contains(EXTERNAL));
        if (guest || external) && !self.guests {
            return Seen::Guest(id);
        }
        let localpart = match self.mapping.apply(|name| self.named(object, name)) {
            Ok(localpart) => localpart,
            Err(why) => return Seen::Unnamed(id, why),
        };
        let enabled = value(object, "accountEnabled").and_then(Value::as_bool);
        let user = User {
            id,
            localpart,
            display_name: text(object, &self.name).map(str::to_owned),
            emails: text(object, &self.mail).map(str::to_owned).into_iter().collect(),
            enabled: enabled != Some(false),
        };
        Seen::Person { user, marked: enabled.is_some() }
    }

    fn named(&self, object: &Map<String, Value>, name: &str) -> Result<String, Unmapped> {
        let text = match value(object, name) {
            None | Some(Value::Null) => return Err(Unmapped::Missing(name.to_owned())),
            Some(Value::String(text)) => text.trim(),
            Some(_) => return Err(Unmapped::NotText(name.to_owned())),
        };
        let cut = self.before_at && name.eq_ignore_ascii_case(PRINCIPAL);
        let text = if cut { text.split('@').next().unwrap_or_default() } else { text };
        if text.is_empty() { Err(Unmapped::Missing(name.to_owned())) } else { Ok(text.to_owned()) }
    }
}

/// Property names in a template, which has been found to be one.
fn in_braces(template: &str) -> impl Iterator<Item = &str> {
    template.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(name, _)| name)
}

/// Graph answers in its own spelling, whatever case was asked for.
fn value<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    value(object, name)?.as_str().map(str::trim).filter(|text| !text.is_empty())
}
