//! Goes through properties and variables, and finds everything that is wrong with them.

use std::collections::BTreeMap;
use std::fmt;

use super::nearest::suggestion;
use super::{Problems, Row, Table};

/// Variables of the environment that are settings begin so.
const PREFIX: &str = "CARAFE_";
/// Those of tests are none.
const RESERVED: &str = "CARAFE_TEST_";

/// Where a value comes from; the greater overrides the lesser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Properties,
    Environment,
}

/// Names and values by origin, as they were given.
#[derive(Clone, Default)]
pub(crate) struct Given(Vec<(Origin, String, String)>);

/// Values may be secrets.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(origin, name, _)| (origin, name))).finish()
    }
}

/// Settings that are loaded, without their type.
pub(crate) trait Section {
    /// What its settings may be named below.
    fn scope(&self) -> &str;
    /// True if its settings must be named below it.
    fn needs_scope(&self) -> bool {
        false
    }
    /// The row that has a name for which `is` holds.
    fn find(&self, is: &dyn Fn(&str) -> bool) -> Option<usize>;
    /// All names of all rows.
    fn names(&self) -> Vec<&'static str>;
    /// Sets the row to what `text` says.
    fn apply(&mut self, row: usize, text: &str) -> Result<(), String>;
}

impl<T: Table> Section for T {
    fn scope(&self) -> &str {
        T::SCOPE
    }

    fn find(&self, is: &dyn Fn(&str) -> bool) -> Option<usize> {
        T::rows().position(|row| row.names().any(is))
    }

    fn names(&self) -> Vec<&'static str> {
        T::rows().flat_map(Row::names).collect()
    }

    fn apply(&mut self, row: usize, text: &str) -> Result<(), String> {
        let Some(row) = T::rows().nth(row) else { return Ok(()) };
        // What is wrong is told once, here, and not found again in the whole.
        let mut changed = self.clone();
        row.apply(&mut changed, text)?;
        *self = changed;
        Ok(())
    }
}

impl Given {
    pub(crate) fn properties<K: AsRef<str>, V: AsRef<str>>(
        &mut self,
        properties: impl IntoIterator<Item = (K, V)>,
    ) {
        self.0.extend(properties.into_iter().map(|(name, value)| {
            (Origin::Properties, name.as_ref().trim().to_owned(), value.as_ref().trim().to_owned())
        }));
    }

    /// Takes the variables that are settings.
    pub(crate) fn environment<K: AsRef<str>, V: AsRef<str>>(
        &mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) {
        for (name, value) in variables {
            let name = name.as_ref();
            if name.starts_with(PREFIX) && !name.starts_with(RESERVED) {
                self.0.push((Origin::Environment, name.to_owned(), value.as_ref().trim().to_owned()));
            }
        }
    }

    /// Takes the text of a properties file: `name=value` or `name: value` on each line, `#` or `!` before comments.
    pub(crate) fn text(&mut self, text: &str, problems: &mut Problems) {
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', '!']) {
                continue;
            }
            match line.split_once(['=', ':']) {
                Some(property) => self.properties([property]),
                // The line may hold a secret.
                None => problems.add(&format!("line {number}"), "is not of the form name=value"),
            }
        }
    }

    /// Gives everything to the settings that it is for. A name of several is that of the first, and that of another one
    /// below its scope: `producer.request.timeout.ms`.
    pub(crate) fn load(self, sections: &mut [&mut dyn Section], problems: &mut Problems) {
        // By setting: where the value comes from, whether it was named below its scope, name and value.
        let mut chosen: BTreeMap<(usize, usize), (Origin, bool, String, String)> = BTreeMap::new();
        for (origin, name, value) in self.0 {
            let Some((place, scoped)) = find(sections, origin, &name) else {
                problems.add(&name, format!("there is no such setting{}", near(sections, origin, &name)));
                continue;
            };
            match chosen.get(&place) {
                Some(other) if (other.0, other.1) > (origin, scoped) => continue,
                Some((was, was_scoped, other, earlier))
                    if (*was, *was_scoped) == (origin, scoped) && *earlier != value =>
                {
                    let what = if *other == name {
                        "is given twice with different values".to_owned()
                    } else {
                        format!("is another name of {other}, and both are given with different values")
                    };
                    problems.add(&name, what);
                }
                _ => {
                    chosen.insert(place, (origin, scoped, name, value));
                }
            }
        }
        let mut chosen: Vec<_> = chosen.into_iter().collect();
        // Two settings may say the same in two ways; the later origin counts there, too.
        chosen.sort_by_key(|(place, (origin, ..))| (*origin, *place));
        for ((section, row), (_, _, name, value)) in chosen {
            if let Err(problem) = sections[section].apply(row, &value) {
                problems.add(&name, problem);
            }
        }
    }
}

/// The setting that is called `name`, and whether it is named below its scope.
fn find(sections: &[&mut dyn Section], origin: Origin, name: &str) -> Option<((usize, usize), bool)> {
    let places = || sections.iter().enumerate();
    let plain = places().filter(|(_, settings)| !settings.needs_scope()).find_map(|(section, settings)| {
        Some((section, settings.find(&|known| spelled(origin, "", known) == name)?))
    });
    let scoped = || {
        places().filter(|(_, settings)| !settings.scope().is_empty()).find_map(|(section, settings)| {
            let scope = settings.scope();
            Some((section, settings.find(&|known| spelled(origin, scope, known) == name)?))
        })
    };
    plain.map(|place| (place, false)).or_else(|| Some((scoped()?, true)))
}

/// How a setting is named where it comes from.
fn spelled(origin: Origin, scope: &str, name: &str) -> String {
    let dot = if scope.is_empty() { "" } else { "." };
    let name = format!("{scope}{dot}{name}");
    match origin {
        Origin::Properties => name,
        Origin::Environment => format!("{PREFIX}{}", name.replace(['.', '-'], "_").to_uppercase()),
    }
}

/// The name that was probably meant.
fn near(sections: &[&mut dyn Section], origin: Origin, name: &str) -> String {
    let mut names = Vec::new();
    for settings in sections {
        for known in settings.names() {
            if !settings.needs_scope() {
                names.push(spelled(origin, "", known));
            }
            if !settings.scope().is_empty() {
                names.push(spelled(origin, settings.scope(), known));
            }
        }
    }
    suggestion(name, names.iter().map(String::as_str))
}
