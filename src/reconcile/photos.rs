//! Photos of the source (S-50): looked at a few at a time, only where an entry has changed since it was last looked at, and uploaded just
//! before they become avatars.
//!
//! Decides nothing: whose avatar is set is `plan/avatars`. Keeps no photo longer than a pass, and not more of them than fit into its album.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Reconciler;
use super::record::result_of;
use super::survey::alive;
use crate::actuate::ActError;
use crate::bridge::Sighting;
use crate::clock;
use crate::desired::{Desired, Profile};
use crate::ids::{StableId, UserId};
use crate::ledger::{Digest, Photo};
use crate::plan::{AccountDeed, Action, Attribute, Avatar, Reason, Step};
use crate::store::StoreError;
use crate::store::audit::{AuditRecord, SENT};

/// Entries looked at before the next look at everything else: one search each, of perhaps a hundred kilobytes.
const LOOKS_PER_PASS: usize = 500;
/// Entries looked at over one connection, before it is asked whether to go on.
const LOOKS_AT_ONCE: usize = 20;
/// Between two of those handfuls.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest time for that: everything else waits.
const LOOKING: Duration = Duration::from_secs(30);
/// Photos kept until they are uploaded, in bytes: while there are so many, no more entries are looked at.
const ALBUM_BYTES: usize = 32 << 20;
/// Photos uploaded before one slice: locks and kicks of the next look must not wait behind more.
const UPLOADS_PER_SLICE: usize = 10;

/// Photos that may be uploaded soon.
#[derive(Debug, Default)]
pub(super) struct Album {
    pictures: BTreeMap<Digest, Arc<[u8]>>,
    bytes: usize,
    /// Whose entry was asked for last: who cannot be seen must not keep the others waiting.
    last: Option<StableId>,
}

impl Album {
    fn is_full(&self) -> bool {
        self.bytes >= ALBUM_BYTES
    }

    fn keep(&mut self, photo: &Photo, picture: Vec<u8>) {
        if photo.flaw().is_none() && !self.pictures.contains_key(&photo.digest) {
            self.bytes += picture.len();
            self.pictures.insert(photo.digest.clone(), picture.into());
        }
    }

    /// Forgets the photos, but not whose turn it is.
    pub(super) fn close(&mut self) {
        *self = Self { last: self.last.take(), ..Self::default() };
    }
}

impl Reconciler {
    /// Looks at the photos of people whose entry was never looked at or has changed since: bounded, so that a first look at 100 000 people
    /// takes its time and nothing else waits for it (S-50). A source that cannot be asked is asked in the next pass. Whether there was
    /// anybody.
    pub(super) async fn read_photos(&mut self, desired: &Desired) -> bool {
        if desired.attributes.avatars.is_none() || self.parts.actuator.is_none() || self.album.is_full() {
            return false;
        }
        let people = self.unseen(desired);
        let began = Instant::now();
        for handful in people.chunks(LOOKS_AT_ONCE) {
            if self.stop.is_cancelled() || self.album.is_full() || began.elapsed() >= LOOKING {
                break;
            }
            self.album.last = handful.last().map(|(id, _)| id.clone());
            if !self.look_at_photos(handful).await {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        !people.is_empty()
    }

    /// Whose entries are to be looked at, in the order of their ids, on from the last one.
    fn unseen(&self, desired: &Desired) -> Vec<(StableId, UserId)> {
        let Some(observed) = &self.observed else { return Vec::new() };
        let unseen = |profile: &&Profile| {
            let stamp = profile.stamp.as_ref();
            let seen = || self.ledger.portrait_at(&profile.user, stamp).is_some();
            stamp.is_some() && !seen() && observed.accounts.are_open(&profile.user)
        };
        let later = |profile: &&Profile| Some(&profile.id) > self.album.last.as_ref();
        let (first, then) = (desired.profiles.iter().filter(later), desired.profiles.iter().filter(|it| !later(it)));
        let people = first.chain(then).filter(unseen).take(LOOKS_PER_PASS);
        people.map(|profile| (profile.id.clone(), profile.user.clone())).collect()
    }

    /// Looks at these, and remembers what is seen; `false`: the source cannot be asked now.
    async fn look_at_photos(&mut self, people: &[(StableId, UserId)]) -> bool {
        let ids: Vec<StableId> = people.iter().map(|(id, _)| id.clone()).collect();
        let seen = match alive(&self.parts.heartbeat, self.parts.bridge.photos(&ids)).await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(%error, "photos cannot be looked at; the next pass goes on with it");
                return false;
            }
        };
        for Sighting { id, stamp, photo } in seen {
            let Some((_, user)) = people.iter().find(|(known, _)| *known == id) else { continue };
            // The entry may have changed since everybody was read: this is what it is now.
            if let Some(known) = self.directory.as_mut().and_then(|directory| directory.stamps.get_mut(&id)) {
                known.clone_from(&stamp);
            }
            let known = photo.map(|bytes| {
                let known = Photo::of(&bytes);
                self.album.keep(&known, bytes);
                known
            });
            self.ledger.saw_photo(user, stamp, known);
        }
        true
    }

