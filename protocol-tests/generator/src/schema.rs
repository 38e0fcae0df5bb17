//! Kafka's message definitions as they lie in the `kafka-clients` jar.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// One JSON file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Definition {
    pub(crate) api_key: Option<i16>,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) listeners: Vec<String>,
    pub(crate) valid_versions: Versions,
    #[serde(default)]
    pub(crate) flexible_versions: Versions,
    #[serde(default)]
    pub(crate) latest_version_unstable: bool,
    #[serde(default)]
    pub(crate) fields: Vec<Field>,
    #[serde(default)]
    pub(crate) common_structs: Vec<CommonStruct>,
    /// First version in which brokers answer before they throttle (KIP-219), where a comment says so.
    #[serde(skip)]
    pub(crate) throttled_since: Option<i16>,
}

impl Definition {
    /// The versions that are not going to change.
    pub(crate) fn stable_versions(&self) -> Versions {
        self.valid_versions.stable(self.latest_version_unstable)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct CommonStruct {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Field {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) versions: Versions,
    #[serde(default)]
    pub(crate) nullable_versions: Versions,
    #[serde(default)]
    pub(crate) tagged_versions: Versions,
    pub(crate) flexible_versions: Option<Versions>,
    pub(crate) tag: Option<u32>,
    #[serde(default)]
    pub(crate) ignorable: bool,
    #[serde(default)]
    pub(crate) default: serde_json::Value,
    #[serde(default)]
    pub(crate) fields: Vec<Self>,
}

impl Field {
    /// The type without `[]`, and whether it had it.
    pub(crate) fn element(&self) -> (&str, bool) {
        match self.kind.strip_prefix("[]") {
            Some(element) => (element, true),
            None => (&self.kind, false),
        }
    }

    /// The default as text; numbers may be decimal or hexadecimal.
    pub(crate) fn default_text(&self) -> String {
        match &self.default {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// A range of versions; empty if `max < min`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub(crate) struct Versions {
    pub(crate) min: i16,
    pub(crate) max: i16,
}

impl Versions {
    pub(crate) const NONE: Self = Self { min: 0, max: -1 };

    /// The versions that are not going to change.
    pub(crate) fn stable(self, latest_unstable: bool) -> Self {
        Self { max: self.max - i16::from(latest_unstable), ..self }
    }

    pub(crate) fn is_empty(self) -> bool {
        self.max < self.min
    }

    pub(crate) fn contains(self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self { min: self.min.max(other.min), max: self.max.min(other.max) }
    }

    /// The smallest range that holds both.
    pub(crate) fn or(self, other: Self) -> Self {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => other,
            (_, true) => self,
            _ => Self { min: self.min.min(other.min), max: self.max.max(other.max) },
        }
    }
}

impl Default for Versions {
    fn default() -> Self {
        Self::NONE
    }
}

impl TryFrom<String> for Versions {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = |part: &str| part.parse::<i16>().map_err(|error| format!("version {part:?}: {error}"));
        if text == "none" {
            Ok(Self::NONE)
        } else if let Some(min) = text.strip_suffix('+') {
            Ok(Self { min: number(min)?, max: i16::MAX })
        } else if let Some((min, max)) = text.split_once('-') {
            Ok(Self { min: number(min)?, max: number(max)? })
        } else {
            Ok(Self { min: number(&text)?, max: number(&text)? })
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.min) } else { write!(f, "{}-{}", self.min, self.max) }
    }
}

/// Reads all definitions below `dir`, ordered by name.
pub(crate) fn read_all(dir: &Path) -> Result<Vec<Definition>, String> {
    let mut definitions = Vec::new();
    for (path, text) in read_texts(dir)? {
        let mut definition: Definition = parse(&path, &text)?;
        definition.throttled_since = throttled_since(&text);
        definitions.push(definition);
    }
    definitions.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(definitions)
}

/// Reads what `T` has of all definitions below `dir`, in no order.
pub(crate) fn read_json<T: DeserializeOwned>(dir: &Path) -> Result<Vec<T>, String> {
    read_texts(dir)?.iter().map(|(path, text)| parse(path, text)).collect()
}

fn read_texts(dir: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))? {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            texts.push((path, text));
        }
    }
    if texts.is_empty() {
        return Err(format!("{} holds no JSON files", dir.display()));
    }
    Ok(texts)
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, String> {
    // One definition of 2.8 ends with a brace too many.
    let text = without_comments(text);
    let definition = serde_json::Deserializer::from_str(&text).into_iter().next();
    let definition = definition.ok_or_else(|| format!("{} is empty", path.display()))?;
    definition.map_err(|error| format!("{}: {error}", path.display()))
}

/// What Kafka says in comments alone: `// Starting in version 8, on quota violation, brokers send out responses before
/// throttling.`
fn throttled_since(text: &str) -> Option<i16> {
    text.lines().find_map(|line| {
        let comment = line.trim().strip_prefix("// Starting in version ")?;
        let (version, rest) = comment.split_once(',')?;
        rest.contains("on quota violation").then(|| version.parse().ok())?
    })
}

/// `text` without `//` comments, which JSON does not have.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut quoted = false;
        let mut previous = ' ';
        for (at, letter) in line.char_indices() {
            match letter {
                '"' if previous != '\\' => quoted = !quoted,
                '/' if !quoted && line[at..].starts_with("//") => break,
                _ => {}
            }
            out.push(letter);
            previous = letter;
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_end_outside_of_strings_only() {
        assert_eq!(without_comments("{ \"a\": \"x//y\" } // z\n"), "{ \"a\": \"x//y\" } \n");
    }

    #[test]
    fn comments_say_since_when_clients_pause() {
        let says = "  // Version 7 adds incremental fetch.\n  // Starting in version 8, on quota violation brokers send\n";
        assert_eq!(throttled_since(says), Some(8));
        assert_eq!(throttled_since("// Starting in version 5, the field is ignored.\n"), None);
    }

    #[test]
    fn unstable_versions_are_left_out() {
        let definition = |unstable: &str| -> Definition {
            let json = format!(r#"{{"type": "request", "name": "A", "validVersions": "0-6"{unstable}}}"#);
            serde_json::from_str(&json).unwrap()
        };
        assert_eq!(definition("").stable_versions(), Versions { min: 0, max: 6 });
        let unstable = definition(r#", "latestVersionUnstable": true"#);
        assert_eq!(unstable.stable_versions(), Versions { min: 0, max: 5 });
        assert!(Versions { min: 0, max: 0 }.stable(true).is_empty());
    }

    #[test]
    fn version_ranges() {
        let parse = |text: &str| Versions::try_from(text.to_owned());
        assert_eq!(parse("0+").unwrap(), Versions { min: 0, max: i16::MAX });
        assert_eq!(parse("2-5").unwrap().and(parse("4+").unwrap()), Versions { min: 4, max: 5 });
        assert!(parse("none").unwrap().is_empty());
        assert!(parse("x").is_err());
    }
}
