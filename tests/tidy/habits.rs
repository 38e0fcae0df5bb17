//! One way for each thing: how imports are written, where tests stand, and what they call what they set up.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, identifier};
use crate::{Finding, crate_sources, is_generated, judge, reexports, repository};

/// From here on, inline tests move to a file of their own.
const INLINE_MAX: usize = 200;

/// What a test sets up around the thing that it tests is a `Bench`; these are other words for it.
const OTHER_BENCHES: &[&str] = &["World", "Fixture", "Play", "Harness", "Rig", "Setup", "TestBed"];

#[test]
fn imports_have_one_dialect() {
    judge(
        "imports",
        "what lies in the same folder is `super::…`, what lies elsewhere is `crate::…`, and no path climbs twice. Imports stand \
         in three groups: std, other crates, ours",
        crate_sources(repository()).filter(|source| !is_generated(source)).flat_map(dialect).collect(),
    );
}

/// The module that a file is, from the root of the crate.
fn module(path: &str) -> Vec<&str> {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    inside.trim_end_matches("/mod").split('/').collect()
}

fn dialect(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for at in source.find_in_all("super::super::") {
        if !source.code[..at].ends_with("::") {
            findings.push(Finding::new(source, at, "`super::super`: write `crate::…`"));
        }
    }
    let module = module(&source.path);
    let folder = &module[..module.len() - 1];
    if !folder.is_empty() {
        let beside = format!("crate::{}::", folder.join("::"));
        for at in source.find_in_all(&beside) {
            let before = &source.code[..at];
            // Macros name everything from the root; `pub(in …)` cannot do otherwise; inner modules stand elsewhere.
            let exempt = before.ends_with('$') || before.trim_end().ends_with("(in");
            if !exempt && source.module_depth(at) == 0 {
                findings.push(Finding::new(source, at, format!("`{beside}`: write `super::`")));
            }
        }
    }
    findings.extend(groups(source));
    findings
}

/// Imports of one kind that are split, and kinds in another order, in the imports of the file itself.
fn groups(source: &Source) -> Option<Finding> {
    let own: Vec<_> =
        source.find_in_all("mod ").map(|at| identifier(&source.code[at + "mod ".len()..])).collect();
    let mut last = 0;
    for (index, group) in source.code.split("\n\n").enumerate() {
        let uses = group.lines().filter_map(|line| line.strip_prefix("use "));
        let mut kinds: Vec<usize> = uses
            .map(|path| match identifier(path) {
                "std" | "core" | "alloc" => 1,
                "crate" | "super" | "self" => 3,
                name if own.contains(&name) => 3,
                _ => 2,
            })
            .collect();
        kinds.dedup();
        // A second group of one kind is one that something else parts, which is seen by the lines between.
        let only_uses =
            group.lines().all(|line| !line.starts_with(char::is_alphabetic) || line.starts_with("use "));
        match kinds[..] {
            [] => last = if index == 0 || only_uses { last } else { 0 },
            [kind] if kind > last || !only_uses => last = kind,
            _ => {
                let at = group.as_ptr() as usize - source.code.as_ptr() as usize;
                return Some(Finding::new(
                    source,
                    at + group.find("use ")?,
                    "imports that are not in their group",
                ));
            }
        }
    }
    None
}

#[test]
fn tests_have_one_layout() {
    judge(
        "test-layout",
        "tests of a module are its `mod tests`: inline up to 200 lines, then in `tests.rs` in the folder of the module, with \
         parts below `tests/`. Files with other modules are `mod.rs` of a folder",
        crate_sources(repository()).flat_map(|source| layout(source, repository())).collect(),
    );
}

fn layout(source: &Source, sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for at in source.find_in_all("#[path") {
        findings.push(Finding::new(source, at, "`#[path]`"));
    }
    let name = source.path.rsplit('/').next().unwrap_or_default();
    if name.ends_with("_test.rs") || name.ends_with("_tests.rs") || source.path.ends_with("tests/mod.rs") {
        findings.push(Finding::new(source, 0, "tests of `x` are in `x/tests.rs`"));
    }
    for (start, end) in source.inline_tests() {
        let lines = source.line(end) - source.line(start);
        if lines > INLINE_MAX {
            findings.push(Finding::new(source, start, format!("{lines} lines of tests inline")));
        }
    }
    let folder = format!("{}/", source.path.trim_end_matches(".rs"));
    if !source.path.ends_with("/mod.rs") && !source.is_test(0) && source.path != "src/lib.rs" {
        let others = sources.iter().filter_map(|other| other.path.strip_prefix(&folder));
        if others.clone().any(|inside| inside != "tests.rs" && !inside.starts_with("tests/")) {
            findings.push(Finding::new(source, 0, format!("has modules, so it is `{folder}mod.rs`")));
        }
    }
    findings
}

#[test]
fn what_tests_set_up_has_one_name() {
    judge(
        "bench",
        "what a test of the crate sets up around the thing that it tests is its `Bench`, whatever the area; a `Script` is what \
         it plays to it",
        crate_sources(repository()).flat_map(other_benches).collect(),
    );
}

