//! Texts, each kept once and numbered in the order they came: how a hundred thousand ids or DNs are looked up half a million times.
//!
//! A tree of strings costs an allocation each and a walk over cold memory per look-up; a roll keeps them end to end in one string.
//! Pure. Never walked in the order of its hashes, so nothing that is made with it depends on them.

use std::hash::{BuildHasher as _, RandomState};

/// Numbered texts.
#[derive(Debug, Default)]
pub struct Roll {
    text: String,
    /// Where each text ends in `text`.
    ends: Vec<usize>,
    /// Open addressing. Always a power of two, at most half full.
    slots: Vec<Slot>,
    state: RandomState,
}

/// A number plus one, 0 where the slot is free, and half of the text's hash: another text is mostly told apart without a look at it.
/// As small as can be, because look-ups wait for memory and for nothing else; it numbers up to four thousand million texts.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    number: u32,
    tag: u32,
}

impl Roll {
    /// The number of a text that was entered.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<usize> {
        let slot = self.slots.get(self.slot(text, tag(self.state.hash_one(text)))?)?;
        slot.number.checked_sub(1).map(|number| number as usize)
    }

    /// The number of a text, entered now if it is new: then it is what [`Roll::len`] was before.
    pub fn enter(&mut self, text: &str) -> usize {
        if self.slots.len() <= self.ends.len() * 2 {
            self.grow();
        }
        let tag = tag(self.state.hash_one(text));
        let number = self.ends.len();
        if let Some(slot) = self.slot(text, tag).and_then(|slot| self.slots.get_mut(slot)) {
            if slot.number > 0 {
                return slot.number as usize - 1;
            }
            *slot = Slot { number: u32::try_from(number + 1).unwrap_or(u32::MAX), tag };
        }
        self.text.push_str(text);
        self.ends.push(self.text.len());
        number
    }

    /// The text with this number; numbers that were never given out have none.
    #[must_use]
    pub fn text(&self, number: usize) -> &str {
        let start = if number == 0 { Some(&0) } else { self.ends.get(number - 1) };
        let (Some(start), Some(end)) = (start, self.ends.get(number)) else { return "" };
        &self.text[*start..*end]
    }

    /// Whether nothing was entered yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many texts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The slot that holds `text`, or the free one it belongs into; `None` while there are no slots.
    fn slot(&self, text: &str, tag: u32) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = tag as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot.number == 0 || (slot.tag == tag && self.text(slot.number as usize - 1) == text) {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(64);
        let mut slots = vec![Slot::default(); size];
        for slot in self.slots.iter().filter(|slot| slot.number > 0) {
            let mut at = slot.tag as usize & (size - 1);
            while slots[at].number > 0 {
                at = (at + 1) & (size - 1);
            }
            slots[at] = *slot;
        }
        self.slots = slots;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
fn tag(hash: u64) -> u32 {
    hash as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_roll_knows_nothing() {
        let roll = Roll::default();
        assert_eq!((roll.len(), roll.find(""), roll.text(0)), (0, None, ""));
    }

    proptest! {
        #[test]
        fn numbers_are_positions_of_first_mention(texts in prop::collection::vec("[ab]{0,6}", 0..300)) {
            let mut roll = Roll::default();
            let mut distinct: Vec<&str> = Vec::new();
            for text in &texts {
                let known = distinct.iter().position(|known| known == text);
                prop_assert_eq!(roll.find(text), known);
                let number = known.unwrap_or(distinct.len());
                prop_assert_eq!(roll.enter(text), number);
                if known.is_none() {
                    distinct.push(text);
                }
                prop_assert_eq!(roll.text(number), text.as_str());
            }
            prop_assert_eq!(roll.len(), distinct.len());
        }
    }
}
