//! Accounts made by usher, and the ids by which single sign-on finds them (S-63). What to make is decided by `account`.
//!
//! The ids may be mail addresses: they stand in paths and bodies here and nowhere else, no error and no log shows them.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Homeserver, MatrixError, Request, Trouble};
use crate::account::Link;
use crate::ids::UserId;

const USER: &str = "/_synapse/admin/v2/users/{}";

/// An id as the admin API shows it.
#[derive(Deserialize)]
struct Known {
    auth_provider: String,
    external_id: String,
}

impl Homeserver {
    /// Makes an account without a password. Must not be called for one that exists: it would be changed.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn create_account(
        &self,
        user: &UserId,
        display_name: Option<&str>,
        link: Option<&Link>,
    ) -> Result<(), MatrixError> {
        let mut body = json!({});
        if let Some(name) = display_name {
            body["displayname"] = name.into();
        }
        if let Some(link) = link {
            body["external_ids"] = json!([{ "auth_provider": link.provider, "external_id": link.subject }]);
        }
        let request = Request::put(USER, &[user.as_str()], body).to(format!("make the account {user}"));
        self.call_admin(request).await.map(drop).map_err(nameless)
    }

    /// Adds an id to an account that exists, beside those it has.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn add_link(&self, user: &UserId, link: &Link) -> Result<(), MatrixError> {
        #[derive(Deserialize)]
        struct Record {
            #[serde(default)]
            external_ids: Vec<Known>,
        }
        let attempt = format!("link {user} with single sign-on");
        let record = self.call_admin(Request::get(USER, &[user.as_str()]).to(&attempt)).await?;
        let known = record.json::<Record>(&attempt)?.external_ids;
        if known.iter().any(|known| known.auth_provider == link.provider && known.external_id == link.subject) {
            return Ok(());
        }
        // The request replaces them all.
        let mut all: Vec<Value> = known
            .iter()
            .map(|known| json!({ "auth_provider": known.auth_provider, "external_id": known.external_id }))
            .collect();
        all.push(json!({ "auth_provider": link.provider, "external_id": link.subject }));
        let request = Request::put(USER, &[user.as_str()], json!({ "external_ids": all })).to(attempt);
        self.call_admin(request).await.map(drop).map_err(nameless)
    }

    /// Whose account single sign-on finds by this id.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn owner_of_link(&self, link: &Link) -> Result<Option<UserId>, MatrixError> {
        let attempt = "ask whose a single sign-on id is";
        let path = "/_synapse/admin/v1/auth_providers/{}/users/{}";
        match self.call_admin(Request::get(path, &[&link.provider, &link.subject]).to(attempt)).await {
            Ok(answer) => {
                let answer: Value = answer.json(attempt)?;
                Ok(answer.get("user_id").and_then(Value::as_str).map(UserId::from))
            }
            Err(error) if error.trouble == Trouble::NotFound => Ok(None),
            Err(error) => Err(nameless(error)),
        }
    }
}

/// A refusal may quote what was refused.
fn nameless(error: MatrixError) -> MatrixError {
    match error.trouble {
        Trouble::Rejected => MatrixError { cause: "the homeserver does not accept it".to_owned(), ..error },
        _ => error,
    }
}