fn other_benches(source: &Source) -> Vec<Finding> {
    let structs = source.find_in_all("struct ").filter(|at| source.is_test(*at));
    structs
        .filter_map(|at| {
            let name = identifier(&source.code[at + "struct ".len()..]);
            OTHER_BENCHES.contains(&name).then(|| Finding::new(source, at, format!("`{name}` is a `Bench`")))
        })
        .collect()
}

/// What programs import side by side.
const BESIDE: &[&str] = &["admin", "app", "client", "consumer", "producer"];

#[test]
fn public_names_mean_one_thing() {
    let modules: Vec<_> = crate_sources(repository())
        .filter(|source| BESIDE.iter().any(|module| source.path == format!("src/{module}/mod.rs")))
        .collect();
    judge(
        "names",
        "a program imports these modules and the prelude together: two things of one name make it rename one of them. Give \
         the new one a name of its own",
        clashes(&modules),
    );
}

fn clashes(modules: &[&Source]) -> Vec<Finding> {
    let mut first: BTreeMap<String, &str> = BTreeMap::new();
    let mut findings = Vec::new();
    for source in modules {
        let mut names: BTreeSet<String> = reexports(source).into_keys().collect();
        crate::declarations(source, &mut names, &mut BTreeSet::new());
        for name in names.into_iter().filter(|name| name.starts_with(char::is_uppercase)) {
            if let Some(other) = first.insert(name.clone(), &source.path) {
                findings.push(Finding::new(source, 0, format!("`{name}` is also in {other}")));
            }
        }
    }
    findings
}

mod planted {
    use super::*;

    #[test]
    fn imports() {
        let wrong = |path: &str, text: &str| dialect(&Source::new(path, text)).len();
        let right = "//! Head.\n\nuse std::fmt;\n\nuse bytes::Bytes;\n\nuse super::a::B;\nuse crate::{\n    wire::Reader,\n};\n\nconst A: u8 = 1;\n\n\
                     #[cfg(test)]\nmod tests {\n    use super::*;\n\n    use crate::net::script::A;\n}\n";
        assert_eq!(wrong("src/net/machine.rs", right), 0);
        assert_eq!(wrong("src/net/machine.rs", "use super::super::Error;"), 1);
        assert_eq!(wrong("src/net/machine.rs", "use crate::net::frame::A;"), 1);
        assert_eq!(wrong("src/net/a/mod.rs", "use crate::net::frame::A;"), 1);
        assert_eq!(wrong("src/net/a/b.rs", "use crate::net::frame::A;"), 0);
        assert_eq!(wrong("src/net/a/b.rs", "pub(in crate::net::a) fn f() { $crate::net::a::g() }"), 0);
        assert_eq!(wrong("src/net/a.rs", "use super::a::B;\n\nuse crate::wire::Reader;\n"), 1);
        assert_eq!(wrong("src/net/a.rs", "use crate::wire::Reader;\n\nuse std::fmt;\n"), 1);
        assert_eq!(wrong("src/net/a.rs", "use std::fmt;\nuse bytes::Bytes;\n"), 1);
    }

    #[test]
    fn test_layout() {
        let wrong = |path: &str, text: &str, others: &[&str]| {
            let others: Vec<_> = others.iter().map(|path| Source::new(*path, "")).collect();
            layout(&Source::new(path, text), &others).len()
        };
        let inline = |lines: usize| format!("#[cfg(test)]\nmod tests {{\n{}}}", "f();\n".repeat(lines));
        assert_eq!(wrong("src/net/a.rs", &inline(20), &["src/net/a/tests.rs", "src/net/a/tests/b.rs"]), 0);
        assert_eq!(wrong("src/net/a.rs", &inline(220), &[]), 1);
        assert_eq!(wrong("src/net/a.rs", "#[cfg(test)]\n#[path = \"b.rs\"]\nmod tests;", &[]), 1);
        assert_eq!(wrong("src/net/a.rs", "mod b;", &["src/net/a/b.rs"]), 1);
        assert_eq!(wrong("src/net/a/mod.rs", "mod b;", &["src/net/a/b.rs"]), 0);
        assert_eq!(wrong("src/net/a_tests.rs", "", &[]), 1);
        assert_eq!(wrong("src/net/tests/mod.rs", "", &[]), 1);
    }

    #[test]
    fn names() {
        let consumer = Source::new("src/consumer/mod.rs", "pub use batch::{Batch, Records};\nstruct Record;");
        let producer =
            Source::new("src/producer/mod.rs", "pub use record::Record;\npub(crate) use batch::Records;");
        let app = Source::new("src/app/mod.rs", "pub struct Batch;");
        assert_eq!(clashes(&[&consumer, &producer]).len(), 0);
        assert_eq!(clashes(&[&consumer, &producer, &app]).len(), 1);
    }

    #[test]
    fn benches() {
        let wrong = |text: &str| other_benches(&Source::new("src/net/a.rs", text)).len();
        assert_eq!(wrong("struct World;\n#[cfg(test)]\nmod tests { struct Bench { world: u8 } }"), 0);
        assert_eq!(wrong("#[cfg(test)]\nmod tests { struct World; }"), 1);
    }
}
