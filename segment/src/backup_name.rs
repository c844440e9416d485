//! What a backup in the cluster's own store is called: `<generation>-<index>.backup`, below `<cluster>/backups`.
//!
//! The index is decimal and zero-padded to 20 digits, so that the order of the names is that of the backups.

use std::fmt;
use std::str::FromStr;

use crate::ids::{Generation, IdError};

/// The name of a backup: of which state it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BackupName {
    /// The generation of the cluster that was backed up.
    pub generation: Generation,
    /// The index of its log of which the state is.
    pub index: u64,
}

impl BackupName {
    /// What every backup's name ends with, those that an operator chose included.
    pub const SUFFIX: &'static str = ".backup";
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:020}{}", self.generation, self.index, Self::SUFFIX)
    }
}

impl FromStr for BackupName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let parse = || {
            let (generation, index) = text.strip_suffix(Self::SUFFIX)?.rsplit_once('-')?;
            let name = Self { generation: generation.parse().ok()?, index: index.parse().ok()? };
            (name.to_string() == text).then_some(name)
        };
        parse().ok_or_else(|| IdError { what: "BackupName", found: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_and_has_one_form() {
        let name = BackupName { generation: Generation { counter: 1, random: 7 }, index: 12 };
        let text = "00000001-0000000000000007-00000000000000000012.backup";
        assert_eq!(name.to_string(), text);
        assert_eq!(text.parse(), Ok(name));
        for other in ["x.backup", "00000001-0000000000000007-12.backup", "a/b.backup", ".backup"] {
            assert!(other.parse::<BackupName>().is_err(), "{other}");
        }
    }
}
