//! Asks the homeserver about somebody else's access token (S-62): whether a server admin of its own shows it. Uses no right of usher's.

use secrecy::SecretString;
use serde_json::Value;

use super::{Homeserver, MatrixError, Request, Trouble};
use crate::ids::UserId;

const WHAT: &str = "ask the homeserver whose token it is";
const FLAG: &str = "ask the homeserver whether somebody is a server admin";

impl Homeserver {
    /// Whether `token` is the access token of a server admin of this homeserver.
    ///
    /// # Errors
    /// When the homeserver does not say yes or no: then nobody is to be let in.
    pub async fn vouches_for_admin(&self, token: &SecretString) -> Result<bool, MatrixError> {
        let whoami = Request::get("/_matrix/client/v3/account/whoami", &[]).to(WHAT);
        let who: Value = match self.transport.send(&self.identity.url, token, whoami).await {
            Ok(response) => response.json(WHAT)?,
            Err(error) => return refused(error),
        };
        let user = who.get("user_id").and_then(Value::as_str).map(UserId::from);
        let Some(user) = user.filter(|user| user.as_str().ends_with(&format!(":{}", self.identity.server))) else {
            return Ok(false);
        };
        let flag = Request::get("/_synapse/admin/v1/users/{}/admin", &[user.as_str()]).to(FLAG);
        match self.transport.send(&self.identity.admin_url, token, flag).await {
            Ok(response) => {
                let flag: Value = response.json(FLAG)?;
                Ok(flag.get("admin") == Some(&Value::Bool(true)))
            }
            Err(error) => refused(error),
        }
    }
}

fn refused(error: MatrixError) -> Result<bool, MatrixError> {
    match error.trouble {
        Trouble::UnknownToken | Trouble::Forbidden | Trouble::NotFound => Ok(false),
        Trouble::Away | Trouble::RateLimited | Trouble::Rejected | Trouble::Malformed => Err(error),
    }
}
