//! Following a multi-valued attribute that the server hands out in parts (Active Directory's `;range=`) to its end.
//!
//! Pure: says what to ask next and judges the answer. Never takes a part that does not continue the one before.

use super::entry::Entry;

/// Parts followed for one attribute at most; at 1 500 values a part these are 15 million members.
const MOST_PARTS: u32 = 10_000;

/// One attribute on its way to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    name: String,
    next: u64,
    parts: u32,
}

/// How an answer left the attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more: ask [`Cursor::request`] again.
    More,
    /// The end was reached.
    End,
    /// The answer does not continue the part before; the group is not whole.
    Stuck,
}

impl Cursor {
    /// The attributes of `entry` that are not whole yet.
    #[must_use]
    pub fn of(entry: &Entry) -> Vec<Self> {
        entry.unfinished().map(|(name, next)| Self { name: name.to_owned(), next, parts: 0 }).collect()
    }

    /// Name of the attribute, in lower case.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The attribute description to ask the server for.
    #[must_use]
    pub fn request(&self) -> String {
        format!("{};range={}-*", self.name, self.next)
    }

    /// Judges the server's answer to [`Cursor::request`].
    pub fn accept(&mut self, answer: &Entry) -> Progress {
        self.parts += 1;
        match answer.range_of(&self.name) {
            Some((from, None)) if from == self.next => Progress::End,
            Some((from, Some(next))) if from == self.next && next > self.next && self.parts < MOST_PARTS => {
                self.next = next;
                Progress::More
            }
            Some(_) | None => Progress::Stuck,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(description: &str, values: usize) -> Entry {
        let mut entry = Entry::new("cn=g,dc=org");
        entry.add(description, vec![b"cn=m".to_vec(); values]);
        entry
    }

    #[test]
    fn a_ranged_attribute_is_followed_to_its_end() {
        let mut cursor = Cursor::of(&part("member;range=0-1499", 1500)).pop().unwrap();
        assert_eq!(cursor.request(), "member;range=1500-*");
        assert_eq!(cursor.accept(&part("member;range=1500-2999", 1500)), Progress::More);
        assert_eq!(cursor.request(), "member;range=3000-*");
        assert_eq!(cursor.accept(&part("member;range=3000-*", 3)), Progress::End);
    }

    #[test]
    fn a_part_that_does_not_continue_is_not_taken() {
        for answer in ["member;range=0-1499", "member;range=1501-*", "member", "uniqueMember;range=1500-*"] {
            let mut cursor = Cursor::of(&part("member;range=0-1499", 1500)).pop().unwrap();
            assert_eq!(cursor.accept(&part(answer, 1)), Progress::Stuck, "{answer}");
        }
    }

    #[test]
    fn parts_have_an_end_even_if_the_server_has_none() {
        let mut cursor = Cursor::of(&part("member;range=0-0", 1)).pop().unwrap();
        let mut asked = 0;
        while cursor.accept(&part(&format!("member;range={0}-{0}", cursor.next), 1)) == Progress::More {
            asked += 1;
        }
        assert_eq!(asked, MOST_PARTS - 1);
    }

    #[test]
    fn a_whole_attribute_needs_no_cursor() {
        assert_eq!(Cursor::of(&part("member", 2)), []);
    }
}
