//! Single requests about one account (S-50 to S-53), and the bot's account data. What to ask for is decided by `account` and `plan`.
//!
//! Mail addresses stand in paths and bodies here and nowhere else: no error and no log shows them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::read::{picture, truth};
use super::{Homeserver, MatrixError, Request, Trouble};
use crate::ids::UserId;
use crate::ledger::{Leaver, PictureKind};

const USER: &str = "/_synapse/admin/v2/users/{}";
/// Account data type that mirrors the leavers.
const LEAVERS: &str = "dev.usher.leavers";
const ACCOUNT_DATA: &str = "/_matrix/client/v3/user/{}/account_data/{}";

/// One account as the admin API shows it.
#[derive(Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags, as the admin API has them")]
pub struct AccountRecord {
    pub admin: bool,
    pub locked: bool,
    pub deactivated: bool,
    pub erased: bool,
    /// The application service that owns it.
    pub service: Option<String>,
    pub display_name: Option<String>,
    /// An `mxc://` URI.
    pub avatar: Option<Arc<str>>,
    /// Everything bound to the account, as it came.
    pub threepids: Vec<Threepid>,
}

impl std::fmt::Debug for AccountRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccountRecord")
            .field("locked", &self.locked)
            .field("deactivated", &self.deactivated)
            .finish_non_exhaustive()
    }
}

/// A third-party identifier.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Threepid {
    pub medium: String,
    pub address: String,
}

impl AccountRecord {
    /// The mail addresses, as they are kept.
    pub fn emails(&self) -> impl Iterator<Item = &str> {
        self.threepids.iter().filter(|threepid| threepid.medium == "email").map(|threepid| threepid.address.as_str())
    }
}

#[derive(Deserialize)]
struct RawRecord {
    #[serde(default)]
    admin: Value,
    #[serde(default)]
    locked: Value,
    #[serde(default)]
    deactivated: Value,
    #[serde(default)]
    erased: Value,
    #[serde(default)]
    appservice_id: Option<String>,
    #[serde(default)]
    displayname: Option<String>,
    #[serde(default)]
    avatar_url: Option<String>,
    #[serde(default)]
    threepids: Vec<Threepid>,
}