    /// Uploads the photos that are about to become avatars, as many as one slice takes. Hands back what can be sent now, and what could
    /// not be uploaded.
    ///
    /// # Errors
    /// When the database is away.
    pub(super) async fn upload_photos(
        &mut self,
        due: Vec<Step>,
        desired: &Desired,
    ) -> Result<(Vec<Step>, Vec<(Step, ActError)>), StoreError> {
        let (mut ready, mut failed) = (Vec::with_capacity(due.len()), Vec::new());
        // The bot uploads them, which in a first pass is still to be made.
        let there = self.observed.as_ref().is_some_and(|observed| observed.bot_registered.get() == Some(&true));
        let mut uploads = if there { 0 } else { UPLOADS_PER_SLICE };
        for mut step in due {
            let Some((user, avatar)) = unsent(&mut step) else {
                ready.push(step);
                continue;
            };
            if uploads >= UPLOADS_PER_SLICE || !self.may_write() {
                continue;
            }
            uploads += 1;
            self.parts.heartbeat.tick();
            let Some(picture) = self.picture(&user, &avatar.photo, desired).await else {
                // Where one cannot be read now, the others would be waited for in vain.
                uploads = UPLOADS_PER_SLICE;
                continue;
            };
            let (Some(actuator), Some(kind)) = (&self.parts.actuator, avatar.photo.kind) else { continue };
            let row = self.row_of_upload(&user, &avatar.photo);
            self.audit(std::slice::from_ref(&row)).await?;
            let uploaded = alive(&self.parts.heartbeat, actuator.upload(picture, kind)).await;
            let after = uploaded.as_deref().map(|url| format!("{url} ({})", avatar.photo)).unwrap_or_default();
            let result = result_of(uploaded.as_ref().err());
            self.audit(&[AuditRecord { at: clock::now(), after, result, ..row }]).await?;
            match uploaded {
                Ok(url) => {
                    avatar.uploaded = Some(url.into());
                    ready.push(step);
                }
                Err(error) => failed.push((step, error)),
            }
        }
        Ok((ready, failed))
    }

    /// The audit's row of an upload that is about to be sent: a write of its own, which may succeed where the avatar fails.
    fn row_of_upload(&self, user: &UserId, photo: &Photo) -> AuditRecord {
        let now = clock::now();
        AuditRecord {
            // Ids outlive names: a keyed hash stands for the person.
            id: format!("{}-upload-{}", now.0, self.ledger.pseudonym(user)),
            at: now,
            pass: self.pass_began,
            actor: "usher".to_owned(),
            action: "upload photo".to_owned(),
            person: user.to_string(),
            reason: Reason::AttributeDiffers.to_string(),
            after: photo.to_string(),
            result: SENT.to_owned(),
            ..AuditRecord::default()
        }
    }

    /// A photo's bytes; `None`: it cannot be read now, or is another one by now.
    async fn picture(&mut self, user: &UserId, photo: &Photo, desired: &Desired) -> Option<Arc<[u8]>> {
        if !self.album.pictures.contains_key(&photo.digest) {
            let profile = desired.profiles.iter().find(|profile| profile.user == *user)?;
            self.look_at_photos(&[(profile.id.clone(), user.clone())]).await;
        }
        let picture = self.album.pictures.remove(&photo.digest)?;
        self.album.bytes = self.album.bytes.saturating_sub(picture.len());
        Some(picture)
    }
}

/// The avatar a step sets and whose it is, if its photo is still to be uploaded.
fn unsent(step: &mut Step) -> Option<(UserId, &mut Avatar)> {
    match &mut step.action {
        Action::Account { user, deed: AccountDeed::Set(Attribute::Avatar(avatar)) } if avatar.uploaded.is_none() => {
            Some((user.clone(), avatar))
        }
        _ => None,
    }
}
