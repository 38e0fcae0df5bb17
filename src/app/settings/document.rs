//! `docs/configuration.md`, written from the table.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{AppConfig, RouteConfig};
use crate::client::ClientConfig;
use crate::consumer::ConsumerConfig;
use crate::producer::ProducerConfig;
use crate::settings::{Kind, Row, Table};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");

const INTRODUCTION: &str = "\
# Configuration

Each setting has a setter (`ClientConfig`, `ProducerConfig`, `ConsumerConfig`, `AppConfig`, `RouteConfig`), a name in
properties and a variable of the environment. A setter overrides a variable, a variable a property, a property
before the default.

`ClientSettings` loads properties and variables, and so do applications (`App::properties`, `App::environment`). Properties
have the names of Java's clients or librdkafka; `group.id` names the group of consumers. Settings of producers, consumers and
applications may be named below their scope, as `producer.linger.ms`; where a section further up has a setting of the same
name, they must be. In an application, `groups.<id>.consumer.fetch.max.bytes` is for the consumer of one group, and goes
before what is said of all; `routes.<topic>.max.messages` is for one route, `groups.<id>.routes.<topic>.max.messages` where
the group is not the application's own.

A variable is `CARAFE_` and the property's name in capital letters, with `_` for each dot: `CARAFE_LINGER_MS`,
`CARAFE_PRODUCER_REQUEST_TIMEOUT_MS`. `CARAFE_TEST_…` is left to this crate's tests.

Everything that is wrong is reported at once: unknown names with the nearest known one, values with their range, refused
settings with the reason. Nothing is ignored. A refused setting may be given with the values that say what happens anyway.
Times are in milliseconds; values of secrets are never printed.

This file is written from the rows of the settings by the test that compares the two
(`CARAFE_TEST_UPDATE_DOCS=1 cargo test --features full --lib configuration_is_documented`).
";

pub(super) fn document() -> String {
    let mut text = INTRODUCTION.to_owned();
    let mut taken = BTreeSet::new();
    section::<ClientConfig>(&mut text, "Client", &mut taken);
    section::<ProducerConfig>(&mut text, "Producers", &mut taken);
    section::<ConsumerConfig>(&mut text, "Consumers", &mut taken);
    section::<AppConfig>(&mut text, "Applications", &mut taken);
    section::<RouteConfig>(&mut text, "Routes of topics", &mut taken);
    text
}

/// The rows of a table; one whose name is `taken` is only found below its scope.
fn section<T: Table + Default>(text: &mut String, title: &str, taken: &mut BTreeSet<&'static str>) {
    let before = taken.clone();
    taken.extend(T::rows().flat_map(Row::names));
    let shown = |name: &str| {
        if before.contains(name) { format!("`{}.{name}`", T::SCOPE) } else { format!("`{name}`") }
    };
    let names = |row: &Row<T>| {
        let names: Vec<String> = row.names().map(shown).collect();
        (names[0].clone(), names[1..].join(", "))
    };
    let refused = |row: &&Row<T>| matches!(row.kind, Kind::Refused(_) | Kind::Secret);
    let defaults = T::default();
    let _ = write!(
        text,
        "\n## {title}\n\n| Name | Other names | Values | Default | Remarks |\n|---|---|---|---|---|\n"
    );
    // What has a value comes first, then the other ways to set it.
    for row in T::ROWS.iter().rev().copied().flatten().filter(|row| !refused(row)) {
        let (name, others) = names(row);
        let default = (row.get)(&defaults).map(|value| value.to_string()).unwrap_or_default();
        let range = row.kind.range();
        let _ = writeln!(text, "| {name} | {others} | {range} | {default} | {} |", plain(row.text));
    }
    if !T::rows().any(|row| refused(&row)) {
        return;
    }
    let _ = write!(text, "\nRefused:\n\n| Name | Other names | Except | Reason |\n|---|---|---|---|\n");
    for row in T::rows().filter(refused) {
        let (name, others) = names(row);
        let except = row.kind.range();
        let except = except.strip_prefix("only ").unwrap_or_default();
        let _ = writeln!(text, "| {name} | {others} | {except} | {} |", row.text);
    }
}

/// The text of documentation on one line, without links to items.
fn plain(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    while let Some(open) = line.find('[') {
        let close = open + line[open..].find(']').expect("a link ends");
        let behind = &line[close + 1..];
        let skipped = if behind.starts_with('(') { behind.find(')').map_or(0, |end| end + 1) } else { 0 };
        line = format!("{}{}{}", &line[..open], &line[open + 1..close], &behind[skipped..]);
    }
    line
}

#[test]
fn configuration_is_documented() {
    let expected = document();
    if std::env::var_os("CARAFE_TEST_UPDATE_DOCS").is_some() {
        std::fs::write(FILE, &expected).unwrap();
    }
    let found = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        found == expected,
        "docs/configuration.md does not match the table; CARAFE_TEST_UPDATE_DOCS=1 rewrites it"
    );
}
