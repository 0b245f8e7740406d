//! What an operator's message asks for. Only approving is understood (S-81); everything else people say among themselves.

use crate::ids::EventId;
use crate::matrix::{Said, Saying};

/// Reactions that approve. A thumb up is none: to many it means "seen".
const YES: [&str; 3] = ["✅", "✔", "☑"];
/// U+FE0F, which asks for the coloured form.
const COLOURED: char = '\u{fe0f}';
/// Letters of a code.
const CODE: usize = 8;
/// The word that approves.
const APPROVE: &str = "approve";

/// What is to be approved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Approval {
    /// What this message listed.
    Message(EventId),
    /// What a message listed that gave this code.
    Code(String),
}

/// What somebody asks for; `None`: nothing of usher.
pub(super) fn approval(said: &Said) -> Option<Approval> {
    match &said.saying {
        Saying::Reaction { to, key } => {
            YES.contains(&key.trim_end_matches(COLOURED)).then(|| Approval::Message(to.clone()))
        }
        Saying::Text { body, reply_to } => {
            // Some clients quote what they answer.
            let own = body.lines().filter(|line| !line.starts_with('>')).collect::<Vec<_>>().join(" ");
            let mut words = own.split_whitespace();
            if !words.next()?.eq_ignore_ascii_case(APPROVE) {
                return None;
            }
            match (words.next(), words.next(), reply_to) {
                (Some(code), None, _) => {
                    let code = code.trim_matches(|sign: char| !sign.is_ascii_alphanumeric()).to_ascii_lowercase();
                    let is_code = code.len() == CODE && code.bytes().all(|letter| letter.is_ascii_hexdigit());
                    is_code.then_some(Approval::Code(code))
                }
                (None, _, Some(message)) => Some(Approval::Message(message.clone())),
                // A sentence, or a word to somebody else.
                _ => None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Timestamp;

    fn wrote(body: &str, reply_to: Option<&str>) -> Option<Approval> {
        asked(Saying::Text { body: body.into(), reply_to: reply_to.map(EventId::from) })
    }

    fn asked(saying: Saying) -> Option<Approval> {
        approval(&Said { event: "$1".into(), sender: "@ops:x".into(), at: Timestamp(0), saying })
    }

    #[test]
    fn a_yes_in_any_form_approves_the_message_it_is_for() {
        let reacted = |key: &str| asked(Saying::Reaction { to: "$hold".into(), key: key.into() });
        for yes in ["✅", "✔️", "✔", "☑️"] {
            assert_eq!(reacted(yes), Some(Approval::Message("$hold".into())), "{yes}");
        }
        for other in ["👍", "👎", "❌", "✅❌", "", "👀", "yes", "\u{fe0f}"] {
            assert_eq!(reacted(other), None, "{other}");
        }
        assert_eq!(wrote("approve", Some("$hold")), Some(Approval::Message("$hold".into())));
        assert!(wrote("> <@usher:x> 2 steps wait\n> more\n\nApprove", Some("$hold")).is_some());
        assert_eq!(wrote("approve", None), None);
    }

    #[test]
    fn a_code_approves_and_a_sentence_does_not() {
        for text in ["approve 1f2e3d4c", "Approve 1F2E3D4C.", "  approve   `1f2e3d4c`\n"] {
            assert_eq!(wrote(text, None), Some(Approval::Code("1f2e3d4c".into())), "{text}");
        }
        for text in ["", "approve", "do not approve 1f2e3d4c", "approve it", "> approve 1f2e3d4c", "approved"] {
            assert_eq!(wrote(text, None), None, "{text}");
        }
    }
}
