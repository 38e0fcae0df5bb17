//! Default, bounds, check, loaders and documentation agree, for every row of every table.

use std::collections::BTreeSet;
use std::fmt::Debug;

use super::{AppConfig, RouteConfig};
use crate::client::ClientConfig;
use crate::consumer::ConsumerConfig;
use crate::producer::ProducerConfig;
use crate::settings::load::Given;
use crate::settings::{Kind, Problems, Row, Table};

trait Settings: Table + Default + Debug + PartialEq {}

impl<T: Table + Default + Debug + PartialEq> Settings for T {}

/// What a table becomes when one of its settings is given, or what is wrong with that.
fn load<T: Settings>(given: impl FnOnce(&mut Given)) -> (T, Vec<String>) {
    let (mut settings, mut problems, mut properties) = (T::default(), Problems::default(), Given::default());
    given(&mut properties);
    properties.load(&mut [&mut settings], &mut problems);
    (settings, problems.into_vec())
}

fn property<T: Settings>(name: &str, value: &str) -> (T, Vec<String>) {
    load(|given| given.properties([(name, value)]))
}

fn variable<T: Settings>(name: &str, value: &str) -> (T, Vec<String>) {
    load(|given| given.environment([(variable_name(name), value.to_owned())]))
}

fn variable_name(name: &str) -> String {
    format!("CARAFE_{}", name.replace(['.', '-'], "_").to_uppercase())
}

/// Values that are good, and values that are not.
fn samples(kind: &Kind) -> (Vec<String>, Vec<String>) {
    let wide = |number: i64| i128::from(number);
    match *kind {
        Kind::Text | Kind::Hidden => (vec!["some text".to_owned()], vec![]),
        Kind::Flag => (vec!["true".to_owned(), "FALSE".to_owned()], vec!["2".to_owned(), String::new()]),
        Kind::Word(words) | Kind::List(words) => {
            let words = words().into_iter().filter(|word| !word.contains(' '));
            (words.map(str::to_uppercase).collect(), vec!["no-such-word".to_owned(), String::new()])
        }
        Kind::Millis(min, max) | Kind::Bytes(min, max) | Kind::Number(min, max) => {
            let mut bad = vec![wide(min) - 1];
            bad.extend((max != i64::MAX).then_some(wide(max) + 1));
            let bad = bad.iter().map(ToString::to_string).chain(["x".to_owned(), String::new()]);
            (vec![min.to_string(), max.to_string()], bad.collect())
        }
        Kind::Refused(accepted) => {
            (accepted.iter().map(|&word| word.to_owned()).collect(), vec!["no such value".to_owned()])
        }
        Kind::Secret => (vec![], vec!["hunter2".to_owned()]),
    }
}

