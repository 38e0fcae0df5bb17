//! Settings whose values are words.

use super::nearest::suggestion;
use crate::{Error, ErrorKind, Result};

/// A type whose values have names. Case does not matter where they are read.
pub(crate) trait Words: Copy + PartialEq + 'static {
    /// The setting that has them, for messages.
    const SETTING: &'static str;
    /// Every value with its name; further names of a value come behind its first.
    const WORDS: &'static [(&'static str, Self)];

    /// The value that is called `word`.
    fn of(word: &str) -> Option<Self> {
        let found = Self::WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word));
        found.map(|(_, value)| *value)
    }

    /// Its name.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| *word)
    }

    /// All names.
    fn words() -> Vec<&'static str> {
        Self::WORDS.iter().map(|(word, _)| *word).collect()
    }

    /// For `FromStr`.
    fn parse(word: &str) -> Result<Self> {
        Self::of(word).ok_or_else(|| {
            let words = Self::words();
            let (all, near) = (words.join(", "), suggestion(word, words));
            let text = format!("{}: {word:?} is not valid: use one of {all}{near}", Self::SETTING);
            Error::new(ErrorKind::Config, text)
        })
    }
}
