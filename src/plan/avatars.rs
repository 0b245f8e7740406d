//! Photos of the directory that become avatars (S-50).
//!
//! Pure: knows photos by what was remembered when their entries were looked at. Never takes away an avatar that a person chose, and plans
//! nothing for an entry that has changed since: that is looked at first.

use std::sync::Arc;

use super::{Attribute, Avatar, Dealt, Lesson, Planner, Reason, Withheld};
use crate::config::SyncMode;
use crate::desired::Profile;
use crate::ledger::{Digest, Photo, Portrait};
use crate::observed::Account;

const NOT_TAKEN: &str = "the homeserver does not take this photo";

impl Planner<'_> {
    pub(super) fn avatar(&mut self, profile: &Profile, account: &Account, mode: SyncMode) {
        let ledger = self.ledger;
        let Some(portrait) = ledger.portrait_at(&profile.user, profile.stamp.as_ref()) else { return };
        let wall = Wall::of(portrait, account.avatar.as_ref());
        match &portrait.photo {
            Some(photo) => self.hang(profile, (portrait, photo), &wall, mode),
            None => {
                if let Some(url) = wall.standing.filter(|_| wall.ours) {
                    let gone = Attribute::NoAvatar { url: url.clone() };
                    self.attribute(&profile.user, gone, Reason::AttributeGone, None);
                }
            }
        }
    }

    /// Whether the photo of an entry is to be looked at before anything is planned for it.
    pub(super) fn waits_for_photo(&self, profile: &Profile) -> bool {
        let stamp = profile.stamp.as_ref();
        stamp.is_some() && self.ledger.portrait_at(&profile.user, stamp).is_none()
    }

    fn hang(&mut self, profile: &Profile, (portrait, photo): (&Portrait, &Photo), wall: &Wall<'_>, mode: SyncMode) {
        let user = &profile.user;
        let dealt = wall.dealt == Some(&photo.digest);
        let bare = wall.standing.is_none();
        let write = match mode {
            SyncMode::Always => !(wall.ours && dealt),
            SyncMode::Initial => bare && wall.dealt.is_none(),
            // What stands when the photo is first seen is the person's own choice.
            SyncMode::WhenDirectoryChanges => !dealt && (bare || wall.dealt.is_some()),
        };
        if write {
            let refused = portrait.refused.then_some(NOT_TAKEN);
            let withheld = photo.flaw().or(refused).map(Withheld::Policy);
            let avatar = Avatar {
                photo: photo.clone(),
                uploaded: portrait.uploaded(&photo.digest).cloned(),
                standing: wall.standing.cloned(),
            };
            self.attribute(user, Attribute::Avatar(Box::new(avatar)), Reason::AttributeDiffers, withheld);
        } else {
            let left = Some(&photo.digest).filter(|_| mode == SyncMode::WhenDirectoryChanges && wall.dealt.is_none());
            let lesson = |photo: &Digest| Lesson::Named { user: user.clone(), what: Dealt::Photo(photo.clone()) };
            self.plan.lessons.extend(wall.arrived.or(left).map(lesson));
        }
    }
}

/// What hangs there, and what usher has to do with it.
struct Wall<'a> {
    standing: Option<&'a Arc<str>>,
    /// Usher made it the avatar.
    ours: bool,
    /// The photo that was sent and has arrived, though no answer said so.
    arrived: Option<&'a Digest>,
    /// The photo last dealt with.
    dealt: Option<&'a Digest>,
}

impl<'a> Wall<'a> {
    fn of(portrait: &'a Portrait, standing: Option<&'a Arc<str>>) -> Self {
        let arrived = portrait.sent.as_ref().filter(|sent| standing == Some(&sent.url)).map(|sent| &sent.digest);
        Self {
            standing,
            ours: arrived.is_some() || (standing.is_some() && standing == portrait.hung.as_ref()),
            arrived,
            dealt: arrived.or(portrait.dealt.as_ref()),
        }
    }
}
