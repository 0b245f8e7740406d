//! Whose account belongs to somebody at a single-sign-on provider (S-5). Reads only.

use serde_json::Value;

use super::{Homeserver, MatrixError, Request, Trouble};
use crate::ids::UserId;

impl Homeserver {
    /// The account linked to `id` at `provider`, an `idp_id` of the homeserver's configuration; `None`: there is none (admin API).
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn user_by_external_id(&self, provider: &str, id: &str) -> Result<Option<UserId>, MatrixError> {
        let attempt = format!("look for an account by its external id at {provider}");
        let path = "/_synapse/admin/v1/auth_providers/{}/users/{}";
        match self.call_admin(Request::get(path, &[provider, id]).to(&attempt)).await {
            Ok(answer) => {
                let answer: Value = answer.json(&attempt)?;
                Ok(answer.get("user_id").and_then(Value::as_str).map(UserId::from))
            }
            Err(error) if error.trouble == Trouble::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
