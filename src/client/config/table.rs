//! The form of the table.

use std::time::Duration;

use super::ClientSettings;
use super::{client, consumer, producer};

/// Who a setting is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Client,
    Producer,
    Consumer,
}

/// One line.
#[derive(Debug)]
pub(super) struct Setting {
    #[cfg_attr(not(test), allow(dead_code, reason = "for the documentation"))]
    pub(super) scope: Scope,
    /// Java's name, where Java has the setting.
    pub(super) name: &'static str,
    /// Other names, usually librdkafka's.
    pub(super) aliases: &'static [&'static str],
    #[cfg_attr(not(test), allow(dead_code, reason = "for the documentation"))]
    pub(super) default: &'static str,
    pub(super) kind: Kind,
    /// What is different here, if anything.
    pub(super) note: &'static str,
}

/// Type and range of a value, and what it does.
#[derive(Debug)]
pub(super) enum Kind {
    Text(fn(&mut ClientSettings, &str)),
    Bool(fn(&mut ClientSettings, bool)),
    /// Milliseconds from and to.
    Millis(u64, u64, fn(&mut ClientSettings, Duration)),
    /// Bytes from and to.
    Bytes(u64, u64, fn(&mut ClientSettings, usize)),
    /// A number from and to.
    Number(i64, i64, fn(&mut ClientSettings, i64)),
    /// One of some words.
    Word(&'static [&'static str], fn(&mut ClientSettings, &str)),
    /// Some of some words, separated by commas.
    Words(&'static [&'static str], fn(&mut ClientSettings, &[&str])),
    /// Refused because of the note, unless the value is one of these: they say what happens anyway.
    Refused(&'static [&'static str]),
    /// Refused because of the note; values are never shown.
    Secret,
}

impl Setting {
    /// All names.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// Type and range for a person.
    pub(super) fn range(&self) -> String {
        match &self.kind {
            Kind::Text(_) => "text".to_owned(),
            Kind::Bool(_) => "true or false".to_owned(),
            Kind::Millis(min, max, _) => format!("{min} to {max} ms"),
            Kind::Bytes(min, max, _) => format!("{min} to {max} bytes"),
            Kind::Number(min, max, _) => format!("{min} to {max}"),
            Kind::Word(words, _) => format!("one of {}", words.join(", ")),
            Kind::Words(words, _) => format!("some of {}", words.join(", ")),
            Kind::Refused([]) | Kind::Secret => String::new(),
            Kind::Refused(accepted) => format!("only {}", accepted.join(" or ")),
        }
    }
}

/// All lines.
pub(super) fn table() -> impl Iterator<Item = &'static Setting> {
    client::TABLE.iter().chain(producer::TABLE).chain(consumer::TABLE)
}

/// The line with this name.
pub(super) fn find(name: &str) -> Option<&'static Setting> {
    table().find(|setting| setting.names().any(|known| known == name))
}

/// The name that is most like `name`, if one is like it at all.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    table()
        .flat_map(Setting::names)
        .map(|known| (strsim::normalized_damerau_levenshtein(known, name), known))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_once_and_refusals_have_reasons() {
        let mut seen = std::collections::BTreeSet::new();
        for setting in table() {
            for name in setting.names() {
                assert!(seen.insert(name), "{name} appears twice");
            }
            if let Kind::Refused(_) | Kind::Secret = setting.kind {
                assert!(!setting.note.is_empty(), "{} is refused without a reason", setting.name);
            }
            assert!(!setting.note.ends_with('.') && !setting.note.contains('|'), "{}", setting.name);
        }
    }

    #[test]
    fn typing_errors_find_their_name() {
        assert_eq!(nearest("bootstrap.server"), Some("bootstrap.servers"));
        assert_eq!(nearest("sesion.timeout.ms"), Some("session.timeout.ms"));
        assert_eq!(nearest("fetch.wait.ms"), Some("fetch.wait.max.ms"));
        assert_eq!(nearest("zzz"), None);
    }
}
