//! `docs/configuration.md`, written from the table.

use std::fmt::Write;

use super::table::{Kind, Scope, Setting, table};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");

const INTRODUCTION: &str = "\
# Configuration by properties

`ClientSettings::from_properties` and `ClientSettings::from_text` take the names that Java's clients and librdkafka use.
The typed builders (`Client::builder()`, `ProducerConfig`, `ConsumerConfig`) have the same settings and a few more.

Everything that is wrong is reported at once: unknown names with the nearest known one, values with their range, refused
settings with the reason. Nothing is ignored. A refused setting may be given with the values that say what happens anyway.
Times are in milliseconds; values of secrets are never printed.

This file is written from the table in `src/client/config` by the test that compares the two
(`CARAFE_TEST_UPDATE_DOCS=1 cargo test --features full --lib configuration_is_documented`).
";

fn document() -> String {
    let mut text = INTRODUCTION.to_owned();
    for (scope, title) in
        [(Scope::Client, "Client"), (Scope::Producer, "Producers"), (Scope::Consumer, "Consumers")]
    {
        let rows: Vec<&Setting> = table().filter(|setting| setting.scope == scope).collect();
        let _ = write!(
            text,
            "\n## {title}\n\n| Name | Other names | Values | Default | Remarks |\n|---|---|---|---|---|\n"
        );
        for row in rows.iter().filter(|row| !is_refused(row)) {
            let default = if row.default.is_empty() { "" } else { row.default };
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {default} | {} |",
                row.name,
                others(row),
                row.range().replace('|', "\\|"),
                row.note
            );
        }
        let _ = write!(text, "\nRefused:\n\n| Name | Other names | Except | Reason |\n|---|---|---|---|\n");
        for row in rows.iter().filter(|row| is_refused(row)) {
            let except = row.range();
            let except = except.strip_prefix("only ").unwrap_or_default();
            let _ = writeln!(text, "| `{}` | {} | {except} | {} |", row.name, others(row), row.note);
        }
    }
    text
}

fn is_refused(setting: &Setting) -> bool {
    matches!(setting.kind, Kind::Refused(_) | Kind::Secret)
}

fn others(setting: &Setting) -> String {
    setting.aliases.iter().map(|alias| format!("`{alias}`")).collect::<Vec<_>>().join(", ")
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
