//! Says in the log what is amiss with a source: when it begins, when it changes and when it ends, not at every poll.
//!
//! Wraps any source and hands its reads on as they are. Reads that fail are their caller's to speak about. What is odd about the
//! directory when usher starts is not logged: every plan and the status page list it.

use async_trait::async_trait;

use super::{Bridge, Hint, Probe, Sighting, SourceError};
use crate::directory::{Completeness, Snapshot};
use crate::ids::StableId;

/// A source that is listened to.
pub struct Remarked {
    source: Box<dyn Bridge>,
    remarks: Remarks,
}

impl Remarked {
    /// Listens to `source` from now on.
    #[must_use]
    pub fn new(source: Box<dyn Bridge>) -> Self {
        Self { source, remarks: Remarks::default() }
    }
}

#[async_trait]
impl Bridge for Remarked {
    async fn fetch(&mut self) -> Result<Snapshot, SourceError> {
        let snapshot = self.source.fetch().await?;
        for news in self.remarks.news(&snapshot) {
            match news {
                News::Incomplete(flaws) => {
                    tracing::warn!(
                        flaws = flaws.join("; "),
                        "the source was not read whole: nobody is removed for what is missing"
                    );
                }
                News::Complete => tracing::info!("the source is read whole again"),
                News::Begun(remark) => tracing::warn!(remark, "the source has something new about it"),
                News::Over(remark) => tracing::info!(remark, "this is over or has changed"),
            }
        }
        Ok(snapshot)
    }

    async fn changed(&mut self) -> bool {
        self.source.changed().await
    }

    async fn hint(&mut self) -> Hint {
        self.source.hint().await
    }

    async fn photos(&mut self, people: &[StableId]) -> Result<Vec<Sighting>, SourceError> {
        self.source.photos(people).await
    }

    async fn probe(&mut self) -> Vec<Probe> {
        self.source.probe().await
    }
}

/// What was said of a source last.
#[derive(Debug, Default)]
struct Remarks {
    flaws: Vec<String>,
    /// `None` before the first read.
    notices: Option<Vec<String>>,
}

/// What a read says that the one before it did not.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Incomplete(Vec<String>),
    Complete,
    Begun(String),
    Over(String),
}

impl Remarks {
    fn news(&mut self, snapshot: &Snapshot) -> Vec<News> {
        let mut news = Vec::new();
        let flaws = match &snapshot.completeness {
            Completeness::Complete => Vec::new(),
            Completeness::Incomplete(flaws) => flaws.clone(),
        };
        if flaws != self.flaws {
            news.push(if flaws.is_empty() { News::Complete } else { News::Incomplete(flaws.clone()) });
            self.flaws = flaws;
        }
        // Half a read has other oddities than a whole one: who it did not see dangles. They would come and go with it.
        if !self.flaws.is_empty() {
            return news;
        }
        if let Some(before) = &self.notices {
            let now = &snapshot.notices;
            news.extend(before.iter().filter(|notice| !now.contains(notice)).cloned().map(News::Over));
            news.extend(now.iter().filter(|notice| !before.contains(notice)).cloned().map(News::Begun));
        }
        self.notices = Some(snapshot.notices.clone());
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(notices: &[&str], flaws: &[&str]) -> Snapshot {
        let mut snapshot =
            Snapshot { notices: notices.iter().map(|notice| (*notice).to_owned()).collect(), ..Snapshot::default() };
        for flaw in flaws {
            snapshot.completeness.flaw(*flaw);
        }
        snapshot
    }

    #[test]
    fn an_oddity_is_said_when_it_begins_changes_and_ends() {
        let mut remarks = Remarks::default();
        let mut said = |notices: &[&str]| remarks.news(&read(notices, &[]));
        assert_eq!(said(&["old"]), [], "what was so when usher started is in the plan");
        assert_eq!(said(&["old", "2 dangle"]), [News::Begun("2 dangle".to_owned())]);
        assert_eq!(said(&["old", "2 dangle"]), []);
        assert_eq!(said(&["old", "3 dangle"]), [News::Over("2 dangle".to_owned()), News::Begun("3 dangle".to_owned())]);
        assert_eq!(said(&["old"]), [News::Over("3 dangle".to_owned())]);
        assert_eq!(said(&["old"]), []);
    }

    #[test]
    fn an_incomplete_read_is_said_once_and_its_oddities_are_not() {
        let mut remarks = Remarks::default();
        let mut said = |notices: &[&str], flaws: &[&str]| remarks.news(&read(notices, flaws));
        assert_eq!(said(&["9 dangle"], &["size limit"]), [News::Incomplete(vec!["size limit".to_owned()])]);
        assert_eq!(said(&["8 dangle"], &["size limit"]), []);
        assert_eq!(said(&["1 dangles"], &["time limit"]), [News::Incomplete(vec!["time limit".to_owned()])]);
        assert_eq!(said(&["1 dangles"], &[]), [News::Complete]);
        assert_eq!(said(&["1 dangles"], &[]), []);
        assert_eq!(said(&["7 dangle"], &["size limit"]), [News::Incomplete(vec!["size limit".to_owned()])]);
        assert_eq!(said(&["1 dangles"], &[]), [News::Complete]);
    }
}