fn agree<T: Settings>() {
    let document = super::document::document();
    let default = T::default();
    for row in T::rows() {
        let Row { name, kind, .. } = row;
        // The default, given as it is documented, is the default.
        if let Some(shown) = (row.get)(&default) {
            for (settings, problems) in
                [property::<T>(name, &shown.to_string()), variable(name, &shown.to_string())]
            {
                assert_eq!(problems, Vec::<String>::new(), "{name}");
                assert_eq!(settings, default, "{name}");
            }
            let (plain, scoped) = (format!("`{name}` |"), format!("`{}.{name}` |", T::SCOPE));
            let mut lines = document.lines().filter(|line| line.contains(&plain) || line.contains(&scoped));
            let documented = format!("| {} | {shown} |", kind.range());
            assert!(lines.any(|line| line.contains(&documented)), "{name} is not documented: {documented}");
        }
        let (good, bad) = samples(kind);
        for value in good {
            for name in row.names() {
                for (settings, problems) in [property::<T>(name, &value), variable(name, &value)] {
                    assert_eq!(problems, Vec::<String>::new(), "{name}={value}");
                    // The checks have the bounds of the loaders.
                    let mut problems = Problems::default();
                    row.check(&settings, &mut problems);
                    assert_eq!(problems.into_vec(), Vec::<String>::new(), "{name}={value}");
                }
            }
        }
        // Java has it empty where hosts are not checked.
        let empty = |value: &String| value.is_empty() && *name == "ssl.endpoint.identification.algorithm";
        for value in bad.into_iter().filter(|value| !empty(value)) {
            for (name, (settings, problems)) in [
                ((*name).to_owned(), property::<T>(name, &value)),
                (format!("{}.{name}", T::SCOPE).trim_start_matches('.').to_owned(), {
                    let scoped = format!("{}.{name}", T::SCOPE);
                    property(scoped.trim_start_matches('.'), &value)
                }),
                (variable_name(name), variable(name, &value)),
            ] {
                assert_eq!(problems.len(), 1, "{name}={value}: {problems:?}");
                assert!(problems[0].starts_with(&format!("{name}: ")), "{name}: {problems:?}");
                let range = kind.range();
                assert!(problems[0].contains(&range) || range.is_empty(), "{range}: {problems:?}");
                assert!(!matches!(kind, Kind::Secret) || !problems[0].contains("hunter2"), "{problems:?}");
                assert_eq!(settings, default, "{name}");
            }
        }
    }
}

#[test]
fn default_bounds_loaders_and_documentation_agree() {
    agree::<ClientConfig>();
    agree::<ProducerConfig>();
    agree::<ConsumerConfig>();
    agree::<AppConfig>();
    agree::<RouteConfig>();
}

/// The checks know the same bounds as the loaders: what a setter sets beyond them is refused.
#[test]
fn setters_have_the_bounds_of_the_loaders() {
    fn beyond<T: Settings>() {
        for row in T::rows() {
            let Some((min, max, _)) = row.kind.bounds() else { continue };
            for beyond in [i128::from(min) - 1, i128::from(max) + 1] {
                let mut settings = T::default();
                // What the type cannot hold, no setter can set.
                if !(row.set)(&mut settings, &beyond.to_string()) || (row.get)(&settings).is_none() {
                    continue;
                }
                let mut problems = Problems::default();
                row.check(&settings, &mut problems);
                let problems = problems.into_vec();
                let refused = problems.first().is_some_and(|problem| problem.starts_with(row.name));
                assert_eq!(refused, beyond < i128::from(min) || max != i64::MAX, "{}={beyond}", row.name);
            }
        }
    }
    beyond::<ClientConfig>();
    beyond::<ProducerConfig>();
    beyond::<ConsumerConfig>();
    beyond::<AppConfig>();
    beyond::<RouteConfig>();
}

#[test]
fn every_name_has_one_meaning_and_refusals_have_reasons() {
    let mut taken = BTreeSet::new();
    fn names<T: Settings>(taken: &mut BTreeSet<&'static str>) {
        let mut own = BTreeSet::new();
        for row in T::rows() {
            for name in row.names() {
                assert!(own.insert(name), "{name} appears twice");
                // Where it is another's already, it is named below its scope; these are told apart by nothing else.
                let known =
                    ["request.timeout.ms", "retry.backoff.ms", "retry.backoff.max.ms", "revoke.timeout.ms"];
                assert!(!taken.contains(name) || known.contains(&name), "{name} has two meanings");
            }
            if let Kind::Refused(_) | Kind::Secret = row.kind {
                assert!(!row.text.is_empty(), "{} is refused without a reason", row.name);
                assert!(!row.text.ends_with('.') && !row.text.contains('|'), "{}", row.name);
            }
        }
        taken.extend(own);
    }
    names::<ClientConfig>(&mut taken);
    names::<ProducerConfig>(&mut taken);
    names::<ConsumerConfig>(&mut taken);
    names::<AppConfig>(&mut taken);
    names::<RouteConfig>(&mut taken);
}