impl Homeserver {
    /// One account; `None`: there is none.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn account(&self, user: &UserId) -> Result<Option<AccountRecord>, MatrixError> {
        let attempt = format!("look at the account {user}");
        let raw: RawRecord = match self.call_admin(Request::get(USER, &[user.as_str()]).to(&attempt)).await {
            Ok(answer) => answer.json(&attempt)?,
            Err(error) if error.trouble == Trouble::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(AccountRecord {
            admin: truth(&raw.admin),
            locked: truth(&raw.locked),
            deactivated: truth(&raw.deactivated),
            erased: truth(&raw.erased),
            service: raw.appservice_id,
            display_name: raw.displayname,
            avatar: picture(raw.avatar_url.as_deref()),
            threepids: raw.threepids,
        }))
    }

    /// Changes one account that must exist: this request would make one otherwise.
    async fn change_account(&self, user: &UserId, body: Value, attempt: String) -> Result<(), MatrixError> {
        self.call_admin(Request::put(USER, &[user.as_str()], body).to(attempt)).await.map(drop)
    }

    /// Locks or unlocks an account that exists.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn set_locked(&self, user: &UserId, locked: bool) -> Result<(), MatrixError> {
        let verb = if locked { "lock" } else { "unlock" };
        self.change_account(user, json!({ "locked": locked }), format!("{verb} {user}")).await
    }

    /// Opens a deactivated account again (no password needed).
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn reactivate(&self, user: &UserId) -> Result<(), MatrixError> {
        self.change_account(user, json!({ "deactivated": false }), format!("reactivate {user}")).await
    }

    /// Sets the display name of an account that exists.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn set_account_name(&self, user: &UserId, name: &str) -> Result<(), MatrixError> {
        self.change_account(user, json!({ "displayname": name }), format!("set the display name of {user}")).await
    }

    /// Sets the avatar of an account that exists; `None`: takes it away.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn set_account_avatar(&self, user: &UserId, url: Option<&str>) -> Result<(), MatrixError> {
        let body = json!({ "avatar_url": url.unwrap_or_default() });
        self.change_account(user, body, format!("set the avatar of {user}")).await
    }

    /// Replaces everything bound to an account that exists.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn set_threepids(&self, user: &UserId, threepids: &[Threepid]) -> Result<(), MatrixError> {
        let list: Vec<Value> = threepids
            .iter()
            .map(|threepid| json!({ "medium": threepid.medium, "address": threepid.address }))
            .collect();
        let attempt = format!("set the mail addresses of {user}");
        let done = self.change_account(user, json!({ "threepids": list }), attempt).await;
        // The refusal of an address quotes it.
        done.map_err(|error| MatrixError {
            cause: match error.trouble {
                Trouble::Rejected => "the homeserver does not accept an address".to_owned(),
                _ => error.cause,
            },
            ..error
        })
    }

    /// Whose account has a mail address.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn owner_of_email(&self, address: &str) -> Result<Option<UserId>, MatrixError> {
        let attempt = "ask whose a mail address is";
        let path = "/_synapse/admin/v1/threepid/{}/users/{}";
        match self.call_admin(Request::get(path, &["email", address]).to(attempt)).await {
            Ok(answer) => {
                let answer: Value = answer.json(attempt)?;
                Ok(answer.get("user_id").and_then(Value::as_str).map(UserId::from))
            }
            Err(error) if error.trouble == Trouble::NotFound => Ok(None),
            Err(error) => Err(MatrixError { cause: format!("{:?}", error.trouble), ..error }),
        }
    }

    /// Deactivates an account, and erases it where asked to.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn deactivate(&self, user: &UserId, erase: bool) -> Result<(), MatrixError> {
        let verb = if erase { "erase" } else { "deactivate" };
        let path = "/_synapse/admin/v1/deactivate/{}";
        let request =
            Request::post(path, &[user.as_str()], json!({ "erase": erase })).within(super::write::CREATE_TIMEOUT);
        self.call_admin(request.to(format!("{verb} {user}"))).await.map(drop)
    }

    /// In how many rooms an account still is.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn count_rooms_of(&self, user: &UserId) -> Result<u64, MatrixError> {
        let attempt = format!("count the rooms of {user}");
        let path = "/_synapse/admin/v1/users/{}/joined_rooms";
        match self.call_admin(Request::get(path, &[user.as_str()]).to(&attempt)).await {
            Ok(answer) => {
                let answer: Value = answer.json(&attempt)?;
                Ok(answer.get("total").and_then(Value::as_u64).unwrap_or(0))
            }
            Err(error) if error.trouble == Trouble::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Turns off every push message to `user`, as them (S-22, S-52).
    ///
    /// # Errors
    /// When the homeserver refuses or is away, or `user` may not be acted for.
    pub async fn remove_pushers_as(&self, user: &UserId) -> Result<(), MatrixError> {
        let read = Request::get("/_matrix/client/v3/pushers", &[]).to(format!("list the pushers of {user}"));
        let answer = self.act_as(user, read).await?;
        for pusher in answer.get("pushers").and_then(Value::as_array).into_iter().flatten() {
            let body = json!({ "app_id": pusher.get("app_id"), "pushkey": pusher.get("pushkey"), "kind": null });
            let request = Request::post("/_matrix/client/v3/pushers/set", &[], body);
            self.act_as(user, request.to(format!("remove a pusher of {user}"))).await?;
        }
        Ok(())
    }

    /// Sets somebody's display name, as them: where nobody else may.
    ///
    /// # Errors
    /// When the homeserver refuses or is away, or `user` may not be acted for.
    pub async fn set_name_as(&self, user: &UserId, name: &str) -> Result<(), MatrixError> {
        let path = "/_matrix/client/v3/profile/{}/displayname";
        let request = Request::put(path, &[user.as_str()], json!({ "displayname": name }));
        self.act_as(user, request.to(format!("set the display name of {user}"))).await.map(drop)
    }

    /// Sets somebody's avatar, as them; `None`: takes it away.
    ///
    /// # Errors
    /// As [`Homeserver::set_name_as`].
    pub async fn set_avatar_as(&self, user: &UserId, url: Option<&str>) -> Result<(), MatrixError> {
        let path = "/_matrix/client/v3/profile/{}/avatar_url";
        let request = Request::put(path, &[user.as_str()], json!({ "avatar_url": url.unwrap_or_default() }));
        self.act_as(user, request.to(format!("set the avatar of {user}"))).await.map(drop)
    }

    /// Uploads a picture as the bot; hands back its `mxc://` URI.
    ///
    /// # Errors
    /// When the homeserver refuses (it is too large for it, say) or is away.
    pub async fn upload(&self, picture: Arc<[u8]>, kind: PictureKind) -> Result<String, MatrixError> {
        let attempt = format!("upload a photo of {} bytes", picture.len());
        let request = Request::upload("/_matrix/media/v3/upload", picture, kind.media_type()).to(&attempt);
        let answer: Value = self.call_as_bot(request).await?.json(&attempt)?;
        answer.get("content_uri").and_then(Value::as_str).map(str::to_owned).ok_or_else(|| MatrixError {
            attempted: attempt,
            cause: "the answer names no content_uri".to_owned(),
            status: None,
            code: None,
            trouble: Trouble::Malformed,
        })
    }

    /// Whether the homeserver has handed its accounts over to Matrix Authentication Service (MSC2965's metadata).
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn delegates_accounts(&self) -> Result<bool, MatrixError> {
        let attempt = "ask who is in charge of accounts";
        match self.call(Request::get("/_matrix/client/v1/auth_metadata", &[]).to(attempt)).await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.trouble, Trouble::NotFound | Trouble::Rejected | Trouble::Forbidden) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The leavers as the bot's account data has them; nobody where it has none.
    ///
    /// # Errors
    /// When the homeserver refuses or is away, or the data cannot be read.
    pub async fn mirrored_leavers(&self) -> Result<BTreeMap<UserId, Leaver>, MatrixError> {
        #[derive(Deserialize)]
        struct Mirror {
            instance: String,
            #[serde(default)]
            leavers: BTreeMap<UserId, Leaver>,
        }
        let attempt = "read who is locked from the bot's account data";
        let request = Request::get(ACCOUNT_DATA, &[self.bot().as_str(), LEAVERS]).to(attempt);
        match self.call_as_bot(request).await {
            Ok(answer) => {
                let mirror: Mirror = answer.json(attempt)?;
                Ok(if mirror.instance == self.identity.instance { mirror.leavers } else { BTreeMap::new() })
            }
            Err(error) if error.trouble == Trouble::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }

    /// Writes the leavers into the bot's account data.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn mirror_leavers(&self, leavers: &BTreeMap<UserId, Leaver>) -> Result<(), MatrixError> {
        let body = json!({ "version": 1, "instance": self.identity.instance, "leavers": leavers });
        let request = Request::put(ACCOUNT_DATA, &[self.bot().as_str(), LEAVERS], body);
        self.call_as_bot(request.to("write who is locked into the bot's account data")).await.map(drop)
    }

    /// Our clock minus the homeserver's as its latest answer told it, in milliseconds; `None`: none of its answers said.
    #[must_use]
    pub fn clock_difference_ms(&self) -> Option<i64> {
        self.transport.clock_difference_ms()
    }
}
