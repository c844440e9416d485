//! What a consumer wants to read, and which topics of a cluster that is. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use regex::Regex;
use streamhouse_segment::ids::TopicId;

use crate::errors::ConfigError;
use crate::types::{Topic, TopicPartition};

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(super) enum Subscription {
    /// Nothing.
    #[default]
    None,
    /// These topics and these partitions, as the builder can mix them.
    Topics { names: BTreeSet<Arc<str>>, partitions: BTreeSet<TopicPartition> },
    /// Every topic whose whole name matches.
    Pattern(Regex),
}

impl Subscription {
    /// Of a pattern that has to match the whole name.
    pub(super) fn pattern(pattern: &str) -> Result<Self, ConfigError> {
        match Regex::new(&format!("^(?:{pattern})$")) {
            Ok(regex) => Ok(Self::Pattern(regex)),
            Err(_) => {
                let problem = format!("\"{pattern}\" is no regular expression");
                Err(ConfigError::new("subscribe_pattern", problem))
            }
        }
    }

    pub(super) fn is_none(&self) -> bool {
        match self {
            Self::None => true,
            Self::Topics { names, partitions } => names.is_empty() && partitions.is_empty(),
            Self::Pattern(_) => false,
        }
    }

    /// Whether topics are wanted as they are at any time, so that new partitions are news.
    pub(super) fn follows(&self) -> bool {
        match self {
            Self::None => false,
            Self::Topics { names, .. } => !names.is_empty(),
            Self::Pattern(_) => true,
        }
    }

    /// Whether all partitions of the topic are wanted.
    pub(super) fn wants(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::Topics { names, .. } => names.contains(name),
            Self::Pattern(regex) => regex.is_match(name),
        }
    }
}

/// The topics that are read, as they were when last looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(BTreeMap<String, (TopicId, u32)>);

/// A topic that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) name: String,
    /// Partitions that another topic of that name had, which is gone.
    pub(super) lost: u32,
    /// The first partition that is new.
    pub(super) first_new: u32,
}

impl Known {
    /// The topic was found with so many partitions.
    pub(super) fn note(&mut self, name: &str, id: TopicId, partitions: u32) {
        self.0.insert(name.to_owned(), (id, partitions));
    }

    /// Forgets what is not wanted.
    pub(super) fn keep(&mut self, wanted: &Subscription) {
        self.0.retain(|name, _| wanted.wants(name));
    }

    /// The same, unless it is known already.
    pub(super) fn note_first(&mut self, name: &str, id: TopicId, partitions: u32) {
        if self.0.get(name).is_none_or(|(known, _)| *known != id) {
            self.note(name, id, partitions);
        }
    }

    /// Whether that is what is known of it.
    pub(super) fn is(&self, name: &str, id: TopicId, partitions: u32) -> bool {
        self.0.get(name) == Some(&(id, partitions))
    }

    /// Whether that partition was there when it was noted.
    pub(super) fn has(&self, name: &str, id: TopicId, partition: u32) -> bool {
        self.0.get(name).is_some_and(|(known, count)| *known == id && partition < *count)
    }

    /// How the wanted ones of `topics` differ from what is known. Nothing is noted: a change may take several tries.
    pub(super) fn changes(&self, topics: &[Topic], wanted: &Subscription) -> Vec<Change> {
        let wanted = topics.iter().filter(|topic| wanted.wants(&topic.name));
        let change = |topic: &Topic| {
            let name = topic.name.clone();
            match self.0.get(&name) {
                None => Some(Change { name, lost: 0, first_new: 0 }),
                Some((id, had)) if *id != topic.id => {
                    Some(Change { name, lost: *had, first_new: 0 })
                }
                Some((_, had)) if *had < topic.partitions => {
                    Some(Change { name, lost: 0, first_new: *had })
                }
                Some(_) => None,
            }
        };
        wanted.filter_map(change).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, id: u8, partitions: u32) -> Topic {
        let id = TopicId::from_bytes([id; 16]);
        Topic { id, name: name.to_owned(), partitions, config: BTreeMap::new() }
    }

    #[test]
    fn a_pattern_matches_whole_names() {
        let pattern = Subscription::pattern("log-.*|audit").unwrap();
        assert!(pattern.wants("log-a") && pattern.wants("audit"));
        assert!(!pattern.wants("my-log-a") && !pattern.wants("audit2"));
        let error = Subscription::pattern("a(").unwrap_err();
        assert_eq!(error.to_string(), "subscribe_pattern: \"a(\" is no regular expression");
    }

    #[test]
    fn new_topics_new_partitions_and_topics_made_anew_are_changes() {
        let mut known = Known::default();
        let wanted = Subscription::pattern("[abc]").unwrap();
        known.note("a", TopicId::from_bytes([1; 16]), 2);
        known.note("b", TopicId::from_bytes([2; 16]), 2);
        let topics = [topic("a", 1, 3), topic("b", 9, 1), topic("c", 3, 4), topic("other", 4, 1)];
        let change =
            |name: &str, lost, first_new| Change { name: name.to_owned(), lost, first_new };
        assert_eq!(
            known.changes(&topics, &wanted),
            [change("a", 0, 2), change("b", 2, 0), change("c", 0, 0)]
        );
        assert!(known.changes(&[topic("b", 2, 2)], &wanted).is_empty());
    }
}
