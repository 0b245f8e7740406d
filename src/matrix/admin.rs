//! What needs more than the application service's own rights: finding out which rung usher stands on, and the two users' set-up.

use secrecy::SecretString;
use serde_json::{Value, json};

use super::{Homeserver, MatrixError, Request, Trouble};
use crate::config::{Config, MembershipMode};
use crate::ids::UserId;

const ADMIN_FLAG: &str = "/_synapse/admin/v1/users/{}/admin";

/// How much power usher has (DESIGN decision 9). Ordered: a higher rung includes the lower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// The token is accepted, but may not act as the bot.
    ReadOnly,
    /// Rooms only; accounts are unknown.
    Rooms,
    /// The admin API answers: accounts are listed.
    Admin,
}

impl Homeserver {
    /// Which rung usher stands on (at most 3 requests).
    ///
    /// # Errors
    /// When the homeserver is away, or does not know the token.
    pub async fn rung(&self) -> Result<Rung, MatrixError> {
        let who: Value = self.whoami().await?;
        if who.get("user_id").and_then(Value::as_str) != Some(self.sender().as_str()) {
            return Ok(Rung::ReadOnly);
        }
        match self.call_as_bot(whoami()).await {
            Ok(_) => {}
            // Both refusals are M_FORBIDDEN; a bot that does not exist yet can be registered, one outside the namespaces cannot.
            Err(error) if error.trouble == Trouble::Forbidden && error.cause.contains("has not registered") => {}
            Err(error) if error.trouble == Trouble::Forbidden => return Ok(Rung::ReadOnly),
            Err(error) => return Err(error),
        }
        Ok(if self.may_list_accounts().await? { Rung::Admin } else { Rung::Rooms })
    }

    /// Whom the homeserver takes our token for, by the name it has for itself.
    ///
    /// # Errors
    /// When the homeserver is away, or does not know the token.
    pub async fn taken_for(&self) -> Result<Option<UserId>, MatrixError> {
        Ok(self.whoami().await?.get("user_id").and_then(Value::as_str).map(UserId::from))
    }

    /// Whom the homeserver takes our token for: its raw answer. Accepted also before any user of ours exists.
    async fn whoami(&self) -> Result<Value, MatrixError> {
        self.call(whoami()).await?.json("ask the homeserver who we are")
    }

    async fn may_list_accounts(&self) -> Result<bool, MatrixError> {
        let request = Request::get("/_synapse/admin/v2/users", &[]).with("limit", "1").with("guests", "false");
        match self.call_admin(request.to("look at the user list")).await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.trouble, Trouble::Forbidden | Trouble::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Registers the sender and the bot, where they do not exist yet. Safe to repeat.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn ensure_users(&self) -> Result<(), MatrixError> {
        self.register(self.sender()).await?;
        self.register(self.bot()).await
    }

    /// Makes users of ours server admins, with an existing admin's token.
    ///
    /// # Errors
    /// When the token is no server admin's, or the homeserver is away.
    pub async fn make_admin(&self, admin_token: &SecretString, whom: Promotion) -> Result<(), MatrixError> {
        for user in self.promoted(whom) {
            let request = Request::put(ADMIN_FLAG, &[user.as_str()], json!({ "admin": true }))
                .to(format!("make {user} a server admin"));
            self.transport.send(&self.identity.admin_url, admin_token, request).await?;
        }
        Ok(())
    }

    /// The line of shell an operator runs with a server admin's token in `ADMIN_TOKEN`, when usher cannot do it itself.
    #[must_use]
    pub fn promotion_command(&self, whom: Promotion) -> String {
        let users: Vec<&str> = self.promoted(whom).into_iter().map(UserId::localpart).collect();
        let users = match users.as_slice() {
            [user] => (*user).to_owned(),
            // curl's own braces: one call for each.
            several => format!("{{{}}}", several.join(",")),
        };
        format!(
            "curl -fsS -X PUT -H \"Authorization: Bearer $ADMIN_TOKEN\" -d '{{\"admin\":true}}' \
             '{}/_synapse/admin/v1/users/@{users}:{}/admin'",
            self.identity.admin_url, self.identity.server,
        )
    }

    /// Whom [`Homeserver::make_admin`] makes one.
    #[must_use]
    pub fn promoted(&self, whom: Promotion) -> Vec<&UserId> {
        match whom {
            Promotion::Sender => vec![self.sender()],
            Promotion::SenderAndBot => vec![self.sender(), self.bot()],
        }
    }
}

/// Whom to make server admin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotion {
    /// Enough for everything but joining people.
    Sender,
    /// `membership: join` (S-18): to join somebody to a room that is not public takes an admin who is in that room. No more than
    /// needed, because Synapse lets an admin's invitations through even to people who block them.
    SenderAndBot,
}

impl Promotion {
    /// What the configuration needs.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        match config.provisioner.membership {
            MembershipMode::Invite => Self::Sender,
            MembershipMode::Join => Self::SenderAndBot,
        }
    }
}

fn whoami() -> Request {
    Request::get("/_matrix/client/v3/account/whoami", &[]).to("ask the homeserver who we are")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Access;
    use crate::matrix::registration::Registration;

    #[tokio::test]
    async fn the_promotion_command_names_the_users_on_one_line() {
        let access = Access {
            instance: "main".to_owned(),
            server_name: "example.com".to_owned(),
            url: "http://127.0.0.1:8008/".to_owned(),
            admin_url: None,
            bot: "usher".into(),
            admin_token: None,
            max_rate: 30,
        };
        let registration = Registration {
            id: "usher".to_owned(),
            url: None,
            sender_localpart: "_usher".to_owned(),
            as_token: "secret".to_owned().into(),
            hs_token: "secret".to_owned().into(),
            users: Vec::new(),
            aliases: Vec::new(),
        };
        let homeserver = Homeserver::connect(access, &registration).await.unwrap();
        assert_eq!(
            homeserver.promotion_command(Promotion::SenderAndBot),
            "curl -fsS -X PUT -H \"Authorization: Bearer $ADMIN_TOKEN\" -d '{\"admin\":true}' \
             'http://127.0.0.1:8008/_synapse/admin/v1/users/@{_usher,usher}:example.com/admin'"
        );
        assert!(homeserver.promotion_command(Promotion::Sender).contains("/@_usher:example.com/"));
        assert!(!format!("{homeserver:?}").contains("secret"));
    }
}
