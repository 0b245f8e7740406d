//! What a pass teaches: what is written into the ledger once it is over (S-85). A dry run drops it.
//!
//! The ledger takes them in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Plan;
use crate::ids::{EventId, Key, RoomId, UserId};
use crate::ledger::{Digest, GroupMemory, LeaverNews, Ledger};

/// Something to remember after the pass, or (`Vanished`) to forget: nothing carries the key any more, and nothing is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lesson {
    Entitled {
        key: Key,
        levels: Arc<BTreeMap<UserId, i64>>,
    },
    Vanished(Key),
    Forgiven {
        room: RoomId,
        user: UserId,
        event: EventId,
    },
    Group {
        external_id: String,
        memory: GroupMemory,
    },
    Mode {
        mirrored: bool,
    },
    Leaver {
        user: UserId,
        news: LeaverNews,
    },
    /// The directory's display name or photo of somebody was dealt with (S-50).
    Named {
        user: UserId,
        what: Dealt,
    },
}

/// What was dealt with: written, or left out for what the person chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dealt {
    Name(Digest),
    Photo(Digest),
}

impl Plan {
    /// What may be remembered though this is still to be done: not a rule that is new as long as somebody is to lose something by it, or
    /// the rest of them would pass for intruders, whom no limit counts (S-81).
    #[must_use]
    pub fn lessons_of_a_part(&self, ledger: &Ledger) -> Vec<Lesson> {
        let losses = self.pending().filter(|step| step.takes().is_some());
        let losing: BTreeSet<Option<&Key>> = losses.map(|step| step.place.as_ref()).collect();
        let may_be_learned = |lesson: &&Lesson| match lesson {
            Lesson::Entitled { key, .. } => ledger.entitled.contains_key(key) || !losing.contains(&Some(key)),
            Lesson::Mode { .. } => losing.is_empty(),
            _ => true,
        };
        self.lessons.iter().filter(may_be_learned).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Action, Class, Removal, RoomRef, Step, Withheld};
    use super::*;

    fn space(name: &str) -> Key {
        Key::Space(name.into())
    }

    fn entitled(name: &str) -> Lesson {
        Lesson::Entitled { key: space(name), levels: Arc::default() }
    }

    fn removal(place: Option<Key>) -> Step {
        let user = UserId::new("ann", "example.org");
        let removal = Removal {
            class: Class::KicksPerSpace,
            space: space("new"),
            person: Some(user.clone()),
            counts: true,
            emptied: None,
            adopted: false,
        };
        let action = Action::Kick { room: RoomRef::Id(RoomId::from("!room:example.org")), user, text: "".into() };
        Step { place, removal: Some(Box::new(removal)), ..Step::set_up(action) }
    }

    #[test]
    fn a_rule_that_is_new_is_not_remembered_while_somebody_is_to_lose_by_it() {
        let mut ledger = Ledger::default();
        ledger.entitled.insert(space("known"), Arc::default());
        let lessons = vec![entitled("known"), entitled("new"), entitled("calm"), Lesson::Mode { mirrored: true }];
        let learned = |steps: Vec<Step>| {
            let plan = Plan { steps, lessons: lessons.clone(), ..Plan::default() };
            plan.lessons_of_a_part(&ledger)
        };
        assert_eq!(learned(vec![removal(Some(space("new")))]), [entitled("known"), entitled("calm")]);
        assert_eq!(learned(vec![removal(Some(space("known")))]), lessons[..3]);
        // One that is of no place, as an account's, keeps only the mode.
        assert_eq!(learned(vec![removal(None)]), lessons[..3]);
        // What gives, and what is withheld anyway, keeps nothing.
        let invited = Step { removal: None, ..removal(Some(space("new"))) };
        let withheld = Step { withheld: Some(Withheld::DependsOnWithheld), ..removal(Some(space("new"))) };
        assert_eq!(learned(vec![invited, withheld]), lessons);
        assert_eq!(learned(Vec::new()), lessons);
    }
}
