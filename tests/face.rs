//! What a newcomer reads, held to what is there: the list of logs, the table of features, the README's commands.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All `.rs` files below `directory`, but those of tests.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in
        fs::read_dir(directory).expect("a folder of sources").map(|entry| entry.expect("readable").path())
    {
        let name = entry.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if entry.is_dir() {
            if name != "tests" {
                sources(&entry, found);
            }
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            found.push(entry);
        }
    }
}

/// The arguments of a macro's call, up to its closing parenthesis, and the text literals among them.
fn literals(arguments: &str) -> Vec<String> {
    let (mut depth, mut found, mut open) = (1, Vec::new(), None::<String>);
    let mut characters = arguments.chars();
    while let Some(character) = characters.next() {
        match (&mut open, character) {
            (Some(_), '"') => found.extend(open.take()),
            // A line that goes on: what indents the next one is not part of the text.
            (Some(text), '\\') => match characters.next() {
                Some('\n') => {
                    let rest = characters.as_str().trim_start();
                    characters = rest.chars();
                }
                Some(escaped) => text.push(escaped),
                None => {}
            },
            (Some(text), other) => text.push(other),
            (None, '"') => open = Some(String::new()),
            (None, '(') => depth += 1,
            (None, ')') => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            (None, _) => {}
        }
    }
    found
}

/// Target (down to the area), level and message of every call of a `tracing` macro.
fn logged() -> BTreeSet<String> {
    let (mut files, mut found) = (Vec::new(), BTreeSet::new());
    sources(&repository().join("src"), &mut files);
    for file in files {
        let text = fs::read_to_string(&file).expect("a source");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let code: String = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| [line, "\n"])
            .collect();
        let path = file.strip_prefix(repository().join("src")).expect("below src");
        let area = path.iter().next().and_then(|area| area.to_str()).unwrap_or_default();
        let area = area.trim_end_matches(".rs");
        for (at, _) in code.match_indices("tracing::") {
            let rest = &code[at + "tracing::".len()..];
            let Some((level, arguments)) = rest.split_once("!(") else { continue };
            if !["error", "warn", "info", "debug", "trace"].contains(&level) {
                continue;
            }
            let message =
                literals(arguments).pop().unwrap_or_else(|| panic!("{}: no message", file.display()));
            found.insert(format!("| `carafe::{area}` | {level} | {message} |"));
        }
    }
    found
}

/// Also against macros that are imported by name, which this test would not see.
#[test]
fn the_list_of_logs_is_what_the_sources_emit() {
    let page = read("docs/logs.md");
    let listed: BTreeSet<String> =
        page.lines().filter(|line| line.starts_with("| `carafe::")).map(str::to_owned).collect();
    let logged = logged();
    assert!(logged.len() > 20, "the sources are read");
    let missing: Vec<_> = logged.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&logged).collect();
    assert!(missing.is_empty(), "docs/logs.md lacks\n{missing:#?}");
    assert!(gone.is_empty(), "docs/logs.md has what nothing emits\n{gone:#?}");
    let mut files = Vec::new();
    sources(&repository().join("src"), &mut files);
    for file in files {
        let text = fs::read_to_string(&file).expect("a source");
        assert!(!text.contains("use tracing::{"), "{}: name the macros tracing::warn!", file.display());
    }
}

/// Names of the features in Cargo.toml, without `default`.
fn features() -> BTreeSet<String> {
    let manifest = read("Cargo.toml");
    let section = manifest.split("[features]\n").nth(1).and_then(|rest| rest.split("\n[").next());
    let names = section.expect("features").lines().filter_map(|line| line.split_once(" = ["));
    names
        .map(|(name, _)| name.to_owned())
        .filter(|name| !name.starts_with('#') && name != "default")
        .collect()
}

#[test]
fn the_tables_of_features_are_complete() {
    for file in ["README.md", "src/lib.rs"] {
        let text = read(file);
        let rows =
            text.lines().map(|line| line.trim_start_matches("//! ")).filter(|line| line.starts_with("| `"));
        let cells: String = rows.filter_map(|row| row.split('|').nth(1)).collect();
        for feature in features() {
            assert!(cells.contains(&format!("`{feature}`")), "{file} lacks the feature {feature}");
        }
    }
}

#[test]
fn the_readme_names_pages_and_features_that_are_there() {
    let readme = read("README.md");
    for link in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        if !link.contains("://") {
            assert!(repository().join(link).exists(), "README.md links to {link}");
        }
    }
    let added = readme.lines().filter_map(|line| line.strip_prefix("cargo add carafe ")).collect::<Vec<_>>();
    assert!(!added.is_empty(), "README.md says how to add carafe");
    for line in added {
        let names =
            line.split("--features ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        for name in names.split(',').filter(|name| !name.is_empty()) {
            assert!(features().contains(name), "README.md adds the feature {name}");
        }
    }
}
