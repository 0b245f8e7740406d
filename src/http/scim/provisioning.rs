//! What of Matrix a request waits for (S-63): whether a new person's name is free, and, where that is wanted, that everything is done.
//!
//! Only looks. After a write was kept, nothing that happens to Matrix makes an error of its answer.

use std::sync::Arc;
use std::time::Duration;

use axum::http::header;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Answer, RETRY_AFTER, Refusal, Server};
use crate::account::{Accounts, Newcomer, Place};
use crate::ids::UserId;
use crate::scim::{Error, Kind};
use crate::store::scim::{New, Registrations, Resources};

/// How often the database is asked whether everything is done.
const LOOK: Duration = Duration::from_millis(200);

/// How people come to accounts, and who waits for that. By default they are not made, and nobody waits.
#[derive(Clone, Default)]
pub struct Provisioning {
    /// Accounts are ordered for new people.
    pub registrations: Option<Registrations>,
    /// `register_users: yes`: a name that somebody on the homeserver has is refused.
    pub only_free_names: Option<FreeNames>,
    /// How long an answer waits for Matrix at most; `None`: not at all.
    pub patience: Option<Duration>,
}

/// Who knows which names are free.
#[derive(Clone)]
pub struct FreeNames {
    pub accounts: Arc<Accounts>,
    pub server_name: String,
}

impl Server {
    /// Refuses a name that somebody else on the homeserver has, where that is to be refused. Who returns has it themselves.
    pub(super) async fn refuse_taken(&self, resources: &Resources, new: &New) -> Result<(), Refusal> {
        let (Some(names), Some(localpart)) = (&self.0.provisioning.only_free_names, &new.localpart) else {
            return Ok(());
        };
        if resources.returns(new).await? {
            return Ok(());
        }
        let user = UserId::new(localpart.as_str(), &names.server_name);
        let newcomer = Newcomer { user, display_name: None, link: None };
        match names.accounts.place_of(&newcomer).await {
            Ok(Place::Free) => Ok(()),
            Ok(Place::Taken | Place::Locked) => {
                Err(Error::uniqueness("there is an account of that Matrix name already").into())
            }
            Ok(Place::Refused(why)) => {
                Err(Error::uniqueness(format!("no account can have that Matrix name: {why}")).into())
            }
            Err(error) => {
                tracing::warn!(%error, "whether a Matrix name is free could not be asked");
                let away =
                    Error::new(503, "the homeserver does not answer, and only it knows whether the name is free");
                let later = (header::RETRY_AFTER, RETRY_AFTER.to_string());
                Err(Refusal::Answer(Box::new(Answer { headers: vec![later], ..Answer::error(&away) })))
            }
        }
    }

    /// Waits until Matrix is as the write that was just kept wants it, where somebody wants to wait; not for ever. `id`: the one resource
    /// it was about.
    pub(super) async fn await_matrix(&self, id: Option<(Kind, &str)>) {
        let Some(patience) = self.0.provisioning.patience else { return };
        let limit = Instant::now() + patience;
        let waited = timeout_at(limit, async {
            loop {
                match self.is_done(id).await {
                    Ok(false) | Err(Refusal::Store(_)) => sleep(LOOK).await,
                    Ok(true) | Err(Refusal::Scim(_) | Refusal::Answer(_)) => return,
                }
            }
        });
        if waited.await.is_err() {
            tracing::info!("Matrix is not done within source.synchronous_limit; the client is answered all the same");
        }
    }

    async fn is_done(&self, id: Option<(Kind, &str)>) -> Result<bool, Refusal> {
        let resources = self.resources()?;
        let open = match id {
            Some((Kind::Group, _)) => false,
            Some((Kind::User, id)) => resources.has_open_registration(Some(id)).await?,
            None => resources.has_open_registration(None).await?,
        };
        if open {
            return Ok(false);
        }
        let latest = resources.revision().await?.number;
        Ok(resources.is_carried_out(latest).await?)
    }
}
