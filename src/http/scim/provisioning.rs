//! What of Matrix a request waits for (S-63): whether a new person's name is free, and, where that is wanted, that everything is done.
//!
//! Only looks. After a write was kept, nothing that happens to Matrix makes an error of its answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{RETRY_AFTER, Refusal, Server};
use crate::account::{Accounts, Newcomer, Place};
use crate::ids::UserId;
use crate::scim::{Error, Kind};
use crate::store::scim::{New, Registrations, Resources};

const CLOSED: &str = "the account this person had was closed for good, and Matrix gives no name out twice: a server admin has to \
                      open it again first";
/// How often the database is asked whether everything is done.
const LOOK: Duration = Duration::from_millis(200);

/// How people come to accounts, and who waits for that. By default they are not made, and nobody waits.
#[derive(Clone, Default)]
pub struct Provisioning {
    /// Accounts are ordered for new people.
    pub registrations: Option<Registrations>,
    /// Names are looked up on the homeserver before somebody gets one.
    pub names: Option<Names>,
    /// How long an answer waits for Matrix at most; `None`: not at all.
    pub patience: Option<Duration>,
}

/// Who knows what became of names.
#[derive(Clone)]
pub struct Names {
    pub accounts: Arc<Accounts>,
    pub server_name: String,
    /// `register_users: yes`: a name that somebody else on the homeserver has is refused.
    pub only_free: bool,
}

impl Server {
    /// Refuses a name that somebody else on the homeserver has, where that is to be refused, and whoever returns after their account came
    /// to its end: nobody can have it any more.
    pub(super) async fn refuse_taken(&self, resources: &Resources, new: &New) -> Result<(), Refusal> {
        let (Some(names), Some(localpart)) = (&self.0.provisioning.names, &new.localpart) else { return Ok(()) };
        let returning = resources.returning(new).await?;
        if returning.is_none() && !names.only_free {
            return Ok(());
        }
        let user = UserId::new(returning.as_ref().unwrap_or(localpart).as_str(), &names.server_name);
        match names.accounts.place_of(&Newcomer { user, display_name: None, link: None }).await {
            Ok(Place::Free) => Ok(()),
            Ok(Place::Closed) => Err(Error::uniqueness(CLOSED).into()),
            // Their own.
            Ok(Place::Taken | Place::Locked | Place::Refused(_)) if returning.is_some() => Ok(()),
            Ok(Place::Taken | Place::Locked) => {
                Err(Error::uniqueness("there is an account of that Matrix name already").into())
            }
            Ok(Place::Refused(why)) => {
                Err(Error::uniqueness(format!("no account can have that Matrix name: {why}")).into())
            }
            // What was theirs is theirs again at once; what became of it meanwhile shows in the next pass.
            Err(error) if returning.is_some() => {
                tracing::warn!(%error, "what became of the account of somebody who returns could not be asked");
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "whether a Matrix name is free could not be asked");
                let away =
                    Error::new(503, "the homeserver does not answer, and only it knows whether the name is free");
                Err(Refusal::later(&away, RETRY_AFTER))
            }
        }
    }

    /// Waits until Matrix is as the write that was just kept wants it, where somebody wants to wait; not for ever. `id`: the one resource
    /// it was about.
    pub(super) async fn await_matrix(&self, id: Option<(Kind, &str)>) {
        let Some(patience) = self.0.provisioning.patience else { return };
        let limit = Instant::now() + patience;
        let waited = timeout_at(limit, async {
            // Up to this write: what others write afterwards is not waited for.
            let mut written = None;
            loop {
                match self.is_done(id, &mut written).await {
                    Ok(false) | Err(Refusal::Store(_)) => sleep(LOOK).await,
                    Ok(true) | Err(Refusal::Scim(_) | Refusal::Answer(_)) => return,
                }
            }
        });
        if waited.await.is_err() {
            tracing::info!("Matrix is not done within source.synchronous_limit; the client is answered all the same");
        }
    }

    async fn is_done(&self, id: Option<(Kind, &str)>, written: &mut Option<i64>) -> Result<bool, Refusal> {
        let resources = self.resources()?;
        let open = match id {
            Some((Kind::Group, _)) => false,
            Some((Kind::User, id)) => resources.has_open_registration(Some(id)).await?,
            None => resources.has_open_registration(None).await?,
        };
        if open {
            return Ok(false);
        }
        let number = match *written {
            Some(number) => number,
            // That the account is made is news as well.
            None => *written.insert(resources.revision().await?.number),
        };
        Ok(resources.is_carried_out(number).await?)
    }
}
